//! The log: one writer that makes batches durable and publishes checkpoints over them.
//!
//! What is durable when, and what a crash leaves:
//! 1. the staging bundle (`pool/N`) is written: a crash now leaves a bundle that no head speaks of,
//!    which the next start deletes; the batches were not acknowledged;
//! 2. the head (`head`, a signed checkpoint) is replaced: the commit point;
//! 3. the batches are acknowledged;
//! 4. tiles and entry bundles are written: a crash leaves some out, and the next start writes them
//!    by the same code;
//! 5. the checkpoint (`checkpoint`) is replaced: the tree is published.

#[cfg(test)]
mod fault_tests;
mod index;
mod open;
mod pool;
mod tree;
mod writer;

pub use index::EntryPlace;
pub use open::{OpenError, open};
pub use pool::nth_record;
pub use writer::{Fatal, Submission, Writer, refuse, run};

use crate::anchor::SignedHead;
use crate::batch::Refusal;
use crate::session::Sessions;
use crate::store::{Store, StoreError};
use index::{Index, LeafPlace};
use meshchain_core::tile::{NodeInTile, TILE_WIDTH, TileKind, TileName, split_bundle, width_at};
use meshchain_core::{Hash, SigningKey, merkle};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use thiserror::Error;
use tokio::sync::watch;

/// Object with the committed head.
const HEAD: &str = "head";
/// Object with the published checkpoint.
const CHECKPOINT: &str = "checkpoint";

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
    Refused(#[from] Refusal),
    /// Its pool could not be written; it may be sent again.
    #[error("the batch could not be made durable")]
    Unavailable,
}

/// The read side, shared by the writer and the doors.
pub struct Log {
    store: Store,
    key: SigningKey,
    index: RwLock<Index>,
    sessions: RwLock<Sessions>,
    published: watch::Sender<Option<SignedHead>>,
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

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// (entries, traces) in the log.
    pub fn counts(&self) -> (u64, usize) {
        let index = self.index();
        (index.entries(), index.traces())
    }

    /// Places of a trace's entries, in log order.
    pub fn trace(&self, trace_id: &[u8; 16]) -> Vec<EntryPlace> {
        self.index().trace(trace_id).to_vec()
    }

    /// A leaf, its entries and its records.
    pub async fn batch(&self, leaf: u64) -> Result<Option<Batch>, StoreError> {
        let Some(place) = self.index().leaf(leaf).cloned() else {
            return Ok(None);
        };
        let LeafPlace { pool, slices, .. } = place;
        let range = slices.leaf.start as u64..slices.records.end as u64;
        let bytes = self.store.get_range(&pool::name(pool), range).await?;
        let (leaf_len, entries_len) = (slices.leaf.len(), slices.entries.len());
        Ok(Some(Batch {
            leaf: bytes.slice(..leaf_len),
            entries: bytes.slice(leaf_len..leaf_len + entries_len),
            records: bytes.slice(leaf_len + entries_len..),
        }))
    }

    /// A tile or bundle as the log serves it. A partial one that was deleted is cut out of the full
    /// one.
    pub async fn tile(&self, name: &TileName) -> Result<Option<bytes::Bytes>, StoreError> {
        if let Some(found) = self.store.get(&name.path()).await? {
            return Ok(Some(found));
        }
        let full = TileName { width: TILE_WIDTH as u16, ..*name };
        if full == *name {
            return Ok(None);
        }
        let width = usize::from(name.width);
        Ok(self.store.get(&full.path()).await?.map(|bytes| {
            let end = match name.kind {
                TileKind::Hashes(_) => width * 32,
                TileKind::Entries => split_bundle(&bytes)
                    .map_or(0, |entries| entries.iter().take(width).map(|e| e.len() + 2).sum()),
            };
            bytes.slice(..end.min(bytes.len()))
        }))
    }

    /// Inclusion proof of `leaf` in the tree of `size` leaves.
    pub async fn inclusion_proof(&self, leaf: u64, size: u64) -> Result<Vec<Hash>, StoreError> {
        self.prove(size, |node| merkle::inclusion_proof(leaf, size, node)).await
    }

    /// Consistency proof between the trees of `old` and `new` leaves.
    pub async fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Hash>, StoreError> {
        self.prove(new, |node| merkle::consistency_proof(old, new, node)).await
    }

    /// Runs a proof twice: to learn which tiles it needs, and with them.
    async fn prove(
        &self,
        size: u64,
        proof: impl Fn(&mut dyn FnMut(u32, u64) -> Result<Hash, ()>) -> Result<Vec<Hash>, ()>,
    ) -> Result<Vec<Hash>, StoreError> {
        let mut tiles: HashMap<(u8, u64), Vec<Hash>> = HashMap::new();
        let _ = proof(&mut |level, index| {
            let node = NodeInTile::of(level, index);
            tiles.insert((node.level, node.index), Vec::new());
            Ok([0; 32])
        });
        for ((level, index), hashes) in &mut tiles {
            let (level, index) = (*level, *index);
            let width = width_at(size, level, index);
            let name = TileName { kind: TileKind::Hashes(level), index, width };
            let bytes = self.tile(&name).await?;
            *hashes = tree::hashes(&bytes.ok_or_else(|| StoreError::missing(&name.path()))?);
        }
        let proof = proof(&mut |level, index| {
            let node = NodeInTile::of(level, index);
            tiles.get(&(node.level, node.index)).and_then(|tile| node.hash(tile)).ok_or(())
        });
        proof.map_err(|()| StoreError::missing("a node of the tree"))
    }
}

/// One batch out of the log.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Canonical batch leaf.
    pub leaf: bytes::Bytes,
    /// Entries, 90 bytes each.
    pub entries: bytes::Bytes,
    /// Records, each behind its length; see [`nth_record`].
    pub records: bytes::Bytes,
}
