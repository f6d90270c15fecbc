//! The collector's whole state: named objects in one directory, durable when a call returns.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;

/// Why the store could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another collector holds the directory.
    #[error("{0} is in use by another collector: one log has one writer")]
    Locked(String),
    /// The directory cannot be made or read.
    #[error("cannot open data directory {path}: {source}")]
    Io {
        /// Directory as configured.
        path: String,
        /// Cause.
        source: io::Error,
    },
}

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
}

impl StoreError {
    /// An object that must be there is not.
    pub fn missing(name: &str) -> Self {
        Self::Missing(name.to_owned())
    }
}

/// Objects by name ("tile/0/000.p/3"). A put replaces the whole object at once and is on disk when
/// it returns: written to a temporary file, synced, renamed, directory synced.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    _lock: Option<Arc<File>>,
}

impl Store {
    /// Opens `directory`, making it where it does not exist, and takes its lock.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.display().to_string();
        let io = |source| OpenError::Io { path: path.clone(), source };
        std::fs::create_dir_all(directory).map_err(io)?;
        let lock = File::create(directory.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(OpenError::Locked(path)),
            Err(std::fs::TryLockError::Error(source)) => return Err(io(source)),
        }
        let objects = LocalFileSystem::new_with_prefix(directory)
            .map_err(|e| io(io::Error::other(e)))?
            .with_fsync(true);
        Ok(Self { objects: Arc::new(objects), _lock: Some(Arc::new(lock)) })
    }

    /// A store over other objects, without a lock.
    #[cfg(test)]
    pub(crate) fn over(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects, _lock: None }
    }

    /// Writes an object, replacing what was there.
    pub async fn put(&self, name: &str, data: impl Into<Bytes>) -> Result<(), StoreError> {
        let payload = PutPayload::from_bytes(data.into());
        let done = self.objects.put(&ObjectPath::from(name), payload).await;
        done.map(drop).map_err(error("write", name))
    }

    /// Reads an object; `None` where there is none.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        match self.objects.get(&ObjectPath::from(name)).await {
            Ok(found) => found.bytes().await.map(Some).map_err(error("read", name)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(error("read", name)(source)),
        }
    }

    /// Reads a range of an object that must be there.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let read = self.objects.get_range(&ObjectPath::from(name), range).await;
        read.map_err(error("read", name))
    }

    /// Names of all objects below `prefix`, ascending.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let found = self.objects.list(Some(&ObjectPath::from(prefix)));
        let names = found.map_ok(|meta| meta.location.to_string()).try_collect::<Vec<_>>().await;
        let mut names = names.map_err(error("list", prefix))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes an object; one that is not there is fine.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.objects.delete(&ObjectPath::from(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(error("delete", name)(source)),
        }
    }
}

fn error(operation: &'static str, name: &str) -> impl FnOnce(object_store::Error) -> StoreError {
    let name = name.to_owned();
    move |source| StoreError::Storage { operation, name, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn objects_are_replaced_listed_and_deleted_and_a_second_opener_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.put("a/2.p/1", "x").await.unwrap();
        store.put("a/1", "one").await.unwrap();
        store.put("a/1", "two").await.unwrap();
        assert_eq!(store.get("a/1").await.unwrap().unwrap(), "two");
        assert_eq!(store.get_range("a/1", 1..3).await.unwrap(), "wo");
        assert_eq!(store.list("a").await.unwrap(), ["a/1", "a/2.p/1"]);
        assert!(matches!(Store::open(directory.path()), Err(OpenError::Locked(_))));
        store.delete("a/1").await.unwrap();
        store.delete("a/1").await.unwrap();
        assert!(store.get("a/1").await.unwrap().is_none());
    }
}
