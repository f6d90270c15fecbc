//! Builds the index of a segment, leaf by leaf. The same leaves and seed make the same bytes.

use super::index::{HEADER_LEN, ITEM_BITS, KEY_BITS, MAGIC, SESSION_LEN, probes, trace_key};
use meshchain_core::hash;
use std::collections::BTreeMap;

/// Most rows that a segment can have: an item has 24 bits for the row.
pub const MAX_ROWS: u32 = 1 << 24;
/// Items that a bucket holds on average.
const BUCKET_ITEMS: u32 = 256;
/// Bits of bloom filter per trace.
const BLOOM_BITS: usize = 10;

/// The index of a segment in the making.
#[derive(Debug)]
pub struct IndexBuilder {
    first: u64,
    seed: u64,
    newest_ns: u64,
    /// First row and first record of each leaf.
    leaves: Vec<(u32, u32)>,
    records: u32,
    /// Key and row, packed so that they sort by key, then row.
    rows: Vec<u64>,
    /// Per session the seqs and leaves, both ascending.
    sessions: BTreeMap<[u8; 16], Vec<(u64, u32)>>,
}

impl IndexBuilder {
    /// An index of leaves from `first` on, with keys under `seed`.
    pub fn new(first: u64, seed: u64) -> Self {
        Self {
            first,
            seed,
            newest_ns: 0,
            leaves: Vec::new(),
            records: 0,
            rows: Vec::new(),
            sessions: BTreeMap::new(),
        }
    }

    /// Number of leaves so far.
    pub fn leaves(&self) -> u32 {
        self.leaves.len() as u32
    }

    /// Number of rows so far; the caller ends the segment before [`MAX_ROWS`].
    pub fn rows(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Takes in the next leaf.
    pub fn leaf<'a>(
        &mut self,
        session: &[u8; 16],
        seq: u64,
        received_ns: u64,
        trace_ids: impl IntoIterator<Item = &'a [u8; 16]>,
        records: u32,
    ) {
        let leaf = self.leaves();
        self.leaves.push((self.rows(), self.records));
        for id in trace_ids {
            let row = self.rows.len() as u64;
            self.rows.push(trace_key(self.seed, id) << ITEM_BITS | row);
        }
        self.records += records;
        self.newest_ns = self.newest_ns.max(received_ns);
        self.sessions.entry(*session).or_default().push((seq, leaf));
    }

    /// The object.
    pub fn finish(mut self) -> Vec<u8> {
        self.rows.sort_unstable();
        let keys = |rows: &[u64]| rows.iter().map(|r| r >> ITEM_BITS).collect::<Vec<u64>>();
        let mut distinct = keys(&self.rows);
        distinct.dedup();
        let bloom = bloom(&distinct);
        let blocks = (bloom.len() / 64) as u32;
        let bits = bits_for(self.rows());

        let mut out = Vec::with_capacity(self.rows.len() * 8 + self.leaves.len() * 16 + 4096);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.first.to_be_bytes());
        out.extend_from_slice(&self.newest_ns.to_be_bytes());
        let sessions = self.sessions.len() as u32;
        for word in [self.leaves(), self.rows(), self.records, sessions, blocks, bits] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(&self.seed.to_be_bytes());
        assert_eq!(out.len() as u64, HEADER_LEN);
        let totals = (self.rows(), self.records);
        for (row, record) in self.leaves.iter().chain([&totals]) {
            out.extend_from_slice(&row.to_be_bytes());
            out.extend_from_slice(&record.to_be_bytes());
        }
        out.extend_from_slice(&bloom);
        put_items(&mut out, &self.rows, bits);
        put_sessions(&mut out, &self.sessions);
        let sum = hash::tagged(&[], &[&out]);
        out.extend_from_slice(&sum);
        out
    }
}

/// Bucket bits for so many rows: about [`BUCKET_ITEMS`] in each.
fn bits_for(rows: u32) -> u32 {
    (rows / BUCKET_ITEMS).max(2).ilog2().min(KEY_BITS - ITEM_BITS)
}

/// A bloom filter of distinct keys.
pub(crate) fn bloom(keys: &[u64]) -> Vec<u8> {
    let blocks = (keys.len() * BLOOM_BITS).div_ceil(512) as u32;
    let mut bloom = vec![0; blocks as usize * 64];
    for key in keys {
        let (block, bits) = probes(*key, blocks);
        for bit in bits {
            bloom[block as usize * 64 + bit / 8] |= 1 << (bit % 8);
        }
    }
    bloom
}

fn put_items(out: &mut Vec<u8>, rows: &[u64], bits: u32) {
    let bucket_of = |packed: u64| packed >> (ITEM_BITS + KEY_BITS - bits);
    let mut next = 0;
    for bucket in 0..=1u64 << bits {
        next += rows[next..].partition_point(|row| bucket_of(*row) < bucket);
        out.extend_from_slice(&(next as u32).to_be_bytes());
    }
    for packed in rows {
        let key = (packed >> (KEY_BITS - bits)) as u32;
        out.extend_from_slice(&key.to_be_bytes()[1..]);
        out.extend_from_slice(&(*packed as u32).to_be_bytes()[1..]);
    }
}

fn put_sessions(out: &mut Vec<u8>, sessions: &BTreeMap<[u8; 16], Vec<(u64, u32)>>) {
    let mut start = 0u32;
    for (id, batches) in sessions {
        let seq = |batch: Option<&(u64, u32)>| batch.map_or(0, |(seq, _)| *seq);
        let before = out.len();
        out.extend_from_slice(id);
        out.extend_from_slice(&seq(batches.first()).to_be_bytes());
        out.extend_from_slice(&seq(batches.last()).to_be_bytes());
        out.extend_from_slice(&start.to_be_bytes());
        assert_eq!((out.len() - before) as u64, SESSION_LEN);
        start += batches.len() as u32;
    }
    for (_, leaf) in sessions.values().flatten() {
        out.extend_from_slice(&leaf.to_be_bytes());
    }
}
