//! A fake node of a chain that has anchors of a log, each in a block of its own.

use crate::fixture::{CHAIN_ID, CONTRACT, Event, SENDER};
use crate::grown::ORIGIN;
use crate::server::serve;
use alloy_consensus::{Eip658Value, TxReceipt};
use alloy_primitives::{B256, keccak256};
use meshchain_core::{TreeHead, hash};
use serde_json::{Value, json};

/// The anchor of a head, in the block of the number of its leaves.
pub(crate) fn event(head: TreeHead) -> Event {
    Event {
        contract: CONTRACT,
        sender: SENDER,
        log_id: hash::log_id(ORIGIN),
        head,
        topic: meshchain::anchored_topic(),
        status: Eip658Value::Eip658(true),
        number: head.size,
        block_time: 1_800_000_100,
        receipts: 3,
        index: 1,
    }
}

/// Hash of its transaction.
pub(crate) fn tx(head: &TreeHead) -> B256 {
    keccak256(head.root)
}

/// A node of a chain with these anchors.
#[derive(Clone)]
pub(crate) struct Chain {
    pub(crate) chain_id: u64,
    pub(crate) heads: Vec<TreeHead>,
    /// Longest range of blocks that it answers about.
    pub(crate) range: u64,
    /// Whether it leaves out the newest event.
    pub(crate) forgets: bool,
    /// Transactions of the account that no block has yet.
    pub(crate) in_flight: u64,
    /// Newest final block.
    pub(crate) end: u64,
    /// Newest block, and the time of all that have no anchor.
    pub(crate) newest: (u64, u64),
}

/// One that answers about 16 blocks at a time.
pub(crate) fn chain(heads: Vec<TreeHead>) -> Chain {
    Chain {
        chain_id: CHAIN_ID,
        heads,
        range: 16,
        forgets: false,
        in_flight: 0,
        end: 100,
        newest: (100, 1_800_000_200),
    }
}

impl Chain {
    /// Starts it; its URL.
    pub(crate) fn serve(&self) -> String {
        let chain = self.clone();
        serve(move |_, body| {
            let request: Value = serde_json::from_slice(body).unwrap();
            let answer = chain.answer(request["method"].as_str().unwrap(), &request["params"]);
            let answer = answer.map_or_else(
                || json!({"error": {"code": -32005, "message": "range too long"}}),
                |result| json!({"jsonrpc": "2.0", "id": 1, "result": result}),
            );
            (200, answer.to_string().into_bytes())
        })
    }

    fn event_of(&self, hash: &Value) -> Event {
        let of = |head: &&TreeHead| json!(event(**head).header().hash_slow()) == *hash;
        event(*self.heads.iter().find(of).unwrap())
    }

    /// The result of a call; `None` where it refuses.
    pub(crate) fn answer(&self, method: &str, params: &Value) -> Option<Value> {
        let number = |value: &Value| {
            u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
        };
        Some(match method {
            "eth_chainId" => json!(format!("{:#x}", self.chain_id)),
            "eth_blockNumber" => json!(format!("{:#x}", self.newest.0)),
            "eth_getBlockByNumber" => match params[0].as_str() {
                Some("finalized") => json!({"number": format!("{:#x}", self.end)}),
                _ => self.block_at(number(&params[0])),
            },
            "eth_getLogs" => {
                let (from, to) = (number(&params[0]["fromBlock"]), number(&params[0]["toBlock"]));
                if to - from > self.range {
                    return None;
                }
                let shown = &self.heads[..self.heads.len() - usize::from(self.forgets)];
                let there = shown.iter().filter(|head| (from..=to).contains(&head.size));
                there.map(|head| self.log(head)).collect()
            }
            "eth_call" => match self.heads.iter().rfind(|head| head.size <= number(&params[1])) {
                Some(head) => {
                    let word = |n: u64| format!("{n:064x}");
                    let words = [word(head.size), word(head.size), word(0), hex::encode(head.root)];
                    json!(format!("0x{}", words.concat()))
                }
                // The contract came in block 1.
                None if number(&params[1]) == 0 => json!("0x"),
                None => json!(format!("0x{}", "00".repeat(128))),
            },
            "eth_getBlockByHash" => self.block(&params[0]),
            "eth_getBlockReceipts" => self.receipts(&params[0]),
            "eth_getTransactionCount" => match params[1].as_str() {
                Some("pending") => json!(format!("{:#x}", 8 + self.in_flight)),
                _ => json!("0x8"),
            },
            "eth_getTransactionByHash" => json!({"nonce": "0x7"}),
            other => panic!("{other}"),
        })
    }

    fn block_at(&self, number: u64) -> Value {
        match self.heads.iter().find(|head| head.size == number) {
            Some(head) => self.block(&json!(event(*head).header().hash_slow())),
            None if number > self.newest.0 => Value::Null,
            None => {
                json!({"hash": B256::repeat_byte(7), "timestamp": format!("{:#x}", self.newest.1)})
            }
        }
    }

    fn log(&self, head: &TreeHead) -> Value {
        let event = event(*head);
        let log = event.receipts()[event.index].logs()[1].clone();
        json!({
            "address": log.address, "topics": log.data.topics(), "data": log.data.data,
            "blockNumber": format!("{:#x}", event.number), "blockHash": event.header().hash_slow(),
            "transactionHash": tx(head),
        })
    }

    fn block(&self, hash: &Value) -> Value {
        let header = self.event_of(hash).header();
        let hex = |n: u64| format!("{n:#x}");
        json!({
            "hash": header.hash_slow(), "parentHash": header.parent_hash,
            "sha3Uncles": header.ommers_hash, "miner": header.beneficiary,
            "stateRoot": header.state_root, "transactionsRoot": header.transactions_root,
            "receiptsRoot": header.receipts_root, "logsBloom": header.logs_bloom,
            "difficulty": "0x0", "number": hex(header.number), "gasLimit": hex(header.gas_limit),
            "gasUsed": hex(header.gas_used), "timestamp": hex(header.timestamp),
            "extraData": "0x", "mixHash": header.mix_hash, "nonce": header.nonce,
            "baseFeePerGas": "0x7", "transactions": [],
        })
    }

    fn receipts(&self, hash: &Value) -> Value {
        let event = self.event_of(hash);
        let receipts = event.receipts();
        let numbered = receipts.iter().enumerate();
        let receipt =
            |(at, receipt): (usize, &alloy_consensus::ReceiptEnvelope)| {
                let transaction = if at == event.index { tx(&event.head) } else { B256::ZERO };
                let logs: Vec<_> = receipt.logs().iter().map(|log| json!({
                "address": log.address, "topics": log.data.topics(), "data": log.data.data,
            })).collect();
                json!({
                    "transactionHash": transaction, "transactionIndex": format!("{at:#x}"),
                    "blockHash": hash, "blockNumber": format!("{:#x}", event.number),
                    "type": "0x2", "status": "0x1",
                    "cumulativeGasUsed": format!("{:#x}", receipt.cumulative_gas_used()),
                    "logsBloom": receipt.bloom(), "logs": logs,
                    "gasUsed": format!("{:#x}", 21_000), "effectiveGasPrice": "0x9",
                })
            };
        numbered.map(receipt).collect()
    }
}
