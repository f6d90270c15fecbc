//! Receipts as nodes print them, and the bytes that stand in a block's trie of receipts.

use alloy_primitives::{Address, B256, Bloom, Bytes, U64, U128};
use alloy_rlp::{BufMut, Encodable, Header as Rlp};
use serde::Deserialize;

/// Type of the deposit transactions of OP-stack chains, whose receipts have two more fields.
const DEPOSIT: u64 = 0x7e;

/// A transaction receipt.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Transaction. The trie does not hold it.
    pub transaction_hash: B256,
    /// Place in the block, which is the key in the trie.
    pub transaction_index: U64,
    /// Block. The trie does not hold it.
    pub block_hash: B256,
    /// Number of that block. The trie does not hold it.
    pub block_number: U64,
    #[serde(default, rename = "type")]
    kind: U64,
    status: Option<U64>,
    /// In place of the status before Byzantium.
    root: Option<Bytes>,
    cumulative_gas_used: U64,
    logs_bloom: Bloom,
    /// Events.
    pub logs: Vec<Log>,
    /// Gas used. The trie does not hold it.
    #[serde(default)]
    pub gas_used: U64,
    /// Price paid per gas, wei. The trie does not hold it.
    #[serde(default)]
    pub effective_gas_price: U128,
    deposit_nonce: Option<U64>,
    deposit_receipt_version: Option<U64>,
}

/// One event.
#[derive(Debug, Clone, Deserialize)]
pub struct Log {
    /// Contract.
    pub address: Address,
    /// Indexed fields, the event's signature first.
    pub topics: Vec<B256>,
    /// The other fields.
    pub data: Bytes,
}

impl Receipt {
    /// Whether the transaction did what it says.
    pub fn succeeded(&self) -> bool {
        self.status == Some(U64::from(1))
    }

    /// The EIP-2718 bytes that stand in the receipt trie.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        match (&self.status, &self.root) {
            (Some(status), _) => status.encode(&mut fields),
            (None, Some(root)) => root.encode(&mut fields),
            (None, None) => 0u64.encode(&mut fields),
        }
        self.cumulative_gas_used.encode(&mut fields);
        self.logs_bloom.encode(&mut fields);
        alloy_rlp::encode_list::<_, Log>(&self.logs, &mut fields);
        let kind: u64 = self.kind.to();
        if kind == DEPOSIT {
            for field in [self.deposit_nonce, self.deposit_receipt_version].into_iter().flatten() {
                field.encode(&mut fields);
            }
        }
        let mut out = Vec::new();
        // Types are one byte below 0x80 (EIP-2718); anything else cannot fit the root anyway.
        if kind != 0 {
            out.push(kind as u8);
        }
        Rlp { list: true, payload_length: fields.len() }.encode(&mut out);
        out.extend_from_slice(&fields);
        out
    }
}

impl Encodable for Log {
    fn encode(&self, out: &mut dyn BufMut) {
        let mut fields = Vec::new();
        self.address.encode(&mut fields);
        self.topics.encode(&mut fields);
        self.data.encode(&mut fields);
        Rlp { list: true, payload_length: fields.len() }.encode(out);
        out.put_slice(&fields);
    }
}
