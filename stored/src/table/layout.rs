//! The footer of a session table, which tells where everything is.

use super::index::TableIndex;
use crate::segment::SegmentName;
use bytes::Bytes;
use meshchain_core::Hash;
use sha2::{Digest, Sha256};
use std::ops::Range;
use thiserror::Error;

pub(super) const MAGIC: &[u8; 16] = b"meshchain-table1";
/// Sessions of a block: a look-up reads the rows of so many.
pub(super) const BLOCK_ROWS: u32 = 128;
pub(super) const ROW_LEN: u64 = 36;
pub(super) const FENCE_LEN: u64 = 48;
pub(super) const BLOOM_LEN: u64 = 64;
const FOOTER_LEN: u64 = 56;

/// A table that is not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a meshchain-table1 object, or damaged")]
pub struct TableError;

/// Path of the table of this name: `sessions/FIRST-END-SEED`.
pub fn table_path(name: &SegmentName) -> String {
    format!("sessions/{name}")
}

/// Parses a path as [`table_path`] prints it; `None` for any other spelling.
pub fn parse_table_path(path: &str) -> Option<SegmentName> {
    path.strip_prefix("sessions/")?.parse().ok()
}

/// The first bytes of the SHA-256 of `bytes`.
pub(super) fn sum<const N: usize>(bytes: &[u8]) -> [u8; N] {
    Sha256::digest(bytes).first_chunk().copied().unwrap_or([0; N])
}

/// The number that `bytes` begin with.
pub(super) fn long(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// What the footer says; it tells where everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableLayout {
    /// The leaves whose sessions it has, and the seed of its bloom filter.
    pub name: SegmentName,
    /// Number of sessions.
    pub rows: u32,
    /// Bytes of all blocks.
    pub(super) blocks: u64,
    /// Blocks of the bloom filter.
    pub(super) bloom: u32,
    /// SHA-256 over fences, bloom filter and footer.
    pub(super) sum: Hash,
}

impl TableLayout {
    /// Bytes to read at the end of the object.
    pub const TAIL: u64 = FOOTER_LEN + 32;

    /// Parses the last [`TableLayout::TAIL`] bytes of an object of `len` bytes. The sum is checked by
    /// [`TableLayout::index`].
    pub fn parse(tail: &[u8], len: u64) -> Result<Self, TableError> {
        let (footer, sum) = tail.split_at_checked(FOOTER_LEN as usize).ok_or(TableError)?;
        let (magic, fields) = footer.split_first_chunk().ok_or(TableError)?;
        let at = |at: usize| fields.get(8 * at..).map_or(0, long);
        let (first, end, seed) = (at(0), at(1), at(2));
        let this = Self {
            name: SegmentName { first, end, seed },
            blocks: at(3),
            rows: (at(4) >> 32) as u32,
            bloom: at(4) as u32,
            sum: sum.try_into().map_err(|_| TableError)?,
        };
        // Bounded, so that no sum overflows.
        let sane = first < end && this.rows > 0 && this.bloom > 0 && this.blocks <= len;
        if magic == MAGIC && sane && this.bytes() == len { Ok(this) } else { Err(TableError) }
    }

    pub(super) fn footer(&self) -> Vec<u8> {
        let SegmentName { first, end, seed } = self.name;
        let longs = [first, end, seed, self.blocks].map(u64::to_be_bytes);
        let counts = [self.rows, self.bloom].map(u32::to_be_bytes);
        [&MAGIC[..], longs.as_flattened(), counts.as_flattened()].concat()
    }

    fn fences_len(&self) -> u64 {
        u64::from(self.rows.div_ceil(BLOCK_ROWS)) * FENCE_LEN
    }

    /// Where fences and bloom filter lie.
    pub fn index_at(&self) -> Range<u64> {
        self.blocks..self.blocks + self.fences_len() + u64::from(self.bloom) * BLOOM_LEN
    }

    /// Length of the object.
    pub fn bytes(&self) -> u64 {
        self.index_at().end + Self::TAIL
    }

    /// The index, from the bytes at [`TableLayout::index_at`].
    pub fn index(&self, bytes: Bytes) -> Result<TableIndex, TableError> {
        let sum = Sha256::new().chain_update(&bytes).chain_update(self.footer()).finalize();
        let range = self.index_at();
        let whole = bytes.len() as u64 == range.end - range.start && sum[..] == self.sum;
        if !whole {
            return Err(TableError);
        }
        let fences = self.fences_len() as usize;
        TableIndex::parse(*self, &bytes[..fences], bytes.slice(fences..))
    }
}
