//! Evidence files from a log of a realistic size, anchored in a block of a realistic size.

use crate::Ids;
use crate::batches::{Session, Span};
use alloy_consensus::proofs::calculate_receipt_root;
use alloy_consensus::{Eip658Value, Header, Receipt, ReceiptEnvelope, TxType};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Log, LogData, U256, keccak256};
use alloy_trie::proof::ProofRetainer;
use alloy_trie::root::adjust_index_for_rlp;
use alloy_trie::{HashBuilder, Nibbles};
use anyhow::{Context, Result};
use meshchain::anchored_topic;
use meshchain_core::evidence::{Disclosed, EvmAnchor, EvmTag, FORMAT, InBatch, SpanEvidence};
use meshchain_core::leaf::{CHAIN_START, Signature, chain_hash, entry_hashes};
use meshchain_core::{
    BatchLeaf, Canonical, Checkpoint, Evidence, Hash, SigningKey, TlogProof, TreeHead, hash, merkle,
};
use serde_json::{Value, json};

/// Leaves of the log.
pub const LEAVES: u64 = 10_000;
/// Calls in each batch that holds a span: what a filter sends when its batch is full.
pub const CALLS: u32 = 512;
/// Transactions in the block of the anchor.
pub const TRANSACTIONS: usize = 200;

const ORIGIN: &str = "cloud.example/meshchain";
/// Chain of the anchor.
pub const CHAIN_ID: u64 = 31337;
const CONTRACT: Address = Address::repeat_byte(0xc0);
const SENDER: Address = Address::repeat_byte(0x5e);
/// Where the anchor stands among the block's transactions.
const AT: usize = 140;

/// Evidence with everything that its verification needs.
pub struct Case {
    /// The evidence file.
    pub evidence: Evidence,
    /// A policy under which it is verified.
    pub policy: Value,
    /// Hash of the anchor's block, where there is an anchor.
    pub block: Option<B256>,
}

/// Evidence of a trace with `spans` spans, each in a batch and a leaf of its own.
pub fn case(spans: usize, anchored: bool) -> Result<Case> {
    let mut ids = Ids::new(7);
    let key = SigningKey::from_seed(ORIGIN, &[7; 32])?;
    let trace_id = ids.bytes();
    // Only the leaves with a span of the trace are batches; of the others the hash is enough.
    let mut hashes: Vec<Hash> = (0..LEAVES).map(|_| ids.bytes()).collect();
    let places: Vec<usize> = (0..spans).map(|n| (n * 997 + 4321) % LEAVES as usize).collect();
    let mut found = Vec::new();
    for &place in &places {
        let span = one_span(place, trace_id, &mut ids)?;
        *hashes.get_mut(place).context("no such leaf")? = merkle::leaf_hash(&span.leaf);
        found.push(span);
    }
    let head = TreeHead { size: LEAVES, root: merkle::root(&hashes) };
    let checkpoint = Checkpoint::sign(&head, &key);
    for (span, &place) in found.iter_mut().zip(&places) {
        let index = place as u64;
        let path = merkle::inclusion_path(&hashes, index).context("no such leaf")?;
        span.tlog_proof = TlogProof { index, path, checkpoint: checkpoint.clone() }.to_string();
    }
    let anchors: Vec<_> = anchored.then(|| anchor(&head)).into_iter().collect();
    let rule = json!({ "type": "evm", "chain_id": CHAIN_ID, "contract": format!("{CONTRACT:#x}"),
                       "sender": format!("{SENDER:#x}") });
    let log = json!({ "origin": ORIGIN, "vkey": key.verifier().to_string(), "anchors": [rule] });
    Ok(Case {
        block: anchors.first().map(|anchor| keccak256(&anchor.header)),
        policy: json!({ "format": "meshchain/policy/v1", "logs": [log],
                        "require_anchor": anchored }),
        evidence: Evidence { format: FORMAT.to_owned(), trace_id, spans: found, anchors },
    })
}

/// A span in the middle of a full batch; its place in the log comes later.
fn one_span(place: usize, trace_id: [u8; 16], ids: &mut Ids) -> Result<SpanEvidence> {
    let index = u64::from(CALLS / 2);
    let mut spans: Vec<_> = (1..CALLS).map(|_| Span::new(ids.bytes(), ids)).collect();
    spans.insert(index as usize, Span::new(trace_id, ids));
    let entries: Vec<u8> = spans.iter().flat_map(|span| span.entry.to_bytes()).collect();
    let hashes = entry_hashes(&entries);
    let session = Session::new(place, ids);
    let header = session.header(CALLS);
    let chain = chain_hash(&CHAIN_START, &header, &entries);
    let leaf = BatchLeaf {
        header: &header,
        prev: CHAIN_START,
        chain,
        entries_root: merkle::root(&hashes),
        principal: b"spiffe://cloud.example/ns/bookinfo/sa/bookinfo-reviews",
        received_ns: 1_795_000_001_000_000_000,
        public_key: *session.key().public(),
        signature: Signature(session.key().sign(&chain)),
    };
    let span = spans.swap_remove(index as usize);
    Ok(SpanEvidence {
        record: Disclosed { hop: Some(span.hop), own: Some(span.own) },
        entry: span.entry.to_bytes().to_vec(),
        batch: InBatch {
            index,
            path: merkle::inclusion_path(&hashes, index).context("no such entry")?,
        },
        leaf: leaf.encode(),
        tlog_proof: String::new(),
    })
}

fn anchor(head: &TreeHead) -> EvmAnchor {
    let receipts: Vec<_> = (0..TRANSACTIONS).map(|at| receipt(at, head)).collect();
    let header = Header {
        number: 21_000_000,
        timestamp: 1_795_000_012,
        gas_limit: 36_000_000,
        gas_used: 15_000_000,
        base_fee_per_gas: Some(7),
        receipts_root: calculate_receipt_root(&receipts),
        ..Header::default()
    };
    EvmAnchor {
        kind: EvmTag::Evm,
        chain_id: CHAIN_ID,
        size: head.size,
        consistency: Vec::new(),
        header: alloy_rlp::encode(&header),
        transaction_index: AT as u64,
        receipt_proof: receipt_proof(&receipts),
        log_index: 0,
    }
}

fn receipt(at: usize, head: &TreeHead) -> ReceiptEnvelope {
    let topics = vec![anchored_topic(), SENDER.into_word(), hash::log_id(ORIGIN).into()];
    let words = [U256::from(head.size - 1).into(), U256::from(head.size).into(), head.root.into()];
    let data = Bytes::from(words.map(|word: B256| word.0).concat());
    let anchored = Log { address: CONTRACT, data: LogData::new_unchecked(topics, data) };
    let logs = if at == AT { vec![anchored] } else { Vec::new() };
    let cumulative_gas_used = 75_000 * (at as u64 + 1);
    let receipt = Receipt { status: Eip658Value::Eip658(true), cumulative_gas_used, logs };
    ReceiptEnvelope::from_typed(TxType::Eip1559, receipt.with_bloom())
}

fn receipt_proof(receipts: &[ReceiptEnvelope]) -> Vec<Vec<u8>> {
    let key = |at: usize| Nibbles::unpack(alloy_rlp::encode(at as u64));
    let retainer = ProofRetainer::new(vec![key(AT)]);
    let mut builder = HashBuilder::default().with_proof_retainer(retainer);
    for at in 0..receipts.len() {
        let at = adjust_index_for_rlp(at, receipts.len());
        builder.add_leaf(key(at), &receipts[at].encoded_2718());
    }
    builder.root();
    builder.take_proof_nodes().into_nodes_sorted().into_iter().map(|(_, n)| n.to_vec()).collect()
}
