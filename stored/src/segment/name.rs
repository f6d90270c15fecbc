//! Names of a segment's objects.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// What of a segment an object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SegmentFile {
    /// The entries, Parquet.
    Entries,
    /// The records, Parquet.
    Records,
    /// The index.
    Index,
}

/// The leaves of one segment, `first..end`, never empty; and the seed of its index, drawn at random:
/// two attempts at the same leaves have different names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// Its first leaf.
    pub first: u64,
    /// The leaf after its last.
    pub end: u64,
    /// Seed of the keys in its index.
    pub seed: u64,
}

const SUFFIXES: [(SegmentFile, &str); 3] = [
    (SegmentFile::Entries, ".entries.parquet"),
    (SegmentFile::Records, ".records.parquet"),
    (SegmentFile::Index, ".index"),
];

impl SegmentName {
    /// Path of one of its objects, `segment/FIRST-END-SEED.index`: two numbers of 20 digits and 16
    /// hexadecimal digits.
    pub fn path(&self, part: SegmentFile) -> String {
        let suffix = SUFFIXES.iter().find(|(p, _)| *p == part).map_or("", |(_, suffix)| suffix);
        format!("segment/{self}{suffix}")
    }

    /// Parses a path as [`SegmentName::path`] prints it; `None` for any other spelling.
    pub fn parse(path: &str) -> Option<(Self, SegmentFile)> {
        let name = path.strip_prefix("segment/")?;
        let (stem, part) =
            SUFFIXES.iter().find_map(|(part, suffix)| Some((name.strip_suffix(suffix)?, *part)))?;
        Some((stem.parse().ok()?, part))
    }
}

/// Not the name of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not the name of a segment")]
pub struct NameError;

impl FromStr for SegmentName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut parts = text.split('-');
        let mut next = || parts.next().ok_or(NameError);
        let (first, end, seed) = (next()?, next()?, next()?);
        let this = Self {
            first: first.parse().map_err(|_| NameError)?,
            end: end.parse().map_err(|_| NameError)?,
            seed: u64::from_str_radix(seed, 16).map_err(|_| NameError)?,
        };
        if this.first < this.end && this.to_string() == text { Ok(this) } else { Err(NameError) }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{:020}-{:016x}", self.first, self.end, self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_of_path_is_the_name_and_other_spellings_are_none() {
        let name = SegmentName { first: 7, end: 1_000, seed: 5 };
        for (part, _) in SUFFIXES {
            assert_eq!(SegmentName::parse(&name.path(part)), Some((name, part)));
        }
        let (seven, end) = ("00000000000000000007", "00000000000000001000");
        let seed = "0000000000000005";
        for path in [
            format!("segment/7-{end}-{seed}.index"),
            format!("segment/{end}-{seven}-{seed}.index"),
            format!("segment/{seven}-{end}-{seed}.idx"),
            format!("segment/{seven}-{end}-5.index"),
            format!("segment/{seven}-{end}-{seed}-{seed}.index"),
            format!("{seven}-{end}-{seed}.index"),
            format!("segment/{seven}-{end}.index"),
        ] {
            assert_eq!(SegmentName::parse(&path), None, "{path}");
        }
    }
}
