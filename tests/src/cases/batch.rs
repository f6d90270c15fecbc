//! Batch header, session chain, batch leaf, and the message that carries a batch.

use super::record::{entry, hop, own};
use super::{liberties, refused};
use crate::proto;
use crate::vector::{Vector, show, show_hex};
use meshchain_core::leaf::{CHAIN_START, chain_hash, entry_hashes};
use meshchain_core::record::ShownPath;
use meshchain_core::{
    BatchHeader, BatchKind, BatchLeaf, Canonical, Dropped, Hash, OwnPart, Side, Source, SpanRecord,
    merkle,
};
use meshchain_wire::Batch;
use prost::Message;
use serde_json::{Value, json};

pub(super) fn cases() -> Vec<Vector> {
    [headers(), chains(), leaves(), batches()].concat()
}

/// The first batch of a session: two entries, one call seen from both sides.
pub(super) fn header() -> BatchHeader<'static> {
    BatchHeader {
        kind: BatchKind::Data,
        source: Source {
            mesh: "mesh-a",
            cluster: "east",
            namespace: "shop",
            workload: "web",
            pod: "web-7d4f-x2x",
        },
        session: *b"\x10\x0f\x0e\x0d\x0c\x0b\x0a\x09\x08\x07\x06\x05\x04\x03\x02\x01",
        seq: 0,
        count: 2,
        first_ns: 1_790_000_000_123_456_789,
        last_ns: 1_790_000_000_123_999_999,
        ..Default::default()
    }
}

fn heartbeat(seq: u64) -> BatchHeader<'static> {
    BatchHeader { kind: BatchKind::Heartbeat, seq, count: 0, ..header() }
}

pub(super) fn entries() -> Vec<u8> {
    [entry(Side::Client).to_bytes(), entry(Side::Server).to_bytes()].concat()
}

fn header_json(header: &BatchHeader) -> Value {
    let source = &header.source;
    json!({
        "version": 1,
        "kind": header.kind as u8,
        "source": {"mesh": source.mesh, "cluster": source.cluster, "namespace": source.namespace,
            "workload": source.workload, "pod": source.pod},
        "session": show_hex(&header.session),
        "seq": header.seq,
        "count": header.count,
        "dropped": header.dropped.iter()
            .map(|d| json!({"reason": d.reason, "count": d.count})).collect::<Vec<_>>(),
        "first_ns": header.first_ns,
        "last_ns": header.last_ns,
        "notices": header.notices,
    })
}

fn headers() -> Vec<Vector> {
    let dropped = vec![Dropped { reason: 1, count: 9 }, Dropped { reason: 3, count: u64::MAX }];
    let valid = [
        ("data", "the first batch of a session", header()),
        ("heartbeat", "nothing to report", heartbeat(7)),
        (
            "close",
            "the end of a session, with entries",
            BatchHeader { kind: BatchKind::Close, seq: u64::MAX, ..header() },
        ),
        (
            "close-empty",
            "the end of a session, without entries",
            BatchHeader { kind: BatchKind::Close, seq: 8, count: 0, ..header() },
        ),
        ("most-entries", "10000 entries", BatchHeader { count: 10_000, ..header() }),
        (
            "dropped",
            "what was lost, by reason",
            BatchHeader { dropped: dropped.clone(), ..header() },
        ),
        (
            "later-reason",
            "a reason that version 1 does not name",
            BatchHeader { dropped: vec![Dropped { reason: 99, count: 1 }], ..header() },
        ),
        (
            "notices",
            "what the proxy says about its configuration",
            BatchHeader { notices: vec!["unknown key tik_ms", "unknown key täg"], ..header() },
        ),
        (
            "no-source",
            "a proxy that does not know itself",
            BatchHeader { source: Source::default(), ..header() },
        ),
    ];
    let valid = valid.map(|(name, case, header)| {
        Vector::valid("header", name, case, header_json(&header)).encoded(&header.encode())
    });
    let base = proto::BatchHeader::decode(header().encode().as_slice()).expect("prost reads it");
    let p = |change: fn(&mut proto::BatchHeader)| {
        let mut message = base.clone();
        change(&mut message);
        message.encode_to_vec()
    };
    let drop = |reason, count| proto::Dropped { reason, count };
    let drops = |dropped| proto::BatchHeader { dropped, ..base.clone() }.encode_to_vec();
    let bad = [
        ("no-version", "the version is missing", p(|h| h.version = 0)),
        ("version-2", "a later version", p(|h| h.version = 2)),
        ("no-kind", "the kind is missing", p(|h| h.kind = 0)),
        ("kind-4", "a kind that does not exist", p(|h| h.kind = 4)),
        ("no-session", "the session is missing", p(|h| h.session = vec![])),
        ("zero-session", "an all-zero session", p(|h| h.session = vec![0; 16])),
        ("short-session", "a session of 15 bytes", p(|h| h.session = vec![1; 15])),
        ("data-without-entries", "data, count 0", p(|h| h.count = 0)),
        ("heartbeat-with-entries", "a heartbeat, count 2", p(|h| h.kind = 2)),
        ("too-many-entries", "10001 entries", p(|h| h.count = 10_001)),
        ("ends-before-start", "last_ns before first_ns", p(|h| h.last_ns = 1)),
        (
            "long-name",
            "a pod name of 254 bytes",
            p(|h| h.source.as_mut().expect("set").pod = "p".repeat(254)),
        ),
        ("empty-source", "an empty source written out", p(|h| h.source = Some(Default::default()))),
        ("empty-notice", "an empty notice", p(|h| h.notices = vec![String::new()])),
        ("long-notice", "a notice of 254 bytes", p(|h| h.notices = vec!["n".repeat(254)])),
        ("17-notices", "more notices than fit", p(|h| h.notices = vec!["n".into(); 17])),
        (
            "17-reasons",
            "more drop counters than fit",
            drops((1..=17).map(|r| drop(r, 1)).collect()),
        ),
        ("reason-twice", "two counters of one reason", drops(vec![drop(1, 1), drop(1, 2)])),
        (
            "reasons-descending",
            "counters not in ascending order",
            drops(vec![drop(2, 1), drop(1, 2)]),
        ),
        ("dropped-none", "a counter of 0", drops(vec![drop(1, 0)])),
        ("no-reason", "a counter without a reason", drops(vec![drop(0, 1)])),
    ];
    let not_utf8 = p(|h| h.source.as_mut().expect("set").mesh = "mesh-a".into());
    let at = not_utf8.windows(6).position(|w| w == b"mesh-a").expect("it is in there");
    let not_utf8 = [&not_utf8[..at], &[0xff], &not_utf8[at + 1..]].concat();
    let bad = bad
        .into_iter()
        .chain([("not-utf8", "a mesh id that is not UTF-8", not_utf8)])
        .map(|(name, case, bytes)| refused::<BatchHeader>("header", name, case, bytes.leak()))
        .collect();
    [valid.to_vec(), bad, liberties::<BatchHeader>("header", &header().encode())].concat()
}

/// Header and entries of one batch.
type Sent = (Vec<u8>, Vec<u8>);

/// The chain after each of `batches`.
fn chain(batches: &[Sent]) -> Vec<Hash> {
    let mut prev = CHAIN_START;
    let next = |(header, entries): &Sent| {
        prev = chain_hash(&prev, header, entries);
        prev
    };
    batches.iter().map(next).collect()
}

fn chains() -> Vec<Vector> {
    let session = vec![
        (header().encode(), entries()),
        (heartbeat(1).encode(), vec![]),
        (
            BatchHeader { kind: BatchKind::Close, seq: 2, count: 1, ..header() }.encode(),
            entries()[..90].to_vec(),
        ),
    ];
    let (h, e) = (header().encode(), entries());
    let moved = ([h.as_slice(), &e[..1]].concat(), e[1..].to_vec());
    let cases = [
        ("session", "data, heartbeat, close", session.clone()),
        (
            "reordered",
            "the same with the last two exchanged",
            vec![session[0].clone(), session[2].clone(), session[1].clone()],
        ),
        (
            "boundary",
            "the first byte of the entries moved to the header: the length keeps the two apart",
            vec![moved],
        ),
    ];
    let vector = |(name, case, batches): (&str, &str, Vec<Sent>)| {
        let roots = batches.iter().map(|(_, e)| hex::encode(merkle::root(&entry_hashes(e))));
        let digests = json!({
            "chain": chain(&batches).iter().map(hex::encode).collect::<Vec<_>>(),
            "entries_root": roots.collect::<Vec<_>>(),
        });
        let list =
            batches.iter().map(|(h, e)| json!({"header": show_hex(h), "entries": show_hex(e)}));
        let input = json!({"batches": list.collect::<Vec<_>>()});
        Vector::valid("chain", name, case, input).with("digests", digests)
    };
    cases.into_iter().map(vector).collect()
}

/// Encoded header and leaf of batch `seq` of the session, of the entries given.
pub(super) fn leaf_bytes(header: &BatchHeader, prev: Hash, entries: &[u8]) -> (Vec<u8>, Hash) {
    let header = header.encode();
    let chain = chain_hash(&prev, &header, entries);
    let leaf = BatchLeaf {
        header: &header,
        prev,
        chain,
        entries_root: merkle::root(&entry_hashes(entries)),
        principal: b"spiffe://cluster.local/ns/shop/sa/web",
        received_ns: 1_790_000_001_000_000_000,
    };
    (leaf.encode(), chain)
}

fn leaf_json(leaf: &BatchLeaf) -> Value {
    json!({
        "version": 1,
        "header": show_hex(leaf.header),
        "prev": show_hex(&leaf.prev),
        "chain": show_hex(&leaf.chain),
        "entries_root": show_hex(&leaf.entries_root),
        "principal": show(leaf.principal),
        "received_ns": leaf.received_ns,
    })
}

fn leaves() -> Vec<Vector> {
    let (first, chain) = leaf_bytes(&header(), CHAIN_START, &entries());
    let (second, _) = leaf_bytes(&heartbeat(1), chain, &[]);
    let unknown =
        BatchLeaf { principal: b"", received_ns: 0, ..BatchLeaf::decode(&first).expect("ours") };
    let valid = [
        ("first", "the first batch of a session", first.clone(), entries()),
        ("heartbeat", "no entries: the root is that of the empty tree", second, vec![]),
        ("unknown-principal", "delivered by nobody knows whom", unknown.encode(), entries()),
    ];
    let valid = valid.map(|(name, case, encoded, entries)| {
        let leaf = BatchLeaf::decode(&encoded).expect("ours");
        let mut input = leaf_json(&leaf);
        input["entries"] = show_hex(&entries).into();
        Vector::valid("leaf", name, case, input)
            .encoded(&encoded)
            .with("digests", json!({"leaf": hex::encode(merkle::leaf_hash(&encoded))}))
    });
    let base = proto::BatchLeaf::decode(first.as_slice()).expect("prost reads it");
    let p = |change: fn(&mut proto::BatchLeaf)| {
        let mut message = base.clone();
        change(&mut message);
        message.encode_to_vec()
    };
    let bad = [
        ("no-version", "the version is missing", p(|l| l.version = 0)),
        ("version-2", "a later version", p(|l| l.version = 2)),
        ("no-header", "the header is missing", p(|l| l.header = vec![])),
        ("bad-header", "a header that is not canonical", p(|l| l.header.extend([0xf8, 1, 1]))),
        ("no-prev", "prev is missing, though all-zero is written out", p(|l| l.prev = vec![])),
        ("short-chain", "a chain value of 31 bytes", p(|l| l.chain = vec![1; 31])),
        ("no-entries-root", "the entries root is missing", p(|l| l.entries_root = vec![])),
        ("long-principal", "a principal of 1025 bytes", p(|l| l.principal = vec![b'p'; 1025])),
        ("empty", "no bytes at all", vec![]),
    ];
    let bad = bad.map(|(name, case, bytes)| refused::<BatchLeaf>("leaf", name, case, bytes.leak()));
    [valid.to_vec(), bad.to_vec(), liberties::<BatchLeaf>("leaf", &first)].concat()
}

fn batches() -> Vec<Vector> {
    let hop = hop().encode();
    let record = |side| {
        let own = OwnPart { side, ..own() }.encode();
        SpanRecord { hop: &hop, own: &own, path: ShownPath::Whole }.encode()
    };
    let records = vec![record(Side::Client), record(Side::Server)];
    let cases = [
        (
            "digests-only",
            "entries without records",
            Batch::seal(&CHAIN_START, header().encode(), entries(), vec![]),
        ),
        (
            "with-records",
            "entries with their records",
            Batch::seal(&CHAIN_START, header().encode(), entries(), records),
        ),
        (
            "heartbeat",
            "a header alone",
            Batch::seal(&[7; 32], heartbeat(3).encode(), vec![], vec![]),
        ),
    ];
    let vector = |(name, case, batch): (&str, &str, Batch)| {
        let input = json!({
            "header": show_hex(&batch.header),
            "prev": show_hex(&batch.prev),
            "chain": show_hex(&batch.chain),
            "entries": show_hex(&batch.entries),
            "records": batch.records.iter().map(|r| show_hex(r)).collect::<Vec<_>>(),
        });
        Vector::valid("batch", name, case, input).encoded(&batch.encode_to_vec())
    };
    cases.into_iter().map(vector).collect()
}
