//! Evidence made from scratch. The trace has three entries in two batches: both sides of one hop,
//! and the client side of another.

use alloy_consensus::{
    Eip658Value, Header, Receipt, ReceiptEnvelope, TxType, proofs::calculate_receipt_root,
};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Log, LogData, U256, keccak256};
use alloy_trie::proof::ProofRetainer;
use alloy_trie::root::adjust_index_for_rlp;
use alloy_trie::{HashBuilder, Nibbles};
use meshchain::{HeaderHash, KnownHashes, Policy, Report, anchored_topic, verify};
use meshchain_core::evidence::{Disclosed, EvmAnchor, EvmTag, FORMAT, InBatch, SpanEvidence};
use meshchain_core::header::Dropped;
use meshchain_core::hop::{Room, Seen};
use meshchain_core::leaf::{CHAIN_START, Signature, chain_hash, entry_hashes};
use meshchain_core::{
    BatchHeader, BatchLeaf, Canonical, Checkpoint, ContextSource, Entry, Evidence, Hash, HopPart,
    OwnPart, SessionKey, Side, SigningKey, Source, SpanId, TlogProof, TraceId, TreeHead, hash,
    merkle, own,
};
use serde_json::{Value, json};

pub(crate) const ORIGIN: &str = "cloud.example/meshchain";
pub(crate) const TRACE: [u8; 16] = [0x80; 16];
pub(crate) const CHAIN_ID: u64 = 31337;
pub(crate) const CONTRACT: Address = Address::repeat_byte(0xc0);
pub(crate) const SENDER: Address = Address::repeat_byte(0x5e);
/// Size of the checkpoint in the proofs, and of the anchored tree.
pub(crate) const SIZES: (u64, u64) = (5, 7);

/// What a verification gets.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) evidence: Evidence,
    pub(crate) policy: Value,
    pub(crate) hashes: Vec<B256>,
}

impl World {
    pub(crate) fn verify(&self) -> Report {
        let policy = Policy::from_json(self.policy.to_string().as_bytes()).unwrap();
        let hashes = self.hashes.iter().map(|&hash| HeaderHash { chain_id: CHAIN_ID, hash });
        verify(&self.evidence, Some(&policy), &KnownHashes(hashes.collect()))
    }
}

/// Evidence that is verified.
pub(crate) fn world() -> World {
    let log = LogOf::new(ORIGIN, 1);
    let anchor = log.anchor(SIZES.0, &Event::of(&log, SIZES.1));
    World {
        hashes: vec![keccak256(&anchor.header)],
        policy: policy(&[&log]),
        evidence: evidence(&log, anchor),
    }
}

pub(crate) fn policy(logs: &[&LogOf]) -> Value {
    let rule = json!({
        "type": "evm", "chain_id": CHAIN_ID, "contract": format!("{CONTRACT:#x}"),
        "sender": format!("{SENDER:#x}"), "finality": "finalized",
    });
    let log = |log: &&LogOf| {
        let vkey = log.key.verifier().to_string();
        json!({"origin": log.key.verifier().name(), "vkey": vkey, "anchors": [rule]})
    };
    let logs: Vec<_> = logs.iter().map(log).collect();
    json!({"format": "meshchain/policy/v1", "logs": logs})
}

pub(crate) fn evidence(log: &LogOf, anchor: EvmAnchor) -> Evidence {
    let spans = vec![log.span(1, 0, SIZES.0), log.span(3, 2, SIZES.0), log.span(1, 2, SIZES.0)];
    Evidence { format: FORMAT.to_owned(), trace_id: TRACE, spans, anchors: vec![anchor] }
}

/// A log of seven batches: batch 1 of the client's proxy, batch 3 of the server's.
pub(crate) struct LogOf {
    pub(crate) key: SigningKey,
    batches: Vec<Batch>,
}

struct Batch {
    records: Vec<(Vec<u8>, Vec<u8>)>,
    entries: Vec<u8>,
    leaf: Vec<u8>,
}

impl LogOf {
    pub(crate) fn new(origin: &str, seed: u8) -> Self {
        Self::with(origin, seed, 200)
    }

    /// As [`LogOf::new`]; the server says that it answered with `status`.
    pub(crate) fn with(origin: &str, seed: u8, status: u32) -> Self {
        Self::lying(origin, seed, status, |_| ())
    }

    /// As [`LogOf::new`]; the leaf of batch 1 has a false signature.
    pub(crate) fn forged(origin: &str, seed: u8) -> Self {
        let mut log = Self::new(origin, seed);
        *log.batches[1].leaf.last_mut().unwrap() ^= 1;
        log
    }

    /// As [`LogOf::new`]; the proxies name their workload so, and deliver as a principal of that name.
    pub(crate) fn named(origin: &str, seed: u8, workload: &str, principal: &str) -> Self {
        let mut log = Self::new(origin, seed);
        for (number, batch) in (0..).zip(&mut log.batches) {
            *batch = self::batch(number, (workload, principal), &batch.records, |_| ());
        }
        log
    }

    /// As [`LogOf::with`]; `lie` alters each entry after its digests are made.
    pub(crate) fn lying(origin: &str, seed: u8, status: u32, lie: fn(&mut Entry)) -> Self {
        let key = SigningKey::from_seed(origin, &[seed; 32]).unwrap();
        let client = [
            record(Side::Client, 1, 200),
            record(Side::Client, 8, 404),
            record(Side::Client, 2, 503),
        ];
        let other = [record(Side::Server, 9, 200)];
        let server = [
            record(Side::Server, 7, 200),
            record(Side::GatewayIn, 6, 200),
            record(Side::Server, 1, status),
        ];
        let batches = (0..7u8)
            .map(|n| match n {
                1 => batch(n, ("productpage", "productpage"), &client, lie),
                3 => batch(n, ("reviews", "reviews"), &server, lie),
                _ => batch(n, ("ratings", "ratings"), &other, lie),
            })
            .collect();
        Self { key, batches }
    }

    fn hashes(&self, size: u64) -> Vec<Hash> {
        self.batches[..size as usize].iter().map(|b| merkle::leaf_hash(&b.leaf)).collect()
    }

    pub(crate) fn head(&self, size: u64) -> TreeHead {
        TreeHead { size, root: merkle::root(&self.hashes(size)) }
    }

    pub(crate) fn span(&self, leaf: u64, entry: u64, size: u64) -> SpanEvidence {
        let batch = &self.batches[leaf as usize];
        let hashes = entry_hashes(&batch.entries);
        let (hop, own) = batch.records[entry as usize].clone();
        let proof = TlogProof {
            index: leaf,
            path: merkle::inclusion_path(&self.hashes(size), leaf).unwrap(),
            checkpoint: Checkpoint::sign(&self.head(size), &self.key),
        };
        SpanEvidence {
            record: Disclosed { hop: Some(hop), own: Some(own) },
            entry: batch.entries[entry as usize * 90..][..90].to_vec(),
            batch: InBatch { index: entry, path: merkle::inclusion_path(&hashes, entry).unwrap() },
            leaf: batch.leaf.clone(),
            tlog_proof: proof.to_string(),
        }
    }

    /// An anchor whose consistency proof starts at `from` leaves.
    pub(crate) fn anchor(&self, from: u64, event: &Event) -> EvmAnchor {
        let hashes = self.hashes(event.head.size);
        let node = |level: u32, index: u64| {
            let start = (index << level) as usize;
            Ok::<_, ()>(merkle::root(&hashes[start..start + (1 << level)]))
        };
        let consistency = merkle::consistency_proof(from, event.head.size, node).unwrap();
        EvmAnchor { consistency, ..event.anchor() }
    }
}

impl Event {
    /// The anchor in a block of its own, without a consistency proof.
    pub(crate) fn anchor(&self) -> EvmAnchor {
        let (receipts, header) = (self.receipts(), self.header());
        EvmAnchor {
            kind: EvmTag::Evm,
            chain_id: CHAIN_ID,
            size: self.head.size,
            consistency: Vec::new(),
            header: alloy_rlp::encode(&header),
            transaction_index: self.index as u64,
            receipt_proof: receipt_proof(&receipts, self.index),
            log_index: 1,
        }
    }
}

/// The event to be anchored, and the block around it.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) contract: Address,
    pub(crate) sender: Address,
    pub(crate) log_id: Hash,
    pub(crate) head: TreeHead,
    pub(crate) topic: B256,
    pub(crate) status: Eip658Value,
    pub(crate) number: u64,
    pub(crate) block_time: u64,
    pub(crate) receipts: usize,
    pub(crate) index: usize,
}

impl Event {
    pub(crate) fn of(log: &LogOf, size: u64) -> Self {
        Self {
            contract: CONTRACT,
            sender: SENDER,
            log_id: hash::log_id(log.key.verifier().name()),
            head: log.head(size),
            topic: anchored_topic(),
            status: Eip658Value::Eip658(true),
            number: 12,
            block_time: 1_795_000_000,
            receipts: 3,
            index: 1,
        }
    }

    /// Header of its block.
    pub(crate) fn header(&self) -> Header {
        Header {
            number: self.number,
            timestamp: self.block_time,
            gas_limit: 30_000_000,
            base_fee_per_gas: Some(7),
            receipts_root: calculate_receipt_root(&self.receipts()),
            ..Default::default()
        }
    }

    /// All receipts of its block.
    pub(crate) fn receipts(&self) -> Vec<ReceiptEnvelope> {
        (0..self.receipts).map(|i| self.receipt(i)).collect()
    }

    /// The receipt at `index`; that of the anchor has another contract's log before its own.
    fn receipt(&self, index: usize) -> ReceiptEnvelope {
        let other = Log { address: Address::ZERO, data: LogData::default() };
        let topics = vec![self.topic, self.sender.into_word(), self.log_id.into()];
        let words =
            [U256::from(3).into(), U256::from(self.head.size).into(), B256::from(self.head.root)];
        let data = LogData::new_unchecked(topics, Bytes::from(words.concat()));
        let anchored = Log { address: self.contract, data };
        let (status, logs) = match index == self.index {
            true => (self.status, vec![other, anchored]),
            false => (Eip658Value::Eip658(true), vec![other]),
        };
        let receipt = Receipt { status, cumulative_gas_used: 21_000 * (index as u64 + 1), logs };
        ReceiptEnvelope::from_typed(TxType::Eip1559, receipt.with_bloom())
    }
}

fn receipt_proof(receipts: &[ReceiptEnvelope], index: usize) -> Vec<Vec<u8>> {
    let key = |index: usize| Nibbles::unpack(alloy_rlp::encode(index as u64));
    let retainer = ProofRetainer::new(vec![key(index)]);
    let mut builder = HashBuilder::default().with_proof_retainer(retainer);
    for i in 0..receipts.len() {
        let i = adjust_index_for_rlp(i, receipts.len());
        builder.add_leaf(key(i), &receipts[i].encoded_2718());
    }
    builder.root();
    builder.take_proof_nodes().into_nodes_sorted().into_iter().map(|(_, n)| n.to_vec()).collect()
}

/// Key of the session of batch `number`.
pub(crate) fn session_key(number: u8) -> SessionKey {
    SessionKey::from_seed([number + 1; 32])
}

/// Hop part and own part of one side of the hop `span`.
fn record(side: Side, span: u8, status: u32) -> (Vec<u8>, Vec<u8>) {
    let (trace, id) = (TraceId::new(TRACE), SpanId::new([span; 8]));
    let request = format!("request-{span}");
    let seen = Seen {
        request_id: request.as_bytes(),
        method: b"GET",
        authority: b"reviews:9080",
        target: b"/reviews/0?a=b",
    };
    let mut room = Room::default();
    let hop = HopPart::capture(trace, id, &seen, status, &mut room);
    let own = OwnPart {
        side,
        parent_span_id: SpanId::new([0x70 + span; 8]),
        context: ContextSource::Received,
        protocol: b"HTTP/1.1",
        grpc_status: Some(u32::from(span)),
        response_flags: 64,
        code_details: b"via_upstream",
        start_ns: 1_794_999_990_123_000_000,
        duration_ns: 12_345_678,
        request_bytes: 512,
        response_bytes: 2048,
        peer_principal: b"spiffe://cloud.example/ns/bookinfo/sa/bookinfo-reviews",
        cluster: b"outbound|9080||reviews",
        route: b"default route",
        attempts: 1,
        query: b"a=b",
        raw_path: b"/reviews//0",
        raw_authority: b"Reviews:9080",
        salt: [span + side as u8; 16],
        ..Default::default()
    };
    (hop.encode(), own.encode())
}

fn batch(
    number: u8,
    (workload, account): (&str, &str),
    records: &[(Vec<u8>, Vec<u8>)],
    lie: fn(&mut Entry),
) -> Batch {
    let mut entries = Vec::new();
    for (hop, own) in records {
        let (h, o) = (HopPart::decode(hop).unwrap(), OwnPart::decode(own).unwrap());
        let digest = own::span_digest(&h.digest(), own);
        let mut entry = Entry::new(o.side, h.trace_id, h.span_id, h.digest(), digest);
        lie(&mut entry);
        entries.extend_from_slice(&entry.to_bytes());
    }
    let source = Source {
        mesh: "mesh1",
        cluster: "cloud",
        namespace: "bookinfo",
        workload,
        pod: "pod-1",
        revision: "v3",
        filter: "0.1.0",
    };
    let key = session_key(number);
    let header = BatchHeader {
        source,
        session: key.id(),
        count: records.len() as u32,
        dropped: vec![
            Dropped { reason: 1, count: 3 },
            Dropped { reason: 2, count: u64::from(number) },
        ]
        .into_iter()
        .filter(|dropped| dropped.count > 0 && number == 3)
        .collect(),
        first_ns: 1_794_999_990_000_000_000,
        last_ns: 1_794_999_991_000_000_000,
        ..Default::default()
    };
    let header = header.encode();
    let chain = chain_hash(&CHAIN_START, &header, &entries);
    let principal = format!("spiffe://cloud.example/ns/bookinfo/sa/{account}");
    let leaf = BatchLeaf {
        header: &header,
        prev: CHAIN_START,
        chain,
        entries_root: merkle::root(&entry_hashes(&entries)),
        principal: principal.as_bytes(),
        received_ns: 1_794_999_992_000_000_000,
        public_key: *key.public(),
        signature: Signature(key.sign(&chain)),
    };
    let leaf = leaf.encode();
    Batch { records: records.to_vec(), entries, leaf }
}
