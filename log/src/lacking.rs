//! What the log lacks to grow, for as long as it does: it is tried again where that passes.

use crate::log::Log;
use meshchain_store::{Lack, StoreError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// First and longest pause between two tries of what must be done.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// What somebody lacks at the moment; held for moments.
#[derive(Debug, Default)]
pub(crate) struct Lacking(Mutex<Option<Lack>>);

impl Lacking {
    /// What it is, if anything.
    pub(crate) fn get(&self) -> Option<Lack> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what it is now.
    pub(crate) fn set(&self, lack: Option<Lack>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = lack;
    }
}

/// Time for which a bucket may fail behind a commit point, beside that which each try takes.
const BUCKET_FAILS: Duration = Duration::from_secs(30);

/// Patience with what must be done, as what it belongs to is committed.
pub(crate) struct Insist {
    pause: Duration,
    /// When a bucket failed first.
    failed: Option<Instant>,
}

impl Insist {
    pub(crate) fn new() -> Self {
        Self { pause: PAUSES[0], failed: None }
    }

    /// Returns when it is time to try again what failed only for want of room or files, or in a bucket, which others
    /// make fail for a while; any other failure is returned.
    pub(crate) async fn again(&mut self, log: &Log, error: StoreError) -> Result<(), StoreError> {
        let lack = error.lack();
        if lack.is_none() {
            let storage = matches!(error, StoreError::Storage { .. }) && !error.is_missing();
            let since = self.failed.get_or_insert_with(Instant::now);
            if !(storage && log.store.is_shared() && since.elapsed() < BUCKET_FAILS) {
                return Err(error);
            }
        }
        log.writer_lacks.set(lack);
        let pause = self.pause;
        log::error!("a commit cannot be ended yet, tried again in {pause:?}: {error}");
        sleep(pause).await;
        self.pause = (pause * 2).min(PAUSES[1]);
        Ok(())
    }
}
