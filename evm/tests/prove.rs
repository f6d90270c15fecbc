//! Proofs made out of what a node says, over blocks that alloy encodes: what is true is proved, and no lie is.

use alloy_consensus::{
    Eip658Value, Header, Receipt as Consensus, ReceiptEnvelope, TxReceipt, TxType, Typed2718,
    proofs::calculate_receipt_root,
};
use alloy_primitives::{Address, B256, Log, LogData, keccak256};
use meshchain_core::TreeHead;
use meshchain_evm::{
    Block, EvmError, Expected, ProofError, Receipt, anchored_topic, prove, read_anchor,
};
use serde_json::{Value, json};

const EXPECTED: Expected = Expected {
    chain_id: 7,
    contract: Address::repeat_byte(0xc0),
    sender: Address::repeat_byte(0x5e),
    log_id: [0x10; 32],
    head: TreeHead { size: 9, root: [0x77; 32] },
};
/// Place of the anchor's transaction.
const AT: usize = 2;

fn log(address: Address, head: TreeHead) -> Log {
    let Expected { sender, log_id, .. } = EXPECTED;
    let topics = vec![anchored_topic(), sender.into_word(), log_id.into()];
    let word = |n: u64| B256::left_padding_from(&n.to_be_bytes()).0;
    let data = [word(4), word(head.size), head.root].concat();
    Log { address, data: LogData::new_unchecked(topics, data.into()) }
}

fn receipt(kind: TxType, status: Eip658Value, at: u64, logs: Vec<Log>) -> ReceiptEnvelope {
    let receipt = Consensus { status, cumulative_gas_used: 21_000 * (at + 1), logs };
    ReceiptEnvelope::from_typed(kind, receipt)
}

/// A block's receipts, the anchor's among others.
fn receipts(status: Eip658Value) -> Vec<ReceiptEnvelope> {
    let other = TreeHead { size: 8, ..EXPECTED.head };
    let good = Eip658Value::Eip658(true);
    let logs = vec![
        log(Address::ZERO, EXPECTED.head),
        log(EXPECTED.contract, other),
        log(EXPECTED.contract, EXPECTED.head),
    ];
    vec![
        receipt(TxType::Legacy, good, 0, Vec::new()),
        receipt(TxType::Eip2930, Eip658Value::Eip658(false), 1, Vec::new()),
        receipt(TxType::Eip1559, status, 2, logs),
        receipt(TxType::Eip4844, good, 3, vec![log(EXPECTED.contract, other)]),
    ]
}

/// As a node prints block and receipts.
fn printed(receipts: &[ReceiptEnvelope]) -> (Value, Value) {
    let header = Header {
        receipts_root: calculate_receipt_root(receipts),
        number: 5,
        timestamp: 1_800_000_000,
        base_fee_per_gas: Some(7),
        ..Header::default()
    };
    let block = json!({
        "hash": header.hash_slow(), "parentHash": header.parent_hash,
        "sha3Uncles": header.ommers_hash, "miner": header.beneficiary,
        "stateRoot": header.state_root, "transactionsRoot": header.transactions_root,
        "receiptsRoot": header.receipts_root, "logsBloom": header.logs_bloom, "difficulty": "0x0",
        "number": "0x5", "gasLimit": "0x0", "gasUsed": "0x0", "timestamp": "0x6b49d200",
        "extraData": "0x", "mixHash": header.mix_hash, "nonce": header.nonce,
        "baseFeePerGas": "0x7",
    });
    let numbered = receipts.iter().enumerate();
    let receipts: Value = numbered
        .map(|(at, receipt)| {
            let logs = receipt.logs().iter().map(|log| {
                json!({"address": log.address, "topics": log.topics(), "data": log.data.data})
            });
            let mut value = json!({
                "transactionHash": tx(at), "transactionIndex": format!("{at:#x}"),
                "blockHash": block["hash"], "blockNumber": "0x5",
                "type": format!("{:#x}", receipt.ty()),
                "cumulativeGasUsed": format!("{:#x}", receipt.cumulative_gas_used()),
                "logsBloom": receipt.bloom(), "logs": logs.collect::<Vec<_>>(),
            });
            match receipt.status_or_post_state() {
                Eip658Value::Eip658(good) => {
                    value["status"] = json!(format!("{:#x}", u8::from(good)))
                }
                Eip658Value::PostState(root) => value["root"] = json!(root),
            }
            value
        })
        .collect();
    (block, receipts)
}

fn tx(at: usize) -> B256 {
    keccak256([at as u8])
}

fn made(block: &Value, receipts: &Value, tx: B256) -> Result<(u64, u64), ProofError> {
    let block: Block = serde_json::from_value(block.clone()).unwrap();
    let receipts: Vec<Receipt> = serde_json::from_value(receipts.clone()).unwrap();
    let anchor = prove(&block, &receipts, tx, &EXPECTED)?;
    let fact = read_anchor(&anchor).unwrap();
    assert_eq!((fact.hash, fact.number, fact.timestamp), (block.hash, 5, 1_800_000_000));
    assert_eq!((fact.contract, fact.sender), (EXPECTED.contract, EXPECTED.sender));
    assert_eq!((fact.log_id, fact.prev_size, fact.head), (EXPECTED.log_id, 4, EXPECTED.head));
    assert_eq!((anchor.chain_id, anchor.size), (7, 9));
    Ok((anchor.transaction_index, anchor.log_index))
}

#[test]
fn an_anchor_among_other_transactions_and_events_is_proved() {
    let (block, receipts) = printed(&receipts(Eip658Value::Eip658(true)));
    assert_eq!(made(&block, &receipts, tx(AT)), Ok((2, 2)));
}

#[test]
fn each_field_that_a_node_gets_wrong_is_refused() {
    let (block, good) = printed(&receipts(Eip658Value::Eip658(true)));
    let hash = serde_json::from_value(block["hash"].clone()).unwrap();
    let (roots, place) = (ProofError::Receipts(hash), ProofError::Place(hash));
    let cases: &[(usize, &str, Value, &ProofError)] = &[
        (0, "/type", json!("0x2"), &roots),
        (0, "/type", json!("0xfff"), &roots),
        (1, "/status", json!("0x1"), &roots),
        (0, "/status", Value::Null, &roots),
        (3, "/cumulativeGasUsed", json!("0x1"), &roots),
        (3, "/logs/0/topics/1", json!(B256::ZERO), &roots),
        (3, "/logs/0/data", json!("0x"), &roots),
        (3, "/logs/0/address", json!(Address::ZERO), &roots),
        (3, "/logs", json!([]), &roots),
        (AT, "/logs/0/data", json!("0x00"), &roots),
        (AT, "/transactionIndex", json!("0x1"), &place),
        (AT, "/transactionHash", json!(B256::ZERO), &place),
    ];
    for (at, field, value, error) in cases {
        let mut bent = good.clone();
        *bent[*at].pointer_mut(field).unwrap() = value.clone();
        assert_eq!(made(&block, &bent, tx(AT)).as_ref(), Err(*error), "{at}{field}: {value}");
    }
    let mut swapped = good.clone();
    swapped.as_array_mut().unwrap().swap(0, 1);
    assert_eq!(made(&block, &swapped, tx(AT)), Err(roots.clone()));
    let mut fewer = good.clone();
    fewer.as_array_mut().unwrap().pop();
    assert_eq!(made(&block, &fewer, tx(AT)), Err(roots));
    let mut moved = block.clone();
    moved["timestamp"] = json!("0x1");
    assert_eq!(made(&moved, &good, tx(AT)), Err(ProofError::Header(hash)));
}

#[test]
fn a_transaction_that_failed_or_said_something_else_anchored_nothing() {
    let (block, failed) = printed(&receipts(Eip658Value::Eip658(false)));
    assert_eq!(made(&block, &failed, tx(AT)), Err(ProofError::Event(tx(AT))));
    let (block, good) = printed(&receipts(Eip658Value::Eip658(true)));
    assert_eq!(made(&block, &good, tx(3)), Err(ProofError::Event(tx(3))));
}

#[test]
fn receipts_of_before_byzantium_give_their_root_and_prove_nothing() {
    let of_state = receipts(Eip658Value::PostState(B256::repeat_byte(3)));
    let (block, printed) = printed(&of_state);
    // Without a status nobody knows whether it succeeded.
    assert_eq!(made(&block, &printed, tx(AT)), Err(ProofError::Event(tx(AT))));
    let mut bent = printed.clone();
    bent[AT]["root"] = json!(B256::ZERO);
    let hash = serde_json::from_value(block["hash"].clone()).unwrap();
    assert_eq!(made(&block, &bent, tx(AT)), Err(ProofError::Receipts(hash)));
}

#[test]
fn a_proof_that_this_version_cannot_read_is_not_kept() {
    // Type 0x7d: the trie may hold it, and ReceiptEnvelope does not know it.
    let plain = receipts(Eip658Value::Eip658(true));
    let (mut block, mut printed) = printed(&plain);
    printed[AT]["type"] = json!("0x7d");
    let encoded: Vec<Vec<u8>> = plain
        .iter()
        .enumerate()
        .map(|(at, receipt)| {
            let mut bytes = alloy_eips::Encodable2718::encoded_2718(receipt);
            if at == AT {
                bytes[0] = 0x7d;
            }
            bytes
        })
        .collect();
    let root = alloy_trie::root::ordered_trie_root_encoded(&encoded);
    let header = Header {
        receipts_root: root,
        number: 5,
        timestamp: 1_800_000_000,
        base_fee_per_gas: Some(7),
        ..Header::default()
    };
    block["receiptsRoot"] = json!(root);
    block["hash"] = json!(header.hash_slow());
    let unreadable = ProofError::Unreadable { tx: tx(AT), source: EvmError::Receipt };
    assert_eq!(made(&block, &printed, tx(AT)), Err(unreadable));
}
