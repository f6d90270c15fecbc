//! What goes into a segment is found again: rows by trace, leaves by session, entries and records.

use bytes::Bytes;
use meshchain_core::{
    BatchHeader, BatchKind, BatchLeaf, Canonical, Entry, HopPart, OwnPart, Side, Source, SpanId,
    SpanRecord, TraceId, hop, own,
};
use meshchain_stored::entries::{EntriesFile, EntriesWriter};
use meshchain_stored::records::{RecordsFile, RecordsWriter};
use meshchain_stored::{IndexBuilder, IndexError, Layout};
use proptest::prelude::*;

const FIRST: u64 = 1_000_000;
const SEED: u64 = 7;

/// A batch: session, seq, and the trace of each entry.
#[derive(Debug, Clone)]
struct Batch {
    session: [u8; 16],
    seq: u64,
    traces: Vec<[u8; 16]>,
    records: bool,
}

fn call(trace: [u8; 16], at: u64, side: Side) -> ([u8; 90], Vec<u8>) {
    let (id, span) = (TraceId::new(trace), SpanId::new((at + 1).to_be_bytes()));
    let (id, span) = if id.is_some() { (id, span) } else { (None, None) };
    let (authority, target) = (b"cart", b"/items/\xff?q");
    let seen = hop::Seen { request_id: b"id", method: b"GET", authority, target };
    let mut room = hop::Room::default();
    let hop_part = HopPart::capture(id, span, &seen, 200, &mut room);
    let own_part = OwnPart {
        side,
        start_ns: at,
        grpc_status: at.is_multiple_of(2).then_some(5),
        ..OwnPart::default()
    };
    let (hop, own) = (hop_part.encode(), own_part.encode());
    let digest = hop::hop_digest(&hop);
    let entry = Entry::new(side, id, span, digest, own::span_digest(&digest, &own));
    (entry.to_bytes(), SpanRecord { hop: &hop, own: &own, ..SpanRecord::default() }.encode())
}

/// Header, entries and records of a batch.
type Parts = (Vec<u8>, Vec<u8>, Vec<Vec<u8>>);

/// The three objects of a segment, and what went in.
struct Segment {
    index: Vec<u8>,
    entries: Bytes,
    records: Bytes,
    parts: Vec<Parts>,
}

fn seal(batches: &[Batch]) -> Segment {
    let mut index = IndexBuilder::new(FIRST, SEED);
    let mut entries_file = EntriesWriter::new(Vec::new()).unwrap();
    let mut records_file = RecordsWriter::new(Vec::new()).unwrap();
    let mut parts = Vec::new();
    for (leaf, batch) in (FIRST..).zip(batches) {
        let source = Source { namespace: "shop", workload: "cart", ..Source::default() };
        let count = batch.traces.len() as u32;
        let header = BatchHeader {
            kind: if count == 0 { BatchKind::Heartbeat } else { BatchKind::Data },
            source,
            session: batch.session,
            seq: batch.seq,
            count,
            ..BatchHeader::default()
        };
        let header_bytes = header.encode();
        let batch_leaf =
            BatchLeaf { header: &header_bytes, received_ns: leaf, ..BatchLeaf::default() };
        let sides = [Side::Client, Side::Server, Side::GatewayOut, Side::GatewayIn];
        let calls: Vec<_> = (0..)
            .zip(&batch.traces)
            .map(|(at, trace)| call(*trace, at, sides[at as usize % 4]))
            .collect();
        let entries: Vec<u8> = calls.iter().flat_map(|(entry, _)| *entry).collect();
        let records: Vec<_> =
            calls.into_iter().filter(|_| batch.records).map(|(_, record)| record).collect();
        index.leaf(&batch.session, batch.seq, leaf, &batch.traces, records.len() as u32);
        entries_file.push(leaf, &batch_leaf, &header, &entries).unwrap();
        for (at, record) in (0..).zip(&records) {
            records_file.push(leaf, at, &header, record).unwrap();
        }
        parts.push((header_bytes, entries, records));
    }
    Segment {
        index: index.finish(),
        entries: entries_file.finish().unwrap().into(),
        records: records_file.finish().unwrap().into(),
        parts,
    }
}

fn at(bytes: &[u8], range: std::ops::Range<u64>) -> &[u8] {
    &bytes[range.start as usize..range.end as usize]
}

fn layout(index: &[u8]) -> Result<Layout, IndexError> {
    Layout::parse(index, index.len() as u64)
}

/// Rows of a trace, as a collector finds them.
fn rows(index: &[u8], trace: &[u8; 16]) -> Vec<u32> {
    let layout = layout(index).unwrap();
    let Some(block) = layout.bloom_block_at(trace) else {
        return Vec::new();
    };
    if !layout.may_hold(trace, at(index, block)) {
        return Vec::new();
    }
    let bucket = layout.bucket(trace, at(index, layout.bucket_at(trace))).unwrap();
    bucket.rows(at(index, bucket.items.clone()))
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    // Few values, so that traces and sessions meet again in later batches.
    let trace = prop_oneof![(0..4u8).prop_map(|id| [id; 16]), any::<[u8; 16]>()];
    let batch = (0..3u8, 0..3u64, prop::collection::vec(trace, 0..40), any::<bool>());
    prop::collection::vec(batch, 1..30).prop_map(|batches| {
        let mut next = [0; 3];
        let batch = |(session, skip, traces, records): (u8, u64, Vec<[u8; 16]>, bool)| {
            let seq = next[session as usize] + skip;
            next[session as usize] = seq + 1;
            Batch { session: [session + 1; 16], seq, traces, records }
        };
        batches.into_iter().map(batch).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_went_in_is_found(batches in batches()) {
        let segment = seal(&batches);
        let layout = layout(&segment.index).unwrap();
        prop_assert_eq!((layout.first, u64::from(layout.leaves)), (FIRST, batches.len() as u64));
        prop_assert_eq!(layout.newest_ns, layout.end() - 1);
        let entries = EntriesFile::open(segment.entries.clone()).unwrap();
        let records = RecordsFile::open(segment.records.clone()).unwrap();
        prop_assert_eq!(entries.rows(), u64::from(layout.rows));
        prop_assert_eq!(records.rows(), u64::from(layout.records));

        let mut all = Vec::new();
        for (leaf, (header, expected, expected_records)) in (FIRST..).zip(&segment.parts) {
            let place = layout.leaf(at(&segment.index, layout.leaf_at(leaf).unwrap())).unwrap();
            prop_assert_eq!(&entries.read(place.rows.clone()).unwrap(), expected);
            prop_assert_eq!(&records.read(place.records.clone()).unwrap(), expected_records);
            let header = BatchHeader::decode(header).unwrap();
            let batch_leaf = BatchLeaf { received_ns: leaf, ..BatchLeaf::default() };
            prop_assert!(entries.holds(place.rows.clone(), leaf, &batch_leaf, &header, expected).unwrap());
            prop_assert!(records.holds(place.records, leaf, &header).unwrap());
            if !expected.is_empty() {
                let other = BatchLeaf { received_ns: leaf + 1000, ..BatchLeaf::default() };
                prop_assert!(!entries.holds(place.rows, leaf, &other, &header, expected).unwrap());
            }
            all.extend(expected.chunks(90).map(|entry| <[u8; 16]>::try_from(&entry[2..18]).unwrap()));
        }
        prop_assert_eq!(layout.leaf_at(FIRST + batches.len() as u64), None);
        for trace in &all {
            let expected: Vec<u32> =
                (0..).zip(&all).filter(|(_, t)| *t == trace).map(|(row, _)| row).collect();
            // Another trace may share the key: whoever looks compares the ids.
            let mut found = rows(&segment.index, trace);
            found.retain(|row| all[*row as usize] == *trace);
            prop_assert_eq!(found, expected);
        }

        let table = at(&segment.index, layout.sessions_table_at());
        for session in 1..4u8 {
            let of = |b: &&(u64, &Batch)| b.1.session == [session; 16];
            let numbered: Vec<_> = (FIRST..).zip(&batches).collect();
            let expected: Vec<_> = numbered.iter().filter(of).collect();
            let Some(run) = layout.session(table, &[session; 16]) else {
                prop_assert!(expected.is_empty());
                continue;
            };
            prop_assert_eq!(run.first_seq, expected[0].1.seq);
            prop_assert_eq!(run.last_seq, expected[expected.len() - 1].1.seq);
            let leaves = layout.run(at(&segment.index, layout.run_at(&run)));
            prop_assert_eq!(leaves, expected.iter().map(|(leaf, _)| *leaf).collect::<Vec<_>>());
        }
    }
}

#[test]
fn ranges_over_pages_and_row_groups_are_read_exactly() {
    let trace = |at: u32| -> [u8; 16] { std::array::from_fn(|i| (at >> (i % 4 * 8)) as u8 ^ 1) };
    let batches: Vec<_> = (0..30u32)
        .map(|seq| Batch {
            session: [1; 16],
            seq: seq.into(),
            traces: (0..5_000).map(|at| trace(seq * 5_000 + at)).collect(),
            records: seq % 3 == 0,
        })
        .collect();
    let segment = seal(&batches);
    let layout = layout(&segment.index).unwrap();
    let (entries, records) =
        (EntriesFile::open(segment.entries).unwrap(), RecordsFile::open(segment.records).unwrap());
    for (leaf, (_, expected, expected_records)) in (FIRST..).zip(&segment.parts) {
        let place = layout.leaf(at(&segment.index, layout.leaf_at(leaf).unwrap())).unwrap();
        assert_eq!(&entries.read(place.rows).unwrap(), expected);
        assert_eq!(&records.read(place.records).unwrap(), expected_records);
    }
    assert!(entries.read(149_999..150_001).is_err());
    let keys: usize = (0..1000).map(|at| rows(&segment.index, &trace(at)).len()).sum();
    assert!(keys < 1010, "few traces share a key: {keys}");
    // The filter is there to be wrong seldom.
    let unknown = (0..10_000u32).filter(|at| {
        let id = trace(*at | 1 << 31);
        layout.may_hold(&id, self::at(&segment.index, layout.bloom_block_at(&id).unwrap()))
    });
    assert!(unknown.count() < 400, "4 in 100 at most");
    let per_row = segment.index.len() as f64 / f64::from(layout.rows);
    assert!(per_row < 7.5, "{per_row} bytes of index per row");
}

#[test]
fn an_index_that_is_cut_or_of_another_kind_is_refused() {
    let batch = Batch { session: [1; 16], seq: 0, traces: vec![[5; 16]], records: true };
    let segment = seal(&[batch]);
    assert!(layout(&segment.index).is_ok());
    assert!(layout(&segment.index[..segment.index.len() - 1]).is_err());
    assert!(layout(&segment.index[..40]).is_err());
    let mut other = segment.index.clone();
    other[0] ^= 1;
    assert!(layout(&other).is_err());
    assert!(EntriesFile::open(segment.records).is_err(), "other columns");
    assert!(EntriesFile::open(segment.entries.slice(..segment.entries.len() - 1)).is_err());
}
