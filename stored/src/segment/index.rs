//! The index object: where a trace's rows and a session's batches are, found by a few small reads.
//!
//! ```text
//! header   "meshchain-index1" | first leaf u64 | newest u64 | leaves u32 | rows u32 | records u32
//!          sessions u32 | bloom blocks u32 | bucket bits u32 | seed u64                   64 B
//! leaves   (leaves + 1) x { first row u32, first record u32 }     the last holds the totals
//! bloom    bloom blocks x 64 B
//! buckets  (2^bucket bits + 1) x first item u32
//! items    rows x { key u24, row u24 }                            ascending within a bucket
//! sessions sessions x { id 16 B, first seq u64, last seq u64, first run u32 }    by id
//! runs     leaves x leaf u32, less the first leaf                 by session, ascending
//! SHA-256 over all before                                                                 32 B
//! ```
//!
//! Numbers are big-endian. A trace's key is the upper 40 bits of xxHash64 of its id under `seed`: the
//! upper `bucket bits` of the key choose the bucket, the lower 24 are in the item. Different traces
//! may share a key, so whoever finds a row compares the trace id in it.

use super::name::SegmentName;
use std::ops::Range;
use thiserror::Error;
use twox_hash::XxHash64;

pub(crate) const MAGIC: &[u8; 16] = b"meshchain-index1";
pub(crate) const HEADER_LEN: u64 = 64;
pub(crate) const LEAF_LEN: u64 = 8;
pub(crate) const BLOCK_LEN: u64 = 64;
pub(crate) const BUCKET_LEN: u64 = 4;
pub(crate) const ITEM_LEN: u64 = 6;
pub(crate) const SESSION_LEN: u64 = 36;
pub(crate) const RUN_LEN: u64 = 4;
pub(crate) const KEY_BITS: u32 = 40;
pub(crate) const ITEM_BITS: u32 = 24;
/// Bits that a key sets in its bloom block.
const PROBES: u32 = 6;

/// An index that is not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a meshchain-index1 object, or damaged")]
pub struct IndexError;

/// What the header says; it tells where everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// First leaf of the segment.
    pub first: u64,
    /// When the newest of its batches was received, unix nanoseconds.
    pub newest_ns: u64,
    /// Number of leaves.
    pub leaves: u32,
    /// Number of entries.
    pub rows: u32,
    /// Number of records.
    pub records: u32,
    pub(crate) sessions: u32,
    pub(crate) blocks: u32,
    pub(crate) bits: u32,
    pub(crate) seed: u64,
}

/// Rows and records of one leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRange {
    /// Rows of the entries file.
    pub rows: Range<u32>,
    /// Rows of the records file.
    pub records: Range<u32>,
}

/// The items of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Where they lie in the object.
    pub items: Range<u64>,
    key: u32,
}

/// A session's batches in this segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRun {
    /// Seq of the first.
    pub first_seq: u64,
    /// Seq of the last.
    pub last_seq: u64,
    start: u32,
    end: u32,
}

/// A trace's key under a seed.
pub fn trace_key(seed: u64, trace_id: &[u8; 16]) -> u64 {
    XxHash64::oneshot(seed, trace_id) >> (64 - KEY_BITS)
}

/// A second hash, independent of the first.
fn mixed(key: u64) -> u64 {
    XxHash64::oneshot(0, &key.to_be_bytes())
}

/// (block, bits within it) of a key in a filter of `blocks` blocks.
pub(crate) fn probes(key: u64, blocks: u32) -> (u32, impl Iterator<Item = usize>) {
    let hash = mixed(key);
    let block = ((hash >> 32) * u64::from(blocks)) >> 32;
    let mut bits = mixed(hash);
    let probes = (0..PROBES).map(move |_| {
        let bit = (bits & 511) as usize;
        bits >>= 9;
        bit
    });
    (block as u32, probes)
}

impl Layout {
    /// Bytes to read at the start of the object.
    pub const LEN: u64 = HEADER_LEN;

    /// Parses the first [`Layout::LEN`] bytes; `len` is the length of the object.
    pub fn parse(header: &[u8], len: u64) -> Result<Self, IndexError> {
        let header: &[u8; 64] = header.first_chunk().ok_or(IndexError)?;
        let (magic, fields) = header.split_first_chunk().ok_or(IndexError)?;
        let (words, _) = fields.as_chunks::<4>();
        let word = |at: usize| words.get(at).map_or(0, |w| u32::from_be_bytes(*w));
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 1));
        let this = Self {
            first: long(0),
            newest_ns: long(2),
            leaves: word(4),
            rows: word(5),
            records: word(6),
            sessions: word(7),
            blocks: word(8),
            bits: word(9),
            seed: long(10),
        };
        let bits = 1..=KEY_BITS - ITEM_BITS;
        let sane = magic == MAGIC && bits.contains(&this.bits) && this.leaves > 0;
        if sane && this.bytes() == len { Ok(this) } else { Err(IndexError) }
    }

    /// The segment's name.
    pub fn name(&self) -> SegmentName {
        SegmentName { first: self.first, end: self.end(), seed: self.seed }
    }

    /// The leaf after the segment's last.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.leaves)
    }

    /// Length of the object.
    pub fn bytes(&self) -> u64 {
        self.runs_at() + u64::from(self.leaves) * RUN_LEN + 32
    }

    fn bloom_at(&self) -> u64 {
        HEADER_LEN + (u64::from(self.leaves) + 1) * LEAF_LEN
    }

    fn buckets_at(&self) -> u64 {
        self.bloom_at() + u64::from(self.blocks) * BLOCK_LEN
    }

    fn items_at(&self) -> u64 {
        self.buckets_at() + ((1 << self.bits) + 1) * BUCKET_LEN
    }

    fn sessions_at(&self) -> u64 {
        self.items_at() + u64::from(self.rows) * ITEM_LEN
    }

    fn runs_at(&self) -> u64 {
        self.sessions_at() + u64::from(self.sessions) * SESSION_LEN
    }

    /// Where a leaf's place lies; `None` for a leaf that is not of this segment.
    pub fn leaf_at(&self, leaf: u64) -> Option<Range<u64>> {
        let within = leaf.checked_sub(self.first).filter(|l| *l < self.leaves.into())?;
        let start = HEADER_LEN + within * LEAF_LEN;
        Some(start..start + 2 * LEAF_LEN)
    }

    /// Rows and records of the leaf, from the bytes at [`Layout::leaf_at`].
    pub fn leaf(&self, bytes: &[u8]) -> Result<RowRange, IndexError> {
        let [rows, records, rows_end, records_end] = words::<4>(bytes)?;
        let sane = rows <= rows_end
            && rows_end <= self.rows
            && records <= records_end
            && records_end <= self.records;
        if !sane {
            return Err(IndexError);
        }
        Ok(RowRange { rows: rows..rows_end, records: records..records_end })
    }

    /// All places of leaves: first rows and records, and the totals at the end.
    pub fn leaves_at(&self) -> Range<u64> {
        HEADER_LEN..self.bloom_at()
    }

    /// The places of some ascending rows, (leaf, index within it), from the bytes at
    /// [`Layout::leaves_at`].
    pub fn places(&self, leaves: &[u8], rows: &[u32]) -> Vec<(u64, u32)> {
        let (starts, _) = leaves.as_chunks::<{ LEAF_LEN as usize }>();
        let start = |at: &[u8; 8]| at.first_chunk().map_or(0, |row| u32::from_be_bytes(*row));
        let place = |row: &u32| {
            // Leaves without rows start where the next one does: the last that starts there has it.
            let leaf = starts.partition_point(|at| start(at) <= *row).checked_sub(1)?;
            Some((self.first + leaf as u64, row - start(&starts[leaf])))
        };
        rows.iter().filter_map(place).collect()
    }

    /// Where the bloom block of a trace lies; `None` where there are no rows.
    pub fn bloom_block_at(&self, trace_id: &[u8; 16]) -> Option<Range<u64>> {
        if self.blocks == 0 {
            return None;
        }
        let (block, _) = probes(trace_key(self.seed, trace_id), self.blocks);
        let start = self.bloom_at() + u64::from(block) * BLOCK_LEN;
        Some(start..start + BLOCK_LEN)
    }

    /// Whether the trace may have rows here, from the bytes at [`Layout::bloom_block_at`].
    pub fn may_hold(&self, trace_id: &[u8; 16], block: &[u8]) -> bool {
        let (_, mut bits) = probes(trace_key(self.seed, trace_id), self.blocks);
        bits.all(|bit| block.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 1))
    }

    /// Where the bounds of a trace's bucket lie.
    pub fn bucket_at(&self, trace_id: &[u8; 16]) -> Range<u64> {
        let bucket = trace_key(self.seed, trace_id) >> (KEY_BITS - self.bits);
        let start = self.buckets_at() + bucket * BUCKET_LEN;
        start..start + 2 * BUCKET_LEN
    }

    /// The bucket, from the bytes at [`Layout::bucket_at`].
    pub fn bucket(&self, trace_id: &[u8; 16], bounds: &[u8]) -> Result<Bucket, IndexError> {
        let [start, end] = words::<2>(bounds)?;
        if start > end || end > self.rows {
            return Err(IndexError);
        }
        let at = |item: u32| self.items_at() + u64::from(item) * ITEM_LEN;
        let key = (trace_key(self.seed, trace_id) >> (KEY_BITS - self.bits - ITEM_BITS)) as u32;
        Ok(Bucket { items: at(start)..at(end), key: key & ((1 << ITEM_BITS) - 1) })
    }

    /// Where the table of sessions lies.
    pub fn sessions_table_at(&self) -> Range<u64> {
        self.sessions_at()..self.runs_at()
    }

    /// A session's batches, from the bytes at [`Layout::sessions_table_at`].
    pub fn session(&self, table: &[u8], session: &[u8; 16]) -> Option<SessionRun> {
        let (rows, _) = table.as_chunks::<{ SESSION_LEN as usize }>();
        let at = rows.binary_search_by(|row| row[..16].cmp(session)).ok()?;
        let long = |at: usize, row: &[u8; 36]| {
            row[at..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
        };
        let start = |row: &[u8; 36]| row[32..].first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
        let row = &rows[at];
        let end = rows.get(at + 1).map_or(self.leaves, start);
        let run = SessionRun {
            first_seq: long(16, row),
            last_seq: long(24, row),
            start: start(row),
            end,
        };
        (run.start < run.end && run.end <= self.leaves).then_some(run)
    }

    /// Where the leaves of a session lie.
    pub fn run_at(&self, run: &SessionRun) -> Range<u64> {
        let at = |index: u32| self.runs_at() + u64::from(index) * RUN_LEN;
        at(run.start)..at(run.end)
    }

    /// A session's leaves, ascending, from the bytes at [`Layout::run_at`].
    pub fn run(&self, bytes: &[u8]) -> Vec<u64> {
        let (leaves, _) = bytes.as_chunks();
        leaves.iter().map(|leaf| self.first + u64::from(u32::from_be_bytes(*leaf))).collect()
    }
}

impl Bucket {
    /// Rows with the trace's key, ascending, from the bytes at `items`.
    pub fn rows(&self, items: &[u8]) -> Vec<u32> {
        let (items, _) = items.as_chunks::<{ ITEM_LEN as usize }>();
        let number = |b: &[u8]| u32::from(b[0]) << 16 | u32::from(b[1]) << 8 | u32::from(b[2]);
        let start = items.partition_point(|item| number(item) < self.key);
        let same = items[start..].iter().take_while(|item| number(&item[..3]) == self.key);
        let mut rows: Vec<u32> = same.map(|item| number(&item[3..])).collect();
        // Keys that differ below the bits of an item stand before rows.
        rows.sort_unstable();
        rows
    }
}

fn words<const N: usize>(bytes: &[u8]) -> Result<[u32; N], IndexError> {
    let (words, rest) = bytes.as_chunks();
    let words: &[[u8; 4]; N] = words.try_into().map_err(|_| IndexError)?;
    if rest.is_empty() { Ok(words.map(u32::from_be_bytes)) } else { Err(IndexError) }
}
