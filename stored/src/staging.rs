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

use meshchain_core::{Hash, hash};
use std::ops::Range;
use thiserror::Error;

const MAGIC: &[u8; 16] = b"meshchain-pool/1";
const SUM_LEN: usize = 32;

/// A bundle that is not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StagingError {
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

    /// Where the lengths before them begin.
    pub fn lengths_at(&self) -> usize {
        self.start as usize - LENGTHS
    }
}

/// Bytes of the lengths before each leaf.
const LENGTHS: usize = 12;

/// Name of a bundle: its first leaf, and the start of the hash at its end.
pub fn name(first: u64, sum: &Hash) -> String {
    format!("{}-{}", place(first), hex::encode(&sum[..8]))
}

/// What the name of each bundle for this place begins with.
pub fn place(first: u64) -> String {
    format!("pool/{first:020}")
}

/// The leaf index in a bundle's name; `None` for what is no bundle's name.
pub fn first_of(name: &str) -> Option<u64> {
    let (first, sum) = name.strip_prefix("pool/")?.split_once('-')?;
    let digits = |text: &str, count: usize, radix: u32| {
        text.len() == count && text.chars().all(|c| c.is_digit(radix))
    };
    let sized = digits(first, 20, 10) && digits(sum, 16, 16);
    if sized { first.parse().ok() } else { None }
}

/// Builds bundles leaf by leaf.
pub struct StagingWriter {
    bytes: Vec<u8>,
    leaves: Vec<LeafSlices>,
}

impl Default for StagingWriter {
    fn default() -> Self {
        Self { bytes: MAGIC.to_vec(), leaves: Vec::new() }
    }
}

impl StagingWriter {
    /// Appends a batch: its canonical leaf, its entries, and its canonical records.
    pub fn push(&mut self, leaf: &[u8], entries: &[u8], records: &[impl AsRef<[u8]>]) {
        let records_len: usize = records.iter().map(|r| r.as_ref().len() + 4).sum();
        for length in [leaf.len(), entries.len(), records_len] {
            self.put_length(length);
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(leaf);
        self.bytes.extend_from_slice(entries);
        for record in records {
            self.put_length(record.as_ref().len());
            self.bytes.extend_from_slice(record.as_ref());
        }
        self.leaves.push(LeafSlices {
            start: start as u32,
            leaf: leaf.len() as u32,
            entries: entries.len() as u32,
            records: records_len as u32,
        });
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

/// A bundle as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagingRead {
    /// Where its leaves lie.
    pub leaves: Vec<LeafSlices>,
    /// Where and why reading ended early.
    pub fault: Option<(usize, &'static str)>,
    /// The hash at its end; zero where it has none.
    pub sum: Hash,
    /// Whether that is the hash of its bytes.
    pub sum_fits: bool,
    /// Byte where it stands.
    pub sum_at: usize,
}

/// Finds what can be found in a bundle, be it damaged or not.
pub fn read(bytes: &[u8]) -> StagingRead {
    let sum_at = bytes.len().saturating_sub(SUM_LEN);
    let content = &bytes[..sum_at];
    let sum = bytes.last_chunk().copied();
    let sum_fits = sum == Some(hash::tagged(&[], &[content]));
    let (mut leaves, mut fault) = (Vec::new(), None);
    let mut at = MAGIC.len();
    if !content.starts_with(MAGIC) {
        (fault, at) = (Some((0, "does not begin as a meshchain-pool/1 object")), sum_at);
    }
    while at < sum_at {
        let Some(found) = slices(content, at) else {
            fault = Some((at, "the lengths here lead beyond the end of the file"));
            break;
        };
        at = found.records().end;
        leaves.push(found);
    }
    StagingRead { leaves, fault, sum: sum.unwrap_or_default(), sum_fits, sum_at }
}

fn slices(content: &[u8], at: usize) -> Option<LeafSlices> {
    let (lengths, _) = content.get(at..)?.split_first_chunk::<LENGTHS>()?;
    let (lengths, _) = lengths.as_chunks::<4>();
    let [leaf, entries, records] = [0, 1, 2].map(|i| u32::from_be_bytes(lengths[i]));
    let start = u32::try_from(at + LENGTHS).ok()?;
    let end = start.checked_add(leaf)?.checked_add(entries)?.checked_add(records)?;
    (end as usize <= content.len()).then_some(LeafSlices { start, leaf, entries, records })
}

/// Reads a bundle that must be as it was written: where its leaves lie, and the hash at its end.
pub fn parse(bytes: &[u8]) -> Result<(Vec<LeafSlices>, Hash), StagingError> {
    let read = read(bytes);
    match read.fault {
        Some((0, _)) => Err(StagingError::Format),
        _ if bytes.len() < MAGIC.len() + SUM_LEN => Err(StagingError::Format),
        _ if !read.sum_fits => Err(StagingError::Damaged),
        Some((at, _)) => Err(StagingError::Malformed(at)),
        None => Ok((read.leaves, read.sum)),
    }
}

/// A leaf's records, given where they lie in a bundle: where each one lies. The last is an error where
/// they are torn: the byte at which.
pub fn records(
    bytes: &[u8],
    within: Range<usize>,
) -> impl Iterator<Item = Result<Range<usize>, usize>> {
    let content = bytes.get(..within.end).unwrap_or(bytes);
    let mut at = within.start;
    std::iter::from_fn(move || {
        if at >= content.len() {
            return None;
        }
        let torn = at;
        let length = content.get(at..).and_then(|rest| rest.first_chunk::<4>());
        let end = length.and_then(|l| (at + 4).checked_add(u32::from_be_bytes(*l) as usize));
        match end.filter(|&end| end <= content.len()) {
            Some(end) => {
                let start = at + 4;
                at = end;
                Some(Ok(start..end))
            }
            None => {
                at = content.len();
                Some(Err(torn))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> (Vec<u8>, Vec<LeafSlices>, Hash) {
        let mut writer = StagingWriter::default();
        writer.push(b"leaf", &[7; 180], &[b"one", b"two"]);
        writer.push(b"another", &[], &[[0; 0]; 0]);
        writer.finish()
    }

    #[test]
    fn parse_of_finish_finds_the_leaves_and_every_flipped_byte_is_seen() {
        let (bytes, slices, sum) = bundle();
        assert_eq!(parse(&bytes), Ok((slices.clone(), sum)));
        let found = |leaf: usize| {
            let records = records(&bytes, slices[leaf].records()).map(|r| &bytes[r.unwrap()]);
            records.collect::<Vec<_>>()
        };
        assert_eq!(found(0), [b"one", b"two"]);
        assert_eq!(found(1), [b""; 0]);
        assert_eq!(first_of(&name(7, &sum)), Some(7));
        for other in [
            "pool/7",
            "pool/+0000000000000000007-0011223344556677",
            "pool/00000000000000000007-00112233445566xx",
        ] {
            assert_eq!(first_of(other), None, "{other}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(parse(&damaged).is_err(), "byte {at}");
        }
        assert_eq!(parse(&bytes[..60]), Err(StagingError::Damaged));
        assert_eq!(parse(b""), Err(StagingError::Format));
    }

    #[test]
    fn whatever_bytes_there_are_nothing_is_read_beyond_them() {
        let (bytes, slices, _) = bundle();
        let look = |bytes: &[u8]| {
            let found = read(bytes);
            for slices in &found.leaves {
                assert!(slices.all().end <= found.sum_at);
                records(bytes, slices.records())
                    .flatten()
                    .for_each(|r| assert!(bytes.get(r).is_some()));
            }
            found
        };
        for length in 0..bytes.len() {
            assert!(!look(&bytes[..length]).sum_fits, "{length}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] = 0xff;
            assert!(!look(&damaged).sum_fits || bytes[at] == 0xff);
        }
        let mut torn = bytes.clone();
        let second = slices[0].records().start + 7;
        torn[second] = 1;
        let found: Vec<_> = records(&torn, slices[0].records()).collect();
        assert_eq!(found, [Ok(second - 3..second), Err(second)]);
    }
}
