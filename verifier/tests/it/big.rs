//! Times on logs of a million entries: `cargo test --release -p meshchain -- --ignored --nocapture big`.

use crate::fsck::check;
use crate::grown::{Batch, Grown, batch, session_key};
use crate::sealing::{SEED, seal};
use meshchain::log::FsckVerdict;
use meshchain_core::leaf::{CHAIN_START, Signature, chain_hash, entry_hashes};
use meshchain_core::{BatchHeader, BatchLeaf, Canonical, Hash, merkle};
use meshchain_stored::{SegmentFile, SegmentName};
use std::time::Instant;

/// A batch with `calls` times the two entries of the fixture's.
fn wide(number: u64, calls: usize, prev: Hash) -> (Batch, Hash) {
    let small = batch(0, number, prev, number * 5, "reviews");
    let mut entries = small.entries.repeat(calls);
    for (at, entry) in entries.as_chunks_mut::<90>().0.iter_mut().enumerate() {
        // Its own trace for each call; the record says the fixture's, so records stay away.
        entry[2..10].copy_from_slice(&(number << 20 | at as u64).to_be_bytes());
    }
    let records = if calls == 1 { small.records.clone() } else { Vec::new() };
    let entries = if calls == 1 { small.entries.clone() } else { entries };
    let leaf = BatchLeaf::decode(&small.leaf).unwrap();
    let header = BatchHeader { count: 2 * calls as u32, ..leaf.parse_header().unwrap() };
    let header = header.encode();
    let chain = chain_hash(&prev, &header, &entries);
    let root = merkle::root(&entry_hashes(&entries));
    let signature = Signature(session_key(0).sign(&chain));
    let leaf = BatchLeaf { header: &header, chain, entries_root: root, signature, ..leaf }.encode();
    (Batch { leaf, entries, records }, chain)
}

#[test]
#[ignore = "a minute in release"]
fn big_logs_take_seconds() {
    for (leaves, calls) in [(1_000, 500), (100_000, 1)] {
        let mut log = Grown::new(0, 1);
        let mut chain = CHAIN_START;
        let batches = (0..leaves).map(|number| {
            let (batch, next) = wide(number, calls, chain);
            chain = next;
            batch
        });
        log.commit_batches(batches.collect());
        log.publish();
        seal(&log, &[leaves]);
        let start = Instant::now();
        let report = check(&log);
        println!("{leaves} leaves of {} entries: {:?}", 2 * calls, start.elapsed());
        assert_eq!(report.verdict, FsckVerdict::Clean, "{:#?}", report.notes);
        for part in [SegmentFile::Entries, SegmentFile::Records] {
            let path = SegmentName { first: 0, end: leaves, seed: SEED }.path(part);
            let mut bytes = log.read(&path);
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            log.write(&path, &bytes);
        }
        let start = Instant::now();
        let report = check(&log);
        println!("damaged, {} places: {:?}", report.damages.len(), start.elapsed());
    }
}
