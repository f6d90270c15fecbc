use super::{empty_root, node_hash};
use crate::hash::Hash;
use crate::tlog_checkpoint::TreeHead;
use thiserror::Error;

/// Why a Merkle proof does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The leaf index is not below the tree size.
    #[error("leaf index {index} is not in a tree of {size} leaves")]
    Index {
        /// Leaf index.
        index: u64,
        /// Tree size.
        size: u64,
    },
    /// The old tree is larger than the new one.
    #[error("a tree of {new} leaves cannot extend one of {old}")]
    Shrunk {
        /// Old tree size.
        old: u64,
        /// New tree size.
        new: u64,
    },
    /// The proof has too many or too few hashes for these sizes.
    #[error("the proof has the wrong number of hashes ({0})")]
    Length(usize),
    /// The proof leads to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// Checks that `leaf` is the leaf at `index` of the tree `head` (RFC 9162 section 2.1.3.2).
pub fn verify_inclusion(
    index: u64,
    leaf: &Hash,
    proof: &[Hash],
    head: &TreeHead,
) -> Result<(), ProofError> {
    if index >= head.size {
        return Err(ProofError::Index { index, size: head.size });
    }
    let (mut fn_, mut sn, mut root) = (index, head.size - 1, *leaf);
    for sibling in proof {
        if sn == 0 {
            return Err(ProofError::Length(proof.len()));
        }
        if fn_ & 1 == 1 || fn_ == sn {
            root = node_hash(sibling, &root);
            while fn_ & 1 == 0 && fn_ != 0 {
                fn_ >>= 1;
                sn >>= 1;
            }
        } else {
            root = node_hash(&root, sibling);
        }
        fn_ >>= 1;
        sn >>= 1;
    }
    if sn != 0 {
        return Err(ProofError::Length(proof.len()));
    }
    if root == head.root { Ok(()) } else { Err(ProofError::Root) }
}

/// Checks that the tree `new` extends the tree `old` (RFC 9162 section 2.1.4.2).
///
/// Every tree extends the empty one, and itself; the proof is then empty.
pub fn verify_consistency(
    old: &TreeHead,
    new: &TreeHead,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old.size > new.size {
        return Err(ProofError::Shrunk { old: old.size, new: new.size });
    }
    if old.size == 0 || old.size == new.size {
        if !proof.is_empty() {
            return Err(ProofError::Length(proof.len()));
        }
        let empty = old.size > 0 || old.root == empty_root();
        let same = old.size < new.size || old.root == new.root;
        return if empty && same { Ok(()) } else { Err(ProofError::Root) };
    }
    // Where the old tree is complete, its root is the first node of the path and is left out.
    let whole = old.size.is_power_of_two().then_some(old.root);
    let mut path = whole.iter().chain(proof);
    let (mut fn_, mut sn) = (old.size - 1, new.size - 1);
    while fn_ & 1 == 1 {
        fn_ >>= 1;
        sn >>= 1;
    }
    let Some(&first) = path.next() else {
        return Err(ProofError::Length(proof.len()));
    };
    let (mut old_root, mut new_root) = (first, first);
    for node in path {
        if sn == 0 {
            return Err(ProofError::Length(proof.len()));
        }
        if fn_ & 1 == 1 || fn_ == sn {
            old_root = node_hash(node, &old_root);
            new_root = node_hash(node, &new_root);
            while fn_ & 1 == 0 && fn_ != 0 {
                fn_ >>= 1;
                sn >>= 1;
            }
        } else {
            new_root = node_hash(&new_root, node);
        }
        fn_ >>= 1;
        sn >>= 1;
    }
    if sn != 0 {
        return Err(ProofError::Length(proof.len()));
    }
    if old_root == old.root && new_root == new.root { Ok(()) } else { Err(ProofError::Root) }
}

#[cfg(test)]
mod tests {
    use super::super::{consistency_proof, inclusion_path, leaf_hash, root};
    use super::*;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    fn head(leaves: &[Hash]) -> TreeHead {
        TreeHead { size: leaves.len() as u64, root: root(leaves) }
    }

    #[test]
    fn every_proof_of_small_trees_holds_and_no_altered_one_does() {
        for size in 1..=40 {
            let all = leaves(size);
            let head = head(&all);
            for index in 0..size {
                let leaf = all[index as usize];
                let proof = inclusion_path(&all, index).unwrap();
                assert_eq!(verify_inclusion(index, &leaf, &proof, &head), Ok(()));
                assert!(verify_inclusion(index ^ 1, &leaf, &proof, &head).is_err() || size == 1);
                let longer = [proof.clone(), vec![leaf]].concat();
                assert!(verify_inclusion(index, &leaf, &longer, &head).is_err());
                for at in 0..proof.len() {
                    let mut altered = proof.clone();
                    altered[at][31] ^= 1;
                    assert!(verify_inclusion(index, &leaf, &altered, &head).is_err());
                    let shorter = &proof[..at];
                    assert!(verify_inclusion(index, &leaf, shorter, &head).is_err());
                }
            }
        }
    }

    #[test]
    fn consistency_holds_between_all_sizes_and_for_no_other_root() {
        let all = leaves(40);
        for new in 1..=40u64 {
            for old in 0..=new {
                let (o, n) = (head(&all[..old as usize]), head(&all[..new as usize]));
                let node = |level: u32, index: u64| {
                    let start = (index << level) as usize;
                    Ok::<_, ()>(root(&all[start..start + (1 << level)]))
                };
                let proof = consistency_proof(old, new, node).unwrap();
                assert_eq!(verify_consistency(&o, &n, &proof), Ok(()), "{old} -> {new}");
                let forged = TreeHead { root: [9; 32], ..o };
                assert!(verify_consistency(&forged, &n, &proof).is_err(), "{old} -> {new}");
                let forged = TreeHead { root: [9; 32], ..n };
                if old != 0 {
                    assert!(verify_consistency(&o, &forged, &proof).is_err(), "{old} -> {new}");
                }
                let longer = [proof.clone(), vec![[0; 32]]].concat();
                assert!(verify_consistency(&o, &n, &longer).is_err(), "{old} -> {new}");
                if !proof.is_empty() {
                    let shorter = &proof[..proof.len() - 1];
                    assert!(verify_consistency(&o, &n, shorter).is_err(), "{old} -> {new}");
                    assert!(verify_consistency(&n, &o, &proof).is_err() || old == new);
                }
            }
        }
    }
}
