//! Objects in memory whose writes fail for a while.

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::sync::Mutex;

/// What becomes of writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Writes {
    #[default]
    Work,
    /// They fail without effect.
    Refused,
    /// They take effect, and the answer is lost.
    Unanswered,
    /// Neither they nor reads work.
    Gone,
}

#[derive(Debug, Default)]
pub struct Flaky {
    inner: InMemory,
    writes: Mutex<Writes>,
}

impl Flaky {
    pub fn set(&self, writes: Writes) {
        *self.writes.lock().unwrap() = writes;
    }
}

fn failure() -> Error {
    Error::Generic { store: "flaky", source: "the disk fails".into() }
}

impl std::fmt::Display for Flaky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("flaky")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(&self, at: &Path, data: PutPayload, how: PutOptions) -> Result<PutResult> {
        let writes = *self.writes.lock().unwrap();
        match writes {
            Writes::Work => self.inner.put_opts(at, data, how).await,
            Writes::Refused | Writes::Gone => Err(failure()),
            Writes::Unanswered => {
                self.inner.put_opts(at, data, how).await?;
                Err(failure())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        if *self.writes.lock().unwrap() == Writes::Gone {
            return Err(failure());
        }
        self.inner.get_opts(at, how).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}
