//! Blocks and receipts of EVM chains as nodes print them, and the proof of an anchor that they make.
//!
//! ```text
//! header RLP --Keccak--> block hash
//!   receiptsRoot --trie proof, key rlp(transaction index)--> receipt, status 1
//!     log at log_index: Anchored(sender, logId, prevSize, size, root)
//! ```
//!
//! [`prove`] makes such a proof out of what a node says, for the collector and for fsck; [`read_anchor`]
//! reads it, for the verifier. Whatever a node leaves out or gets wrong makes other bytes, and other
//! hashes than the block's. Nothing here asks a node or believes one.

mod block;
mod error;
mod event;
mod extra_data;
mod fact;
mod prove;
mod receipt;
mod trie;

pub use block::Block;
pub use error::EvmError;
pub use event::{Anchored, anchored_topic};
pub use fact::{AnchorFact, read_anchor};
pub use prove::{Expected, Placed, ProofError, anchoring, place, prove};
pub use receipt::{Log, Receipt};
