//! The anchors of a log as a node of the chain tells them: the contract's events and its head.

use crate::rpc::{RpcChain, RpcError};
use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use meshchain_core::{Hash, TreeHead};
use meshchain_evm::{Anchored, anchored_topic};
use serde::Deserialize;
use serde_json::json;

/// Most calls for the events of one account: nodes refuse long ranges and long answers, which are
/// then asked for in halves.
const MAX_CALLS: u32 = 4096;
/// Most anchors of one account that are read: at one a minute, two years.
const MAX_ANCHORS: usize = 1_000_000;

/// Who anchors a log where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) contract: Address,
    pub(crate) sender: Address,
    pub(crate) log_id: Hash,
}

/// One anchor on the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OnChain {
    pub(crate) head: TreeHead,
    pub(crate) block_number: u64,
    pub(crate) block_hash: B256,
    pub(crate) tx: B256,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    block_number: U64,
    block_hash: B256,
    transaction_hash: B256,
}

impl RpcChain {
    /// The node's chain id.
    pub(crate) fn chain_id(&self) -> Result<u64, RpcError> {
        self.quantity("eth_chainId")
    }

    /// Number of transactions of an account, as of a block.
    pub(crate) fn nonce(&self, account: Address, block: &str) -> Result<u64, RpcError> {
        let method = "eth_getTransactionCount";
        let answer = self.call(method, json!([account, block]))?;
        let count: U64 = serde_json::from_value(answer).map_err(|_| RpcError::Malformed(method))?;
        Ok(count.to())
    }

    /// All anchors of an account up to a block, in the chain's order.
    pub(crate) fn anchors(&self, account: &Account, to: u64) -> Result<Vec<OnChain>, RpcError> {
        let (mut open, mut found) = (vec![(0, to)], Vec::new());
        let mut calls = 0;
        while let Some((from, to)) = open.pop() {
            calls += 1;
            match self.events(account, from, to) {
                Ok(events) => found.extend(events),
                Err(RpcError::Refused { .. }) if from < to && calls < MAX_CALLS => {
                    let middle = from + (to - from) / 2;
                    open.extend([(middle + 1, to), (from, middle)]);
                }
                Err(error) => return Err(error),
            }
            if found.len() > MAX_ANCHORS {
                return Err(RpcError::Malformed("eth_getLogs"));
            }
        }
        Ok(found)
    }

    fn events(&self, account: &Account, from: u64, to: u64) -> Result<Vec<OnChain>, RpcError> {
        let method = "eth_getLogs";
        let filter = json!({
            "address": format!("{:#x}", account.contract),
            "fromBlock": format!("{from:#x}"),
            "toBlock": format!("{to:#x}"),
            "topics": [anchored_topic(), account.sender.into_word(), B256::from(account.log_id)],
        });
        let events = self.call(method, json!([filter]))?;
        let events: Vec<Event> =
            serde_json::from_value(events).map_err(|_| RpcError::Malformed(method))?;
        let read = |event: Event| {
            let anchored = Anchored::parse(&event.topics, &event.data)?;
            let number = event.block_number.to::<u64>();
            let asked = (event.address, anchored.sender, anchored.log_id)
                == (account.contract, account.sender, account.log_id)
                && (from..=to).contains(&number);
            asked.then_some(OnChain {
                head: anchored.head,
                block_number: number,
                block_hash: event.block_hash,
                tx: event.transaction_hash,
            })
        };
        let all: Option<Vec<_>> = events.into_iter().map(read).collect();
        all.ok_or(RpcError::Malformed(method))
    }

    /// The contract's head for an account, by its state after a block; `None` where there is none.
    pub(crate) fn head(&self, account: &Account, at: u64) -> Result<Option<TreeHead>, RpcError> {
        let selector = &keccak256("head(address,bytes32)")[..4];
        let data = [selector, account.sender.into_word().as_slice(), &account.log_id].concat();
        let call = json!({
            "to": format!("{:#x}", account.contract),
            "data": format!("0x{}", hex::encode(data)),
        });
        let method = "eth_call";
        let answer = self.call(method, json!([call, format!("{at:#x}")]))?;
        let bytes: Bytes =
            serde_json::from_value(answer).map_err(|_| RpcError::Malformed(method))?;
        // There was no contract yet.
        if bytes.is_empty() {
            return Ok(None);
        }
        let (words, []) = bytes.as_chunks::<32>() else {
            return Err(RpcError::Malformed(method));
        };
        let [size, _, _, root] = words else { return Err(RpcError::Malformed(method)) };
        let size = u64::try_from(U256::from_be_bytes(*size));
        let size = size.map_err(|_| RpcError::Malformed(method))?;
        Ok((size > 0).then_some(TreeHead { size, root: *root }))
    }
}
