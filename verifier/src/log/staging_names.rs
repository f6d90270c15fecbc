//! Names of staging bundles by place, and which of several for one place was committed.

use super::edge::Edge;
use super::source::{LogSource, SourceError};
use super::staging_bundle::StagingBundle;
use super::tiles::{Column, fetch};
use meshchain_core::tile::{TILE_WIDTH, TileKind, TileName, width_at};
use meshchain_core::{Hash, TreeHead};
use meshchain_stored::committed::{Candidate, Known, committed};
use meshchain_stored::staging::place;
use std::collections::BTreeMap;
use std::ops::Range;

pub(crate) struct Names<'a> {
    source: &'a dyn LogSource,
    published: u64,
    by_first: BTreeMap<u64, Vec<String>>,
    /// Those that stand beside the committed one.
    pub(crate) passed_over: Vec<String>,
}

impl<'a> Names<'a> {
    pub(crate) fn new(source: &'a dyn LogSource, published: u64) -> Self {
        Self { source, published, by_first: BTreeMap::new(), passed_over: Vec::new() }
    }

    pub(crate) fn add(&mut self, first: u64, name: String) {
        self.by_first.entry(first).or_default().push(name);
    }

    /// First leaves, ascending.
    pub(crate) fn firsts(&self) -> Vec<u64> {
        self.by_first.keys().copied().collect()
    }

    /// The bundle for reports.
    pub(crate) fn shown(&self, first: u64) -> String {
        let name = self.by_first.get(&first).and_then(|names| names.first());
        name.cloned().unwrap_or_else(|| place(first))
    }

    /// The bundle that was committed there.
    pub(crate) fn committed(&mut self, first: u64) -> Result<Option<String>, SourceError> {
        if self.are_several(first) {
            let candidates = self.candidates(first)?;
            let most = candidates.iter().map(|c| c.leaves.len()).max().unwrap_or(0);
            let end = self.published.min(first.saturating_add(most as u64));
            let tree = self.leaf_hashes(first..end)?;
            self.decide(first, &candidates, &Known::Published(&tree));
        }
        Ok(self.by_first.get(&first).and_then(|names| names.first().cloned()))
    }

    /// The same, where the leaves are in no tile yet: the bundle that makes `head` out of `edge`.
    pub(crate) fn decide_ahead(&mut self, edge: &Edge, head: TreeHead) -> Result<(), SourceError> {
        let first = edge.size();
        if !self.are_several(first) {
            return Ok(());
        }
        let candidates = self.candidates(first)?;
        let grown = |leaves: &[Hash]| {
            let mut edge = edge.clone();
            leaves.iter().for_each(|leaf| drop(edge.push(*leaf)));
            edge.head()
        };
        self.decide(first, &candidates, &Known::Ahead { head, grown: &grown });
        Ok(())
    }

    fn are_several(&self, first: u64) -> bool {
        self.by_first.get(&first).is_some_and(|names| names.len() > 1)
    }

    fn candidates(&self, first: u64) -> Result<Vec<Candidate>, SourceError> {
        let names = self.by_first.get(&first).into_iter().flatten();
        let load = |name: &String| {
            let bundle = StagingBundle::load(self.source, name)?;
            Ok(bundle.map(|b| Candidate::of(&b.bytes, &b.read)).unwrap_or_default())
        };
        names.map(load).collect()
    }

    /// Where none agrees with the log, the first intact one is looked at.
    fn decide(&mut self, first: u64, candidates: &[Candidate], known: &Known<'_>) {
        let intact = || candidates.iter().position(|candidate| candidate.intact);
        let best = committed(candidates, known).map(|(at, _)| at).or_else(intact);
        let Some(names) = self.by_first.get_mut(&first) else { return };
        names.swap(0, best.unwrap_or(0));
        self.passed_over.extend(names.drain(1..));
    }

    /// Leaf hashes of the published tree, as its tiles have them.
    fn leaf_hashes(&self, leaves: Range<u64>) -> Result<Vec<Option<Hash>>, SourceError> {
        let mut tile: Option<(u64, Option<Column>)> = None;
        let mut found = Vec::new();
        for leaf in leaves {
            let index = leaf / TILE_WIDTH;
            if tile.as_ref().is_none_or(|(at, _)| *at != index) {
                let width = width_at(self.published, 0, index);
                let name = TileName { kind: TileKind::Hashes(0), index, width };
                tile = Some((index, fetch(self.source, &name)?.map(|t| Column::tile(t, width))));
            }
            let column = tile.as_ref().and_then(|(_, column)| column.as_ref());
            let hash = column.and_then(|c| c.hashes.get((leaf % TILE_WIDTH) as usize));
            found.push(hash.copied());
        }
        Ok(found)
    }
}
