//! What a collector keeps of its anchors, below `anchor/<chain>/`, and whether each file says what
//! its own proof proves.

use crate::shown::{quoted, shown};
use meshchain_core::{Checkpoint, TreeHead, VerifierKey, hash};
use meshchain_evm::read_anchor;
use meshchain_stored::anchor::FinalAnchor;

/// Largest of these files that is read, in bytes: a receipt's trie nodes may be long.
pub(super) const MAX_LEN: u64 = 16 * 1024 * 1024;
/// What the files of one chain must agree with.
pub(super) struct Expected<'a> {
    /// Folder's name.
    pub(super) chain: &'a str,
    pub(super) origin: &'a str,
    /// Key of the log, where it is known.
    pub(super) key: Option<&'a VerifierKey>,
}

/// Reads the file of the anchor of `size`, or says what is wrong with it.
pub(super) fn read_final(
    bytes: &[u8],
    size: u64,
    expected: &Expected<'_>,
) -> Result<FinalAnchor, String> {
    let parsed = FinalAnchor::parse(bytes);
    let kept = parsed.map_err(|e| format!("not a final anchor: {}", shown(e.to_string())))?;
    let fact = read_anchor(&kept.evidence);
    let fact = fact.map_err(|e| format!("its proof proves nothing: {}", shown(e.to_string())))?;
    let same = [
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
