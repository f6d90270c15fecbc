//! What a collector stores: staging bundles, `sealed`, session tables, audit lines.

use crate::vector::{Vector, show, show_hex};
use bytes::Bytes;
use meshchain_core::{BatchHeader, BatchKind, BatchLeaf, Dropped, SessionId, Source, hash, merkle};
use meshchain_stored::audit_line::{AuditLine, AuditedLog, CHAIN_START, line_hash};
use meshchain_stored::sealed::SealedState;
use meshchain_stored::staging::{self, StagingWriter};
use meshchain_stored::{SegmentName, Session, TableError, TableLayout, TableWriter, table_path};
use serde_json::{Map, Value, json};
use std::ops::Range;

pub(super) fn cases() -> Vec<Vector> {
    [bundles(), sealed(), tables(), audit_lines()].concat()
}

const STAGING: &str = "staging-bundle";

/// Leaf, entries, records. A bundle says nothing about what they are.
type Part<'a> = (&'a [u8], &'a [u8], &'a [&'a [u8]]);

fn bundle(parts: &[Part<'_>]) -> Vec<u8> {
    let mut writer = StagingWriter::default();
    parts.iter().for_each(|(leaf, entries, records)| writer.push(leaf, entries, records));
    writer.finish().0
}

fn bundles() -> Vec<Vector> {
    let parts: [Part<'_>; 2] = [(b"leaf 7", &[1; 180], &[b"one", b""]), (b"leaf 8", &[], &[])];
    let good = bundle(&parts);
    let shown = |(leaf, entries, records): &Part<'_>| {
        let records: Vec<_> = records.iter().map(|record| show(record)).collect();
        json!({ "leaf": show(leaf), "entries": show_hex(entries), "records": records })
    };
    let valid = |name: &str, case: &str, first: u64, parts: &[Part<'_>]| {
        let bytes = bundle(parts);
        let (_, sum) = staging::parse(&bytes).expect("as it was written");
        let leaves: Vec<_> = parts.iter().map(shown).collect();
        let input = json!({ "first": first, "leaves": leaves });
        let vector = Vector::valid(STAGING, name, case, input).encoded(&bytes);
        vector.with("name", staging::name(first, &sum))
    };
    let invalid = |name: &str, case: &str, bytes: &[u8]| {
        let error = staging::parse(bytes).expect_err(name);
        Vector::invalid(STAGING, name, case, error).encoded(bytes)
    };
    let resummed = |content: &[u8]| [content, &hash::tagged(&[], &[content])].concat();
    let content = &good[..good.len() - 32];
    let mut flipped = good.clone();
    flipped[40] ^= 1;
    let mut other = content.to_vec();
    other[15] = b'2';
    let mut long = content.to_vec();
    long[19] += 200;
    vec![
        valid("two-leaves", "a batch with records, and one without calls", 7, &parts),
        valid("no-leaves", "a bundle of nothing", 0, &[]),
        invalid("flipped", "one bit of a leaf", &flipped),
        invalid("other-version", "another format, with the right hash", &resummed(&other)),
        invalid(
            "long-leaf",
            "a length that leads beyond the end, with the right hash",
            &resummed(&long),
        ),
        invalid("torn", "lengths that are cut off, with the right hash", &resummed(&content[..20])),
        invalid("short", "no room for the hash", &good[..40]),
    ]
}

fn session() -> Session {
    let source = Source { namespace: "shop", workload: "cart", ..Source::default() };
    let dropped = vec![Dropped { reason: 1, count: 3 }];
    let (kind, count) = (BatchKind::Data, 2);
    let header = BatchHeader { source, kind, seq: 1, count, dropped, ..BatchHeader::default() };
    let principal = b"spiffe://d/ns/shop/sa/cart";
    let leaf = BatchLeaf { principal, received_ns: 5, chain: [6; 32], ..BatchLeaf::default() };
    let mut session = Session::default();
    let odd = session.record(&leaf, &header, 7).odd;
    assert!(odd.is_empty());
    session
}

fn sealed() -> Vec<Vector> {
    let name = |first, end| SegmentName { first, end, seed: 0xab };
    let state = SealedState {
        writer: "0123456789abcdef".to_owned(),
        segments: vec![name(0, 8), name(8, 20)],
        root: [9; 32],
        sessions: vec![SegmentName { first: 0, end: 20, seed: 0xcd }],
    };
    let text = |state: &SealedState| String::from_utf8(state.to_bytes()).expect("JSON is text");
    let valid = |name: &str, case: &str, state: &SealedState| {
        let text = text(state);
        let input: Value = serde_json::from_str(&text).expect("JSON");
        Vector::valid("sealed", name, case, input).with("text", text)
    };
    let good = text(&state);
    let invalid = |name: &str, case: &str, (from, to): (&str, &str)| {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{name}");
        let error = SealedState::parse(text.as_bytes()).expect_err(name);
        Vector::invalid("sealed", name, case, error).with("text", text)
    };
    vec![
        valid("two-segments", "two segments, whose sessions are in one table", &state),
        valid("empty", "nothing is sealed", &SealedState::empty()),
        invalid("other-version", "of another version", ("\"version\":2", "\"version\":1")),
        invalid("gap", "a leaf between the segments", ("00008-", "00009-")),
        invalid("unknown", "an unknown member", ("{\"version\"", "{\"extra\":1,\"version\"")),
        invalid(
            "other-end",
            "a table of more leaves",
            ("00020-00000000000000cd", "00021-00000000000000cd"),
        ),
        invalid("short-root", "a root of 31 bytes", ("\"root\":\"09", "\"root\":\"")),
    ]
}

fn tables() -> Vec<Vector> {
    let closed = Session { closed: true, ..session() };
    // More than a block, by id, of which every other one was closed.
    let open = session();
    let many = (0..130_u8).map(|at| {
        let state = if at % 2 == 0 { &closed } else { &open };
        (
            [at; 16],
            Session { first_leaf: at.into(), last_received_ns: 7 + u64::from(at), ..state.clone() },
        )
    });
    let two = [([1; 16], session()), ([2; 16], closed.clone())];
    let (good, valid) = table("two-sessions", "one that goes on, and one that was closed", &two);
    let many = many.collect::<Vec<_>>();
    let (large, of_blocks) = table("two-blocks", "more sessions than a block has", &many);
    let invalid = |name: &str, case: &str, bytes: &[u8]| {
        let error = read_table(bytes).expect_err(name);
        Vector::invalid("session-table", name, case, error).encoded(bytes)
    };
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let tail = good.len() - TableLayout::TAIL as usize;
    let rows = tail - 64 - 48 - 2 * 36;
    vec![
        valid,
        of_blocks,
        invalid("other-version", "of another version", &flipped(&good, tail + 15)),
        invalid("short", "a byte is missing in front", &good[1..]),
        invalid("other-state", "a state is not that of its row", &flipped(&good, 20)),
        invalid("other-row", "a row is not that of its fence", &flipped(&good, rows + 7)),
        invalid("other-fence", "a fence is not that of the sum", &flipped(&good, tail - 64 - 1)),
        invalid("other-bloom", "a bloom filter is not that of the sum", &flipped(&good, tail - 1)),
        invalid("last-block", "a state of the last block is false", &flipped(&large, 128 * 300)),
    ]
}

/// A table of these sessions, which come by id.
fn table(name: &str, case: &str, sessions: &[(SessionId, Session)]) -> (Vec<u8>, Vector) {
    let of = SegmentName { first: 8, end: 20, seed: 0xcd };
    let mut writer = TableWriter::new(Vec::new(), of);
    for (id, session) in sessions {
        writer.push(id, session).expect("memory");
    }
    let (bytes, _) = writer.finish().expect("memory");
    let shown: Vec<_> =
        sessions.iter().map(|(id, session)| json!([hex::encode(id), session])).collect();
    let input = json!({ "first": 8, "end": 20, "seed": 0xcd, "sessions": shown });
    let vector = Vector::valid("session-table", name, case, input);
    (bytes.clone(), vector.encoded(&bytes).with("name", table_path(&of)))
}

/// Reads all of a table.
fn read_table(bytes: &[u8]) -> Result<(), TableError> {
    let bytes = Bytes::copy_from_slice(bytes);
    let cut = |at: Range<u64>| bytes.slice(at.start as usize..at.end as usize);
    let len = bytes.len() as u64;
    let layout = TableLayout::parse(&cut(len - TableLayout::TAIL..len), len)?;
    let index = layout.index(cut(layout.index_at()))?;
    (0..).map_while(|at| index.block(at)).try_for_each(|b| b.read(&cut(b.all.clone())).map(drop))
}

fn audit_lines() -> Vec<Vector> {
    let head = (0, merkle::empty_root());
    let line = |event: &str, (size, root), members: Value| AuditLine {
        time: "2026-01-02T03:04:05.678Z".to_owned(),
        event: event.to_owned(),
        log: AuditedLog { origin: "cloud.example/meshchain".to_owned(), size, root },
        prev: if size == 0 { CHAIN_START } else { line_hash(b"the line before") },
        members: members.as_object().cloned().unwrap_or_else(Map::new),
    };
    let valid = |name: &str, case: &str, line: AuditLine| {
        let text = line.print();
        let input: Value = serde_json::from_str(&text).expect("JSON");
        Vector::valid("audit-line", name, case, input).with("text", text)
    };
    let good = line("checkpoint", (5, [7; 32]), json!({ "leaves": 2 }));
    let invalid = |name: &str, case: &str, (from, to): (&str, &str)| {
        let text = good.print().replacen(from, to, 1);
        let error = AuditLine::parse(&text).expect_err(name);
        Vector::invalid("audit-line", name, case, error).with("text", text)
    };
    vec![
        valid("checkpoint", "a published tree", good.clone()),
        valid("no-members", "an event that tells nothing besides", line("start", head, json!({}))),
        valid(
            "text",
            "texts with quotes and line ends stay in one line",
            line("refusal", head, json!({ "detail": "a \"b\"\n", "principal": "" })),
        ),
        invalid("no-log", "it does not say of which tree it speaks", ("\"log\"", "\"tree\"")),
        invalid("short-root", "a root of 31 bytes", ("\"root\":\"07", "\"root\":\"")),
        invalid("no-prev", "it does not say which line it follows", ("\"prev\"", "\"before\"")),
        invalid("short-prev", "a hash of one byte", ("\"prev\":\"", "\"prev\":\"00\",\"x\":\"")),
        invalid("cut-off", "cut off", (",\"leaves\":2}", "")),
    ]
}
