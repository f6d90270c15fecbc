//! All pools of a data directory, one in memory at a time.

use super::pool::{MAX_POOL, Pool, Slices, split_records};
use super::report::{Damage, FsckReport};
use super::source::{LogSource, SourceError};
use meshchain_core::{BatchLeaf, Canonical, ENTRY_LEN, Entry, Hash, SpanRecord, merkle};
use std::rc::Rc;

pub(crate) struct Pools<'a> {
    source: &'a dyn LogSource,
    /// First leaf of each, ascending.
    firsts: Vec<u64>,
    committed: u64,
    current: Option<(u64, Rc<Pool>)>,
    /// The pool that the check in order is in.
    checking: Option<u64>,
    /// A pool that could not be read, and was told.
    failed: Option<u64>,
}

fn name(first: u64) -> String {
    format!("pool/{first:020}")
}

impl<'a> Pools<'a> {
    /// Lists the pools below `committed` leaves.
    pub(crate) fn open(
        source: &'a dyn LogSource,
        committed: u64,
        report: &mut FsckReport,
    ) -> Result<Self, SourceError> {
        let mut firsts = Vec::new();
        for item in source.list("pool")?.unwrap_or_default() {
            let digits = item.name.strip_prefix("pool/").and_then(|n| n.parse().ok());
            match digits.filter(|&first| name(first) == item.name && !item.folder) {
                Some(first) if first < committed => firsts.push(first),
                Some(_) => report
                    .note(format!("{} was never committed: the next start deletes it", item.name)),
                None if item.name.contains('#') => {
                    report.note(format!("{} was left by an interrupted write", item.name));
                }
                None => report.damage(Damage {
                    file: item.name,
                    offset: None,
                    fault: "not the name of a pool".to_owned(),
                    cost: "the collector does not start while it is there".to_owned(),
                    leaves: None,
                }),
            }
        }
        firsts.sort_unstable();
        let pools = Self { source, firsts, committed, current: None, checking: None, failed: None };
        let start = pools.firsts.first().copied().unwrap_or(committed);
        if start > 0 {
            pools.missing(0, start, report);
        }
        Ok(pools)
    }

    /// The first pool that begins after `low` and below `high`.
    pub(crate) fn beginning_between(&self, low: u64, high: u64) -> Option<u64> {
        self.firsts.iter().copied().find(|&first| low < first && first < high)
    }

    fn missing(&self, from: u64, to: u64, report: &mut FsckReport) {
        report.damage(Damage {
            file: name(from),
            offset: None,
            fault: "missing".to_owned(),
            cost: lost_entries(from, to - 1),
            leaves: Some((from, to - 1)),
        });
    }

    /// File that should hold a leaf.
    pub(crate) fn file_of(&self, leaf: u64) -> String {
        name(self.place(leaf).map_or(leaf, |(first, _)| first))
    }

    /// First leaf of the pool that should hold `leaf`, and of the one after it.
    fn place(&self, leaf: u64) -> Option<(u64, u64)> {
        let after = self.firsts.partition_point(|&first| first <= leaf);
        let first = *self.firsts.get(after.checked_sub(1)?)?;
        Some((first, self.firsts.get(after).copied().unwrap_or(self.committed)))
    }

    fn load(&mut self, first: u64) -> Result<Option<Rc<Pool>>, SourceError> {
        if let Some((_, pool)) = self.current.as_ref().filter(|(at, _)| *at == first) {
            return Ok(Some(pool.clone()));
        }
        self.current = None;
        let Some(bytes) = self.source.get(&name(first), MAX_POOL)? else {
            return Ok(None);
        };
        let pool = Rc::new(Pool::parse(bytes));
        self.current = Some((first, pool.clone()));
        Ok(Some(pool))
    }

    /// The bytes of a leaf as its pool has them.
    pub(crate) fn leaf(&mut self, leaf: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let Some((first, _)) = self.place(leaf) else {
            return Ok(None);
        };
        let Some(pool) = self.load(first)? else {
            return Ok(None);
        };
        let slices = pool.leaves.get((leaf - first) as usize);
        Ok(slices.map(|slices| pool.bytes[slices.leaf.clone()].to_vec()))
    }

    /// Checks the pool's part of a leaf, called for each leaf in order. `truth` is the leaf as the
    /// tree has it, `hash` its leaf hash, each where known.
    pub(crate) fn check(
        &mut self,
        leaf: u64,
        truth: Option<&[u8]>,
        hash: Option<Hash>,
        report: &mut FsckReport,
    ) -> Result<(), SourceError> {
        let Some((first, end)) = self.place(leaf) else {
            return Ok(());
        };
        if self.failed == Some(first) {
            return Ok(());
        }
        let entered = self.checking.replace(first) != Some(first);
        let loaded = self.load(first);
        self.failed = loaded.is_err().then_some(first);
        let Some(pool) = loaded? else {
            if entered {
                self.missing(first, end, report);
            }
            return Ok(());
        };
        if entered {
            report.pools += 1;
            self.check_shape(&pool, first, end, report);
        }
        if let Some(slices) = pool.leaves.get((leaf - first) as usize) {
            let at = At { file: name(first), leaf, pool: &pool, slices };
            at.check(truth, hash, report);
        }
        if leaf + 1 == end && !pool.sum_fits && !report.is_damaged(&name(first)) {
            report.damage(Damage {
                file: name(first),
                offset: Some(pool.sum_at()),
                fault: "the SHA-256 at its end is not that of its bytes, though they hold together"
                    .to_owned(),
                cost: "the collector does not start; no leaf, entry or record is lost".to_owned(),
                leaves: Some((first, end - 1)),
            });
        }
        Ok(())
    }

    fn check_shape(&self, pool: &Pool, first: u64, end: u64, report: &mut FsckReport) {
        let found = first + pool.leaves.len() as u64;
        let (offset, fault) = match pool.fault {
            Some((at, fault)) => (at as u64, fault.to_owned()),
            None if found < end && pool.sum_fits => return self.missing(found, end, report),
            None if found < end => {
                let fault = format!("ends before leaf {found}, but should go on to {}", end - 1);
                (pool.sum_at(), fault)
            }
            None if found > end => {
                let at = &pool.leaves[(end - first) as usize];
                let fault = format!("goes on to leaf {}, which another pool begins", found - 1);
                let cost = "the collector does not start; nothing is lost".to_owned();
                let offset = Some(at.leaf.start as u64 - 12);
                let file = name(first);
                return report.damage(Damage { file, offset, fault, cost, leaves: None });
            }
            None => return,
        };
        report.damage(Damage {
            file: name(first),
            offset: Some(offset),
            fault,
            cost: lost_entries(found.min(end - 1), end - 1),
            leaves: Some((found.min(end - 1), end - 1)),
        });
    }
}

fn lost_entries(from: u64, to: u64) -> String {
    match from == to {
        true => format!("leaf {from}: its entries cannot be proved; everything else stands"),
        false => format!("leaves {from} to {to}: their entries cannot be proved; all else stands"),
    }
}

/// One leaf's place in a pool.
struct At<'p> {
    file: String,
    leaf: u64,
    pool: &'p Pool,
    slices: &'p Slices,
}

impl At<'_> {
    fn damage(&self, offset: usize, fault: String, cost: String, report: &mut FsckReport) {
        let (file, leaf) = (self.file.clone(), self.leaf);
        let offset = Some(offset as u64);
        report.damage(Damage { file, offset, fault, cost, leaves: Some((leaf, leaf)) });
    }

    fn check(&self, truth: Option<&[u8]>, hash: Option<Hash>, report: &mut FsckReport) {
        let (leaf, own) = (self.leaf, &self.pool.bytes[self.slices.leaf.clone()]);
        if hash.is_some_and(|hash| merkle::leaf_hash(own) != hash) {
            let fault = format!("leaf {leaf} is not the leaf that the tree has");
            let cost = "the collector does not start; the tree has the leaf".to_owned();
            self.damage(self.slices.leaf.start, fault, cost, report);
        }
        let Ok(batch) = BatchLeaf::decode(truth.unwrap_or(own)) else {
            return; // told where the tree's leaf is decoded
        };
        let entries = &self.pool.bytes[self.slices.entries.clone()];
        if !batch.holds(entries) {
            let count = batch.parse_header().map_or(0, |h| h.count);
            let fault = format!("leaf {leaf} does not hold these entries");
            let cost = format!(
                "leaf {leaf}: its {count} entries cannot be proved; everything else stands"
            );
            return self.damage(self.first_false_entry(), fault, cost, report);
        }
        report.entries_checked += (entries.len() / ENTRY_LEN) as u64;
        self.check_entries(report);
    }

    /// Where the entries contradict their records first; where they begin, if that does not tell.
    fn first_false_entry(&self) -> usize {
        let start = self.slices.entries.start;
        let bytes = &self.pool.bytes;
        let records = split_records(bytes, &self.slices.records).unwrap_or_default();
        let entries = bytes[self.slices.entries.clone()].chunks(ENTRY_LEN);
        let held = |(entry, record): (&[u8], &std::ops::Range<usize>)| {
            fits(entry, &bytes[record.clone()]).is_ok()
        };
        match entries.zip(&records).position(|pair| !held(pair)) {
            Some(at) => start + at * ENTRY_LEN,
            None => start,
        }
    }

    fn check_entries(&self, report: &mut FsckReport) {
        let bytes = &self.pool.bytes;
        let start = self.slices.entries.start;
        let entries: Vec<&[u8]> = bytes[self.slices.entries.clone()].chunks(ENTRY_LEN).collect();
        let cost = || format!("leaf {}: records cannot be disclosed; its entries stand", self.leaf);
        let records = match split_records(bytes, &self.slices.records) {
            Ok(records) if records.is_empty() || records.len() == entries.len() => records,
            Ok(records) => {
                let fault = format!("{} records for {} entries", records.len(), entries.len());
                return self.damage(self.slices.records.start, fault, cost(), report);
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

fn fits(entry: &[u8], record: &[u8]) -> Result<(), String> {
    let entry = Entry::parse(entry).map_err(|e| e.to_string())?;
    let record = SpanRecord::decode(record).map_err(|e| e.to_string())?;
    record.check(&entry).map_err(|e| e.to_string())
}
