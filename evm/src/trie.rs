//! The trie of a block's receipts: making the proof of one, and checking it.

use crate::error::EvmError;
use alloy_primitives::{B256, keccak256};
use alloy_rlp::Decodable;
use alloy_trie::nodes::TrieNode;
use alloy_trie::proof::ProofRetainer;
use alloy_trie::root::adjust_index_for_rlp;
use alloy_trie::{HashBuilder, Nibbles};

/// Key of an item in an ordered trie: the RLP of its index.
fn key(index: usize) -> Nibbles {
    Nibbles::unpack(alloy_rlp::encode_fixed_size(&index))
}

/// Root of the trie over `items`, and the nodes from the root to the item at `index`.
pub(crate) fn trie_proof(items: &[Vec<u8>], index: usize) -> (B256, Vec<Vec<u8>>) {
    let mut builder =
        HashBuilder::default().with_proof_retainer(ProofRetainer::new(vec![key(index)]));
    for i in 0..items.len() {
        // The builder takes keys in ascending order, and RLP writes 0 as 0x80.
        let i = adjust_index_for_rlp(i, items.len());
        builder.add_leaf(key(i), &items[i]);
    }
    let root = builder.root();
    let nodes = builder.take_proof_nodes().into_nodes_sorted();
    (root, nodes.into_iter().map(|(_, node)| node.to_vec()).collect())
}

/// The value at `key` of the trie with this root, by a proof that must have no node too many.
///
/// Not `alloy_trie::proof::verify_proof`: it asserts that paths stay within 64 nibbles, which a
/// hostile proof does not. A receipt holds a 256-byte bloom, so no node of its path is short enough
/// to be embedded in its parent, and embedded nodes are refused.
pub(crate) fn trie_value(root: &B256, key: &[u8], proof: &[Vec<u8>]) -> Result<Vec<u8>, EvmError> {
    let nibbles: Vec<u8> = key.iter().flat_map(|b| [b >> 4, b & 15]).collect();
    let (mut path, mut expected) = (nibbles.as_slice(), *root);
    for (node, bytes) in proof.iter().enumerate() {
        let err = |reason| EvmError::Trie { node, reason };
        if keccak256(bytes) != expected {
            return Err(err("its hash is not the one that the node above names"));
        }
        let mut rest = bytes.as_slice();
        let decoded = TrieNode::decode(&mut rest).map_err(|_| err("not a trie node"))?;
        let child = match decoded {
            TrieNode::Branch(branch) => {
                let (&nibble, rest) = path.split_first().ok_or(err("the key ends in a branch"))?;
                path = rest;
                let branch = branch.as_ref();
                let found = branch.children().find(|(at, _)| *at == nibble);
                found.and_then(|(_, child)| child?.as_hash())
            }
            TrieNode::Extension(extension) => {
                path = path.strip_prefix(extension.key.to_vec().as_slice()).ok_or(err(OFF_PATH))?;
                extension.child.as_hash()
            }
            TrieNode::Leaf(leaf) if node + 1 == proof.len() && rest.is_empty() => {
                return if leaf.key.to_vec() == path { Ok(leaf.value) } else { Err(err(OFF_PATH)) };
            }
            TrieNode::Leaf(_) => return Err(err("something follows the leaf")),
            TrieNode::EmptyRoot => return Err(err("an empty trie")),
        };
        expected = child.ok_or(err("nothing at the transaction's index"))?;
    }
    Err(EvmError::Trie { node: proof.len(), reason: "the proof ends before the receipt" })
}

const OFF_PATH: &str = "not on the way to the transaction's index";

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::Bytes;
    use alloy_rlp::Encodable;
    use alloy_trie::nodes::{ExtensionNode, RlpNode};
    use alloy_trie::proof::verify_proof;
    use alloy_trie::root::ordered_trie_root_encoded;

    #[test]
    fn every_item_of_tries_of_many_sizes_has_a_proof_that_others_accept_too() {
        for count in [1, 2, 3, 16, 17, 127, 128, 129, 300] {
            let items: Vec<Vec<u8>> = (0..count).map(|i| vec![i as u8; 260 + i % 90]).collect();
            for index in [0, count / 2, count - 1] {
                let (root, proof) = trie_proof(&items, index);
                assert_eq!(root, ordered_trie_root_encoded(&items));
                let path = alloy_rlp::encode(index as u64);
                assert_eq!(trie_value(&root, &path, &proof).as_ref(), Ok(&items[index]));
                let proof: Vec<Bytes> = proof.into_iter().map(Bytes::from).collect();
                verify_proof(root, key(index), Some(items[index].clone()), &proof).unwrap();
            }
        }
    }

    #[test]
    fn a_path_longer_than_any_key_is_refused_without_panic() {
        let long = Nibbles::from_nibbles([0u8; 60]);
        let encode = |child: B256| {
            let mut out = Vec::new();
            ExtensionNode::new(long, RlpNode::word_rlp(&child)).encode(&mut out);
            out
        };
        let inner = encode(B256::ZERO);
        let outer = encode(keccak256(&inner));
        let root = keccak256(&outer);
        let found = trie_value(&root, &[0; 40], &[outer, inner]);
        assert!(matches!(found, Err(EvmError::Trie { node: 1, .. })), "{found:?}");
    }

    proptest::proptest! {
        #[test]
        fn nodes_of_an_attacker_who_fixes_every_hash_never_panic(
            mut value in proptest::collection::vec(proptest::num::u8::ANY, 0..80),
            lists in proptest::bool::ANY,
        ) {
            if lists {
                let items: Vec<_> = value.chunks(7).map(Vec::from).map(Bytes::from).collect();
                value = alloy_rlp::encode(items);
            }
            let _ = trie_value(&keccak256(&value), &[1, 2, 3], &[value.clone(), value]);
        }
    }
}
