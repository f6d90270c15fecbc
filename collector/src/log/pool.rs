//! The staging bundle: all that one commit adds to the log, as one object.
//!
//! ```text
//! "meshchain-pool/1"  16 B
//! per leaf:  leaf length u32 | entries length u32 | records length u32    big-endian
//!            leaf | entries | records, each behind its length u32
//! SHA-256 over all before, 32 B
//! ```
//!
//! Its name is the index of its first leaf. It is durable before the commit, and stays as the home
//! of entries and records.

use crate::batch::Checked;
use meshchain_core::{BatchLeaf, Canonical, Hash, hash};
use std::ops::Range;
use thiserror::Error;

const MAGIC: &[u8; 16] = b"meshchain-pool/1";

/// A bundle that is not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PoolError {
    /// Too short, or another format.
    #[error("not a meshchain-pool/1 object")]
    Format,
    /// The hash at its end is not that of its bytes.
    #[error("damaged: its SHA-256 does not fit")]
    Damaged,
    /// The lengths in it do not add up.
    #[error("malformed at byte {0}")]
    Malformed(usize),
}

/// Where one leaf's parts lie in a bundle, byte ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafSlices {
    /// Canonical batch leaf.
    pub leaf: Range<usize>,
    /// Entries.
    pub entries: Range<usize>,
    /// Records, each behind its length.
    pub records: Range<usize>,
}

/// Name of the bundle whose first leaf is `first`.
pub fn name(first: u64) -> String {
    format!("pool/{first:020}")
}

/// The leaf index in a bundle's name.
pub fn first_of(name: &str) -> Option<u64> {
    name.strip_prefix("pool/")?.parse().ok()
}

/// Builds bundles leaf by leaf.
pub struct PoolWriter {
    bytes: Vec<u8>,
    leaves: Vec<LeafSlices>,
}

impl Default for PoolWriter {
    fn default() -> Self {
        Self { bytes: MAGIC.to_vec(), leaves: Vec::new() }
    }
}

impl PoolWriter {
    /// Appends a batch as accepted at `received_ns`; its leaf bytes.
    pub fn push(&mut self, batch: &Checked, received_ns: u64) -> &[u8] {
        let leaf = BatchLeaf {
            header: &batch.header,
            prev: batch.prev,
            chain: batch.chain,
            entries_root: batch.entries_root,
            principal: batch.principal.as_bytes(),
            received_ns,
        }
        .encode();
        let records: usize = batch.records.iter().map(|r| r.len() + 4).sum();
        for length in [leaf.len(), batch.entries.len(), records] {
            self.put_length(length);
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&leaf);
        let entries = self.bytes.len();
        self.bytes.extend_from_slice(&batch.entries);
        let after = self.bytes.len();
        for record in &batch.records {
            self.put_length(record.len());
            self.bytes.extend_from_slice(record);
        }
        let slices = LeafSlices {
            leaf: start..entries,
            entries: entries..after,
            records: after..self.bytes.len(),
        };
        self.leaves.push(slices);
        &self.bytes[start..entries]
    }

    fn put_length(&mut self, length: usize) {
        self.bytes.extend_from_slice(&(length as u32).to_be_bytes());
    }

    /// The object, and where its leaves lie.
    pub fn finish(mut self) -> (Vec<u8>, Vec<LeafSlices>) {
        let sum = hash::tagged(&[], &[&self.bytes]);
        self.bytes.extend_from_slice(&sum);
        (self.bytes, self.leaves)
    }
}

/// Checks a bundle and finds its leaves.
pub fn parse(bytes: &[u8]) -> Result<Vec<LeafSlices>, PoolError> {
    let (body, sum) = bytes.split_last_chunk::<32>().ok_or(PoolError::Format)?;
    if !body.starts_with(MAGIC) {
        return Err(PoolError::Format);
    }
    if hash::tagged(&[], &[body]) != Hash::from(*sum) {
        return Err(PoolError::Damaged);
    }
    let mut leaves = Vec::new();
    let mut at = MAGIC.len();
    while at < body.len() {
        let malformed = PoolError::Malformed(at);
        let mut lengths = [0; 3];
        for length in &mut lengths {
            let (bytes, _) = body[at..].split_first_chunk::<4>().ok_or(malformed)?;
            *length = u32::from_be_bytes(*bytes) as usize;
            at += 4;
        }
        let ends = lengths.map(|length| {
            at = at.saturating_add(length);
            at
        });
        if at > body.len() {
            return Err(malformed);
        }
        let start = ends[0] - lengths[0];
        leaves.push(LeafSlices {
            leaf: start..ends[0],
            entries: ends[0]..ends[1],
            records: ends[1]..ends[2],
        });
    }
    Ok(leaves)
}

/// The `index`-th record of a leaf's records; `None` where there are none.
pub fn nth_record(mut records: &[u8], index: usize) -> Option<&[u8]> {
    for skipped in 0.. {
        let (length, rest) = records.split_first_chunk::<4>()?;
        let (record, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        if skipped == index {
            return Some(record);
        }
        records = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(records: Vec<Vec<u8>>) -> Checked {
        Checked {
            header: b"h".to_vec(),
            session: [1; 16],
            seq: 0,
            prev: [0; 32],
            chain: [2; 32],
            entries_root: [3; 32],
            entries: vec![7; 180],
            records,
            principal: String::new(),
        }
    }

    #[test]
    fn parse_of_finish_finds_the_leaves_and_every_flipped_byte_is_seen() {
        let mut writer = PoolWriter::default();
        writer.push(&batch(vec![b"one".to_vec(), b"two".to_vec()]), 5);
        writer.push(&batch(vec![]), 6);
        let (bytes, slices) = writer.finish();
        assert_eq!(parse(&bytes).as_ref(), Ok(&slices));
        assert_eq!(nth_record(&bytes[slices[0].records.clone()], 1), Some(&b"two"[..]));
        assert_eq!(nth_record(&bytes[slices[0].records.clone()], 2), None);
        assert_eq!(nth_record(&bytes[slices[1].records.clone()], 0), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(parse(&damaged).is_err(), "byte {at}");
        }
        assert_eq!(parse(&bytes[..60]), Err(PoolError::Damaged));
        assert_eq!(parse(b""), Err(PoolError::Format));
    }
}
