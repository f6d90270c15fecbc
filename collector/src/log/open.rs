//! Opening a log: from whatever a crash left to a writer that may go on.

use super::index::{Index, LeafPlace};
use super::tree::{Growth, Tree};
use super::writer::Writer;
use super::{CHECKPOINT, HEAD, Log, pool};
use crate::anchor::SignedHead;
use crate::session::Sessions;
use crate::store::{Store, StoreError};
use futures::future::try_join_all;
use meshchain_core::tlog_checkpoint::CheckpointError;
use meshchain_core::{BatchLeaf, Canonical, Checkpoint, SigningKey, TreeHead};
use std::sync::{Arc, RwLock};
use thiserror::Error;
use tokio::sync::watch;

/// Why a log cannot be opened. It is left as it is.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The head is not signed by this key under this origin.
    #[error("{object} is not of this log and key: {source}")]
    Foreign {
        /// Object.
        object: &'static str,
        /// Cause.
        source: CheckpointError,
    },
    /// An object is damaged or missing.
    #[error("the log is damaged: {object}: {fault}; restore the data directory from a copy")]
    Damaged {
        /// Object.
        object: String,
        /// What is wrong with it.
        fault: String,
    },
}

fn damaged(object: impl Into<String>, fault: impl ToString) -> OpenError {
    OpenError::Damaged { object: object.into(), fault: fault.to_string() }
}

/// Opens the log in `store`, making it where there is none: checks every bundle against the head,
/// rebuilds the indexes, deletes what was never committed, and publishes what was.
pub async fn open(store: Store, key: SigningKey) -> Result<(Arc<Log>, Writer), OpenError> {
    let published = read_checkpoint(&store, CHECKPOINT, &key).await?;
    let applied = published.as_ref().map_or(0, |(head, _)| head.size);
    let pools = store.list("pool").await?;
    let head = match read_checkpoint(&store, HEAD, &key).await? {
        Some((head, _)) if head.size < applied => {
            let fault = format!("has {} leaves, but {applied} were published", head.size);
            return Err(damaged(HEAD, fault));
        }
        Some((head, _)) => head,
        // The head of a new log is written before anything else: here it was lost.
        None if published.is_some() || !pools.is_empty() => {
            return Err(damaged(HEAD, "missing, though there are leaves or a checkpoint"));
        }
        None => {
            let empty = Tree::default().head();
            store.put(HEAD, Checkpoint::sign(&empty, &key)).await?;
            empty
        }
    };
    let mut log = Replay::default();
    for name in pools {
        let first = pool::first_of(&name).ok_or_else(|| damaged(&name, "not a bundle's name"))?;
        if first == head.size {
            // The one commit that a crash can leave unfinished.
            store.delete(&name).await?;
            continue;
        }
        let growth = log.replay(&store, &name, first).await?;
        if log.tree.head().size > applied {
            put_all(&store, &growth).await?;
        }
    }
    let found = log.tree.head();
    if found != head {
        let fault = format!(
            "the bundles make a tree of {} leaves with root {}, the head speaks of {} leaves with root {}",
            found.size,
            hex::encode(found.root),
            head.size,
            hex::encode(head.root)
        );
        return Err(damaged(HEAD, fault));
    }
    let checkpoint = match published {
        Some((published, note)) if published == head => note,
        _ => {
            let note = Checkpoint::sign(&head, &key);
            store.put(CHECKPOINT, note.clone()).await?;
            note
        }
    };
    let published = watch::Sender::new(Some(SignedHead { head, checkpoint }));
    let shared = Arc::new(Log {
        store,
        key,
        index: RwLock::new(log.index),
        sessions: RwLock::new(log.sessions),
        published,
    });
    Ok((shared.clone(), Writer::new(shared, log.tree)))
}

/// Writes tiles and bundles, side by side.
pub(super) async fn put_all(store: &Store, growth: &Growth) -> Result<(), StoreError> {
    let puts = growth.objects.iter().map(|(name, bytes)| {
        let path = name.path();
        async move { store.put(&path, bytes.clone()).await }
    });
    try_join_all(puts).await.map(drop)
}

async fn read_checkpoint(
    store: &Store,
    object: &'static str,
    key: &SigningKey,
) -> Result<Option<(TreeHead, String)>, OpenError> {
    let Some(bytes) = store.get(object).await? else {
        return Ok(None);
    };
    let note = String::from_utf8(bytes.to_vec()).map_err(|e| damaged(object, e))?;
    let checkpoint = Checkpoint::open(&note, key.verifier())
        .map_err(|source| OpenError::Foreign { object, source })?;
    Ok(Some((checkpoint.head, note)))
}

#[derive(Default)]
struct Replay {
    tree: Tree,
    index: Index,
    sessions: Sessions,
}

impl Replay {
    async fn replay(&mut self, store: &Store, name: &str, first: u64) -> Result<Growth, OpenError> {
        let next = self.tree.head().size;
        if first != next {
            return Err(damaged(name, format!("leaf {next} is missing before it")));
        }
        let bytes = store.get(name).await?.ok_or_else(|| damaged(name, "gone"))?;
        let slices = pool::parse(&bytes).map_err(|e| damaged(name, e))?;
        let leaves: Vec<&[u8]> = slices.iter().map(|s| &bytes[s.leaf.clone()]).collect();
        for (index, (leaf, slices)) in (first..).zip(leaves.iter().zip(&slices)) {
            let leaf = BatchLeaf::decode(leaf).map_err(|e| damaged(name, e))?;
            let entries = &bytes[slices.entries.clone()];
            if !leaf.holds(entries) {
                return Err(damaged(name, format!("leaf {index} does not hold its entries")));
            }
            let header = leaf.parse_header().map_err(|e| damaged(name, e))?;
            self.sessions.record(&leaf, &header, index);
            let place = LeafPlace { pool: first, slices: slices.clone(), chain: leaf.chain };
            self.index.push(place, entries);
        }
        Ok(self.tree.extend(leaves))
    }
}
