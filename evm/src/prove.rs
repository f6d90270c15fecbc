//! The proof that keeps an anchor checkable when nodes have pruned its block: the header, and the
//! receipt's path in the header's receipt trie. Nothing a node says goes in unchecked.

use crate::block::Block;
use crate::error::EvmError;
use crate::event::Anchored;
use crate::fact::read_anchor;
use crate::receipt::{Log, Receipt};
use crate::trie::trie_proof;
use alloy_primitives::{Address, B256};
use meshchain_core::evidence::{EvmAnchor, EvmTag};
use meshchain_core::{Hash, TreeHead};
use thiserror::Error;

/// Why a node's answers do not prove an anchor.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProofError {
    /// No rule for headers gives the block's hash.
    #[error("the header of block {0} does not hash to the block's hash")]
    Header(B256),
    /// A receipt is missing, altered, or not one of the trie.
    #[error("the receipts of block {0} do not give the receipt root of its header")]
    Receipts(B256),
    /// The transaction's receipt is not there, or elsewhere.
    #[error("the receipts of block {0} do not hold the transaction where its receipt says")]
    Place(B256),
    /// The transaction failed, or has no such event.
    #[error("transaction {0} did not anchor what it was sent for")]
    Event(B256),
    /// The proof is right, and no verifier of this version can read it.
    #[error("the proof of transaction {tx} cannot be read: {source}")]
    Unreadable {
        /// Transaction.
        tx: B256,
        /// Cause.
        source: EvmError,
    },
}

/// What the event has to say.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Contract that emits the event.
    pub contract: Address,
    /// Account that anchors.
    pub sender: Address,
    /// Log, as the sender names it.
    pub log_id: Hash,
    /// Anchored tree.
    pub head: TreeHead,
}

/// The place of a transaction's receipt in its block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    header: Vec<u8>,
    index: usize,
    proof: Vec<Vec<u8>>,
}

/// Proves that the receipt of transaction `tx` is in `block`. `receipts` are those of the whole block, in order.
pub fn place(block: &Block, receipts: &[Receipt], tx: B256) -> Result<Placed, ProofError> {
    let header = block.header_rlp().ok_or(ProofError::Header(block.hash))?;
    let index = receipts.iter().position(|r| r.transaction_hash == tx);
    let index = index.ok_or(ProofError::Place(block.hash))?;
    if receipts[index].transaction_index.to::<u64>() != index as u64 {
        return Err(ProofError::Place(block.hash));
    }
    let encoded: Vec<Vec<u8>> = receipts.iter().map(Receipt::encoded).collect();
    let (root, proof) = trie_proof(&encoded, index);
    if root != block.receipts_root {
        return Err(ProofError::Receipts(block.hash));
    }
    Ok(Placed { header, index, proof })
}

/// The receipt that says what is expected, if one of them does.
pub fn anchoring<'r>(receipts: &'r [Receipt], expected: &Expected) -> Option<&'r Receipt> {
    receipts.iter().find(|r| r.succeeded() && r.logs.iter().any(|log| says(log, expected)))
}

/// Proves that transaction `tx` in `block` anchored what is expected. `receipts` are those of the
/// whole block, in order. `consistency` is left empty: it is up to whoever writes the evidence.
pub fn prove(
    block: &Block,
    receipts: &[Receipt],
    tx: B256,
    expected: &Expected,
) -> Result<EvmAnchor, ProofError> {
    let Placed { header, index, proof: receipt_proof } = place(block, receipts, tx)?;
    let receipt = &receipts[index];
    let log_index = receipt.logs.iter().position(|log| says(log, expected));
    let log_index = log_index.filter(|_| receipt.succeeded()).ok_or(ProofError::Event(tx))?;
    let anchor = EvmAnchor {
        kind: EvmTag::Evm,
        chain_id: expected.chain_id,
        size: expected.head.size,
        consistency: Vec::new(),
        header,
        transaction_index: index as u64,
        receipt_proof,
        log_index: log_index as u64,
    };
    match read_anchor(&anchor) {
        Ok(_) => Ok(anchor),
        Err(source) => Err(ProofError::Unreadable { tx, source }),
    }
}

fn says(log: &Log, expected: &Expected) -> bool {
    log.address == expected.contract
        && Anchored::parse(&log.topics, &log.data).is_some_and(|event| {
            (event.sender, event.log_id, event.head)
                == (expected.sender, expected.log_id, expected.head)
        })
}
