//! RFC 6962 Merkle trees: hashes, roots, proofs, and their verification as RFC 9162 writes it.
//!
//! Proofs are made over a node source: a function from (level, index) to the hash of the complete
//! subtree of 2^level leaves at that index. The log serves nodes from tiles, a batch from memory.

mod prove;
mod verify;

pub use prove::{consistency_proof, inclusion_proof, subtree_root};
pub use verify::{ProofError, verify_consistency, verify_inclusion};

use crate::hash::{Hash, tagged};

/// Hash of a leaf: SHA-256(0x00 ‖ data).
pub fn leaf_hash(data: &[u8]) -> Hash {
    tagged(&[0], &[data])
}

/// Hash of an interior node: SHA-256(0x01 ‖ left ‖ right).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    tagged(&[1], &[left, right])
}

/// Root of the empty tree: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    tagged(&[], &[])
}

/// Root over leaf hashes held in memory.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(split_point(leaves.len() as u64) as usize);
            node_hash(&root(left), &root(right))
        }
    }
}

/// Inclusion proof over leaf hashes held in memory; `None` where `index` is not in the tree.
pub fn inclusion_path(leaves: &[Hash], index: u64) -> Option<Vec<Hash>> {
    let node = |level: u32, index: u64| {
        let start = (index << level) as usize;
        Ok::<_, ()>(root(&leaves[start..start + (1 << level)]))
    };
    let size = leaves.len() as u64;
    (index < size).then(|| inclusion_proof(index, size, node).unwrap_or_default())
}

/// Largest power of two below `size`, for a size of at least 2 (RFC 6962 section 2.1).
fn split_point(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}
