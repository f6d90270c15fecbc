//! The proof that keeps an anchor checkable when nodes have pruned its block: the header, and the
//! receipt's path in the header's receipt trie. Nothing a node says goes in unchecked.

use crate::block::{Block, Log, Receipt};
use crate::tx::Anchored;
use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::SolEvent;
use alloy_trie::proof::{ProofRetainer, verify_proof};
use alloy_trie::root::adjust_index_for_rlp;
use alloy_trie::{HashBuilder, Nibbles};
use meshchain_core::evidence::{EvmAnchor, EvmTag};
use thiserror::Error;

/// Why a node's answers do not prove an anchor.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ProofError {
    #[error("the header of block {0} does not hash to the block's hash")]
    Header(B256),
    #[error("the receipts of block {0} do not give the receipt root of its header")]
    Receipts(B256),
    #[error("the receipts of block {0} do not hold the transaction where its receipt says")]
    Place(B256),
    #[error("transaction {0} did not anchor what it was sent for")]
    Event(B256),
}

/// What the event has to say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) chain_id: u64,
    pub(crate) contract: Address,
    pub(crate) sender: Address,
    pub(crate) log_id: B256,
    pub(crate) size: u64,
    pub(crate) root: B256,
}

/// Proves that transaction `tx` in `block` anchored what is expected. `receipts` are those of the
/// whole block, in order.
pub(crate) fn prove(
    block: &Block,
    receipts: &[Receipt],
    tx: B256,
    expected: &Expected,
) -> Result<EvmAnchor, ProofError> {
    let header = block.header_rlp().ok_or(ProofError::Header(block.hash))?;
    let index = receipts.iter().position(|r| r.transaction_hash == tx);
    let index = index.ok_or(ProofError::Place(block.hash))?;
    let receipt = &receipts[index];
    if receipt.transaction_index.to::<u64>() != index as u64 {
        return Err(ProofError::Place(block.hash));
    }
    let encoded: Vec<Vec<u8>> = receipts.iter().map(Receipt::encoded).collect();
    let (root, proof) = trie_proof(&encoded, index);
    let value = Some(encoded[index].clone());
    if root != block.receipts_root || verify_proof(root, key(index), value, &proof).is_err() {
        return Err(ProofError::Receipts(block.hash));
    }
    let log_index = receipt.logs.iter().position(|log| says(log, expected));
    let log_index = log_index.filter(|_| receipt.succeeded()).ok_or(ProofError::Event(tx))?;
    Ok(EvmAnchor {
        kind: EvmTag::Evm,
        chain_id: expected.chain_id,
        size: expected.size,
        consistency: Vec::new(),
        header,
        transaction_index: index as u64,
        receipt_proof: proof.into_iter().map(|node| node.to_vec()).collect(),
        log_index: log_index as u64,
    })
}

fn says(log: &Log, expected: &Expected) -> bool {
    let event = Anchored::decode_raw_log(log.topics.iter().copied(), &log.data);
    log.address == expected.contract
        && event.is_ok_and(|event| {
            event.sender == expected.sender
                && event.logId == expected.log_id
                && event.size == expected.size
                && event.root == expected.root
        })
}

/// Key of an item in an ordered trie: the RLP of its index.
fn key(index: usize) -> Nibbles {
    Nibbles::unpack(alloy_rlp::encode_fixed_size(&index))
}

/// Root of the trie over `items`, and the nodes from the root to the item at `index`.
fn trie_proof(items: &[Vec<u8>], index: usize) -> (B256, Vec<Bytes>) {
    let mut builder =
        HashBuilder::default().with_proof_retainer(ProofRetainer::new(vec![key(index)]));
    for i in 0..items.len() {
        // The builder takes keys in ascending order, and RLP writes 0 as 0x80.
        let i = adjust_index_for_rlp(i, items.len());
        builder.add_leaf(key(i), &items[i]);
    }
    let root = builder.root();
    let nodes = builder.take_proof_nodes().into_nodes_sorted();
    (root, nodes.into_iter().map(|(_, node)| node).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_trie::root::ordered_trie_root_encoded;

    #[test]
    fn every_item_of_tries_of_many_sizes_has_a_proof() {
        for count in [1, 2, 3, 16, 17, 127, 128, 129, 300] {
            let items: Vec<Vec<u8>> = (0..count).map(|i| vec![i as u8; 260 + i % 90]).collect();
            for index in [0, count / 2, count - 1] {
                let (root, proof) = trie_proof(&items, index);
                assert_eq!(root, ordered_trie_root_encoded(&items));
                verify_proof(root, key(index), Some(items[index].clone()), &proof).unwrap();
            }
        }
    }
}
