//! All staging bundles of a data directory, one in memory at a time.

use super::edge::Edge;
use super::findings::{Damage, FsckReport};
use super::segments::sealed_to;
use super::source::{Item, LogSource, SourceError};
use super::staged_leaf::At;
use super::staging_bundle::StagingBundle;
use super::staging_names::Names;
use meshchain_core::{Hash, TreeHead};
use meshchain_stored::staging::{StagingRead, first_of, name, place};
use std::rc::Rc;

pub(crate) struct Staging<'a> {
    source: &'a dyn LogSource,
    /// First leaf of each, ascending.
    firsts: Vec<u64>,
    names: Names<'a>,
    committed: u64,
    current: Option<(u64, Rc<StagingBundle>)>,
    /// The bundle that the check in order is in.
    checking: Option<u64>,
    /// A bundle that could not be read, and was told.
    failed: Option<u64>,
    /// A bundle was sealed since they were listed.
    pub(crate) moved: bool,
}

impl<'a> Staging<'a> {
    /// Takes in the files of `pool/`, those for the leaves `sealed..committed` of which `published`
    /// are in tiles.
    pub(crate) fn open(
        source: &'a dyn LogSource,
        items: &[Item],
        (sealed, published, committed): (u64, u64, u64),
        report: &mut FsckReport,
    ) -> Self {
        let mut names = Names::new(source, published);
        let mut leftovers = 0u64;
        for item in items {
            match first_of(&item.name).filter(|_| !item.folder) {
                Some(first) if first < sealed => leftovers += 1,
                Some(first) if first < committed => names.add(first, item.name.clone()),
                Some(_) => {
                    report.note(format!("{} was never committed: starts pass over it", item.name))
                }
                None if item.name.contains('#') => {
                    report.note(format!("{} was left by an interrupted write", item.name));
                }
                None => report.damage(Damage {
                    file: item.name.clone(),
                    offset: None,
                    fault: "not the name of a pool".to_owned(),
                    cost: "the collector does not start while it is there".to_owned(),
                    leaves: None,
                }),
            }
        }
        if leftovers > 0 {
            report.note(format!(
                "{leftovers} pools below leaf {sealed} are sealed already: the next start deletes \
                 them"
            ));
        }
        let firsts = names.firsts();
        let mut staging = Self {
            source,
            firsts,
            names,
            committed,
            current: None,
            checking: None,
            failed: None,
            moved: false,
        };
        let start = staging.firsts.first().copied().unwrap_or(committed);
        if start > sealed {
            staging.missing(sealed, start, report);
        }
        staging
    }

    /// Decides which bundle was committed behind the published tree `edge`: the one that makes `head`.
    pub(crate) fn decide_ahead(&mut self, edge: &Edge, head: TreeHead) -> Result<(), SourceError> {
        self.names.decide_ahead(edge, head)
    }

    /// Bundles that stand beside the committed one.
    pub(crate) fn passed_over(&self) -> &[String] {
        &self.names.passed_over
    }

    /// The first bundle that begins after `low` and below `high`.
    pub(crate) fn beginning_between(&self, low: u64, high: u64) -> Option<u64> {
        self.firsts.iter().copied().find(|&first| low < first && first < high)
    }

    fn missing(&mut self, from: u64, to: u64, report: &mut FsckReport) {
        if sealed_to(self.source).is_ok_and(|end| end > from) {
            self.moved = true;
            return;
        }
        report.damage(Damage {
            file: place(from),
            offset: None,
            fault: "missing".to_owned(),
            cost: lost_entries(from, to - 1),
            leaves: Some((from, to - 1)),
        });
    }

    /// File that should hold a leaf.
    pub(crate) fn file_of(&self, leaf: u64) -> String {
        self.place(leaf).map_or_else(|| place(leaf), |(first, _)| self.names.shown(first))
    }

    /// First leaf of the bundle that should hold `leaf`, and of the one after it.
    fn place(&self, leaf: u64) -> Option<(u64, u64)> {
        let after = self.firsts.partition_point(|&first| first <= leaf);
        let first = *self.firsts.get(after.checked_sub(1)?)?;
        Some((first, self.firsts.get(after).copied().unwrap_or(self.committed)))
    }

    fn load(&mut self, first: u64) -> Result<Option<Rc<StagingBundle>>, SourceError> {
        if let Some((_, pool)) = self.current.as_ref().filter(|(at, _)| *at == first) {
            return Ok(Some(pool.clone()));
        }
        self.current = None;
        let Some(name) = self.names.committed(first)? else {
            return Ok(None);
        };
        let bundle = StagingBundle::load(self.source, &name)?.map(Rc::new);
        self.current = bundle.as_ref().map(|bundle| (first, bundle.clone()));
        Ok(bundle)
    }

    /// The bytes of a leaf as its bundle has them.
    pub(crate) fn leaf(&mut self, leaf: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let Some((first, _)) = self.place(leaf) else {
            return Ok(None);
        };
        let Some(bundle) = self.load(first)? else {
            return Ok(None);
        };
        let slices = bundle.read.leaves.get((leaf - first) as usize);
        Ok(slices.map(|slices| bundle.bytes[slices.leaf()].to_vec()))
    }

    /// Checks the bundle's part of a leaf, called for each leaf in order. `truth` is the leaf as the
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
        let Some(bundle) = loaded? else {
            if entered {
                self.missing(first, end, report);
            }
            return Ok(());
        };
        if entered {
            report.pools += 1;
            self.check_shape(&bundle.read, first, end, report);
        }
        if let Some(slices) = bundle.read.leaves.get((leaf - first) as usize) {
            let at = At { file: self.names.shown(first), leaf, bytes: &bundle.bytes, slices };
            at.check(truth, hash, report);
        }
        let file = self.names.shown(first);
        if leaf + 1 < end || report.is_damaged(&file) {
            return Ok(());
        }
        let fault = if !bundle.read.sum_fits {
            "the SHA-256 at its end is not that of its bytes, though they hold together"
        } else if name(first, &bundle.read.sum) != file {
            "holds another pool than its name says"
        } else {
            return Ok(());
        };
        report.damage(Damage {
            file,
            offset: Some(bundle.read.sum_at as u64),
            fault: fault.to_owned(),
            cost: "the collector does not start; no leaf, entry or record is lost".to_owned(),
            leaves: Some((first, end - 1)),
        });
        Ok(())
    }

    fn check_shape(&mut self, read: &StagingRead, first: u64, end: u64, report: &mut FsckReport) {
        let found = first + read.leaves.len() as u64;
        let (offset, fault) = match read.fault {
            Some((at, fault)) => (at as u64, fault.to_owned()),
            None if found < end && read.sum_fits => return self.missing(found, end, report),
            None if found < end => {
                let fault = format!("ends before leaf {found}, but should go on to {}", end - 1);
                (read.sum_at as u64, fault)
            }
            None if found > end => {
                let at = &read.leaves[(end - first) as usize];
                let fault = format!("goes on to leaf {}, which another pool begins", found - 1);
                let cost = "the collector does not start; nothing is lost".to_owned();
                let offset = Some(at.lengths_at() as u64);
                let file = self.names.shown(first);
                return report.damage(Damage { file, offset, fault, cost, leaves: None });
            }
            None => return,
        };
        report.damage(Damage {
            file: self.names.shown(first),
            offset: Some(offset),
            fault,
            cost: lost_entries(found.min(end - 1), end - 1),
            leaves: Some((found.min(end - 1), end - 1)),
        });
    }
}

fn lost_entries(from: u64, to: u64) -> String {
    match from == to {
        true => format!(
            "the collector does not start; leaf {from}: its entries cannot be proved; everything else stands"
        ),
        false => format!(
            "the collector does not start; leaves {from} to {to}: their entries cannot be proved; all else stands"
        ),
    }
}
