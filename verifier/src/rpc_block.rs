//! Blocks and receipts as nodes print them, and the bytes that the chain hashes.
//!
//! What a node leaves out or gets wrong makes other bytes, and other hashes than the block's.

use alloy_consensus::Header;
use alloy_primitives::{Address, B64, B256, Bloom, Bytes, U64, U128, U256, keccak256};
use alloy_rlp::{BufMut, Encodable, Header as Rlp};
use serde::Deserialize;

/// A block without its transactions.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Block {
    pub(crate) hash: B256,
    parent_hash: B256,
    sha3_uncles: B256,
    miner: Address,
    state_root: B256,
    transactions_root: B256,
    receipts_root: B256,
    logs_bloom: Bloom,
    difficulty: U256,
    number: U64,
    gas_limit: U64,
    gas_used: U64,
    timestamp: U64,
    extra_data: Bytes,
    #[serde(default)]
    mix_hash: B256,
    #[serde(default)]
    nonce: B64,
    base_fee_per_gas: Option<U64>,
    withdrawals_root: Option<B256>,
    blob_gas_used: Option<U64>,
    excess_blob_gas: Option<U64>,
    parent_beacon_block_root: Option<B256>,
    requests_hash: Option<B256>,
    block_access_list_hash: Option<B256>,
    slot_number: Option<U64>,
}

impl Block {
    /// The header's RLP; `None` where it does not hash to the block's hash, as on chains whose hash
    /// leaves out a part of it.
    pub(crate) fn header_rlp(&self) -> Option<Vec<u8>> {
        let header = Header {
            parent_hash: self.parent_hash,
            ommers_hash: self.sha3_uncles,
            beneficiary: self.miner,
            state_root: self.state_root,
            transactions_root: self.transactions_root,
            receipts_root: self.receipts_root,
            logs_bloom: self.logs_bloom,
            difficulty: self.difficulty,
            number: self.number.to(),
            gas_limit: self.gas_limit.to(),
            gas_used: self.gas_used.to(),
            timestamp: self.timestamp.to(),
            extra_data: self.extra_data.clone(),
            mix_hash: self.mix_hash,
            nonce: self.nonce,
            base_fee_per_gas: self.base_fee_per_gas.map(|v| v.to()),
            withdrawals_root: self.withdrawals_root,
            blob_gas_used: self.blob_gas_used.map(|v| v.to()),
            excess_blob_gas: self.excess_blob_gas.map(|v| v.to()),
            parent_beacon_block_root: self.parent_beacon_block_root,
            requests_hash: self.requests_hash,
            block_access_list_hash: self.block_access_list_hash,
            slot_number: self.slot_number.map(|v| v.to()),
        };
        Some(alloy_rlp::encode(header)).filter(|rlp| keccak256(rlp) == self.hash)
    }
}

/// A transaction receipt.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    pub(crate) transaction_hash: B256,
    #[serde(default, rename = "type")]
    kind: U64,
    #[serde(default)]
    status: U64,
    cumulative_gas_used: U64,
    logs_bloom: Bloom,
    pub(crate) logs: Vec<Log>,
    #[serde(default)]
    pub(crate) gas_used: U64,
    #[serde(default)]
    pub(crate) effective_gas_price: U128,
    /// Of deposit transactions, on OP-stack chains.
    deposit_nonce: Option<U64>,
    deposit_receipt_version: Option<U64>,
}

/// One event.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Log {
    pub(crate) address: Address,
    pub(crate) topics: Vec<B256>,
    pub(crate) data: Bytes,
}

impl Receipt {
    /// The EIP-2718 bytes that stand in the receipt trie.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        self.status.encode(&mut fields);
        self.cumulative_gas_used.encode(&mut fields);
        self.logs_bloom.encode(&mut fields);
        alloy_rlp::encode_list::<_, Log>(&self.logs, &mut fields);
        for field in [self.deposit_nonce, self.deposit_receipt_version].into_iter().flatten() {
            field.encode(&mut fields);
        }
        let kind: u64 = self.kind.to();
        let mut out = Vec::new();
        // Types are one byte below 0x80 (EIP-2718); anything else fits no root.
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
