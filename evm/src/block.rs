//! A block without its transactions, and the bytes of its header that the chain hashes.

use crate::extra_data;
use alloy_consensus::Header;
use alloy_primitives::{Address, B64, B256, Bloom, Bytes, U64, U256, keccak256};
use serde::Deserialize;

/// A block, as `eth_getBlockByHash` gives it without bodies. Only the header's hash says whether the
/// fields are those of the block.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// Hash, as the node says it.
    pub hash: B256,
    parent_hash: B256,
    sha3_uncles: B256,
    miner: Address,
    state_root: B256,
    transactions_root: B256,
    /// Root of the receipts' trie.
    pub receipts_root: B256,
    logs_bloom: Bloom,
    difficulty: U256,
    /// Number.
    pub number: U64,
    gas_limit: U64,
    gas_used: U64,
    /// Time, Unix seconds.
    pub timestamp: U64,
    extra_data: Bytes,
    #[serde(default)]
    mix_hash: B256,
    #[serde(default)]
    nonce: B64,
    /// Wei per gas, where the chain has a base fee.
    pub base_fee_per_gas: Option<U64>,
    withdrawals_root: Option<B256>,
    blob_gas_used: Option<U64>,
    excess_blob_gas: Option<U64>,
    parent_beacon_block_root: Option<B256>,
    requests_hash: Option<B256>,
    block_access_list_hash: Option<B256>,
    slot_number: Option<U64>,
    /// Hashes of the transactions, in order. The header's hash does not cover them.
    #[serde(default)]
    pub transactions: Vec<B256>,
}

impl Block {
    /// The RLP whose Keccak-256 is the block's hash; `None` where no known rule gives that hash.
    ///
    /// Ethereum and most chains hash the whole header. Where validators sign the hash, the extra data
    /// that they sign is another than the one in the header (`extra_data.rs`).
    pub fn header_rlp(&self) -> Option<Vec<u8>> {
        let whole = std::iter::once(self.extra_data.clone());
        let mut hashed = whole.chain(extra_data::hashed(&self.extra_data));
        hashed.find_map(|extra_data| {
            let rlp = alloy_rlp::encode(self.header(extra_data));
            (keccak256(&rlp) == self.hash).then_some(rlp)
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Blocks of public chains as their nodes print them. Clique and GoQuorum are below.
    const RECORDED: &[(&str, &str)] = &[
        ("Ethereum", include_str!("../tests/blocks/ethereum-mainnet-2026-03.json")),
        ("Prague", include_str!("../tests/blocks/prague-devnet-erigon.json")),
        ("Amsterdam", include_str!("../tests/blocks/amsterdam-devnet-reth-2026-09.json")),
        ("OP Mainnet", include_str!("../tests/blocks/op-mainnet-2026-10.json")),
        ("Arbitrum One", include_str!("../tests/blocks/arbitrum-one-2026-10.json")),
        ("Besu QBFT", include_str!("../tests/blocks/besu-qbft-kaleido-2025.json")),
        ("Besu IBFT 2.0", include_str!("../tests/blocks/besu-ibft2.json")),
    ];

    fn parse(value: &Value) -> Block {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn headers_of_every_recorded_chain_hash_to_their_blocks() {
        for (chain, text) in RECORDED {
            let value: Value = serde_json::from_str(text).unwrap();
            let block = parse(&value);
            let header = block.header_rlp().unwrap_or_else(|| panic!("{chain}"));
            assert_eq!(keccak256(&header), block.hash, "{chain}");
        }
    }

    #[test]
    fn a_header_in_which_the_node_changed_anything_has_no_rule() {
        for (chain, text) in RECORDED {
            let value: Value = serde_json::from_str(text).unwrap();
            // What some nodes print beside the header.
            let beside = ["size", "totalDifficulty", "l1BlockNumber", "sendCount", "sendRoot"];
            let bodies = ["transactions", "uncles", "withdrawals"];
            let fields = value.as_object().unwrap().iter();
            for (field, was) in
                fields.filter(|(f, _)| ![&beside[..], &bodies].concat().contains(&f.as_str()))
            {
                let mut bent = value.clone();
                let digits = was.as_str().unwrap();
                // The first digit of the vanity, or of a hash, or the last one of a number.
                let at = if field == "extraData" { 10 } else { digits.len() - 1 };
                let other = if &digits[at..=at] == "5" { "6" } else { "5" };
                bent[field] = json!(format!("{}{other}{}", &digits[..at], &digits[at + 1..]));
                assert_eq!(parse(&bent).header_rlp(), None, "{chain}: {field}");
            }
        }
    }

    fn bare() -> Value {
        json!({
            "hash": B256::ZERO, "parentHash": B256::ZERO, "sha3Uncles": B256::ZERO,
            "miner": Address::ZERO, "stateRoot": B256::ZERO, "transactionsRoot": B256::ZERO,
            "receiptsRoot": B256::ZERO, "logsBloom": Bloom::ZERO, "difficulty": "0x0",
            "number": "0x0", "gasLimit": "0x0", "gasUsed": "0x0", "timestamp": "0x0",
            "extraData": "0x",
        })
    }

    #[test]
    fn a_clique_header_is_hashed_with_its_seal() {
        // Görli's first block: vanity, the signer, and a seal of zeros.
        let mut block = bare();
        let vanity = "22466c6578692069732061207468696e6722202d204166726900000000000000";
        let signer = "e0a2bd4258d2768837baa26a28fe71dc079f84c7";
        block["extraData"] = json!(format!("0x{vanity}{signer}{}", "00".repeat(65)));
        block["sha3Uncles"] =
            json!("0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347");
        let empty = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421";
        block["transactionsRoot"] = json!(empty);
        block["receiptsRoot"] = json!(empty);
        block["stateRoot"] =
            json!("0x5d6cded585e73c4e322c30c2f782a336316f17dd85a4863b9d838d2d4b8b3008");
        block["difficulty"] = json!("0x1");
        block["gasLimit"] = json!("0xa00000");
        block["timestamp"] = json!("0x5c51a607");
        block["hash"] = json!("0xbf7e331f7f7c1dd2e05159666b3bf8bc7a8a3a9eb1d518969eab529dd9b88c1a");
        assert!(parse(&block).header_rlp().is_some());
    }

    #[test]
    fn a_goquorum_ibft_header_is_hashed_without_the_seals_that_validators_added() {
        // All else zero, as in GoQuorum's own test of its hash, which is the one below.
        let mut block = bare();
        block["mixHash"] =
            json!("0x63746963616c2062797a616e74696e65206661756c7420746f6c6572616e6365");
        block["hash"] = json!("0xcefefd3ade63a5955bca4562ed840b67f39e74df217f7e5f7241a6e9552cca70");
        let validators: Vec<Address> = [
            "44add0ec310f115a0e603b2d7db9f067778eaf8a",
            "294fc7e8f22b3bcdcf955dd7ff3ba2ed833f8212",
            "6beaaed781d2d2ab6350f5c4566a2c6eaac407a6",
            "8be76812f765c24641ec63dc2852b378aba2b440",
        ]
        .map(|address| address.parse().unwrap())
        .to_vec();
        for seals in [Vec::new(), vec![Bytes::from(vec![7; 65]); 3]] {
            let mut fields = alloy_rlp::encode(&validators);
            fields.extend(alloy_rlp::encode(Bytes::from(vec![0; 65])));
            fields.extend(alloy_rlp::encode(seals));
            let mut extra = vec![0; 32];
            alloy_rlp::Header { list: true, payload_length: fields.len() }.encode(&mut extra);
            extra.extend(fields);
            block["extraData"] = json!(Bytes::from(extra));
            assert!(parse(&block).header_rlp().is_some());
        }
    }
}
