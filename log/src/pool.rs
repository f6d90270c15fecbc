//! The staging bundle: all that one commit adds to the log, as one object.
//!
//! ```text
//! "meshchain-pool/1"  16 B
//! per leaf:  leaf length u32 | entries length u32 | records length u32    big-endian
//!            leaf | entries | records, each behind its length u32
//! SHA-256 over all before, 32 B
//! ```
//!
//! Its name is the index of its first leaf and the start of that hash: a bundle that was written and
//! never committed cannot stand in the way of another one for the same place. It is durable before
//! the commit, and the home of entries and records until they are sealed into a segment.

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

/// Where one leaf's parts lie in a bundle: one behind the other from `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafSlices {
    start: u32,
    leaf: u32,
    entries: u32,
    records: u32,
}

impl LeafSlices {
    fn range(start: u32, length: u32) -> Range<usize> {
        start as usize..start as usize + length as usize
    }

    /// Canonical batch leaf.
    pub fn leaf(&self) -> Range<usize> {
        Self::range(self.start, self.leaf)
    }

    /// Entries.
    pub fn entries(&self) -> Range<usize> {
        Self::range(self.start + self.leaf, self.entries)
    }

    /// Records, each behind its length.
    pub fn records(&self) -> Range<usize> {
        Self::range(self.start + self.leaf + self.entries, self.records)
    }

    /// All three.
    pub fn all(&self) -> Range<usize> {
        self.leaf().start..self.records().end
    }
}

/// Name of a bundle: its first leaf, and the hash at its end.
pub fn name(first: u64, sum: &Hash) -> String {
    format!("pool/{first:020}-{}", hex::encode(&sum[..8]))
}

/// The leaf index in a bundle's name; `None` for what is no bundle's name.
pub fn first_of(name: &str) -> Option<u64> {
    let (first, sum) = name.strip_prefix("pool/")?.split_once('-')?;
    let sized = first.len() == 20 && sum.len() == 16;
    if sized { first.parse().ok() } else { None }
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
            public_key: batch.public_key,
            signature: batch.signature,
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
            start: start as u32,
            leaf: (entries - start) as u32,
            entries: (after - entries) as u32,
            records: (self.bytes.len() - after) as u32,
        };
        self.leaves.push(slices);
        &self.bytes[start..entries]
    }

    fn put_length(&mut self, length: usize) {
        self.bytes.extend_from_slice(&(length as u32).to_be_bytes());
    }

    /// The object, where its leaves lie, and the hash at its end.
    pub fn finish(mut self) -> (Vec<u8>, Vec<LeafSlices>, Hash) {
        let sum = hash::tagged(&[], &[&self.bytes]);
        self.bytes.extend_from_slice(&sum);
        (self.bytes, self.leaves, sum)
    }
}

/// Checks a bundle and finds its leaves; the hash at its end.
pub fn parse(bytes: &[u8]) -> Result<(Vec<LeafSlices>, Hash), PoolError> {
    let (body, sum) = bytes.split_last_chunk::<32>().ok_or(PoolError::Format)?;
    if !body.starts_with(MAGIC) || u32::try_from(bytes.len()).is_err() {
        return Err(PoolError::Format);
    }
    if hash::tagged(&[], &[body]) != *sum {
        return Err(PoolError::Damaged);
    }
    let mut leaves = Vec::new();
    let mut at = MAGIC.len();
    while at < body.len() {
        let malformed = PoolError::Malformed(at);
        let (lengths, _) = body[at..].split_first_chunk::<12>().ok_or(malformed)?;
        let (lengths, _) = lengths.as_chunks::<4>();
        let [leaf, entries, records] = [0, 1, 2].map(|i| u32::from_be_bytes(lengths[i]));
        let start = at + 12;
        at = start + leaf as usize + entries as usize + records as usize;
        if at > body.len() {
            return Err(malformed);
        }
        leaves.push(LeafSlices { start: start as u32, leaf, entries, records });
    }
    Ok((leaves, *sum))
}

/// The records of a leaf, one by one; ends early where they are torn.
pub fn records(mut records: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = records.split_first_chunk::<4>()?;
        let (record, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        records = rest;
        Some(record)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshchain_core::leaf::Signature;

    fn batch(records: Vec<Vec<u8>>) -> Checked {
        Checked {
            header: b"h".to_vec(),
            session: [1; 16],
            seq: 0,
            prev: [0; 32],
            chain: [2; 32],
            public_key: [4; 32],
            signature: Signature::default(),
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
        let (bytes, slices, sum) = writer.finish();
        assert_eq!(parse(&bytes), Ok((slices.clone(), sum)));
        let found = |leaf: usize| records(&bytes[slices[leaf].records()]).collect::<Vec<_>>();
        assert_eq!(found(0), [b"one", b"two"]);
        assert_eq!(found(1), [b""; 0]);
        assert_eq!(first_of(&name(7, &sum)), Some(7));
        assert_eq!(first_of("pool/7"), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(parse(&damaged).is_err(), "byte {at}");
        }
        assert_eq!(parse(&bytes[..60]), Err(PoolError::Damaged));
        assert_eq!(parse(b""), Err(PoolError::Format));
    }
}
