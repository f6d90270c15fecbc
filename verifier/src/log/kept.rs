//! What a collector keeps of its anchors, below `anchor/<chain>/`, and whether each file says what
//! its own proof proves.

use crate::shown::{quoted, shown};
use alloy_primitives::{Address, B256};
use meshchain_core::evidence::EvmAnchor;
use meshchain_core::{Checkpoint, TreeHead, VerifierKey, hash};
use meshchain_evm::read_anchor;
use serde::{Deserialize, Serialize};

/// The only version of both objects.
pub(super) const VERSION: u32 = 1;
/// Largest of these files that is read, in bytes: a receipt's trie nodes may be long.
pub(super) const MAX_LEN: u64 = 16 * 1024 * 1024;
/// Digits of a size in a name.
const DIGITS: usize = 20;

/// A final anchor, as the collector writes it to `receipts/<size>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptAnchor {
    pub(crate) version: u32,
    /// Chain as the collector's configuration names it: the folder.
    pub(crate) chain: String,
    pub(crate) contract: Address,
    pub(crate) sender: Address,
    pub(crate) log_id: B256,
    pub(crate) size: u64,
    pub(crate) root: B256,
    /// The signed checkpoint of that size.
    pub(crate) checkpoint: String,
    pub(crate) evidence: EvmAnchor,
    pub(crate) block_number: u64,
    pub(crate) block_hash: B256,
    /// Unix seconds.
    pub(crate) block_timestamp: u64,
    pub(crate) tx: B256,
    pub(crate) nonce: u64,
    pub(crate) gas_used: u64,
    /// Wei.
    pub(crate) effective_gas_price: u128,
}

/// What is read of `pending.json`: whose anchors they are, and which trees it speaks of.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct KeptState {
    version: u32,
    pub(crate) sender: Address,
    pub(crate) contract: Address,
    pub(crate) chain_id: u64,
    /// Largest final size and its root.
    pub(crate) last_final: Option<(u64, B256)>,
    in_flight: Option<InFlight>,
}

#[derive(Debug, Clone, Deserialize)]
struct InFlight {
    attempts: Vec<Attempt>,
}

#[derive(Debug, Clone, Deserialize)]
struct Attempt {
    size: u64,
    root: B256,
}

impl KeptState {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let state: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        match state.version {
            VERSION => Ok(state),
            other => Err(format!("is of version {other}")),
        }
    }

    /// The trees that it speaks of.
    pub(super) fn heads(&self) -> impl Iterator<Item = TreeHead> {
        let attempts = self.in_flight.iter().flat_map(|flight| &flight.attempts);
        let attempts = attempts.map(|attempt| (attempt.size, attempt.root));
        let all = self.last_final.into_iter().chain(attempts);
        all.map(|(size, root)| TreeHead { size, root: root.0 })
    }
}

/// What the files of one chain must agree with.
pub(super) struct Expected<'a> {
    /// Folder's name.
    pub(super) chain: &'a str,
    pub(super) origin: &'a str,
    /// Key of the log, where it is known.
    pub(super) key: Option<&'a VerifierKey>,
}

/// Name of the file of a final anchor.
pub(super) fn receipt_name(chain: &str, size: u64) -> String {
    format!("anchor/{chain}/receipts/{size:0DIGITS$}.json")
}

/// Size in the name of a final anchor's file.
pub(super) fn size_of(name: &str) -> Option<u64> {
    let digits = name.rsplit('/').next()?.strip_suffix(".json")?;
    let plain = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

impl KeptAnchor {
    /// Reads the file of the anchor of `size`, or says what is wrong with it.
    pub(super) fn read(bytes: &[u8], size: u64, expected: &Expected<'_>) -> Result<Self, String> {
        let parsed = serde_json::from_slice(bytes);
        let kept: Self =
            parsed.map_err(|e| format!("not a final anchor: {}", shown(e.to_string())))?;
        let fact = read_anchor(&kept.evidence);
        let fact =
            fact.map_err(|e| format!("its proof proves nothing: {}", shown(e.to_string())))?;
        let same = [
            ("version", kept.version == VERSION),
            ("chain", kept.chain == expected.chain),
            ("size", [kept.size, kept.evidence.size, fact.head.size] == [size; 3]),
            ("root", kept.root == fact.head.root),
            ("contract", kept.contract == fact.contract),
            ("sender", kept.sender == fact.sender),
            ("log id", [kept.log_id.0, fact.log_id] == [hash::log_id(expected.origin); 2]),
            ("block number", kept.block_number == fact.number),
            ("block hash", kept.block_hash == fact.hash),
            ("block time", kept.block_timestamp == fact.timestamp),
        ];
        if let Some((what, _)) = same.iter().find(|(_, same)| !same) {
            return Err(format!("its {what} is not that of its proof, its name or its folder"));
        }
        checkpoint_of(&kept.checkpoint, &fact.head, expected)?;
        Ok(kept)
    }

    pub(super) fn head(&self) -> TreeHead {
        TreeHead { size: self.size, root: self.root.0 }
    }
}

/// Whether a text is the log's checkpoint of this tree; where the key is known, signed by it.
pub(super) fn checkpoint_of(
    note: &str,
    head: &TreeHead,
    expected: &Expected<'_>,
) -> Result<(), String> {
    let parsed = match expected.key {
        Some(key) => Checkpoint::open(note, key),
        None => Checkpoint::parse_unverified(note),
    };
    let parsed = parsed.map_err(|e| format!("its checkpoint: {}", shown(e.to_string())))?;
    match (parsed.origin == expected.origin, parsed.head == *head) {
        (true, true) => Ok(()),
        (false, _) => Err(format!("its checkpoint is of log {}", quoted(&parsed.origin))),
        (_, false) => Err("its checkpoint is of another tree than the one anchored".to_owned()),
    }
}
