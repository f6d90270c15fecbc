//! Writes a session table, session by session. The same states and name make the same bytes.

use super::layout::{BLOCK_ROWS, ROW_LEN, TableLayout, sum};
use crate::segment::{SegmentName, bloom, trace_key};
use crate::session::Session;
use meshchain_core::SessionId;
use sha2::{Digest, Sha256};
use std::io::{self, Write};

/// When a session that is not closed was last heard of; 0 for one that is.
pub fn heard(session: &Session) -> u64 {
    if session.closed { 0 } else { session.last_received_ns }
}

/// A table in the making. It keeps some 8 bytes of each session in memory.
pub struct TableWriter<W: Write> {
    out: W,
    name: SegmentName,
    /// Bytes before the block in the making.
    blocks: u64,
    /// Bytes of its states.
    states: u64,
    rows: Vec<u8>,
    newest_ns: u64,
    fences: Vec<u8>,
    /// In the bloom filter.
    keys: Vec<u64>,
}

impl<W: Write> TableWriter<W> {
    /// A table of this name, which goes to `out`.
    pub fn new(out: W, name: SegmentName) -> Self {
        let (rows, fences, keys) = (Vec::new(), Vec::new(), Vec::new());
        Self { out, name, blocks: 0, states: 0, rows, newest_ns: 0, fences, keys }
    }

    /// Appends a session; they come by id.
    pub fn push(&mut self, id: &SessionId, session: &Session) -> io::Result<()> {
        self.push_state(id, heard(session), &serde_json::to_vec(session)?)
    }

    /// Appends a session as another table has it.
    pub fn push_state(&mut self, id: &SessionId, heard_ns: u64, state: &[u8]) -> io::Result<()> {
        self.out.write_all(state)?;
        self.states += state.len() as u64;
        let end = u32::try_from(self.states).map_err(io::Error::other)?;
        self.rows.extend_from_slice(id);
        self.rows.extend_from_slice(&heard_ns.to_be_bytes());
        self.rows.extend_from_slice(&end.to_be_bytes());
        self.rows.extend_from_slice(&sum::<8>(state));
        self.newest_ns = self.newest_ns.max(heard_ns);
        self.keys.push(trace_key(self.name.seed, id));
        if self.rows.len() as u64 == u64::from(BLOCK_ROWS) * ROW_LEN {
            self.end_block()?;
        }
        Ok(())
    }

    fn end_block(&mut self) -> io::Result<()> {
        self.out.write_all(&self.rows)?;
        self.blocks += self.states + self.rows.len() as u64;
        self.fences.extend_from_slice(&self.rows[..16]);
        self.fences.extend_from_slice(&self.blocks.to_be_bytes());
        self.fences.extend_from_slice(&self.newest_ns.to_be_bytes());
        self.fences.extend_from_slice(&sum::<16>(&self.rows));
        (self.states, self.newest_ns) = (0, 0);
        self.rows.clear();
        Ok(())
    }

    /// Ends the table.
    pub fn finish(mut self) -> io::Result<(W, TableLayout)> {
        if !self.rows.is_empty() {
            self.end_block()?;
        }
        let bloom = bloom(&self.keys);
        let mut layout = TableLayout {
            name: self.name,
            rows: u32::try_from(self.keys.len()).map_err(io::Error::other)?,
            blocks: self.blocks,
            bloom: (bloom.len() / 64) as u32,
            sum: [0; 32],
        };
        let mut sum = Sha256::new();
        for part in [self.fences, bloom, layout.footer()] {
            sum.update(&part);
            self.out.write_all(&part)?;
        }
        layout.sum = sum.finalize().into();
        self.out.write_all(&layout.sum)?;
        Ok((self.out, layout))
    }
}
