//! What the rest of the collector sees of an anchor.

use crate::error::AnchorError;
use crate::objects::Objects;
use crate::state::{FinalAnchor, StateError};
use alloy_primitives::{Address, B256, U256};
use meshchain_store::StoreError;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

/// Longest wait for a running step. What it leaves undone is durable and taken up at the next start.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How an anchor's task ends: an error where it must not go on.
pub(crate) type Ended = Result<(), StateError>;

/// A running anchor. Clones are the same one; when the last is dropped it stops, without waiting.
#[derive(Debug, Clone)]
pub struct AnchorHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) finals: Finals,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) task: Arc<Mutex<Option<JoinHandle<Ended>>>>,
}

/// State of an anchor, for the API and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AnchorStatus {
    /// Chain as configured.
    pub chain: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Anchor contract.
    pub contract: Address,
    /// Account that anchors.
    pub sender: Address,
    /// Key of the log in the contract.
    pub log_id: B256,
    /// Largest final size.
    pub last_final_size: Option<u64>,
    /// The anchor on its way.
    pub in_flight: Option<InFlightStatus>,
    /// What needs the operator.
    pub alert: Option<String>,
    /// Whether the alert stopped this anchor until a restart.
    pub stopped: bool,
    /// Balance when it was last looked at, wei.
    pub balance_wei: Option<U256>,
    /// Spent by final transactions of this UTC day, wei.
    pub spent_today_wei: U256,
}

/// The newest attempt of the anchor on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InFlightStatus {
    /// Account nonce.
    pub nonce: u64,
    /// Number of attempts so far.
    pub attempts: usize,
    /// Transaction hash of the newest.
    pub tx: B256,
    /// Its tree size.
    pub size: u64,
    /// Its root.
    pub root: B256,
    /// Highest price per gas that it offers, wei.
    pub max_fee: u128,
    /// Block that holds one of the attempts, not yet final.
    pub mined_block: Option<u64>,
}

/// Final anchors, for readers: shared, cheap to clone. Sizes are in memory, the rest on disk.
#[derive(Debug, Clone)]
pub struct Finals {
    pub(crate) sizes: Arc<RwLock<BTreeSet<u64>>>,
    pub(crate) objects: Objects,
}

#[derive(Debug)]
pub(crate) struct Shared {
    status: RwLock<AnchorStatus>,
}

impl AnchorHandle {
    /// The final anchors, now and later.
    pub fn finals(&self) -> Finals {
        self.finals.clone()
    }

    /// The state as of the last look.
    pub fn status(&self) -> AnchorStatus {
        self.shared.get()
    }

    /// Waits for the task to end by itself, which it must not, and tells why it did. An anchor that was
    /// stopped by an alert still runs: it waits for the operator. Give up waiting before [`Self::stop`].
    pub async fn ended(&self) -> AnchorError {
        let chain = self.status().chain;
        let mut task = self.task.lock().await;
        let Some(running) = task.as_mut() else { return std::future::pending().await };
        let ended = running.await;
        *task = None;
        match ended {
            Ok(Err(source)) => AnchorError::State { chain, source },
            Ok(Ok(())) => AnchorError::Ended { chain, reason: "it was not asked to".to_owned() },
            Err(failed) => AnchorError::Ended { chain, reason: failed.to_string() },
        }
    }

    /// Stops after the step at work. Nothing is lost: the next start takes up where this ended.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let Some(mut task) = self.task.lock().await.take() else { return };
        if tokio::time::timeout(STOP_DEADLINE, &mut task).await.is_err() {
            task.abort();
        }
    }

    /// The final anchor of the smallest size that covers a tree of `size` leaves.
    pub async fn covering(&self, size: u64) -> Result<Option<FinalAnchor>, StoreError> {
        self.finals.covering(size).await
    }
}

impl Finals {
    /// Sizes of all final anchors, ascending.
    pub fn sizes(&self) -> Vec<u64> {
        self.read().iter().copied().collect()
    }

    /// Largest final size.
    pub fn last_size(&self) -> Option<u64> {
        self.read().last().copied()
    }

    /// Smallest final size that covers a tree of `size` leaves.
    pub fn covering_size(&self, size: u64) -> Option<u64> {
        self.read().range(size..).next().copied()
    }

    /// The final anchor of exactly this size.
    pub async fn get(&self, size: u64) -> Result<Option<FinalAnchor>, StoreError> {
        Ok(self.objects.get_final(size).await?)
    }

    /// The final anchor of the smallest size that covers a tree of `size` leaves.
    pub async fn covering(&self, size: u64) -> Result<Option<FinalAnchor>, StoreError> {
        match self.covering_size(size) {
            Some(size) => self.get(size).await,
            None => Ok(None),
        }
    }

    /// The `limit` largest of a size below `below`, largest first. What is damaged is left out, and told.
    pub async fn newest(&self, below: u64, limit: usize) -> Result<Vec<FinalAnchor>, StoreError> {
        let sizes: Vec<u64> = self.read().range(..below).rev().take(limit).copied().collect();
        let mut anchors = Vec::with_capacity(sizes.len());
        for size in sizes {
            match self.get(size).await {
                Ok(anchor) => anchors.extend(anchor),
                Err(error @ StoreError::Damaged { .. }) => {
                    log::warn!("{error}: `meshchain fsck --rpc --repair` mends it");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(anchors)
    }

    pub(crate) fn insert(&self, size: u64) {
        self.sizes.write().unwrap_or_else(PoisonError::into_inner).insert(size);
    }

    pub(crate) fn remove(&self, size: u64) {
        self.sizes.write().unwrap_or_else(PoisonError::into_inner).remove(&size);
    }

    /// Sizes above `from` and below `to`, descending.
    pub(crate) fn between(&self, from: u64, to: u64) -> Vec<u64> {
        let to = to.max(from.saturating_add(1));
        self.read().range(from.saturating_add(1)..to).rev().copied().collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeSet<u64>> {
        self.sizes.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(crate) fn new(status: AnchorStatus) -> Self {
        Self { status: RwLock::new(status) }
    }

    pub(crate) fn get(&self) -> AnchorStatus {
        self.status.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut AnchorStatus)) {
        change(&mut self.status.write().unwrap_or_else(PoisonError::into_inner));
    }
}
