//! An anchor fetched from a node, with the proof that makes it the chain's word and not the node's.

use crate::rpc::{RpcChain, RpcError};
use crate::rpc_anchors::{Account, OnChain};
use alloy_primitives::U64;
use meshchain_core::evidence::EvmAnchor;
use meshchain_evm::{Block, Expected, ProofError, Receipt, prove};
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
        let said = |e: RpcError| e.to_string();
        let block = self.call("eth_getBlockByHash", json!([anchor.block_hash, false]));
        let block: Block = shape("eth_getBlockByHash", block.map_err(said)?)?;
        if block.hash != anchor.block_hash {
            return Err(ProofError::Header(anchor.block_hash).to_string());
        }
        let receipts = self.call("eth_getBlockReceipts", json!([anchor.block_hash]));
        let receipts: Vec<Receipt> = shape("eth_getBlockReceipts", receipts.map_err(said)?)?;
        let &Account { contract, sender, log_id } = account;
        let expected = Expected { chain_id, contract, sender, log_id, head: anchor.head };
        let evidence = prove(&block, &receipts, anchor.tx, &expected).map_err(|e| e.to_string())?;
        let receipt = receipts.get(evidence.transaction_index as usize);
        let receipt =
            receipt.ok_or("the block's receipts lack that of the anchor's transaction")?;
        let transaction = self.call("eth_getTransactionByHash", json!([anchor.tx]));
        let transaction = transaction.map_err(said)?;
        let nonce: U64 = shape("eth_getTransactionByHash", transaction["nonce"].clone())?;
        Ok(Fetched {
            evidence,
            timestamp: block.timestamp.to(),
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
