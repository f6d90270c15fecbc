//! A store that fails once, at an operation of the test's choice.

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// What goes wrong at one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails without effect (EIO, ENOSPC, 503); the next ones work.
    Refused,
    /// It takes effect and then reports an error (a failed fsync, a timeout after success).
    LostAnswer,
    /// The process dies before it.
    CrashBefore,
    /// The process dies after it.
    CrashAfter,
    /// Half of a new object is there, and the process dies. What is there is replaced as a whole.
    Torn,
    /// It takes effect, its answer is lost, and the second try finds the object replaced (412).
    Contested,
    /// From it on, as many operations as that find something used up where they write.
    Lacking(u64, ErrorKind),
}

pub(crate) const FAULTS: [Fault; 6] = [
    Fault::Refused,
    Fault::LostAnswer,
    Fault::CrashBefore,
    Fault::CrashAfter,
    Fault::Torn,
    Fault::Contested,
];

/// A store that fails at its `at`-th operation.
#[derive(Debug)]
pub(crate) struct Faulty {
    myself: Weak<Self>,
    inner: Arc<InMemory>,
    fault: Fault,
    at: u64,
    operations: AtomicU64,
    dead: AtomicBool,
}

enum Turn {
    Works,
    FailsBefore,
    FailsAfter(Error),
    Lacks(ErrorKind),
    Tears,
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "injected".into() }
}

fn contested() -> Error {
    Error::Precondition { path: "injected".into(), source: "injected".into() }
}

impl Faulty {
    /// `inner`, with a fault at its `at`-th operation.
    pub(crate) fn new(inner: &Arc<InMemory>, fault: Fault, at: u64) -> Arc<Self> {
        Arc::new_cyclic(|myself| Self {
            myself: myself.clone(),
            inner: inner.clone(),
            fault,
            at,
            operations: AtomicU64::new(0),
            dead: AtomicBool::new(false),
        })
    }

    /// Whether the fault was reached.
    pub(crate) fn hit(&self) -> bool {
        self.operations.load(Ordering::SeqCst) > self.at
    }

    /// Operations so far.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.load(Ordering::SeqCst)
    }

    fn turn(&self) -> Turn {
        if self.dead.load(Ordering::SeqCst) {
            return Turn::FailsBefore;
        }
        let operation = self.operations.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::Lacking(count, of) if (self.at..self.at + count).contains(&operation) => {
                return Turn::Lacks(of);
            }
            _ if operation == self.at => {}
            _ => return Turn::Works,
        }
        let lives = [Fault::Refused, Fault::LostAnswer, Fault::Contested];
        let crash = !lives.contains(&self.fault);
        self.dead.store(crash, Ordering::SeqCst);
        match self.fault {
            Fault::Refused | Fault::CrashBefore => Turn::FailsBefore,
            Fault::LostAnswer | Fault::CrashAfter => Turn::FailsAfter(failure()),
            Fault::Contested => Turn::FailsAfter(contested()),
            Fault::Torn => Turn::Tears,
            Fault::Lacking(..) => Turn::Works,
        }
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, at: &Path, data: PutPayload, how: PutOptions) -> Result<PutResult> {
        match self.turn() {
            Turn::Works => self.inner.put_opts(at, data, how).await,
            Turn::FailsBefore => Err(failure()),
            Turn::Lacks(of) => {
                let source = Box::new(std::io::Error::from(of));
                Err(Error::Generic { store: "faulty", source })
            }
            Turn::FailsAfter(error) => {
                self.inner.put_opts(at, data, how).await?;
                Err(error)
            }
            Turn::Tears => {
                let whole = bytes::Bytes::from(data);
                if self.inner.head(at).await.is_err() {
                    self.inner.put(at, whole.slice(..whole.len() / 2).into()).await?;
                }
                Err(failure())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload =
            Upload { store: self.myself.upgrade().unwrap(), at: at.clone(), data: Vec::new() };
        Ok(Box::new(upload))
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        match self.turn() {
            Turn::Works | Turn::Lacks(_) => self.inner.get_opts(at, how).await,
            _ => Err(failure()),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.turn() {
            Turn::Works | Turn::Lacks(_) => self.inner.delete_stream(locations),
            Turn::FailsAfter(_) => {
                self.inner.delete_stream(locations).map(|_| Err(failure())).boxed()
            }
            _ => futures::stream::once(async { Err(failure()) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.turn() {
            Turn::Works | Turn::Lacks(_) => self.inner.list(prefix),
            _ => futures::stream::once(async { Err(failure()) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(failure())
    }
}

/// An object that is written part by part and is there once it is complete, in one operation.
#[derive(Debug)]
struct Upload {
    store: Arc<Faulty>,
    at: Path,
    data: Vec<u8>,
}

#[async_trait::async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        self.data.extend_from_slice(&bytes::Bytes::from(part));
        Box::pin(async { Ok(()) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let data = std::mem::take(&mut self.data);
        self.store.put_opts(&self.at, data.into(), PutOptions::default()).await
    }

    async fn abort(&mut self) -> Result<()> {
        Ok(())
    }
}
