//! All pools of a data directory, one in memory at a time.

use super::edge::Edge;
use super::pool::{MAX_POOL, Pool};
use super::pool_leaf::At;
use super::pool_names::{Names, bare, first_of, name};
use super::report::{Damage, FsckReport};
use super::segments::sealed_to;
use super::source::{Item, LogSource, SourceError};
use meshchain_core::{Hash, TreeHead};
use std::rc::Rc;

pub(crate) struct Pools<'a> {
    source: &'a dyn LogSource,
    /// First leaf of each, ascending.
    firsts: Vec<u64>,
    names: Names<'a>,
    committed: u64,
    current: Option<(u64, Rc<Pool>)>,
    /// The pool that the check in order is in.
    checking: Option<u64>,
    /// A pool that could not be read, and was told.
    failed: Option<u64>,
    /// A pool was sealed since they were listed.
    pub(crate) moved: bool,
}

impl<'a> Pools<'a> {
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
        let mut pools = Self {
            source,
            firsts,
            names,
            committed,
            current: None,
            checking: None,
            failed: None,
            moved: false,
        };
        let start = pools.firsts.first().copied().unwrap_or(committed);
        if start > sealed {
            pools.missing(sealed, start, report);
        }
        pools
    }

    /// Decides which pool was committed behind the published tree `edge`: the one that makes `head`.
    pub(crate) fn decide_ahead(&mut self, edge: &Edge, head: TreeHead) -> Result<(), SourceError> {
        self.names.decide_ahead(edge, head)
    }

    /// Pools that stand beside the committed one.
    pub(crate) fn passed_over(&self) -> &[String] {
        &self.names.passed_over
    }

    /// The first pool that begins after `low` and below `high`.
    pub(crate) fn beginning_between(&self, low: u64, high: u64) -> Option<u64> {
        self.firsts.iter().copied().find(|&first| low < first && first < high)
    }

    fn missing(&mut self, from: u64, to: u64, report: &mut FsckReport) {
        if sealed_to(self.source).is_ok_and(|end| end > from) {
            self.moved = true;
            return;
        }
        report.damage(Damage {
            file: bare(from),
            offset: None,
            fault: "missing".to_owned(),
            cost: format!("the collector does not start; {}", lost_entries(from, to - 1)),
            leaves: Some((from, to - 1)),
        });
    }

    /// File that should hold a leaf.
    pub(crate) fn file_of(&self, leaf: u64) -> String {
        self.place(leaf).map_or_else(|| bare(leaf), |(first, _)| self.names.shown(first))
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
        let Some(name) = self.names.committed(first)? else {
            return Ok(None);
        };
        let Some(bytes) = self.source.get(&name, MAX_POOL)? else {
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
            let at = At { file: self.names.shown(first), leaf, pool: &pool, slices };
            at.check(truth, hash, report);
        }
        let file = self.names.shown(first);
        if leaf + 1 < end || report.is_damaged(&file) {
            return Ok(());
        }
        let sum = pool.bytes.last_chunk().copied().unwrap_or_default();
        let fault = if !pool.sum_fits {
            "the SHA-256 at its end is not that of its bytes, though they hold together"
        } else if name(first, &sum) != file {
            "holds another pool than its name says"
        } else {
            return Ok(());
        };
        report.damage(Damage {
            file,
            offset: Some(pool.sum_at()),
            fault: fault.to_owned(),
            cost: "the collector does not start; no leaf, entry or record is lost".to_owned(),
            leaves: Some((first, end - 1)),
        });
        Ok(())
    }

    fn check_shape(&mut self, pool: &Pool, first: u64, end: u64, report: &mut FsckReport) {
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
        true => format!("leaf {from}: its entries cannot be proved; everything else stands"),
        false => format!("leaves {from} to {to}: their entries cannot be proved; all else stands"),
    }
}
