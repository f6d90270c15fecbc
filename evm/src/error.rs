//! Why an anchor's bytes prove nothing.

use thiserror::Error;

/// Why the bytes of an anchor do not prove an `Anchored` event.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvmError {
    /// The header is not the RLP of a block header.
    #[error("the block header does not decode: {0}")]
    Header(alloy_rlp::Error),
    /// The trie proof does not lead from the header's receipts root to a receipt.
    #[error("receipt proof, node {node}: {reason}")]
    Trie {
        /// Node of the proof, from 0.
        node: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The value in the trie is not a receipt.
    #[error("the receipt does not decode")]
    Receipt,
    /// The transaction failed, or its receipt is older than status codes.
    #[error("the receipt's status is not 1: the transaction failed")]
    Status,
    /// The receipt has fewer logs.
    #[error("the receipt has {logs} logs, none at index {index}")]
    LogIndex {
        /// Index asked for.
        index: u64,
        /// Number of logs.
        logs: usize,
    },
    /// The log is of another event.
    #[error("log {0} of the receipt is not an Anchored event")]
    Event(u64),
}
