//! The log: one writer that makes batches durable and publishes checkpoints over them.
//!
//! What is durable when, and what a crash leaves:
//! 1. the staging bundle (`pool/N-HASH`) is written: a crash now leaves a bundle that no head speaks
//!    of, which later starts pass over; the batches were not acknowledged;
//! 2. the head (`head`, a signed checkpoint) is replaced: the commit point;
//! 3. the batches are acknowledged;
//! 4. tiles and entry bundles are written: a crash leaves some out, and the next start writes them
//!    by the same code;
//! 5. the checkpoint (`checkpoint`) is replaced: the tree is published.
//!
//! Beside that, published bundles are sealed: their entries and records written as a segment
//! (`segment/N-M.*`), then `sealed` replaced, the commit point; then the bundles are deleted. A crash
//! leaves a segment that `sealed` does not speak of, which the next start deletes, or bundles that it
//! does speak of, which the next start deletes too.

mod answers;
mod batch;
mod build;
mod catalog;
mod clock;
mod event;
#[cfg(test)]
mod fault_tests;
mod judge;
mod lag;
mod misfit;
mod open;
mod pool;
#[cfg(test)]
mod pool_tests;
mod read;
mod retain;
mod seal;
mod sealed;
mod segment_files;
mod sessions;
mod signatures;
mod state;
mod tree;
mod writer;

pub use batch::Checked;
pub use catalog::{EntryPlace, SealAt};
pub use event::{Event, Events};
pub use judge::{MAX_JUMP, Next};
pub use misfit::Misfit;
pub use open::{OpenError, open};
pub use read::Batch;
pub use retain::delete_old_records;
pub use seal::Sealer;
pub use sessions::Sessions;
pub use writer::{Fatal, Submission, Writer, run};

use catalog::Catalog;
use lag::Lag;
use meshchain_core::{SignedHead, SigningKey};
use meshchain_store::Store;
use open::damaged;
use sealed::Files;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Notify, Semaphore, watch};

/// Object with the committed head.
const HEAD: &str = "head";
/// Object with the published checkpoint.
const CHECKPOINT: &str = "checkpoint";
/// Object that says how far the log is sealed.
const SEALED: &str = "sealed";

/// Time that a commit may take before senders are told to come again: a checkpoint is promised within
/// a second of acceptance.
const MAX_LAG: Duration = Duration::from_millis(500);

/// See [`Log::lookups`].
const LOOKUPS: usize = 8;

/// What an accepted batch is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its leaf index.
    pub leaf: u64,
    /// It was in the log already.
    pub replayed: bool,
}

/// Why a batch was not taken.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// It does not fit the log.
    #[error(transparent)]
    Refused(#[from] Misfit),
    /// Its pool could not be written; it may be sent again.
    #[error("the batch could not be made durable")]
    Unavailable,
}

/// The read side, shared by the writer and the doors.
pub struct Log {
    store: Store,
    key: SigningKey,
    catalog: RwLock<Catalog>,
    sessions: RwLock<Sessions>,
    files: Arc<Files>,
    published: watch::Sender<Option<SignedHead>>,
    /// A part of the tail may wait to be sealed.
    parts_closed: Notify,
    /// A part was sealed.
    parts_sealed: Notify,
    lag: Lag,
    events: Events,
    /// Batches that are looked up at the same time, as they may be logged already.
    lookups: Semaphore,
}

impl Log {
    /// The log's key; its name is the origin.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The published checkpoint, now and later.
    pub fn published(&self) -> watch::Receiver<Option<SignedHead>> {
        self.published.subscribe()
    }

    /// Sessions so far.
    pub fn sessions(&self) -> RwLockReadGuard<'_, Sessions> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions_mut(&self) -> RwLockWriteGuard<'_, Sessions> {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is accepted now would be published too late.
    pub fn lags(&self) -> bool {
        self.lag.exceeds(MAX_LAG)
    }

    fn tell(&self, event: Event<'_>) {
        (self.events)(event);
    }

    /// Number of sealed segments.
    pub fn segments(&self) -> usize {
        self.catalog().sealed().len()
    }

    /// Number of entries in the log.
    pub fn entries(&self) -> u64 {
        self.catalog().entries()
    }
}
