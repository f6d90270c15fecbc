//! All sealed segments of a data directory, one under check at a time.

use super::findings::{Damage, FsckReport};
use super::segment::Segment;
use super::source::{Item, LogSource, SourceError};
use meshchain_core::Hash;
use meshchain_stored::sealed::{SEALED, SealedError, SealedState};
use meshchain_stored::staging::place;
use meshchain_stored::{SegmentFile, SegmentName};
use std::collections::BTreeMap;

/// Longest that `sealed` can be: some 60 bytes per segment.
const MAX_SEALED: u64 = 1 << 28;
/// How often `sealed` is read again, where a running collector seals meanwhile.
const ATTEMPTS: usize = 5;

pub(crate) struct Segments<'a> {
    source: &'a dyn LogSource,
    /// What `sealed` says, where it can be read.
    pub(crate) state: Option<SealedState>,
    /// The segments to check, in order from leaf 0.
    names: Vec<SegmentName>,
    /// Leaves of the published tree.
    size: u64,
    current: Option<Segment<'a>>,
    /// A segment that could not be read, and was told.
    failed: Option<SegmentName>,
}

/// What lies in `segment/` and `pool/` beside what `sealed` says, all of one moment.
pub(crate) struct Listing {
    sealed: Option<Vec<u8>>,
    segments: Vec<String>,
    pub(crate) staged: Vec<Item>,
}

impl Listing {
    pub(crate) fn read(source: &dyn LogSource) -> Result<Self, SourceError> {
        let mut sealed = source.get(SEALED, MAX_SEALED)?;
        let mut found = Self { sealed: None, segments: Vec::new(), staged: Vec::new() };
        for _ in 0..ATTEMPTS {
            let segments = source.list("segment")?.unwrap_or_default();
            found.segments = segments.into_iter().map(|item| item.name).collect();
            found.staged = source.list("pool")?.unwrap_or_default();
            let again = source.get(SEALED, MAX_SEALED)?;
            if again == sealed {
                break;
            }
            sealed = again;
        }
        found.sealed = sealed;
        Ok(found)
    }

    /// Segments by first leaf, that follow each other from leaf 0, by their indexes.
    fn chain(&self, size: u64) -> Vec<SegmentName> {
        let mut by_first: BTreeMap<u64, SegmentName> = BTreeMap::new();
        for name in self.segments.iter().filter_map(|path| SegmentName::parse(path)) {
            let whole = |name: &SegmentName| self.has(&name.path(SegmentFile::Entries));
            if name.1 == SegmentFile::Index && name.0.end <= size && whole(&name.0) {
                by_first.insert(name.0.first, name.0);
            }
        }
        let mut chain: Vec<SegmentName> = Vec::new();
        while let Some(name) = by_first.get(&chain.last().map_or(0, |name| name.end)) {
            chain.push(*name);
        }
        chain
    }

    fn has(&self, path: &str) -> bool {
        self.segments.binary_search_by(|found| found.as_str().cmp(path)).is_ok()
    }
}

impl<'a> Segments<'a> {
    /// Judges `sealed` against what lies there. `size`: leaves of the published tree; `committed`:
    /// those of the head.
    pub(crate) fn open(
        source: &'a dyn LogSource,
        listing: &Listing,
        (size, committed): (u64, u64),
        report: &mut FsckReport,
    ) -> Self {
        let chain = listing.chain(size);
        let chain_end = chain.last().map_or(0, |name| name.end);
        let damage = |report: &mut FsckReport, offset, fault: String, cost: &str| {
            let (file, cost) = (SEALED.to_owned(), cost.to_owned());
            report.damage(Damage { file, offset, fault, cost, leaves: None });
        };
        let parsed = listing.sealed.as_deref().map(SealedState::parse);
        let state = match parsed {
            Some(Ok(state)) => Some(state),
            Some(Err(SealedError { at, fault })) => {
                damage(report, at, fault, "the collector does not start; nothing is lost");
                None
            }
            None => Some(SealedState::empty()),
        };
        let mut checked = state.as_ref().map_or_else(|| chain.clone(), |s| s.segments.clone());
        if let Some(state) = &state {
            let end = state.end();
            let there = |name: &SegmentName| listing.has(&name.path(SegmentFile::Index));
            let staged = |leaf: u64| {
                let prefix = format!("{}-", place(leaf));
                listing.staged.iter().any(|item| item.name.starts_with(&prefix))
            };
            if end > committed {
                let fault = format!("speaks of {end} leaves, the log has {committed}");
                damage(report, None, fault, "the collector does not start");
                checked = chain;
            } else if chain_end > end && !staged(end) {
                let fault = match &listing.sealed {
                    None => "missing".to_owned(),
                    Some(_) => format!("speaks of {end} leaves, {chain_end} are in segments"),
                };
                damage(report, None, fault, COST_STATE);
                checked = chain;
            } else if chain_end >= end && !checked.iter().all(there) {
                let fault = "its segments are not those that are there".to_owned();
                damage(report, None, fault, COST_STATE);
                checked = chain;
            }
        }
        for path in &listing.segments {
            if path.contains('#') {
                report.note(format!("{path} was left by an interrupted write"));
            } else if !SegmentName::parse(path).is_some_and(|(name, _)| checked.contains(&name)) {
                report.note(format!(
                    "{path} is of no segment in `sealed`: being written, or left by a crash; the \
                     next start deletes it"
                ));
            }
        }
        Self { source, state, names: checked, size, current: None, failed: None }
    }

    /// First leaf that is not sealed.
    pub(crate) fn end(&self) -> u64 {
        self.names.last().map_or(0, |name| name.end)
    }

    fn name_of(&self, leaf: u64) -> Option<SegmentName> {
        self.names.get(self.names.partition_point(|name| name.end <= leaf)).copied()
    }

    /// Takes in a leaf, in order: its bytes and hash as the tree has them, each where known.
    pub(crate) fn check(
        &mut self,
        leaf: u64,
        truth: Option<&[u8]>,
        hash: Option<Hash>,
        report: &mut FsckReport,
    ) -> Result<(), SourceError> {
        let Some(name) = self.name_of(leaf).filter(|name| self.failed != Some(*name)) else {
            return Ok(());
        };
        if self.current.as_ref().is_none_or(|segment| segment.name != name) {
            let opened = Segment::open(self.source, name, self.size, report);
            self.failed = opened.is_err().then_some(name);
            self.current = Some(opened?);
        }
        if let Some(segment) = &mut self.current {
            segment.leaf(leaf, truth, hash, report);
        }
        match self.current.take_if(|_| leaf + 1 == name.end) {
            Some(segment) => segment.finish(report),
            None => Ok(()),
        }
    }
}

/// First leaf that is not sealed, as `sealed` says now.
pub(crate) fn sealed_to(source: &dyn LogSource) -> Result<u64, SourceError> {
    Ok(sealed_now(source)?.map_or(0, |state| state.end()))
}

/// What `sealed` says now, where it can be read.
pub(crate) fn sealed_now(source: &dyn LogSource) -> Result<Option<SealedState>, SourceError> {
    let bytes = source.get(SEALED, MAX_SEALED)?;
    Ok(bytes.and_then(|bytes| SealedState::parse(&bytes).ok()))
}

const COST_STATE: &str =
    "the collector does not start; restore `sealed` from a copy: nothing else is lost";
