//! What a staging bundle holds of one leaf, against the leaf as the tree has it.

use super::findings::{Damage, FsckReport};
use meshchain_core::{BatchLeaf, Canonical, ENTRY_LEN, Entry, Hash, SpanRecord, merkle};
use meshchain_stored::staging::{self, LeafSlices};
use std::ops::Range;

/// One leaf's place in a bundle.
pub(super) struct At<'p> {
    pub(super) file: String,
    pub(super) leaf: u64,
    /// The bundle.
    pub(super) bytes: &'p [u8],
    pub(super) slices: &'p LeafSlices,
}

impl At<'_> {
    fn damage(&self, offset: usize, fault: String, cost: String, report: &mut FsckReport) {
        let (file, leaf) = (self.file.clone(), self.leaf);
        let offset = Some(offset as u64);
        report.damage(Damage { file, offset, fault, cost, leaves: Some((leaf, leaf)) });
    }

    pub(super) fn check(&self, truth: Option<&[u8]>, hash: Option<Hash>, report: &mut FsckReport) {
        let (leaf, own) = (self.leaf, &self.bytes[self.slices.leaf()]);
        if hash.is_some_and(|hash| merkle::leaf_hash(own) != hash) {
            let fault = format!("leaf {leaf} is not the leaf that the tree has");
            let cost = "the collector does not start; the tree has the leaf".to_owned();
            self.damage(self.slices.leaf().start, fault, cost, report);
        }
        let Ok(batch) = BatchLeaf::decode(truth.unwrap_or(own)) else {
            return; // told where the tree's leaf is decoded
        };
        let entries = &self.bytes[self.slices.entries()];
        if !batch.holds(entries) {
            let count = batch.parse_header().map_or(0, |h| h.count);
            let fault = format!("leaf {leaf} does not hold these entries");
            let cost = format!(
                "the collector does not start; leaf {leaf}: its {count} entries cannot be proved; everything else stands"
            );
            return self.damage(self.first_false_entry(), fault, cost, report);
        }
        report.entries_checked += (entries.len() / ENTRY_LEN) as u64;
        self.check_entries(report);
    }

    /// Where each record lies; the byte at which they are torn otherwise.
    fn records(&self) -> Result<Vec<Range<usize>>, usize> {
        staging::records(self.bytes, self.slices.records()).collect()
    }

    /// Where the entries contradict their records first; where they begin, if that does not tell.
    fn first_false_entry(&self) -> usize {
        let start = self.slices.entries().start;
        let bytes = self.bytes;
        let records = self.records().unwrap_or_default();
        let entries = bytes[self.slices.entries()].chunks(ENTRY_LEN);
        let held =
            |(entry, record): (&[u8], &Range<usize>)| fits(entry, &bytes[record.clone()]).is_ok();
        match entries.zip(&records).position(|pair| !held(pair)) {
            Some(at) => start + at * ENTRY_LEN,
            None => start,
        }
    }

    fn check_entries(&self, report: &mut FsckReport) {
        let bytes = self.bytes;
        let start = self.slices.entries().start;
        let entries: Vec<&[u8]> = bytes[self.slices.entries()].chunks(ENTRY_LEN).collect();
        let cost = || {
            let leaf = self.leaf;
            format!(
                "the collector does not start; leaf {leaf}: records cannot be disclosed; its entries stand"
            )
        };
        let records = match self.records() {
            Ok(records) if records.is_empty() || records.len() == entries.len() => records,
            Ok(records) => {
                let fault = format!("{} records for {} entries", records.len(), entries.len());
                return self.damage(self.slices.records().start, fault, cost(), report);
            }
            Err(at) => {
                let fault = "a record's length leads beyond the records".to_owned();
                return self.damage(at, fault, cost(), report);
            }
        };
        for (at, entry) in entries.iter().enumerate() {
            if let Err(e) = Entry::parse(entry) {
                let fault = format!("entry {at} of leaf {}: {e}", self.leaf);
                let cost = "the batch is in the log as its proxy made it, with this entry in it";
                self.damage(start + at * ENTRY_LEN, fault, cost.to_owned(), report);
            }
        }
        for (at, (entry, record)) in entries.iter().zip(&records).enumerate() {
            match fits(entry, &bytes[record.clone()]) {
                Ok(()) => report.records_checked += 1,
                Err(why) => {
                    let fault = format!("record of entry {at} of leaf {}: {why}", self.leaf);
                    let cost = format!(
                        "leaf {}: the record of entry {at} cannot be disclosed; the entry stands",
                        self.leaf
                    );
                    self.damage(record.start, fault, cost, report);
                }
            }
        }
    }
}

/// Whether a record is that of an entry.
pub(super) fn fits(entry: &[u8], record: &[u8]) -> Result<(), String> {
    let entry = Entry::parse(entry).map_err(|e| e.to_string())?;
    let record = SpanRecord::decode(record).map_err(|e| e.to_string())?;
    record.check(&entry).map_err(|e| e.to_string())
}
