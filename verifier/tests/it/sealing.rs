//! Sealing a grown log as a collector seals its own.

use crate::grown::Grown;
use meshchain_core::{BatchKind, BatchLeaf, Canonical, ENTRY_LEN, Hash, merkle};
use meshchain_stored::entries::EntriesWriter;
use meshchain_stored::records::RecordsWriter;
use meshchain_stored::{IndexBuilder, SegmentFile, SegmentName};
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
    let mut sessions: BTreeMap<String, Value> = BTreeMap::new();
    for (at, batch) in leaves.iter().enumerate() {
        let leaf = BatchLeaf::decode(&batch.leaf).unwrap();
        let header = leaf.parse_header().unwrap();
        let before = sessions.get(&hex::encode(header.session)).cloned();
        let number = |field: &str| before.as_ref().map_or(0, |s| s[field].as_u64().unwrap());
        let next = before.as_ref().map_or(0, |_| number("last_seq") + 1);
        let s = header.source;
        let session = json!({
            "first_leaf": before.as_ref().map_or(at as u64, |_| number("first_leaf")),
            "batches": number("batches") + 1,
            "last_seq": header.seq,
            "chain": hex::encode(leaf.chain),
            "entries": number("entries") + u64::from(header.count),
            "missing": number("missing") + header.seq - next,
            "dropped": [],
            "notices": [],
            "last_received_ns": leaf.received_ns,
            "source": [s.mesh, s.cluster, s.namespace, s.workload, s.pod, s.revision, s.filter],
            "principal": String::from_utf8_lossy(leaf.principal),
            "closed": header.kind == BatchKind::Close,
        });
        sessions.insert(hex::encode(header.session), session);
    }
    json!({
        "version": 1,
        "writer": "0123456789abcdef",
        "segments": names(ends).iter().map(SegmentName::to_string).collect::<Vec<_>>(),
        "root": hex::encode(merkle::root(&hashes)),
        "sessions": sessions.into_iter().collect::<Vec<_>>(),
    })
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
