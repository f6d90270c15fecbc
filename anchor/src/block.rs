//! Blocks and receipts as nodes print them, and the bytes that the chain hashes.

use alloy_consensus::Header;
use alloy_primitives::{Address, B64, B256, Bloom, Bytes, U64, U128, U256, keccak256};
use alloy_rlp::{BufMut, Encodable, Header as Rlp};
use serde::Deserialize;

/// Type of the deposit transactions of OP-stack chains, whose receipts have two more fields.
const DEPOSIT: u64 = 0x7e;

/// A block without its transactions. Fields that the hash needs are checked by the hash.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Block {
    pub(crate) hash: B256,
    parent_hash: B256,
    sha3_uncles: B256,
    miner: Address,
    state_root: B256,
    transactions_root: B256,
    pub(crate) receipts_root: B256,
    logs_bloom: Bloom,
    difficulty: U256,
    pub(crate) number: U64,
    gas_limit: U64,
    gas_used: U64,
    pub(crate) timestamp: U64,
    extra_data: Bytes,
    #[serde(default)]
    mix_hash: B256,
    #[serde(default)]
    nonce: B64,
    #[serde(default)]
    pub(crate) base_fee_per_gas: Option<U64>,
    #[serde(default)]
    withdrawals_root: Option<B256>,
    #[serde(default)]
    blob_gas_used: Option<U64>,
    #[serde(default)]
    excess_blob_gas: Option<U64>,
    #[serde(default)]
    parent_beacon_block_root: Option<B256>,
    #[serde(default)]
    requests_hash: Option<B256>,
    #[serde(default)]
    block_access_list_hash: Option<B256>,
    #[serde(default)]
    slot_number: Option<U64>,
    /// Hashes, as the block is asked for without bodies.
    #[serde(default)]
    pub(crate) transactions: Vec<B256>,
}

impl Block {
    /// The RLP whose Keccak-256 is the block's hash; `None` where no known rule gives that hash.
    ///
    /// On Besu's QBFT chains the hash leaves out what consensus adds after it: round and seals.
    pub(crate) fn header_rlp(&self) -> Option<Vec<u8>> {
        let plain = alloy_rlp::encode(self.header(self.extra_data.clone()));
        if keccak256(&plain) == self.hash {
            return Some(plain);
        }
        let unsealed = alloy_rlp::encode(self.header(without_seals(&self.extra_data)?));
        (keccak256(&unsealed) == self.hash).then_some(unsealed)
    }

    fn header(&self, extra_data: Bytes) -> Header {
        Header {
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
            extra_data,
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
        }
    }
}

/// QBFT's extra data [vanity, validators, votes, round, seals] with round 0 and no seals.
fn without_seals(extra_data: &[u8]) -> Option<Bytes> {
    let mut rest = extra_data;
    let list = Rlp::decode(&mut rest).ok()?;
    if !list.list || list.payload_length != rest.len() {
        return None;
    }
    let payload = rest;
    for _ in 0..3 {
        let item = Rlp::decode(&mut rest).ok()?;
        rest = rest.get(item.payload_length..)?;
    }
    let kept = &payload[..payload.len() - rest.len()];
    let mut out = Vec::new();
    Rlp { list: true, payload_length: kept.len() + 2 }.encode(&mut out);
    out.put_slice(kept);
    // Integer 0 and the empty list.
    out.put_slice(&[0x80, 0xc0]);
    Some(out.into())
}

/// A transaction receipt.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    pub(crate) transaction_hash: B256,
    pub(crate) transaction_index: U64,
    pub(crate) block_hash: B256,
    pub(crate) block_number: U64,
    #[serde(default, rename = "type")]
    kind: U64,
    #[serde(default)]
    status: Option<U64>,
    /// In place of the status before Byzantium.
    #[serde(default)]
    root: Option<Bytes>,
    cumulative_gas_used: U64,
    logs_bloom: Bloom,
    pub(crate) logs: Vec<Log>,
    #[serde(default)]
    pub(crate) gas_used: U64,
    #[serde(default)]
    pub(crate) effective_gas_price: U128,
    #[serde(default)]
    deposit_nonce: Option<U64>,
    #[serde(default)]
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
    /// Whether the transaction did what it says.
    pub(crate) fn succeeded(&self) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qbft_hash_leaves_out_round_and_seals() {
        let vote: Vec<Vec<u8>> = Vec::new();
        let mut kept = Vec::new();
        Bytes::from(vec![0; 32]).encode(&mut kept);
        vec![Address::repeat_byte(7), Address::repeat_byte(8)].encode(&mut kept);
        vote.encode(&mut kept);
        let with = |tail: &dyn Fn(&mut Vec<u8>)| {
            let mut fields = kept.clone();
            tail(&mut fields);
            let mut out = Vec::new();
            Rlp { list: true, payload_length: fields.len() }.encode(&mut out);
            out.extend_from_slice(&fields);
            Bytes::from(out)
        };
        let sealed = with(&|f| {
            3u64.encode(f);
            vec![Bytes::from(vec![1; 65]), Bytes::from(vec![2; 65])].encode(f);
        });
        let bare = with(&|f| {
            0u64.encode(f);
            Vec::<Bytes>::new().encode(f);
        });
        assert_eq!(without_seals(&sealed), Some(bare.clone()));
        let mut block: Block = serde_json::from_value(serde_json::json!({
            "hash": B256::ZERO, "parentHash": B256::ZERO, "sha3Uncles": B256::ZERO,
            "miner": Address::ZERO, "stateRoot": B256::ZERO, "transactionsRoot": B256::ZERO,
            "receiptsRoot": B256::ZERO, "logsBloom": Bloom::ZERO, "difficulty": "0x1",
            "number": "0x5", "gasLimit": "0x1", "gasUsed": "0x0", "timestamp": "0x6",
            "extraData": sealed, "baseFeePerGas": "0x0",
        }))
        .unwrap();
        assert_eq!(block.header_rlp(), None);
        block.hash = block.header(bare.clone()).hash_slow();
        assert_eq!(keccak256(block.header_rlp().unwrap()), block.hash);
        for garbage in [&b""[..], b"\xc0", b"\xf8", b"\x80", b"\xc1\xff", b"anvil"] {
            let _ = without_seals(garbage);
        }
    }
}
