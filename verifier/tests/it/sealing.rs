//! Sealing a grown log as a collector seals its own.

use crate::grown::Grown;
use meshchain_core::{BatchLeaf, Canonical, ENTRY_LEN, Hash, SessionId, merkle};
use meshchain_stored::entries::EntriesWriter;
use meshchain_stored::records::RecordsWriter;
use meshchain_stored::{IndexBuilder, SegmentFile, SegmentName, Session, TableWriter, table_path};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// 600 leaves, 50 per commit; sealed to 300 and to 450, the rest in pools.
pub(crate) fn sealed() -> Grown {
    let log = Grown::new(600, 50);
    seal(&log, &[300, 450]);
    log
}

/// The seed of all indexes here.
pub(crate) const SEED: u64 = 0x0123_4567_89ab_cdef;

/// The segments that end there.
pub(crate) fn names(ends: &[u64]) -> Vec<SegmentName> {
    let firsts = [0].iter().chain(ends);
    firsts.zip(ends).map(|(&first, &end)| SegmentName { first, end, seed: SEED }).collect()
}

/// Makes segments that end there, and deletes their pools.
pub(crate) fn seal(log: &Grown, ends: &[u64]) {
    for name in names(ends) {
        segment(log, name);
        table(log, name);
        for pool in log.pools.iter().filter(|pool| (name.first..name.end).contains(*pool)) {
            std::fs::remove_file(log.path(&log.pool_file(*pool))).unwrap();
        }
    }
    log.write("sealed", state(log, ends).to_string().as_bytes());
}

/// The object `sealed` of a log that is sealed to there.
pub(crate) fn state(log: &Grown, ends: &[u64]) -> Value {
    let leaves = &log.batches[..*ends.last().unwrap() as usize];
    let hashes: Vec<Hash> = leaves.iter().map(|batch| merkle::leaf_hash(&batch.leaf)).collect();
    let tables: Vec<_> = names(ends).iter().map(SegmentName::to_string).collect();
    json!({
        "version": 2,
        "writer": "0123456789abcdef",
        "segments": tables,
        "root": hex::encode(merkle::root(&hashes)),
        "sessions": tables,
    })
}

/// The table of the sessions of a segment.
fn table(log: &Grown, name: SegmentName) {
    let mut sessions: BTreeMap<SessionId, (u64, Session)> = BTreeMap::new();
    for (at, batch) in (0..name.end).zip(&log.batches) {
        let leaf = BatchLeaf::decode(&batch.leaf).unwrap();
        let header = leaf.parse_header().unwrap();
        let (last, session) = sessions.entry(header.session).or_default();
        *last = at;
        session.record(&leaf, &header, at);
    }
    let mut writer = TableWriter::new(Vec::new(), name);
    for (id, (_, session)) in sessions.iter().filter(|(_, (last, _))| *last >= name.first) {
        writer.push(id, session).unwrap();
    }
    log.write(&table_path(&name), &writer.finish().unwrap().0);
}

/// Every eleventh batch came without records.
fn segment(log: &Grown, name: SegmentName) {
    let mut index = IndexBuilder::new(name.first, name.seed);
    let mut entries = EntriesWriter::new(Vec::new()).unwrap();
    let mut records = RecordsWriter::new(Vec::new()).unwrap();
    for at in name.first..name.end {
        let batch = &log.batches[at as usize];
        let leaf = BatchLeaf::decode(&batch.leaf).unwrap();
        let header = leaf.parse_header().unwrap();
        entries.push(at, &leaf, &header, &batch.entries).unwrap();
        let (mut rest, mut count) = (&batch.records[..], 0);
        while at % 11 != 3 && !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<4>().unwrap();
            let (record, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            records.push(at, count, &header, record).unwrap();
            (rest, count) = (after, count + 1);
        }
        let traces = batch.entries.as_chunks::<ENTRY_LEN>().0.iter();
        let traces = traces.filter_map(|entry| entry[2..].first_chunk());
        index.leaf(&header.session, header.seq, leaf.received_ns, traces, count);
    }
    log.write(&name.path(SegmentFile::Entries), &entries.finish().unwrap());
    log.write(&name.path(SegmentFile::Records), &records.finish().unwrap());
    log.write(&name.path(SegmentFile::Index), &index.finish());
}
