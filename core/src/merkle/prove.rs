use super::{empty_root, node_hash, split_point};
use crate::hash::Hash;

/// Hash of the leaves `start..end`, a subtree as the RFC 6962 recursion meets it.
///
/// `node` is asked for complete subtrees only. The empty range has the root of the empty tree.
pub fn subtree_root<E>(
    start: u64,
    end: u64,
    node: &mut impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Hash, E> {
    let size = end - start;
    if size == 0 {
        return Ok(empty_root());
    }
    if size.is_power_of_two() {
        let level = size.ilog2();
        return node(level, start >> level);
    }
    let middle = start + split_point(size);
    let left = subtree_root(start, middle, node)?;
    let right = subtree_root(middle, end, node)?;
    Ok(node_hash(&left, &right))
}

/// Inclusion proof of leaf `index` in the tree of `size` leaves (RFC 6962 section 2.1.1), from the
/// leaf's sibling up. Empty where `index >= size`.
pub fn inclusion_proof<E>(
    index: u64,
    size: u64,
    mut node: impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let mut proof = Vec::new();
    let (mut start, mut end) = (0, size);
    while index < size && end - start > 1 {
        let middle = start + split_point(end - start);
        if index < middle {
            proof.push(subtree_root(middle, end, &mut node)?);
            end = middle;
        } else {
            proof.push(subtree_root(start, middle, &mut node)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Consistency proof between the trees of `old` and `new` leaves (RFC 6962 section 2.1.2). Empty
/// where `old` is 0 or not below `new`.
pub fn consistency_proof<E>(
    old: u64,
    new: u64,
    mut node: impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let mut proof = Vec::new();
    if old == 0 || old >= new {
        return Ok(proof);
    }
    let (mut start, mut end) = (0, new);
    while old != end {
        let middle = start + split_point(end - start);
        if old <= middle {
            proof.push(subtree_root(middle, end, &mut node)?);
            end = middle;
        } else {
            proof.push(subtree_root(start, middle, &mut node)?);
            start = middle;
        }
    }
    if start != 0 {
        proof.push(subtree_root(start, end, &mut node)?);
    }
    proof.reverse();
    Ok(proof)
}
