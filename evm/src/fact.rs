//! An anchor on an EVM chain, as far as it can be read without the chain.
//!
//! All bytes come from the evidence file, whose author also chose the header: what is read here is
//! true only if the block hash is that of a block of the chain.

use crate::error::EvmError;
use crate::event::Anchored;
use crate::trie::trie_value;
use alloy_consensus::{Eip658Value, Header, ReceiptEnvelope, TxReceipt};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, B256, keccak256};
use alloy_rlp::Decodable;
use meshchain_core::evidence::EvmAnchor;
use meshchain_core::{Hash, TreeHead};

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

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::Bytes;

    proptest::proptest! {
        #[test]
        fn bytes_that_are_no_header_or_receipt_never_panic(
            mut value in proptest::collection::vec(proptest::num::u8::ANY, 0..80),
            lists in proptest::bool::ANY,
        ) {
            if lists {
                let items: Vec<_> = value.chunks(7).map(Vec::from).map(Bytes::from).collect();
                value = alloy_rlp::encode(items);
            }
            let _ = decode_header(&value);
            let _ = decode_receipt(&value);
        }
    }
}
