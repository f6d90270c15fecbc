//! Reads a pool, the collector's staging bundle, leniently: what can be found in a damaged one is
//! found.
//!
//! ```text
//! "meshchain-pool/1"  16 B
//! per leaf:  leaf length u32 | entries length u32 | records length u32    big-endian
//!            leaf | entries | records, each behind its length u32
//! SHA-256 over all before, 32 B
//! ```

use meshchain_core::hash;
use std::ops::Range;

const MAGIC: &[u8; 16] = b"meshchain-pool/1";
const SUM_LEN: usize = 32;
/// Most bytes of a pool that are read: 64 MiB of waiting batches by default, and room.
pub(crate) const MAX_POOL: u64 = 256 << 20;

/// Byte ranges of one leaf's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slices {
    pub(crate) leaf: Range<usize>,
    pub(crate) entries: Range<usize>,
    pub(crate) records: Range<usize>,
}

/// A pool as far as it can be read.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) bytes: Vec<u8>,
    pub(crate) leaves: Vec<Slices>,
    /// Where and why reading ended early.
    pub(crate) fault: Option<(usize, &'static str)>,
    /// Whether the sum at its end is that of its bytes.
    pub(crate) sum_fits: bool,
}

impl Pool {
    pub(crate) fn parse(bytes: Vec<u8>) -> Self {
        let body = bytes.len().saturating_sub(SUM_LEN);
        let (content, sum) = bytes.split_at(body);
        let sum_fits = hash::tagged(&[], &[content]).as_slice() == sum;
        let mut leaves = Vec::new();
        let mut fault = None;
        let mut at = MAGIC.len();
        if !content.starts_with(MAGIC) {
            (fault, at) = (Some((0, "does not begin as a meshchain-pool/1 object")), body);
        }
        while at < body {
            match slices(content, at) {
                Some(found) => {
                    at = found.records.end;
                    leaves.push(found);
                }
                None => {
                    fault = Some((at, "the lengths here lead beyond the end of the file"));
                    break;
                }
            }
        }
        Self { bytes, leaves, fault, sum_fits }
    }

    /// Byte where the sum stands.
    pub(crate) fn sum_at(&self) -> u64 {
        self.bytes.len().saturating_sub(SUM_LEN) as u64
    }
}

fn slices(content: &[u8], at: usize) -> Option<Slices> {
    let lengths = content.get(at..)?.get(..12)?;
    let length = |n: usize| {
        let bytes = lengths.get(4 * n..4 * n + 4)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(bytes)).ok()
    };
    let start = at + 12;
    let entries = start.checked_add(length(0)?)?;
    let records = entries.checked_add(length(1)?)?;
    let end = records.checked_add(length(2)?)?;
    (end <= content.len()).then_some(Slices {
        leaf: start..entries,
        entries: entries..records,
        records: records..end,
    })
}

/// Splits a leaf's records, given where they lie; the position where it fails otherwise.
pub(crate) fn split_records(
    bytes: &[u8],
    range: &Range<usize>,
) -> Result<Vec<Range<usize>>, usize> {
    let mut records = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let length = bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or(at)?;
        let start = at + 4;
        let end = start.checked_add(u32::from_be_bytes(length) as usize).ok_or(at)?;
        if end > range.end {
            return Err(at);
        }
        records.push(start..end);
        at = end;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_bytes_there_are_nothing_is_read_beyond_them() {
        let mut bytes = MAGIC.to_vec();
        for part in [[0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 5]] {
            bytes.extend(part);
        }
        bytes.extend(b"leerr");
        bytes.truncate(MAGIC.len() + 12);
        bytes.extend(b"lee\0\0\0\x01r");
        bytes.extend(hash::tagged(&[], &[&bytes]));
        let whole = Pool::parse(bytes.clone());
        assert!(whole.sum_fits && whole.fault.is_none());
        assert_eq!(whole.leaves.len(), 1);
        let records = split_records(&whole.bytes, &whole.leaves[0].records);
        assert_eq!(records.unwrap()[0], 35..36);
        for length in 0..bytes.len() {
            assert!(!Pool::parse(bytes[..length].to_vec()).sum_fits, "{length}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] = 0xff;
            let pool = Pool::parse(damaged);
            assert!(!pool.sum_fits || bytes[at] == 0xff);
            for slices in &pool.leaves {
                let _ = split_records(&pool.bytes, &slices.records);
            }
        }
    }
}
