//! An anchor on an EVM chain, as far as it can be read without the chain.
//!
//! ```text
//! header RLP --Keccak--> block hash
//!   receiptsRoot --trie proof, key rlp(transaction index)--> receipt, status 1
//!     log at log_index: Anchored(sender, logId, prevSize, size, root)
//! ```
//!
//! All bytes come from the evidence file, whose author also chose the header: what is read here is
//! true only if the block hash is that of a block of the chain.

use alloy_consensus::{Eip658Value, Header, ReceiptEnvelope, TxReceipt};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, B256, keccak256};
use alloy_rlp::Decodable;
use alloy_trie::nodes::TrieNode;
use meshchain_core::evidence::EvmAnchor;
use meshchain_core::{Hash, TreeHead};
use thiserror::Error;

/// Signature of the contract's event, whose Keccak-256 is the first topic.
const ANCHORED: &str = "Anchored(address,bytes32,uint64,uint64,bytes32)";

/// First topic of the contract's `Anchored` event.
pub fn anchored_topic() -> B256 {
    keccak256(ANCHORED)
}

/// Why the bytes of an anchor do not prove an `Anchored` event.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvmError {
    /// The header is not the RLP of a block header.
    #[error("the block header does not decode: {0}")]
    Header(alloy_rlp::Error),
    /// The trie proof does not lead from the header's receipts root to a receipt.
    #[error("receipt proof, node {node}: {reason}")]
    Trie {
        /// Node of the proof, from 0.
        node: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The value in the trie is not a receipt.
    #[error("the receipt does not decode")]
    Receipt,
    /// The transaction failed, or its receipt is older than status codes.
    #[error("the receipt's status is not 1: the transaction failed")]
    Status,
    /// The receipt has fewer logs.
    #[error("the receipt has {logs} logs, none at index {index}")]
    LogIndex {
        /// Index asked for.
        index: u64,
        /// Number of logs.
        logs: usize,
    },
    /// The log is of another event.
    #[error("log {0} of the receipt is not an Anchored event")]
    Event(u64),
}

/// What an anchor's bytes say, provided that the block is on the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnchorFact {
    /// Block number.
    pub number: u64,
    /// Keccak-256 of the header.
    pub hash: B256,
    /// Block time, unix seconds.
    pub timestamp: u64,
    /// Contract that emitted the event.
    pub contract: Address,
    /// Account that anchored.
    pub sender: Address,
    /// Log, as the sender names it.
    pub log_id: Hash,
    /// Tree size anchored before.
    pub prev_size: u64,
    /// Anchored tree.
    pub head: TreeHead,
}

/// Reads the event that an anchor proves. Compares nothing with a policy or a chain.
pub fn read_anchor(anchor: &EvmAnchor) -> Result<AnchorFact, EvmError> {
    let header = decode_header(&anchor.header)?;
    let key = alloy_rlp::encode(anchor.transaction_index);
    let value = trie_value(&header.receipts_root, &key, &anchor.receipt_proof)?;
    let receipt = decode_receipt(&value)?;
    if receipt.status_or_post_state() != Eip658Value::Eip658(true) {
        return Err(EvmError::Status);
    }
    let index = anchor.log_index;
    let log = usize::try_from(index).ok().and_then(|i| receipt.logs().get(i));
    let log = log.ok_or(EvmError::LogIndex { index, logs: receipt.logs().len() })?;
    let event = Anchored::parse(log.topics(), &log.data.data).ok_or(EvmError::Event(index))?;
    Ok(AnchorFact {
        number: header.number,
        hash: keccak256(&anchor.header),
        timestamp: header.timestamp,
        contract: log.address,
        sender: event.sender,
        log_id: event.log_id,
        prev_size: event.prev_size,
        head: event.head,
    })
}

fn decode_header(mut bytes: &[u8]) -> Result<Header, EvmError> {
    let header = Header::decode(&mut bytes).map_err(EvmError::Header)?;
    if bytes.is_empty() {
        Ok(header)
    } else {
        Err(EvmError::Header(alloy_rlp::Error::UnexpectedLength))
    }
}

fn decode_receipt(mut bytes: &[u8]) -> Result<ReceiptEnvelope, EvmError> {
    let receipt = ReceiptEnvelope::decode_2718(&mut bytes).map_err(|_| EvmError::Receipt)?;
    if bytes.is_empty() { Ok(receipt) } else { Err(EvmError::Receipt) }
}

/// The value at `key` of the trie with this root, by a proof that must have no node too many.
///
/// Not `alloy_trie::proof::verify_proof`: it asserts that paths stay within 64 nibbles, which a
/// hostile proof does not. A receipt holds a 256-byte bloom, so no node of its path is short enough
/// to be embedded in its parent, and embedded nodes are refused.
fn trie_value(root: &B256, key: &[u8], proof: &[Vec<u8>]) -> Result<Vec<u8>, EvmError> {
    let nibbles: Vec<u8> = key.iter().flat_map(|b| [b >> 4, b & 15]).collect();
    let (mut path, mut expected) = (nibbles.as_slice(), *root);
    for (node, bytes) in proof.iter().enumerate() {
        let err = |reason| EvmError::Trie { node, reason };
        if keccak256(bytes) != expected {
            return Err(err("its hash is not the one that the node above names"));
        }
        let mut rest = bytes.as_slice();
        let decoded = TrieNode::decode(&mut rest).map_err(|_| err("not a trie node"))?;
        let child = match decoded {
            TrieNode::Branch(branch) => {
                let (&nibble, rest) = path.split_first().ok_or(err("the key ends in a branch"))?;
                path = rest;
                let branch = branch.as_ref();
                let found = branch.children().find(|(at, _)| *at == nibble);
                found.and_then(|(_, child)| child?.as_hash())
            }
            TrieNode::Extension(extension) => {
                path = path.strip_prefix(extension.key.to_vec().as_slice()).ok_or(err(OFF_PATH))?;
                extension.child.as_hash()
            }
            TrieNode::Leaf(leaf) if node + 1 == proof.len() && rest.is_empty() => {
                return if leaf.key.to_vec() == path { Ok(leaf.value) } else { Err(err(OFF_PATH)) };
            }
            TrieNode::Leaf(_) => return Err(err("something follows the leaf")),
            TrieNode::EmptyRoot => return Err(err("an empty trie")),
        };
        expected = child.ok_or(err("nothing at the transaction's index"))?;
    }
    Err(EvmError::Trie { node: proof.len(), reason: "the proof ends before the receipt" })
}

const OFF_PATH: &str = "not on the way to the transaction's index";

/// What an `Anchored` event says.
pub(crate) struct Anchored {
    pub(crate) sender: Address,
    pub(crate) log_id: Hash,
    pub(crate) prev_size: u64,
    pub(crate) head: TreeHead,
}

impl Anchored {
    /// Decodes topics and ABI data; `None` unless they are exactly those of the event.
    pub(crate) fn parse(topics: &[B256], data: &[u8]) -> Option<Self> {
        let [topic, sender, log_id] = topics else {
            return None;
        };
        let (words, []) = data.as_chunks::<32>() else {
            return None;
        };
        let [prev_size, size, root] = words else {
            return None;
        };
        if *topic != anchored_topic() || sender[..12] != [0; 12] {
            return None;
        }
        Some(Self {
            sender: Address::from_word(*sender),
            log_id: log_id.0,
            prev_size: uint64(prev_size)?,
            head: TreeHead { size: uint64(size)?, root: *root },
        })
    }
}

/// A `uint64` in an ABI word; `None` where the word holds more.
fn uint64(word: &[u8; 32]) -> Option<u64> {
    let (zeros, number) = word.split_last_chunk::<8>()?;
    zeros.iter().all(|&b| b == 0).then(|| u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_rlp::Encodable;
    use alloy_trie::nodes::{ExtensionNode, RlpNode};

    #[test]
    fn the_event_is_the_one_in_the_committed_abi() {
        let artifact = include_str!("../../contracts/artifacts/MeshChainAnchor.json");
        let artifact: serde_json::Value = serde_json::from_str(artifact).unwrap();
        let abi = artifact["abi"].as_array().unwrap();
        let event = abi.iter().find(|item| item["type"] == "event").unwrap();
        let inputs = event["inputs"].as_array().unwrap();
        let types: Vec<_> = inputs.iter().map(|i| i["type"].as_str().unwrap()).collect();
        assert_eq!(format!("{}({})", event["name"].as_str().unwrap(), types.join(",")), ANCHORED);
        let indexed: Vec<_> = inputs.iter().map(|i| i["indexed"] == true).collect();
        assert_eq!(indexed, [true, true, false, false, false]);
    }

    #[test]
    fn a_path_longer_than_any_key_is_refused_without_panic() {
        let long = alloy_trie::Nibbles::from_nibbles([0u8; 60]);
        let encode = |child: B256| {
            let mut out = Vec::new();
            ExtensionNode::new(long, RlpNode::word_rlp(&child)).encode(&mut out);
            out
        };
        let inner = encode(B256::ZERO);
        let outer = encode(keccak256(&inner));
        let root = keccak256(&outer);
        let found = trie_value(&root, &[0; 40], &[outer, inner]);
        assert!(matches!(found, Err(EvmError::Trie { node: 1, .. })), "{found:?}");
    }

    proptest::proptest! {
        #[test]
        fn bytes_of_an_attacker_who_fixes_every_hash_never_panic(
            mut value in proptest::collection::vec(proptest::num::u8::ANY, 0..80),
            lists in proptest::bool::ANY,
        ) {
            if lists {
                value = alloy_rlp::encode(value.chunks(7).map(Vec::from).map(alloy_primitives::Bytes::from).collect::<Vec<_>>());
            }
            let _ = decode_header(&value);
            let _ = decode_receipt(&value);
            let _ = trie_value(&keccak256(&value), &[1, 2, 3], &[value.clone(), value]);
        }
    }

    #[test]
    fn topics_and_data_are_those_of_the_event_or_nothing() {
        let topics = [anchored_topic(), Address::repeat_byte(7).into_word(), B256::ZERO];
        let found = Anchored::parse(&topics, &[0; 96]).unwrap();
        assert_eq!(found.sender, Address::repeat_byte(7));
        let padded = [topics[0], B256::repeat_byte(7), topics[2]];
        assert!(Anchored::parse(&padded, &[0; 96]).is_none(), "an address over 20 bytes");
        assert!(Anchored::parse(&topics[..2], &[0; 96]).is_none(), "a topic too few");
        for length in [0, 64, 95, 97, 128] {
            assert!(Anchored::parse(&topics, &vec![0; length]).is_none(), "{length} bytes");
        }
    }

    #[test]
    fn a_word_over_64_bits_is_no_size() {
        let mut word = [0; 32];
        word[31] = 7;
        assert_eq!(uint64(&word), Some(7));
        word[23] = 1;
        assert_eq!(uint64(&word), None);
    }
}
