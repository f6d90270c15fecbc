//! An anchor fetched from a node, with the proof that makes it the chain's word and not the node's.

use crate::evm::{Anchored, read_anchor};
use crate::rpc::RpcChain;
use crate::rpc_anchors::{Account, OnChain};
use crate::rpc_block::{Block, Receipt};
use alloy_primitives::U64;
use alloy_trie::proof::ProofRetainer;
use alloy_trie::root::adjust_index_for_rlp;
use alloy_trie::{HashBuilder, Nibbles};
use meshchain_core::evidence::{EvmAnchor, EvmTag};
use serde_json::{Value, json};

/// What a collector keeps of an anchor's transaction.
pub(crate) struct Fetched {
    pub(crate) evidence: EvmAnchor,
    /// Time of the block, unix seconds.
    pub(crate) timestamp: u64,
    pub(crate) nonce: u64,
    pub(crate) gas_used: u64,
    /// Wei.
    pub(crate) effective_gas_price: u128,
}

impl RpcChain {
    /// The proof of an anchor: header and receipt. It proves what the node said, or is an error.
    pub(crate) fn fetch_anchor(
        &self,
        chain_id: u64,
        account: &Account,
        anchor: &OnChain,
    ) -> Result<Fetched, String> {
        let said = |e: crate::rpc::RpcError| e.to_string();
        let block = self.call("eth_getBlockByHash", json!([anchor.block_hash, false]));
        let block: Block = shape("eth_getBlockByHash", block.map_err(said)?)?;
        let header = block.header_rlp().filter(|_| block.hash == anchor.block_hash);
        let header = header.ok_or("the node's header does not hash to the block's hash")?;
        let receipts = self.call("eth_getBlockReceipts", json!([anchor.block_hash]));
        let receipts: Vec<Receipt> = shape("eth_getBlockReceipts", receipts.map_err(said)?)?;
        let at = receipts.iter().position(|receipt| receipt.transaction_hash == anchor.tx);
        let at = at.ok_or("the block's receipts lack that of the anchor's transaction")?;
        let receipt = &receipts[at];
        let says = |log: &crate::rpc_block::Log| {
            log.address == account.contract
                && Anchored::parse(&log.topics, &log.data).is_some_and(|event| {
                    (event.sender, event.log_id, event.head)
                        == (account.sender, account.log_id, anchor.head)
                })
        };
        let log_index = receipt.logs.iter().position(says);
        let evidence = EvmAnchor {
            kind: EvmTag::Evm,
            chain_id,
            size: anchor.head.size,
            consistency: Vec::new(),
            header,
            transaction_index: at as u64,
            receipt_proof: trie_proof(&receipts, at),
            log_index: log_index.ok_or("the transaction's receipt lacks the event")? as u64,
        };
        let fact = read_anchor(&evidence).map_err(|e| e.to_string())?;
        let transaction = self.call("eth_getTransactionByHash", json!([anchor.tx]));
        let transaction = transaction.map_err(said)?;
        let nonce: U64 = shape("eth_getTransactionByHash", transaction["nonce"].clone())?;
        Ok(Fetched {
            evidence,
            timestamp: fact.timestamp,
            nonce: nonce.to(),
            gas_used: receipt.gas_used.to(),
            effective_gas_price: receipt.effective_gas_price.to(),
        })
    }
}

fn shape<T: serde::de::DeserializeOwned>(method: &str, answer: Value) -> Result<T, String> {
    serde_json::from_value(answer)
        .map_err(|_| format!("the RPC node answers {method} with something else"))
}

/// Nodes of the receipt trie, from the root to the receipt at `index`.
fn trie_proof(receipts: &[Receipt], index: usize) -> Vec<Vec<u8>> {
    let key = |index: usize| Nibbles::unpack(alloy_rlp::encode_fixed_size(&index));
    let retainer = ProofRetainer::new(vec![key(index)]);
    let mut builder = HashBuilder::default().with_proof_retainer(retainer);
    for i in 0..receipts.len() {
        // The builder takes keys in ascending order, and RLP writes 0 as 0x80.
        let i = adjust_index_for_rlp(i, receipts.len());
        builder.add_leaf(key(i), &receipts[i].encoded());
    }
    builder.root();
    let nodes = builder.take_proof_nodes().into_nodes_sorted();
    nodes.into_iter().map(|(_, node)| node.to_vec()).collect()
}
