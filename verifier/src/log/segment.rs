//! One segment under check: its leaves come in order, its files are compared with them.

use super::findings::{Damage, FsckReport};
use super::rows::{Chunks, Compare, Run, Runs, guarded};
use super::segment_index::Index;
use super::source::{LogSource, SourceError};
use super::staged_leaf::fits;
use meshchain_core::{BatchHeader, BatchLeaf, Canonical, ENTRY_LEN, Hash};
use meshchain_stored::entries::{EntriesFile, EntriesWriter};
use meshchain_stored::records::{RecordsFile, RecordsWriter};
use meshchain_stored::{SegmentFile, SegmentName};
use std::fs::File;

/// Rows that are read at once: 6 MB of entries, some 10 MB of records.
const ENTRIES: u32 = 1 << 16;
const RECORDS: u32 = 1 << 14;

/// What was seen of a leaf.
pub(super) struct Seen {
    pub(super) hash: Option<Hash>,
    pub(super) rows: u32,
    pub(super) records: u32,
}

pub(super) struct Segment<'a> {
    pub(super) source: &'a dyn LogSource,
    pub(super) name: SegmentName,
    /// Leaves of the published tree.
    pub(super) size: u64,
    index: Index,
    pub(super) entries: Option<EntriesFile<File>>,
    pub(super) records: Option<RecordsFile<File>>,
    pub(super) entry_chunks: Chunks<[u8; ENTRY_LEN]>,
    record_chunks: Chunks<Vec<u8>>,
    /// Both files written anew; `None` where something is lost that they are made of.
    entries_again: Option<EntriesWriter<Compare>>,
    records_again: Option<RecordsWriter<Compare>>,
    row: u32,
    record: u32,
    pub(super) seen: Vec<Seen>,
    pub(super) bad_entries: Runs,
    pub(super) bad_records: Runs,
    /// A leaf of unknown length was lost: what follows it cannot be found.
    lost: bool,
}

impl<'a> Segment<'a> {
    pub(super) fn open(
        source: &'a dyn LogSource,
        name: SegmentName,
        size: u64,
        report: &mut FsckReport,
    ) -> Result<Self, SourceError> {
        let index = Index::read(source, name, report)?;
        let mut this = Self {
            source,
            name,
            size,
            index,
            entries: None,
            records: None,
            entry_chunks: Chunks::new(ENTRIES),
            record_chunks: Chunks::new(RECORDS),
            entries_again: None,
            records_again: None,
            row: 0,
            record: 0,
            seen: Vec::new(),
            bad_entries: Runs::default(),
            bad_records: Runs::default(),
            lost: false,
        };
        report.segments += 1;
        let (path, again) = this.files(SegmentFile::Entries)?;
        if let (Some(file), Some(again)) = (path, again) {
            match guarded(|| EntriesFile::open(file)) {
                Ok(file) => this.entries = Some(file),
                Err(e) => this.all_lost(SegmentFile::Entries, e, report),
            }
            this.entries_again = EntriesWriter::new(Compare::new(again)).ok();
        } else if this.index.rows() != Some(0) {
            this.all_lost(SegmentFile::Entries, "missing".to_owned(), report);
        }
        let (path, again) = this.files(SegmentFile::Records)?;
        if let (Some(file), Some(again)) = (path, again) {
            match guarded(|| RecordsFile::open(file)) {
                Ok(file) => this.records = Some(file),
                Err(e) => this.all_lost(SegmentFile::Records, e, report),
            }
            this.records_again = RecordsWriter::new(Compare::new(again)).ok();
        } else if let Some(count @ 1..) = this.index.records() {
            report.note(format!(
                "{count} records of segment {name} were deleted (retention), or lost: digests \
                 still verify"
            ));
        }
        Ok(this)
    }

    /// Two handles on a file: each has its own position.
    fn files(&self, part: SegmentFile) -> Result<(Option<File>, Option<File>), SourceError> {
        let path = self.name.path(part);
        Ok((self.source.file(&path)?, self.source.file(&path)?))
    }

    fn all_lost(&self, part: SegmentFile, fault: String, report: &mut FsckReport) {
        let (from, to) = (self.name.first, self.name.end - 1);
        let start = if fault == "missing" { "the collector does not start; " } else { "" };
        let cost = match part {
            SegmentFile::Entries => {
                format!("{start}{}", cost_entries(&leaves(from, to), from == to))
            }
            _ => cost_records(&leaves(from, to)),
        };
        let file = self.name.path(part);
        report.damage(Damage { file, offset: None, fault, cost, leaves: Some((from, to)) });
    }

    /// Takes in the next leaf: its bytes and hash as the tree has them, where known.
    pub(super) fn leaf(
        &mut self,
        leaf: u64,
        truth: Option<&[u8]>,
        hash: Option<Hash>,
        report: &mut FsckReport,
    ) {
        let parsed = truth.and_then(|bytes| BatchLeaf::decode(bytes).ok());
        let parsed = parsed.and_then(|batch| Some((batch.parse_header().ok()?, batch)));
        let rows = match &parsed {
            Some((header, _)) => Some(header.count),
            None => self.index.place(leaf).map(|place| place.rows.len() as u32),
        };
        let Some(rows) = rows.filter(|rows| self.row.checked_add(*rows).is_some()) else {
            self.lost = true;
            return;
        };
        if self.lost {
            return;
        }
        let found = match &parsed {
            Some((header, batch)) => self.entries_of(leaf, batch, header, report),
            None => None,
        };
        let records = self.records_of(leaf, rows, found.as_deref());
        if rows == 0 {
            self.bad_entries.skip(leaf);
        }
        if records == 0 {
            self.bad_records.skip(leaf);
        }
        match (&parsed, &found) {
            (Some((header, batch)), Some(entries)) => {
                self.index.push(header, batch.received_ns, entries, records);
                self.check_records(leaf, header, entries, records, report);
            }
            _ => {
                self.index.stop();
                (self.entries_again, self.records_again) = (None, None);
            }
        }
        self.row += rows;
        self.record += records;
        let hash = hash.filter(|_| found.is_some());
        self.seen.push(Seen { hash, rows, records });
    }

    /// The entries of a leaf, where they are those that it speaks of.
    fn entries_of(
        &mut self,
        leaf: u64,
        batch: &BatchLeaf<'_>,
        header: &BatchHeader<'_>,
        report: &mut FsckReport,
    ) -> Option<Vec<u8>> {
        let mut entries = Vec::new();
        if header.count > 0 {
            let file = self.entries.as_ref()?;
            let read = self.entry_chunks.get(self.row..self.row + header.count, file.rows(), |r| {
                Ok(file.read(r)?.as_chunks::<ENTRY_LEN>().0.to_vec())
            });
            match read {
                Ok(read) => entries = read.as_flattened().to_vec(),
                Err(e) => {
                    let fault = format!("its entries cannot be read: {e}");
                    self.bad_entries.push(leaf, "unreadable", fault);
                    return None;
                }
            }
        }
        if !batch.holds(&entries) {
            self.bad_entries.push(leaf, "false", "it does not hold these entries".to_owned());
            return None;
        }
        report.entries_checked += u64::from(header.count);
        report.segment_entries += u64::from(header.count);
        if header.count > 0 {
            let again = self.entries_again.take();
            self.entries_again =
                again.and_then(|mut w| w.push(leaf, batch, header, &entries).ok().map(|()| w));
        }
        Some(entries)
    }

    /// How many records the leaf has: all or none. The index knows; where it is damaged, the file.
    fn records_of(&mut self, leaf: u64, rows: u32, entries: Option<&[u8]>) -> u32 {
        let place = self.index.place(leaf).map(|place| place.records);
        if let Some(place) = place.filter(|p| p.start == self.record && p.len() as u32 <= rows) {
            return place.len() as u32;
        }
        let (Some(file), Some(entries)) = (&self.records, entries) else { return 0 };
        let Some(end) = self.record.checked_add(rows) else { return 0 };
        let read = self.record_chunks.get(self.record..end, file.rows(), |rows| file.read(rows));
        let pair = read.ok().and_then(|read| entries.chunks(ENTRY_LEN).zip(read).next());
        if pair.is_some_and(|(entry, record)| fits(entry, record).is_ok()) { rows } else { 0 }
    }

    fn check_records(
        &mut self,
        leaf: u64,
        header: &BatchHeader<'_>,
        entries: &[u8],
        count: u32,
        report: &mut FsckReport,
    ) {
        let Some(file) = self.records.as_ref().filter(|_| count > 0) else { return };
        let Some(end) = self.record.checked_add(count) else { return };
        let read = self.record_chunks.get(self.record..end, file.rows(), |rows| file.read(rows));
        let records = match read {
            Ok(records) => records,
            Err(e) => {
                let fault = format!("its records cannot be read: {e}");
                self.bad_records.push(leaf, "unreadable", fault);
                self.records_again = None;
                return;
            }
        };
        if count != header.count {
            let fault = format!("{count} records for {} entries", header.count);
            self.bad_records.push(leaf, "count", fault);
        }
        let mut again = self.records_again.take();
        for (at, (entry, record)) in (0..).zip(entries.chunks(ENTRY_LEN).zip(records)) {
            match fits(entry, record) {
                Ok(()) => {
                    report.records_checked += 1;
                    report.segment_records += 1;
                }
                Err(why) => {
                    let fault = format!("record of entry {at}: {why}");
                    self.bad_records.push(leaf, "false", fault);
                }
            }
            again = again.and_then(|mut w| w.push(leaf, at, header, record).ok().map(|()| w));
        }
        self.records_again = again;
    }

    /// Tells what is wrong, when all leaves were taken in.
    pub(super) fn finish(mut self, report: &mut FsckReport) -> Result<(), SourceError> {
        let (entries_again, records_again) = (self.entries_again.take(), self.records_again.take());
        let entries = entries_again.and_then(|w| w.finish().ok()).map(Compare::finish);
        let records = records_again.and_then(|w| w.finish().ok()).map(Compare::finish);
        if self.lost {
            report.note(format!("segment {} was not checked whole: leaves are lost", self.name));
        }
        let fault = |file: SegmentFile, run: &Run, cost: String| Damage {
            file: self.name.path(file),
            offset: None,
            fault: run.words(),
            cost,
            leaves: Some((run.from, run.to)),
        };
        for run in self.bad_entries.iter() {
            let cost = cost_entries(&run.leaves(), run.from == run.to);
            report.damage(fault(SegmentFile::Entries, run, cost));
        }
        for run in self.bad_records.iter() {
            report.damage(fault(SegmentFile::Records, run, cost_records(&run.leaves())));
        }
        let rows = self.entries.as_ref().map(|file| (SegmentFile::Entries, file.rows(), self.row));
        let more =
            self.records.as_ref().map(|file| (SegmentFile::Records, file.rows(), self.record));
        for (part, found, expected) in rows.into_iter().chain(more).filter(|_| !self.lost) {
            if found > u64::from(expected) {
                self.too_long(part, found, expected, report);
            }
        }
        std::mem::take(&mut self.index).finish(self.name, report);
        self.columns(entries, records, report)
    }

    fn too_long(&self, part: SegmentFile, found: u64, expected: u32, report: &mut FsckReport) {
        report.damage(Damage {
            file: self.name.path(part),
            offset: None,
            fault: format!("{found} rows, its leaves have {expected}"),
            cost: "queries count what no leaf speaks of; proofs stand".to_owned(),
            leaves: Some((self.name.first, self.name.end - 1)),
        });
    }
}

fn leaves(from: u64, to: u64) -> String {
    if from == to { format!("leaf {from}") } else { format!("leaves {from} to {to}") }
}

fn cost_entries(leaves: &str, one: bool) -> String {
    let whose = if one { "its" } else { "their" };
    format!("{leaves}: {whose} entries cannot be proved; all else stands")
}

fn cost_records(leaves: &str) -> String {
    format!("{leaves}: records cannot be disclosed; the entries stand")
}
