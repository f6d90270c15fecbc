//! A log's whole state: named objects in one directory or bucket, durable when a call returns.
//!
//! A directory is locked for as long as its store is open. A bucket cannot be: there an object that only
//! one writer replaces is replaced by compare-and-swap, and a writer that lost it is told so.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as ObjectPath;
use object_store::{
    MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, PutResult,
    UpdateVersion,
};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use thiserror::Error;

mod lack;
mod location;
mod reserve;
mod wait;

pub use lack::Lack;
pub use location::{AccessError, Location, LocationError};
use reserve::Reserve;
pub use reserve::stands_at;
pub use wait::wait;

/// Why an object could not be read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The storage failed.
    #[error("{operation} {name}: {source}")]
    Storage {
        /// What was tried.
        operation: &'static str,
        /// Object.
        name: String,
        /// Cause.
        source: object_store::Error,
    },
    /// An object that must be there is not.
    #[error("{0} is missing from the data directory")]
    Missing(String),
    /// Somebody else replaced an object that only the log's one writer replaces.
    #[error("the log was taken over by another collector: {0} is not as this one left it")]
    TakenOver(String),
    /// An object is there, and is not what it should be.
    #[error("{name} is damaged: {fault}")]
    Damaged {
        /// Object.
        name: String,
        /// What is wrong with it.
        fault: String,
    },
    /// What is to be written is more than what is free.
    #[error("{name}: {needed} bytes are to be written, and {free} are free")]
    NoRoom {
        /// Object.
        name: String,
        /// Its bytes, about.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// The process ends, and nothing more is read or written.
    #[error("the collector is ending")]
    Ended,
}

impl StoreError {
    /// An object that must be there is not.
    pub fn missing(name: &str) -> Self {
        Self::Missing(name.to_owned())
    }

    /// An object is not what it should be.
    pub fn damaged(name: &str, fault: impl ToString) -> Self {
        Self::Damaged { name: name.to_owned(), fault: fault.to_string() }
    }

    /// What was used up, if that was it: nothing was changed, and it passes.
    pub fn lack(&self) -> Option<Lack> {
        match self {
            Self::NoRoom { .. } => Some(Lack::Space),
            error => Lack::of(error),
        }
    }

    /// The object that was not there, or not what it should be.
    pub fn lost(&self) -> Option<&str> {
        match self {
            Self::Missing(name) | Self::Damaged { name, .. } => Some(name),
            Self::Storage { name, .. } if self.is_missing() => Some(name),
            _ => None,
        }
    }

    /// Whether the object was not there.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Missing(_) => true,
            Self::Storage { source, .. } => matches!(source, object_store::Error::NotFound { .. }),
            _ => false,
        }
    }
}

/// What an object was when it was read or written, so that it is replaced only as long as it is that.
#[derive(Debug, Clone, Default)]
pub struct Version(Known);

#[derive(Debug, Clone, Default)]
enum Known {
    #[default]
    Absent,
    /// In a bucket.
    Tagged(UpdateVersion),
    /// In a directory, where dates say little.
    Content(Bytes),
}

/// Objects by name ("tile/0/000.p/3"). A put replaces the whole object at once; in a directory it is
/// on disk when it returns: written to a temporary file, synced, renamed, directory synced.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Others may write too, as in a bucket: objects are replaced by conditional PUT.
    shared: bool,
    /// The lock file of a directory, locked until the last clone is dropped.
    lock: Option<Arc<File>>,
    /// Of a directory.
    reserve: Option<Arc<Reserve>>,
}

impl Store {
    /// Opens the place, making a directory where it does not exist, and takes its lock.
    pub fn open(location: &Location) -> Result<Self, AccessError> {
        let (objects, lock) = location.open()?;
        let reserve = location.directory().map(|directory| Arc::new(Reserve::find(directory)));
        Ok(Self { objects, shared: lock.is_none(), lock: lock.map(Arc::new), reserve })
    }

    /// A store over objects of the caller's: `locked` as a directory is, where the caller sees to it that
    /// nobody else writes, or as a bucket.
    pub fn over(objects: Arc<dyn ObjectStore>, locked: bool) -> Self {
        Self { objects, shared: !locked, lock: None, reserve: None }
    }

    /// Whether another collector may take over at any time, as nothing locks the place.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Sees to it that the directory is still the one that is locked, and that there is room in it for what must be
    /// written, however full the disk becomes meanwhile: [`put_committed`](Self::put_committed) and
    /// [`swap`](Self::swap) use it up. A bucket needs neither.
    pub async fn ready(&self) -> Result<(), StoreError> {
        let (Some(reserve), Some(lock)) = (self.reserve.clone(), self.lock.clone()) else {
            return Ok(());
        };
        let ready = move || {
            if !reserve.is_beside(&lock)? {
                return Ok(false);
            }
            reserve.hold().map(|()| true)
        };
        let ready = tokio::task::spawn_blocking(ready).await;
        match ready.unwrap_or_else(|failed| Err(io::Error::other(failed))) {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::TakenOver("lock".to_owned())),
            Err(failed) => Err(error("hold", "reserve")(generic(failed))),
        }
    }

    /// Bytes that are free where the directory is; `None` for a bucket. Blocks for as long as a stat does.
    pub fn free_bytes(&self) -> Option<u64> {
        self.reserve.as_ref()?.free_bytes().ok()
    }

    /// Writes an object, replacing what was there.
    pub async fn put(&self, name: &str, data: impl Into<Bytes>) -> Result<(), StoreError> {
        let payload = PutPayload::from_bytes(data.into());
        let done = self.objects.put(&ObjectPath::from(name), payload).await;
        done.map(drop).map_err(error("write", name))
    }

    /// Writes an object that must be there, as what speaks of it is committed: of the reserve where the disk is full.
    pub async fn put_committed(&self, name: &str, data: Bytes) -> Result<(), StoreError> {
        let done = self.put_or_claim(name, data, PutMode::Overwrite).await;
        done.map(drop).map_err(error("write", name))
    }

    async fn put_or_claim(
        &self,
        name: &str,
        data: Bytes,
        mode: PutMode,
    ) -> object_store::Result<PutResult> {
        let path = ObjectPath::from(name);
        let put = || {
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            self.objects.put_opts(&path, data.clone().into(), options)
        };
        let done = put().await;
        let (Err(failed), Some(reserve)) = (&done, &self.reserve) else { return done };
        if Lack::of(failed) != Some(Lack::Space) {
            return done;
        }
        let reserve = reserve.clone();
        match tokio::task::spawn_blocking(move || reserve.give_up()).await {
            Ok(true) => put().await,
            _ => done,
        }
    }

    /// Writes an object that must still be as `version` says; [`StoreError::TakenOver`] otherwise.
    /// The lock and a look vouch for that in a directory, a conditional PUT in a bucket. It may use up the reserve.
    pub async fn swap(
        &self,
        name: &str,
        data: impl Into<Bytes>,
        version: &Version,
    ) -> Result<Version, StoreError> {
        let mode = match &version.0 {
            Known::Tagged(version) => PutMode::Update(version.clone()),
            _ if self.shared => PutMode::Create,
            _ => PutMode::Overwrite,
        };
        let data = data.into();
        // The lock may be gone, or the directory be another one. What an earlier try wrote is written again: it may
        // have failed to reach the disk.
        if !self.shared
            && !self.is_version(name, version).await?
            && !self.is_version(name, &Version(Known::Content(data.clone()))).await?
        {
            return Err(StoreError::TakenOver(name.to_owned()));
        }
        match self.put_or_claim(name, data.clone(), mode).await {
            Ok(put) => Ok(self.version(put.into(), data)),
            Err(
                object_store::Error::Precondition { .. }
                | object_store::Error::AlreadyExists { .. }
                | object_store::Error::NotFound { .. },
            ) => match self.get_version(name).await? {
                // Ours: the answer to the first try was lost, and a second one was made.
                Some((found, version)) if found == data => Ok(version),
                _ => Err(StoreError::TakenOver(name.to_owned())),
            },
            Err(source) => Err(error("write", name)(source)),
        }
    }

    /// Reads an object; `None` where there is none.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.get_version(name).await?.map(|(data, _)| data))
    }

    /// Reads an object that is to be replaced later.
    pub async fn get_version(&self, name: &str) -> Result<Option<(Bytes, Version)>, StoreError> {
        match self.objects.get(&ObjectPath::from(name)).await {
            Ok(found) => {
                let version = UpdateVersion {
                    e_tag: found.meta.e_tag.clone(),
                    version: found.meta.version.clone(),
                };
                let data = found.bytes().await.map_err(error("read", name))?;
                Ok(Some((data.clone(), self.version(version, data))))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(error("read", name)(source)),
        }
    }

    /// Fails with [`StoreError::TakenOver`] where an object is not as `version` says.
    pub async fn check(&self, name: &str, version: &Version) -> Result<(), StoreError> {
        if self.is_version(name, version).await? {
            Ok(())
        } else {
            Err(StoreError::TakenOver(name.to_owned()))
        }
    }

    async fn is_version(&self, name: &str, version: &Version) -> Result<bool, StoreError> {
        let Known::Tagged(tagged) = &version.0 else {
            let found = self.get(name).await?;
            return Ok(match (&version.0, found) {
                (Known::Content(known), Some(found)) => *known == found,
                (Known::Absent, None) => true,
                _ => false,
            });
        };
        match self.objects.head(&ObjectPath::from(name)).await {
            Ok(found) => Ok(tagged.e_tag == found.e_tag),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(error("read", name)(source)),
        }
    }

    fn version(&self, tagged: UpdateVersion, data: Bytes) -> Version {
        Version(if self.shared { Known::Tagged(tagged) } else { Known::Content(data) })
    }

    /// Reads a range of an object that must be there, and be as long.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let (path, end) = (ObjectPath::from(name), range.end);
        let failed = match self.objects.get_range(&path, range).await {
            Ok(read) => return Ok(read),
            Err(failed) => failed,
        };
        match self.objects.head(&path).await {
            Ok(found) if found.size < end => {
                let fault = format!("it ends at byte {}, where {end} are to be there", found.size);
                Err(StoreError::damaged(name, fault))
            }
            _ => Err(error("read", name)(failed)),
        }
    }

    /// Starts to write an object part by part; it is there when the upload is completed.
    pub async fn upload(&self, name: &str) -> Result<Upload, StoreError> {
        let parts = self.objects.put_multipart(&ObjectPath::from(name)).await;
        Ok(Upload { name: name.to_owned(), parts: parts.map_err(error("write", name))? })
    }

    /// Names and lengths of all objects below `prefix`, ascending.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, StoreError> {
        let found = self.objects.list(Some(&ObjectPath::from(prefix)));
        let names = found.map_ok(|meta| (meta.location.to_string(), meta.size));
        let mut names: Vec<_> = names.try_collect().await.map_err(error("list", prefix))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes objects, many at once; what cannot be deleted stays, and is told.
    pub async fn delete_all(&self, names: impl IntoIterator<Item = String>) {
        let paths: Vec<_> = names.into_iter().map(|n| Ok(ObjectPath::from(n))).collect();
        let mut deleted = self.objects.delete_stream(stream::iter(paths).boxed());
        while let Some(result) = deleted.next().await {
            match result {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => log::warn!("delete: {error}"),
            }
        }
    }

    /// Deletes an object; one that is not there is fine.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.objects.delete(&ObjectPath::from(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(error("delete", name)(source)),
        }
    }
}

/// An object that is written part by part. One that is neither completed nor called off leaves parts in
/// a bucket, or a file beside the object, which the next [`Store::open`] removes.
#[derive(Debug)]
pub struct Upload {
    name: String,
    parts: Box<dyn MultipartUpload>,
}

impl Upload {
    /// Writes the next part; S3 wants at least 5 MiB in each but the last.
    pub async fn put(&mut self, part: Vec<u8>) -> Result<(), StoreError> {
        self.parts.put_part(part.into()).await.map_err(error("write", &self.name))
    }

    /// Makes the object; where that fails, its parts are removed.
    pub async fn complete(mut self) -> Result<(), StoreError> {
        let completed = self.parts.complete().await.map(drop);
        if completed.is_err()
            && let Err(error) = self.parts.abort().await
        {
            log::warn!("parts of {} are left: {error}", self.name);
        }
        completed.map_err(error("write", &self.name))
    }

    /// Removes the parts.
    pub async fn call_off(mut self) -> Result<(), StoreError> {
        self.parts.abort().await.map_err(error("call off", &self.name))
    }
}

/// Names the operation and the object that the storage failed at.
fn error(operation: &'static str, name: &str) -> impl FnOnce(object_store::Error) -> StoreError {
    let name = name.to_owned();
    move |source| StoreError::Storage { operation, name, source }
}

fn generic(source: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "directory", source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn objects_are_replaced_listed_and_deleted_and_a_second_opener_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::Directory(directory.path().into());
        let store = Store::open(&location).unwrap();
        store.put("a/2.p/1", "x").await.unwrap();
        store.put("a/1", "one").await.unwrap();
        store.put("a/1", "two").await.unwrap();
        assert_eq!(store.get("a/1").await.unwrap().unwrap(), "two");
        assert_eq!(store.get_range("a/1", 1..3).await.unwrap(), "wo");
        let listed = [("a/1".to_owned(), 3), ("a/2.p/1".to_owned(), 1)];
        assert_eq!(store.list("a").await.unwrap(), listed);
        assert!(matches!(Store::open(&location), Err(AccessError::Locked(_))));
        store.delete("a/1").await.unwrap();
        store.delete("a/1").await.unwrap();
        assert!(store.get("a/1").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn in_a_directory_that_was_exchanged_or_lost_its_lock_nothing_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::Directory(directory.path().into());
        let taken = |result| matches!(result, Err(StoreError::TakenOver(_)));
        let ours = Store::open(&location).unwrap();
        let version = ours.swap("head", "1", &Version::default()).await.unwrap();
        ours.check("head", &version).await.unwrap();
        ours.ready().await.unwrap();
        std::fs::remove_file(directory.path().join("lock")).unwrap();
        assert!(matches!(ours.ready().await, Err(StoreError::TakenOver(_))), "gone");
        let theirs = Store::open(&location).unwrap();
        theirs.ready().await.unwrap();
        assert!(matches!(ours.ready().await, Err(StoreError::TakenOver(_))), "another one");
        let (_, found) = theirs.get_version("head").await.unwrap().unwrap();
        theirs.swap("head", "2", &found).await.unwrap();
        assert!(taken(ours.check("head", &version).await));
        assert!(taken(ours.swap("head", "3", &version).await.map(drop)));
        assert!(ours.swap("head", "2", &version).await.is_ok(), "as it must be already");
        std::fs::remove_file(directory.path().join("head")).unwrap();
        assert!(taken(ours.check("head", &version).await), "gone");
        assert!(taken(ours.swap("head", "3", &version).await.map(drop)), "gone");
    }

    #[tokio::test]
    async fn in_a_bucket_an_object_is_swapped_only_as_long_as_nobody_else_replaced_it() {
        let objects = Arc::new(InMemory::new());
        let (a, b) = (Store::over(objects.clone(), false), Store::over(objects, false));
        let taken = |result| matches!(result, Err(StoreError::TakenOver(_)));
        let ours = a.swap("head", "1", &Version::default()).await.unwrap();
        assert!(taken(b.swap("head", "0", &Version::default()).await.map(drop)), "it exists");
        let again = b.swap("head", "1", &Version::default()).await;
        assert!(again.is_ok(), "as it must be: the answer was lost");
        a.check("head", &ours).await.unwrap();
        let (_, theirs) = b.get_version("head").await.unwrap().unwrap();
        b.swap("head", "2", &theirs).await.unwrap();
        assert!(taken(a.swap("head", "3", &ours).await.map(drop)));
        assert!(taken(a.check("head", &ours).await));
        assert_eq!(a.get("head").await.unwrap().unwrap(), "2");
    }
}
