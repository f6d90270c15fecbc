//! The few questions that anchoring asks a node.

use crate::config::Finality;
use crate::rpc::{Refusal, Rpc, RpcError};
use crate::tx::{head_input, headCall};
use alloy_primitives::{Address, B256, Bytes, U64, U128, U256};
use alloy_sol_types::SolCall;
use meshchain_core::TreeHead;
use meshchain_evm::{Block, Receipt, anchored_topic};
use serde::Deserialize;
use serde_json::{Value, json};

/// Most receipts that are asked for one by one; a block of 60 M gas has room for 2,900.
const MAX_TRANSACTIONS: usize = 10_000;

/// A node of one chain.
#[derive(Clone)]
pub(crate) struct Node {
    rpc: Rpc,
}

/// What a transaction costs now, in wei per gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Market {
    /// Base fee of the newest block; 0 where the chain has none.
    pub(crate) base: u128,
    /// What the node thinks gets a transaction mined, in all.
    pub(crate) price: u128,
    /// What of it goes to the miner.
    pub(crate) tip: u128,
}

/// A sender's newest anchor of a log, as the contract holds it; of size 0 before the first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Anchored {
    pub(crate) head: TreeHead,
    /// Number of the block that it came in.
    pub(crate) block: u64,
}

type Answer<T> = Result<T, RpcError>;

impl Node {
    pub(crate) fn new(url: &str) -> Self {
        Self { rpc: Rpc::new(url) }
    }

    async fn quantity(&self, method: &'static str, params: Value) -> Answer<u64> {
        Ok(self.rpc.call::<U64>(method, params).await?.to())
    }

    pub(crate) async fn chain_id(&self) -> Answer<u64> {
        self.quantity("eth_chainId", json!([])).await
    }

    pub(crate) async fn has_code(&self, contract: Address) -> Answer<bool> {
        let code: Bytes = self.rpc.call("eth_getCode", json!([contract, "latest"])).await?;
        Ok(!code.is_empty())
    }

    /// Block by number or tag; `None` where the node has none.
    pub(crate) async fn block(&self, number: &str) -> Answer<Option<Block>> {
        self.rpc.call("eth_getBlockByNumber", json!([number, false])).await
    }

    pub(crate) async fn latest(&self) -> Answer<Block> {
        let none = || RpcError::malformed("eth_getBlockByNumber", "there is no latest block");
        self.block("latest").await?.ok_or_else(none)
    }

    pub(crate) async fn block_by_hash(&self, hash: B256) -> Answer<Option<Block>> {
        self.rpc.call("eth_getBlockByHash", json!([hash, false])).await
    }

    /// Number of the newest final block, if any is.
    pub(crate) async fn final_block(&self, rule: Finality, latest: u64) -> Answer<Option<u64>> {
        let tag = match rule {
            Finality::Depth(depth) => return Ok(latest.saturating_add(1).checked_sub(depth)),
            Finality::Finalized => "finalized",
            Finality::Safe => "safe",
        };
        match self.block(tag).await {
            Ok(block) => Ok(block.map(|b| b.number.to())),
            // geth refuses while nothing is final yet.
            Err(RpcError::Refused { message, .. }) if message.contains("not found") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Nonce of the next transaction, as of a block.
    pub(crate) async fn nonce(&self, account: Address, block: &str) -> Answer<u64> {
        self.quantity("eth_getTransactionCount", json!([account, block])).await
    }

    pub(crate) async fn balance(&self, account: Address) -> Answer<U256> {
        self.rpc.call("eth_getBalance", json!([account, "latest"])).await
    }

    /// What the contract holds.
    pub(crate) async fn anchored(
        &self,
        contract: Address,
        sender: Address,
        log_id: B256,
    ) -> Answer<Anchored> {
        let held = self.anchored_if_there(contract, sender, log_id).await?;
        held.ok_or_else(|| RpcError::malformed("eth_call", "nothing"))
    }

    /// As [`Node::anchored`]; `None` where there is no contract (any more).
    pub(crate) async fn anchored_if_there(
        &self,
        contract: Address,
        sender: Address,
        log_id: B256,
    ) -> Answer<Option<Anchored>> {
        let call = json!({"to": contract, "data": head_input(sender, log_id)});
        let answer: Bytes = self.rpc.call("eth_call", json!([call, "latest"])).await?;
        if answer.is_empty() {
            return Ok(None);
        }
        let head = headCall::abi_decode_returns(&answer);
        let head = head.map_err(|e| RpcError::malformed("eth_call", e))?;
        let block = head.blockNumber;
        Ok(Some(Anchored { head: TreeHead { size: head.size, root: head.root.0 }, block }))
    }

    /// Number and hash of the block of a sender's newest anchor of a log, by the contract's events.
    pub(crate) async fn newest_event(
        &self,
        contract: Address,
        sender: Address,
        log_id: B256,
    ) -> Answer<Option<(u64, B256)>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Event {
            block_number: U64,
            block_hash: B256,
        }
        let topics = [anchored_topic(), sender.into_word(), log_id];
        let filter = json!({"address": contract, "fromBlock": "0x0", "topics": topics});
        let events: Vec<Event> = self.rpc.call("eth_getLogs", json!([filter])).await?;
        Ok(events.last().map(|event| (event.block_number.to(), event.block_hash)))
    }

    pub(crate) async fn receipt(&self, tx: B256) -> Answer<Option<Receipt>> {
        let receipt: Option<Receipt> =
            self.rpc.call("eth_getTransactionReceipt", json!([tx])).await?;
        match receipt {
            Some(receipt) if receipt.transaction_hash != tx => {
                Err(RpcError::malformed("eth_getTransactionReceipt", "another transaction's"))
            }
            other => Ok(other),
        }
    }

    /// Receipts of a whole block, in order; one by one where the node has no call for all.
    pub(crate) async fn receipts(&self, block: &Block) -> Answer<Vec<Receipt>> {
        let all: Answer<Option<Vec<Receipt>>> =
            self.rpc.call("eth_getBlockReceipts", json!([block.hash])).await;
        match all {
            Ok(Some(receipts)) => return Ok(receipts),
            Ok(None) | Err(RpcError::Refused { .. } | RpcError::Malformed { .. }) => {}
            Err(error) => return Err(error),
        }
        let count = block.transactions.len();
        if count > MAX_TRANSACTIONS {
            return Err(RpcError::malformed("eth_getBlockByHash", format!("{count} transactions")));
        }
        let mut receipts = Vec::with_capacity(count);
        for tx in &block.transactions {
            let none = || RpcError::malformed("eth_getTransactionReceipt", "none of a mined one");
            receipts.push(self.receipt(*tx).await?.ok_or_else(none)?);
        }
        Ok(receipts)
    }

    /// Nonce of a transaction in a block.
    pub(crate) async fn nonce_of(&self, tx: B256) -> Answer<u64> {
        #[derive(Deserialize)]
        struct Transaction {
            nonce: U64,
        }
        Ok(self.rpc.call::<Transaction>("eth_getTransactionByHash", json!([tx])).await?.nonce.to())
    }

    /// Whether the node has heard of a transaction.
    pub(crate) async fn knows(&self, tx: B256) -> Answer<bool> {
        let found: Value = self.rpc.call("eth_getTransactionByHash", json!([tx])).await?;
        Ok(!found.is_null())
    }

    pub(crate) async fn market(&self, base: Option<u64>) -> Answer<Market> {
        let price = self.rpc.call::<U128>("eth_gasPrice", json!([])).await?.to::<u128>();
        let base = u128::from(base.unwrap_or(0));
        let tip = match self.rpc.call::<U128>("eth_maxPriorityFeePerGas", json!([])).await {
            Ok(tip) => tip.to(),
            // Not every client has it.
            Err(RpcError::Refused { .. }) => price.saturating_sub(base),
            Err(error) => return Err(error),
        };
        Ok(Market { base, price, tip })
    }

    pub(crate) async fn estimate_gas(
        &self,
        from: Address,
        to: Address,
        input: &Bytes,
    ) -> Answer<u64> {
        let call = json!({"from": from, "to": to, "data": input});
        self.quantity("eth_estimateGas", json!([call, "latest"])).await
    }

    /// Hands a signed transaction over. `Ok(None)`: it is in the pool. `Ok(Some)`: the node's
    /// reason why not. An error: nobody knows.
    pub(crate) async fn send(&self, raw: &Bytes) -> Answer<Option<(Refusal, String)>> {
        // The hash it answers with is not needed: ours is known.
        match self.rpc.call::<Value>("eth_sendRawTransaction", json!([raw])).await {
            Ok(_) => Ok(None),
            Err(error) => match error.refusal() {
                Some(Refusal::AlreadyKnown) => Ok(None),
                Some(refusal) => Ok(Some((refusal, error.to_string()))),
                None => Err(error),
            },
        }
    }
}
