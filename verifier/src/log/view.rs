//! Single leaves of a log, as its source has them: one is proved to be in the published tree, a range
//! is only parsed.

use super::source::{LogSource, SourceError};
use super::tiles::{Column, fetch};
use crate::report::SourceShown;
use crate::shown::{shown, shown_time};
use crate::span::show_source;
use meshchain_core::note::MAX_NOTE;
use meshchain_core::tile::{NodeInTile, TILE_WIDTH, TileKind, TileName, width_at};
use meshchain_core::tlog_checkpoint::CheckpointError;
use meshchain_core::{
    BatchLeaf, Canonical, Checkpoint, DecodeError, DropReason, Dropped, TreeHead, VerifierKey,
    merkle,
};
use serde::Serialize;
use std::ops::Range;
use thiserror::Error;

/// Why a leaf cannot be shown.
#[derive(Debug, Error)]
pub enum ViewError {
    /// The source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no checkpoint.
    #[error("no checkpoint: there is no log here")]
    NoLog,
    /// The checkpoint is not one.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The log is shorter.
    #[error("leaf {index} is not there: the log has {size} leaves")]
    Beyond {
        /// Index asked for.
        index: u64,
        /// Leaves in the log.
        size: u64,
    },
    /// The bundle is missing, or ends before the leaf.
    #[error("{file} does not hold leaf {index}: run meshchain fsck")]
    Missing {
        /// Entry bundle.
        file: String,
        /// Leaf index.
        index: u64,
    },
    /// The tiles do not lead from the leaf to the checkpoint's root.
    #[error("leaf {index} is not in the tree of the checkpoint: {fault}; run meshchain fsck")]
    NotInTree {
        /// Leaf index.
        index: u64,
        /// Why not.
        fault: String,
    },
    /// Not a batch leaf.
    #[error("leaf {index}: {fault}")]
    NotALeaf {
        /// Leaf index.
        index: u64,
        /// Why not.
        fault: DecodeError,
    },
}

/// Drops of one reason since the session began, as the proxy counts them.
#[derive(Debug, Clone, Serialize)]
pub struct DropsShown {
    /// Name of the reason, or its number.
    pub reason: String,
    /// Calls.
    pub count: u64,
}

/// A session that a refusal ended, as the proxy tells of it.
#[derive(Debug, Clone, Serialize)]
pub struct PreviousShown {
    /// Session id.
    pub session: String,
    /// Batches that it sealed.
    pub batches: u64,
    /// Calls that it lost.
    pub dropped: Vec<DropsShown>,
}

/// A leaf, ready to be printed: foreign text is escaped, bytes are hex.
#[derive(Debug, Clone, Serialize)]
pub struct LeafShown {
    /// Leaf index.
    pub index: u64,
    /// RFC 6962 leaf hash.
    pub leaf_hash: String,
    /// `data`, `heartbeat` or `close`.
    pub kind: &'static str,
    /// Where the batch comes from, by the proxy's word.
    pub source: SourceShown,
    /// Session id.
    pub session: String,
    /// Position in the session.
    pub seq: u64,
    /// Number of entries.
    pub count: u32,
    /// Calls lost so far.
    pub dropped: Vec<DropsShown>,
    /// The session before, where the batch is the first after a refusal.
    pub previous: Option<PreviousShown>,
    /// Start of the earliest call, unix nanoseconds.
    pub first_ns: u64,
    /// Start of the latest call.
    pub last_ns: u64,
    /// What the proxy says about its configuration.
    pub notices: Vec<String>,
    /// Chain value of the batch before.
    pub prev: String,
    /// Chain value of this batch.
    pub chain: String,
    /// Root over its entries.
    pub entries_root: String,
    /// SPIFFE id that delivered it; empty where unknown.
    pub principal: String,
    /// When the collector accepted it, unix nanoseconds.
    pub received_ns: u64,
    /// The same, RFC 3339.
    pub received: String,
    /// Public key of the session.
    pub public_key: String,
    /// The session's signature over the chain value.
    pub signature: String,
    /// Whether the signature verifies.
    pub signed: bool,
}

impl LeafShown {
    fn parse(index: u64, bytes: &[u8]) -> Result<Self, ViewError> {
        let not_a_leaf = |fault| ViewError::NotALeaf { index, fault };
        let leaf = BatchLeaf::decode(bytes).map_err(not_a_leaf)?;
        let header = leaf.parse_header().map_err(not_a_leaf)?;
        let previous = header.previous.as_ref().map(|previous| PreviousShown {
            session: hex::encode(previous.session),
            batches: previous.batches,
            dropped: show_drops(&previous.dropped),
        });
        Ok(Self {
            index,
            leaf_hash: hex::encode(merkle::leaf_hash(bytes)),
            kind: header.kind.name(),
            source: show_source(&header),
            session: hex::encode(header.session),
            seq: header.seq,
            count: header.count,
            dropped: show_drops(&header.dropped),
            previous,
            first_ns: header.first_ns,
            last_ns: header.last_ns,
            notices: header.notices.iter().map(shown).collect(),
            prev: hex::encode(leaf.prev),
            chain: hex::encode(leaf.chain),
            entries_root: hex::encode(leaf.entries_root),
            principal: shown(leaf.principal),
            received_ns: leaf.received_ns,
            received: shown_time(leaf.received_ns),
            public_key: hex::encode(leaf.public_key),
            signature: hex::encode(leaf.signature.0),
            signed: leaf.signed().verify().is_ok(),
        })
    }
}

fn show_drops(dropped: &[Dropped]) -> Vec<DropsShown> {
    let show = |d: &Dropped| DropsShown { reason: reason(d.reason), count: d.count };
    dropped.iter().map(show).collect()
}

fn reason(number: u32) -> String {
    let known = DropReason::ALL.into_iter().find(|reason| *reason as u32 == number);
    known.map_or_else(|| format!("reason {number}"), |reason| reason.name().to_owned())
}

/// Reads leaves out of a log.
pub struct LogView<'a>(pub &'a dyn LogSource);

impl LogView<'_> {
    /// The published checkpoint, its signature not checked.
    pub fn checkpoint(&self) -> Result<Checkpoint, ViewError> {
        let bytes = self.0.get("checkpoint", MAX_NOTE as u64)?.ok_or(ViewError::NoLog)?;
        Ok(Checkpoint::parse_unverified(&String::from_utf8_lossy(&bytes))?)
    }

    /// The published checkpoint, signed by this key.
    pub fn signed_checkpoint(&self, key: &VerifierKey) -> Result<Checkpoint, ViewError> {
        let bytes = self.0.get("checkpoint", MAX_NOTE as u64)?.ok_or(ViewError::NoLog)?;
        Ok(Checkpoint::open(&String::from_utf8_lossy(&bytes), key)?)
    }

    /// The leaf at `index` of the published tree, whoever signed that.
    pub fn leaf(&self, index: u64) -> Result<LeafShown, ViewError> {
        self.leaf_in(&self.checkpoint()?, index)
    }

    /// The leaf at `index`, proved to be in the tree of a checkpoint.
    pub fn leaf_in(&self, checkpoint: &Checkpoint, index: u64) -> Result<LeafShown, ViewError> {
        let head = checkpoint.head;
        if index >= head.size {
            return Err(ViewError::Beyond { index, size: head.size });
        }
        let tile = index / TILE_WIDTH;
        let width = width_at(head.size, 0, tile);
        let name = TileName { kind: TileKind::Entries, index: tile, width };
        let bundle = fetch(self.0, &name)?.map(|bundle| Column::bundle(bundle, width));
        let bytes = bundle.as_ref().and_then(|b| b.part((index % TILE_WIDTH) as usize));
        let missing = || ViewError::Missing { file: name.path(), index };
        let bytes = bytes.ok_or_else(missing)?;
        self.prove(index, bytes, &head)?;
        LeafShown::parse(index, bytes)
    }

    /// Proves a leaf by the tiles above it.
    fn prove(&self, index: u64, leaf: &[u8], head: &TreeHead) -> Result<(), ViewError> {
        let not_in_tree = |fault: String| ViewError::NotInTree { index, fault };
        let node = |level, at| {
            let place = NodeInTile::of(level, at);
            let width = width_at(head.size, place.level, place.index);
            let kind = TileKind::Hashes(place.level);
            let name = TileName { kind, index: place.index, width };
            let tile = fetch(self.0, &name)?.map(|tile| Column::tile(tile, width));
            let hash = tile.and_then(|tile| place.hash(&tile.hashes));
            hash.ok_or_else(|| not_in_tree(format!("{} is missing or short", name.path())))
        };
        let proof = merkle::inclusion_proof(index, head.size, node)?;
        merkle::verify_inclusion(index, &merkle::leaf_hash(leaf), &proof, head)
            .map_err(|e| not_in_tree(e.to_string()))
    }

    /// Calls `each` with the leaves of a range of a tree of `size` leaves, until it says `false`.
    pub fn leaves(
        &self,
        size: u64,
        range: Range<u64>,
        each: &mut dyn FnMut(LeafShown) -> bool,
    ) -> Result<(), ViewError> {
        let mut next = range.start;
        while next < range.end {
            let tile = next / TILE_WIDTH;
            let width = width_at(size, 0, tile);
            let name = TileName { kind: TileKind::Entries, index: tile, width };
            let missing = |index| ViewError::Missing { file: name.path(), index };
            let bundle = fetch(self.0, &name)?.ok_or_else(|| missing(next))?;
            let bundle = Column::bundle(bundle, width);
            let end = range.end.min((tile + 1).saturating_mul(TILE_WIDTH));
            for index in next..end {
                let bytes = bundle.part((index % TILE_WIDTH) as usize);
                if !each(LeafShown::parse(index, bytes.ok_or_else(|| missing(index))?)?) {
                    return Ok(());
                }
            }
            next = end;
        }
        Ok(())
    }
}
