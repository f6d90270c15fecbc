//! The evidence file: everything that one trace's receipts need to be checked offline, in JSON.
//!
//! Nothing in it is trusted. Keys, origins, contracts and senders come from the verifier's policy;
//! this module only reads and writes the file, within bounds.

use crate::hash::Hash;
use crate::lower_hex;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The only version of the format.
pub const FORMAT: &str = "meshchain/evidence/v1";
/// Largest file that is read, in bytes.
pub const MAX_LEN: usize = 8 * 1024 * 1024;
/// Most spans, and most anchors, in one file.
pub const MAX_ITEMS: usize = 10_000;

/// Why a file is not evidence.
#[derive(Debug, Error)]
pub enum EvidenceError {
    /// Over [`MAX_LEN`].
    #[error("the file has {0} bytes; evidence has at most {MAX_LEN}")]
    TooLarge(usize),
    /// Not JSON of this shape.
    #[error("not an evidence file: {0}")]
    Json(#[from] serde_json::Error),
    /// Another format or version.
    #[error("format is {0:?}, not {FORMAT:?}")]
    Format(String),
    /// Over [`MAX_ITEMS`].
    #[error("more than {MAX_ITEMS} spans or anchors")]
    TooMany,
}

/// Receipts of one trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// [`FORMAT`].
    pub format: String,
    /// Trace id, 32 hex digits.
    #[serde(with = "lower_hex")]
    pub trace_id: [u8; 16],
    /// One receipt per span that the log holds for the trace.
    pub spans: Vec<SpanEvidence>,
    /// Anchors of the checkpoint in the spans' proofs, or of later ones.
    #[serde(default)]
    pub anchors: Vec<EvmAnchor>,
}

/// Receipt of one span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpanEvidence {
    /// What is disclosed of the record: both parts, either, or none.
    #[serde(default, skip_serializing_if = "Disclosed::is_empty")]
    pub record: Disclosed,
    /// The 90-byte entry.
    #[serde(with = "lower_hex")]
    pub entry: Vec<u8>,
    /// The entry's place in its batch.
    pub batch: InBatch,
    /// Canonical batch leaf.
    #[serde(with = "lower_hex")]
    pub leaf: Vec<u8>,
    /// The leaf's place in the log: a C2SP tlog-proof, verbatim.
    pub tlog_proof: String,
}

/// The disclosed parts of a record, canonical bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disclosed {
    /// Hop part.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "lower_hex::optional")]
    pub hop: Option<Vec<u8>>,
    /// Own part.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "lower_hex::optional")]
    pub own: Option<Vec<u8>>,
}

impl Disclosed {
    fn is_empty(&self) -> bool {
        self.hop.is_none() && self.own.is_none()
    }
}

/// An entry's inclusion proof within its batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InBatch {
    /// Index of the entry, from 0. The number of entries stands in the leaf.
    pub index: u64,
    /// Inclusion proof under the leaf's entries root, from the entry's sibling up.
    #[serde(with = "lower_hex::hash_list")]
    pub path: Vec<Hash>,
}

/// An anchor on an EVM chain: a block header, and the proof of a receipt in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvmAnchor {
    /// Always `evm`.
    #[serde(rename = "type")]
    pub kind: EvmTag,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Tree size that was anchored.
    pub size: u64,
    /// Consistency proof to the anchored tree, from the checkpoint in the spans' proofs or from the
    /// log's anchor before this one; empty where they are the same.
    #[serde(default, with = "lower_hex::hash_list")]
    pub consistency: Vec<Hash>,
    /// RLP of the block header; its Keccak-256 is the block hash.
    #[serde(with = "lower_hex")]
    pub header: Vec<u8>,
    /// Index of the transaction in the block.
    pub transaction_index: u64,
    /// Nodes of the receipt trie from its root to the receipt, RLP.
    #[serde(with = "lower_hex::list")]
    pub receipt_proof: Vec<Vec<u8>>,
    /// Index of the `Anchored` event among the receipt's logs.
    pub log_index: u64,
}

/// The tag of [`EvmAnchor`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvmTag {
    /// An EVM chain.
    #[default]
    Evm,
}

impl Evidence {
    /// Reads a file's bytes. Bounds are checked, nothing is verified.
    pub fn from_json(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > MAX_LEN {
            return Err(EvidenceError::TooLarge(bytes.len()));
        }
        let evidence: Self = serde_json::from_slice(bytes)?;
        if evidence.format != FORMAT {
            return Err(EvidenceError::Format(evidence.format));
        }
        if evidence.spans.len().max(evidence.anchors.len()) > MAX_ITEMS {
            return Err(EvidenceError::TooMany);
        }
        Ok(evidence)
    }

    /// The file, indented, with a newline at its end.
    pub fn to_json(&self) -> Result<String, EvidenceError> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}
