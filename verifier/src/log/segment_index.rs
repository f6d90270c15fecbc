//! The index of one segment, built anew from its leaves and compared with the stored one.

use super::findings::{Damage, FsckReport};
use super::source::{LogSource, SourceError};
use meshchain_core::{BatchHeader, ENTRY_LEN, hash};
use meshchain_stored::{IndexBuilder, Layout, MAX_ROWS, RowRange, SegmentFile, SegmentName};

/// Longest index that is read: 2^24 rows take some 130 MB.
const MAX_INDEX: u64 = 256 << 20;
const SUM_LEN: usize = 32;
/// Where the header has the newest time, and the seed.
const NEWEST_AT: std::ops::Range<u64> = 24..32;
const SEED_AT: usize = 56;

#[derive(Default)]
pub(super) struct Index {
    /// `None` where there is none.
    bytes: Option<Vec<u8>>,
    layout: Option<Layout>,
    sum_fits: bool,
    /// `None` where something is lost that it is made of.
    again: Option<IndexBuilder>,
}

impl Index {
    pub(super) fn read(
        source: &dyn LogSource,
        name: SegmentName,
        report: &mut FsckReport,
    ) -> Result<Self, SourceError> {
        let Some(bytes) = source.get(&name.path(SegmentFile::Index), MAX_INDEX)? else {
            report.damage(Damage {
                file: name.path(SegmentFile::Index),
                offset: None,
                fault: "missing".to_owned(),
                cost: format!("{DOES_NOT_START}; leaves and entries stand"),
                leaves: Some((name.first, name.end - 1)),
            });
            return Ok(Self::default());
        };
        let layout = Layout::parse(&bytes, bytes.len() as u64).ok();
        let layout = layout.filter(|l| (l.first, l.end()) == (name.first, name.end));
        let (content, sum) = bytes.split_at(bytes.len().saturating_sub(SUM_LEN));
        let sum_fits = hash::tagged(&[], &[content]).as_slice() == sum;
        let seed = bytes.get(SEED_AT..).and_then(|b| b.first_chunk());
        let again = seed.map(|seed| IndexBuilder::new(name.first, u64::from_be_bytes(*seed)));
        Ok(Self { bytes: Some(bytes), layout, sum_fits, again })
    }

    /// Number of entries, by its header.
    pub(super) fn rows(&self) -> Option<u32> {
        self.layout.map(|layout| layout.rows)
    }

    /// Number of records, by its header.
    pub(super) fn records(&self) -> Option<u32> {
        self.layout.map(|layout| layout.records)
    }

    /// Rows and records of a leaf.
    pub(super) fn place(&self, leaf: u64) -> Option<RowRange> {
        let (layout, bytes) = (self.layout?, self.bytes.as_ref()?);
        let at = layout.leaf_at(leaf)?;
        let at = usize::try_from(at.start).ok()?..usize::try_from(at.end).ok()?;
        layout.leaf(bytes.get(at)?).ok()
    }

    /// Takes in the next leaf.
    pub(super) fn push(
        &mut self,
        header: &BatchHeader<'_>,
        received_ns: u64,
        entries: &[u8],
        records: u32,
    ) {
        let Some(again) = &mut self.again else { return };
        if u64::from(again.rows()) + u64::from(header.count) > MAX_ROWS.into() {
            return self.stop();
        }
        let traces = entries.as_chunks::<ENTRY_LEN>().0.iter();
        let traces = traces.filter_map(|entry| entry[2..].first_chunk());
        again.leaf(&header.session, header.seq, received_ns, traces, records);
    }

    /// Something is lost that it is made of.
    pub(super) fn stop(&mut self) {
        self.again = None;
    }

    /// Tells where it differs.
    pub(super) fn finish(self, name: SegmentName, report: &mut FsckReport) {
        let Some(bytes) = self.bytes else { return };
        let again = self.again.filter(|a| u64::from(a.leaves()) == name.end - name.first);
        let (offset, fault, cost) = match again.map(IndexBuilder::finish) {
            Some(again) if again == bytes => return,
            Some(again) => {
                let same = again.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
                let cost = match Layout::parse(&again, again.len() as u64) {
                    Ok(layout) if self.layout.is_some() => cost(&layout, same as u64),
                    _ => DOES_NOT_START,
                };
                (same as u64, "not the index of these leaves and entries", cost)
            }
            None if !self.sum_fits => {
                let at = bytes.len().saturating_sub(SUM_LEN) as u64;
                (at, "the SHA-256 at its end is not that of its bytes", UNKNOWN)
            }
            None if self.layout.is_none() => {
                (0, "not a meshchain-index1 object of these leaves", DOES_NOT_START)
            }
            None => {
                return report.note(format!(
                    "the index of segment {name} was not built anew: what it is made of is damaged"
                ));
            }
        };
        report.damage(Damage {
            file: name.path(SegmentFile::Index),
            offset: Some(offset),
            fault: fault.to_owned(),
            cost: format!("{cost}; leaves and entries stand"),
            leaves: Some((name.first, name.end - 1)),
        });
    }
}

const DOES_NOT_START: &str = "the collector does not start";
const UNKNOWN: &str = "what it finds may be wrong or too little";

/// What a wrong byte at `offset` costs.
fn cost(layout: &Layout, offset: u64) -> &'static str {
    let sessions = layout.sessions_table_at();
    if NEWEST_AT.contains(&offset) {
        "retention deletes the records of this segment too early or too late"
    } else if offset < Layout::LEN {
        DOES_NOT_START
    } else if offset < layout.leaves_at().end {
        "entries of its leaves are taken from wrong rows: evidence of them fails"
    } else if offset < sessions.start {
        "the evidence of a trace may lack its calls in this segment"
    } else if offset < layout.bytes() - SUM_LEN as u64 {
        "a batch that comes again may be refused, as if it were not in the log"
    } else {
        "the collector does not look at this sum"
    }
}
