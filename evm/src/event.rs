//! The event of the anchor contract.

use alloy_primitives::{Address, B256, keccak256};
use meshchain_core::{Hash, TreeHead};

/// Signature of the contract's event, whose Keccak-256 is the first topic.
const ANCHORED: &str = "Anchored(address,bytes32,uint64,uint64,bytes32)";

/// First topic of the contract's `Anchored` event.
pub fn anchored_topic() -> B256 {
    keccak256(ANCHORED)
}

/// What an `Anchored` event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchored {
    /// Account that anchored.
    pub sender: Address,
    /// Log, as the sender names it.
    pub log_id: Hash,
    /// Tree size anchored before.
    pub prev_size: u64,
    /// Anchored tree.
    pub head: TreeHead,
}

impl Anchored {
    /// Decodes topics and ABI data; `None` unless they are exactly those of the event.
    pub fn parse(topics: &[B256], data: &[u8]) -> Option<Self> {
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

    #[test]
    fn the_event_is_the_one_in_the_committed_contract() {
        let artifact = include_str!("../../contracts/artifacts/MeshChainAnchor.json");
        let artifact: serde_json::Value = serde_json::from_str(artifact).unwrap();
        let abi = artifact["abi"].as_array().unwrap();
        let event = abi.iter().find(|item| item["type"] == "event").unwrap();
        let inputs = event["inputs"].as_array().unwrap();
        let types: Vec<_> = inputs.iter().map(|i| i["type"].as_str().unwrap()).collect();
        assert_eq!(format!("{}({})", event["name"].as_str().unwrap(), types.join(",")), ANCHORED);
        let indexed: Vec<_> = inputs.iter().map(|i| i["indexed"] == true).collect();
        assert_eq!(indexed, [true, true, false, false, false]);
        let topic = "2254327f21520d973e2b3eda17b33f2afb50acc8fafee16e3b81e067087156d1";
        assert_eq!(format!("{:x}", anchored_topic()), topic);
        assert!(artifact["deployedBytecode"].as_str().unwrap().contains(topic));
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
