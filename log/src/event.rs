//! What the log tells whoever runs it: lines of an audit log and metrics are made of this.

use crate::batch::Checked;
use crate::growth::Witness;
use crate::misfit::Misfit;
use meshchain_core::{BatchHeader, BatchLeaf, Equivocation, SessionId, TreeHead};
use meshchain_stored::{SegmentName, Step};
use std::time::Duration;

/// Takes events, one at a time, from the writer, the sealer and the answers to batches that come again;
/// each waits for it. It is called without any lock of the log's held.
pub type Events = Box<dyn Fn(Event<'_>) + Send + Sync>;

/// Something that happened to the log.
#[derive(Debug)]
pub enum Event<'a> {
    /// A commit point was passed: what is told from now on speaks of this tree.
    Committed(TreeHead),
    /// A batch is in the log, its sender about to be told.
    Logged {
        /// Its leaf index.
        index: u64,
        /// Its leaf.
        leaf: &'a BatchLeaf<'a>,
        /// The leaf's header.
        header: &'a BatchHeader<'a>,
        /// How it follows its session.
        step: &'a Step,
        /// Told after a start: whether it was told before is not known.
        again: bool,
    },
    /// A batch that was in the log already was acknowledged again.
    Replayed,
    /// A batch was refused.
    Refused {
        /// The batch.
        batch: &'a Checked,
        /// Why.
        misfit: &'a Misfit,
        /// Of an equivocation: the logged batch and this one.
        proof: Option<Box<Equivocation>>,
    },
    /// Something speaks of another history than this log's: it grows no more.
    Halted {
        /// Tree of this log.
        head: TreeHead,
        /// Who does.
        by: Witness,
        /// What speaks of what.
        why: String,
    },
    /// The node of a chain, by whose word the log was halted, says now what fits.
    TakenBack {
        /// Tree of this log.
        head: TreeHead,
        /// Chain as configured.
        chain: String,
        /// What the node had said.
        said: String,
        /// Whether the log stays halted, by others.
        halted: bool,
    },
    /// A commit failed before its commit point: nothing was changed, and the batches may come again.
    CommitFailed,
    /// Readers see this tree.
    Published {
        /// Size and root.
        head: TreeHead,
        /// Leaves that the commit added.
        leaves: u64,
        /// Time since the commit began.
        took: Duration,
    },
    /// A session was not heard of for long, and did not say that it ends.
    FellSilent {
        /// Its id.
        session: SessionId,
        /// Seq of its last batch.
        last_seq: u64,
        /// When that was received, unix nanoseconds.
        last_received_ns: u64,
    },
    /// A segment was sealed.
    Sealed {
        /// The segment.
        segment: SegmentName,
        /// Leaves in it.
        leaves: u32,
        /// Entries in it.
        entries: u32,
        /// Records in it.
        records: u32,
    },
    /// Sealing failed and will be tried again.
    SealFailed,
    /// Retention deleted a segment's records.
    RecordsDeleted {
        /// The segment.
        segment: SegmentName,
        /// Records that it had.
        records: u32,
    },
}
