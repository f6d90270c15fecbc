//! Finding a session in a table: each range that is read is checked by what led to it.

use super::layout::{
    BLOCK_ROWS, BLOOM_LEN, FENCE_LEN, ROW_LEN, TableError, TableLayout, long, sum,
};
use crate::segment::{probes, trace_key};
use crate::session::Session;
use bytes::Bytes;
use meshchain_core::SessionId;
use std::ops::Range;

/// A table's fences and bloom filter: all of it that is kept in memory, some 13 bits per session.
#[derive(Debug, Clone)]
pub struct TableIndex {
    /// Its footer.
    pub layout: TableLayout,
    fences: Vec<Fence>,
    bloom: Bytes,
}

/// What leads to a block.
#[derive(Debug, Clone)]
struct Fence {
    first: SessionId,
    /// Where the block ends in the object; it begins where the one before it ends.
    end: u64,
    newest_ns: u64,
    /// Of its rows.
    sum: [u8; 16],
}

/// Sessions that follow each other by id: their states, then their rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Where it lies in the object.
    pub all: Range<u64>,
    /// Where its rows lie.
    pub rows: Range<u64>,
    /// The newest batch of one of its sessions that are not closed, unix nanoseconds.
    pub newest_ns: u64,
    sum: [u8; 16],
}

/// One session's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The session.
    pub id: SessionId,
    /// When its last batch was received, unix nanoseconds; 0 where that was a close.
    pub heard_ns: u64,
    /// Where its state lies in the object.
    pub state: Range<u64>,
    sum: [u8; 8],
}

impl TableIndex {
    pub(super) fn parse(
        layout: TableLayout,
        fences: &[u8],
        bloom: Bytes,
    ) -> Result<Self, TableError> {
        let (fences, _) = fences.as_chunks::<{ FENCE_LEN as usize }>();
        let fence = |bytes: &[u8; FENCE_LEN as usize]| {
            let (first, rest) = bytes.split_first_chunk()?;
            let (end, newest_ns) = (long(rest), long(&rest[8..]));
            Some(Fence { first: *first, end, newest_ns, sum: *rest.last_chunk()? })
        };
        let fences: Vec<Fence> = fences.iter().filter_map(fence).collect();
        let sorted = fences.is_sorted_by(|one, next| one.first < next.first && one.end <= next.end);
        let ends = fences.last().is_some_and(|last| last.end == layout.blocks);
        if sorted && ends { Ok(Self { layout, fences, bloom }) } else { Err(TableError) }
    }

    /// Whether the table may have the session; false for all but one in a hundred that it has not.
    pub fn may_hold(&self, id: &SessionId) -> bool {
        let (block, mut bits) = probes(trace_key(self.layout.name.seed, id), self.layout.bloom);
        let block = self.bloom.get(block as usize * BLOOM_LEN as usize..).unwrap_or_default();
        bits.all(|bit| block.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 1))
    }

    /// The block in which the session is, if the table has it.
    pub fn block_of(&self, id: &SessionId) -> usize {
        self.fences.partition_point(|fence| fence.first <= *id).saturating_sub(1)
    }

    /// A block; `None` behind the last.
    pub fn block(&self, at: usize) -> Option<Block> {
        let Fence { end, newest_ns, sum, .. } = *self.fences.get(at)?;
        let start = at.checked_sub(1).map_or(0, |before| self.fences[before].end);
        let before = u32::try_from(at).ok()?.checked_mul(BLOCK_ROWS)?;
        let count = self.layout.rows.checked_sub(before)?.min(BLOCK_ROWS);
        let rows = end.saturating_sub(u64::from(count) * ROW_LEN).max(start);
        Some(Block { all: start..end, rows: rows..end, newest_ns, sum })
    }

    /// The newest batch of a session that is not closed, unix nanoseconds; 0 where all are.
    pub fn newest_ns(&self) -> u64 {
        self.fences.iter().map(|fence| fence.newest_ns).max().unwrap_or(0)
    }
}

impl Block {
    /// Its rows, from the bytes at [`Block::rows`].
    pub fn read_rows(&self, bytes: &[u8]) -> Result<Vec<Row>, TableError> {
        if sum(bytes) != self.sum {
            return Err(TableError);
        }
        let (rows, _) = bytes.as_chunks::<{ ROW_LEN as usize }>();
        let mut start = self.all.start;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let (id, rest) = row.split_first_chunk().ok_or(TableError)?;
            let (heard_ns, end) = (long(rest), long(&rest[8..]) >> 32);
            let end = self.all.start + end;
            if end < start || end > self.rows.start {
                return Err(TableError);
            }
            let sum = *rest.last_chunk().ok_or(TableError)?;
            found.push(Row { id: *id, heard_ns, state: start..end, sum });
            start = end;
        }
        Ok(found)
    }

    /// Its rows and their states, from the bytes at [`Block::all`].
    pub fn read(&self, bytes: &Bytes) -> Result<Vec<(Row, Bytes)>, TableError> {
        let within = |at: &Range<u64>| {
            let cut = |at: u64| (at - self.all.start) as usize;
            bytes.get(cut(at.start)..cut(at.end)).map(|found| bytes.slice_ref(found))
        };
        let rows = self.read_rows(&within(&self.rows).ok_or(TableError)?)?;
        let states = rows.into_iter().map(|row| {
            let state = within(&row.state).filter(|state| sum(state) == row.sum);
            Ok((row, state.ok_or(TableError)?))
        });
        states.collect()
    }
}

impl Row {
    /// The session, from the bytes at [`Row::state`].
    pub fn session(&self, state: &[u8]) -> Result<Session, TableError> {
        match sum(state) == self.sum {
            true => serde_json::from_slice(state).map_err(|_| TableError),
            false => Err(TableError),
        }
    }
}
