//! Batch header, session chain, batch leaf, and the message that carries a batch.

use super::record::{entry, hop, own};
use super::session::key;
use super::{liberties, refused};
use crate::proto;
use crate::vector::{Vector, show, show_hex};
use meshchain_core::leaf::{CHAIN_START, Signature, chain_hash, entry_hashes};
use meshchain_core::record::ShownPath;
use meshchain_core::{
    BatchHeader, BatchKind, BatchLeaf, Canonical, Dropped, Hash, OwnPart, Previous, SessionKey,
    Side, Source, SpanRecord, merkle,
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
            revision: "v2",
            filter: "0.1.0",
        },
        session: key().id(),
        seq: 0,
        count: 2,
        first_ns: 1_790_000_000_123_456_789,
        last_ns: 1_790_000_000_123_999_999,
        ..Default::default()
    }
}

fn previous(dropped: Vec<Dropped>) -> Previous {
    let former = SessionKey::from_seed([1; 32]);
    let signature = Signature(former.hand_over(&header().session));
    Previous { session: former.id(), batches: 41, dropped, public_key: *former.public(), signature }
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
            "workload": source.workload, "pod": source.pod, "revision": source.revision,
            "filter": source.filter},
        "session": show_hex(&header.session),
        "seq": header.seq,
        "count": header.count,
        "dropped": dropped_json(&header.dropped),
        "first_ns": header.first_ns,
        "last_ns": header.last_ns,
        "notices": header.notices,
        "previous": header.previous.as_ref().map(|previous| json!({
            "session": show_hex(&previous.session),
            "batches": previous.batches,
            "dropped": dropped_json(&previous.dropped),
            "public_key": show_hex(&previous.public_key),
            "signature": show_hex(&previous.signature.0),
        })),
    })
}

fn dropped_json(dropped: &[Dropped]) -> Vec<Value> {
    dropped.iter().map(|d| json!({"reason": d.reason, "count": d.count})).collect()
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
        ("most-entries", "32768 entries", BatchHeader { count: 32_768, ..header() }),
        (
            "dropped",
            "what was lost, by reason",
            BatchHeader { dropped: dropped.clone(), ..header() },
        ),
        (
            "every-reason",
            "all reasons that version 1 names",
            BatchHeader {
                dropped: (1..=5).map(|reason| Dropped { reason, count: 1 }).collect(),
                ..header()
            },
        ),
        (
            "previous",
            "the first batch after a refusal: what session it follows, and what that had lost",
            BatchHeader { previous: Some(previous(dropped)), ..header() },
        ),
        (
            "previous-later",
            "a session before, in a later batch",
            BatchHeader { seq: 3, previous: Some(previous(vec![])), ..header() },
        ),
        (
            "previous-bare",
            "a session that sealed nothing and lost nothing",
            BatchHeader { previous: Some(Previous { batches: 0, ..previous(vec![]) }), ..header() },
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
    let after = |previous| proto::BatchHeader { previous: Some(previous), ..base.clone() };
    let after_good = proto::BatchHeader::decode(
        BatchHeader { previous: Some(previous(vec![])), ..header() }.encode().as_slice(),
    )
    .expect("prost reads it")
    .previous
    .expect("it is there");
    let after_good = proto::Previous { batches: 3, dropped: vec![drop(2, 7)], ..after_good };
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
        ("too-many-entries", "32769 entries", p(|h| h.count = 32_769)),
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
        (
            "previous-other-key",
            "a session before, with another key than its own",
            after(proto::Previous { public_key: vec![2; 32], ..after_good.clone() })
                .encode_to_vec(),
        ),
        (
            "previous-no-signature",
            "a session before that did not hand over",
            after(proto::Previous { signature: vec![1; 63], ..after_good.clone() }).encode_to_vec(),
        ),
        (
            "previous-itself",
            "a session that follows itself",
            after(proto::Previous { session: base.session.clone(), ..after_good.clone() })
                .encode_to_vec(),
        ),
        (
            "previous-no-session",
            "a session before that is not named",
            after(proto::Previous { session: vec![], ..after_good.clone() }).encode_to_vec(),
        ),
        (
            "previous-zero-session",
            "an all-zero session before",
            after(proto::Previous { session: vec![0; 16], ..after_good.clone() }).encode_to_vec(),
        ),
        (
            "previous-short-session",
            "a session before of 15 bytes",
            after(proto::Previous { session: vec![2; 15], ..after_good.clone() }).encode_to_vec(),
        ),
        (
            "previous-reasons-descending",
            "its counters not in ascending order",
            after(proto::Previous { dropped: vec![drop(2, 1), drop(1, 2)], ..after_good.clone() })
                .encode_to_vec(),
        ),
        (
            "previous-17-reasons",
            "more of its counters than fit",
            after(proto::Previous {
                dropped: (1..=17).map(|r| drop(r, 1)).collect(),
                ..after_good.clone()
            })
            .encode_to_vec(),
        ),
        ("previous-empty", "an empty session before written out", {
            after(proto::Previous::default()).encode_to_vec()
        }),
        (
            "long-revision",
            "a revision of 254 bytes",
            p(|h| h.source.as_mut().expect("set").revision = "r".repeat(254)),
        ),
        (
            "control-in-filter",
            "a line break in the filter's version",
            p(|h| h.source.as_mut().expect("set").filter = "1\n2".into()),
        ),
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
            "the first byte of the entries moved to the header: their digest keeps the two apart",
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
        public_key: *key().public(),
        signature: Signature(key().sign(&chain)),
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
        "public_key": show_hex(&leaf.public_key),
        "signature": show_hex(&leaf.signature.0),
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
        ("no-key", "the public key is missing", p(|l| l.public_key = vec![])),
        ("short-key", "a public key of 31 bytes", p(|l| l.public_key.truncate(31))),
        (
            "other-key",
            "the key of another session",
            p(|l| l.public_key = SessionKey::from_seed([1; 32]).public().to_vec()),
        ),
        ("no-signature", "the signature is missing", p(|l| l.signature = vec![])),
        ("short-signature", "a signature of 63 bytes", p(|l| l.signature.truncate(63))),
        ("empty", "no bytes at all", vec![]),
    ];
    let bad = bad.map(|(name, case, bytes)| refused::<BatchLeaf>("leaf", name, case, bytes.leak()));
    let unsigned = [
        ("altered-signature", "one bit of the signature", p(|l| l.signature[0] ^= 1)),
        (
            "altered-chain",
            "one bit of the chain value, which is what is signed",
            p(|l| l.chain[0] ^= 1),
        ),
        (
            "signed-by-another",
            "signed by the key of another session",
            p(|l| {
                let chain = l.chain.as_slice().try_into().expect("32 bytes");
                l.signature = SessionKey::from_seed([1; 32]).sign(&chain).to_vec();
            }),
        ),
    ];
    let unsigned = unsigned.map(|(name, case, bytes)| {
        let leaf = BatchLeaf::decode(&bytes).expect("well-formed");
        let error = leaf.signed().verify().expect_err("falsely signed");
        Vector::invalid("leaf", name, case, error).encoded(&bytes)
    });
    let liberties = liberties::<BatchLeaf>("leaf", &first);
    [valid.to_vec(), bad.to_vec(), unsigned.to_vec(), liberties].concat()
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
            Batch::seal(&key(), &CHAIN_START, header().encode(), entries(), vec![]),
        ),
        (
            "with-records",
            "entries with their records",
            Batch::seal(&key(), &CHAIN_START, header().encode(), entries(), records),
        ),
        (
            "heartbeat",
            "a header alone",
            Batch::seal(&key(), &[7; 32], heartbeat(3).encode(), vec![], vec![]),
        ),
    ];
    let vector = |(name, case, batch): (&str, &str, Batch)| {
        let input = json!({
            "header": show_hex(&batch.header),
            "prev": show_hex(&batch.prev),
            "chain": show_hex(&batch.chain),
            "entries": show_hex(&batch.entries),
            "records": batch.records.iter().map(|r| show_hex(r)).collect::<Vec<_>>(),
            "public_key": show_hex(&batch.public_key),
            "signature": show_hex(&batch.signature),
        });
        Vector::valid("batch", name, case, input).encoded(&batch.encode_to_vec())
    };
    cases.into_iter().map(vector).collect()
}
