//! Names of pools, and which of several for one place was committed: a commit that failed leaves its
//! pool beside the one that came after it.

use super::edge::Edge;
use super::pool::{MAX_POOL, Pool};
use super::source::{LogSource, SourceError};
use super::stored::{Column, fetch};
use meshchain_core::tile::{TILE_WIDTH, TileKind, TileName, width_at};
use meshchain_core::{Hash, TreeHead, merkle};
use std::collections::BTreeMap;

/// Name of a pool: its first leaf, and the start of the hash at its end.
pub(crate) fn name(first: u64, sum: &Hash) -> String {
    format!("{}-{}", bare(first), hex::encode(&sum[..8]))
}

/// What is known of the name of a pool that is missing.
pub(crate) fn bare(first: u64) -> String {
    format!("pool/{first:020}")
}

/// The first leaf in a pool's name; `None` for any other file.
pub(crate) fn first_of(name: &str) -> Option<u64> {
    let (first, sum) = name.strip_prefix("pool/")?.split_once('-')?;
    let digits = |text: &str, count: usize, radix: u32| {
        text.len() == count && text.chars().all(|c| c.is_digit(radix))
    };
    let sized = digits(first, 20, 10) && digits(sum, 16, 16);
    if sized { first.parse().ok() } else { None }
}

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

    /// The pool for reports.
    pub(crate) fn shown(&self, first: u64) -> String {
        let name = self.by_first.get(&first).and_then(|names| names.first());
        name.cloned().unwrap_or_else(|| bare(first))
    }

    /// The pool that was committed there: the one whose leaves are those of the tiles.
    pub(crate) fn committed(&mut self, first: u64) -> Result<Option<String>, SourceError> {
        if self.by_first.get(&first).is_some_and(|names| names.len() > 1) {
            let tiles = |leaf: u64, pool: &Pool| self.agree(leaf, pool);
            let best = self.best(first, &tiles)?;
            self.decide(first, best);
        }
        Ok(self.by_first.get(&first).and_then(|names| names.first().cloned()))
    }

    /// The same, where the leaves are in no tile yet: the pool that makes `head` out of `edge`.
    pub(crate) fn decide_ahead(&mut self, edge: &Edge, head: TreeHead) -> Result<(), SourceError> {
        let first = edge.size();
        if self.by_first.get(&first).is_none_or(|names| names.len() < 2) {
            return Ok(());
        }
        let best = self.best(first, &|_, pool| {
            let mut edge = edge.clone();
            for slices in &pool.leaves {
                edge.push(merkle::leaf_hash(&pool.bytes[slices.leaf.clone()]));
            }
            Ok(u64::from(edge.head() == head))
        })?;
        self.decide(first, best);
        Ok(())
    }

    fn decide(&mut self, first: u64, best: usize) {
        let Some(names) = self.by_first.get_mut(&first) else { return };
        names.swap(0, best);
        self.passed_over.extend(names.drain(1..));
    }

    /// The candidate with the highest score; a whole one where they are equal.
    fn best(
        &self,
        first: u64,
        score: &dyn Fn(u64, &Pool) -> Result<u64, SourceError>,
    ) -> Result<usize, SourceError> {
        let mut best = (0, (0, false));
        for (at, name) in self.by_first.get(&first).into_iter().flatten().enumerate() {
            let Some(bytes) = self.source.get(name, MAX_POOL)? else { continue };
            let pool = Pool::parse(bytes);
            let scored = (score(first, &pool)?, pool.sum_fits);
            if scored > best.1 {
                best = (at, scored);
            }
        }
        Ok(best.0)
    }

    /// How many leaves of a pool are those of the tiles; none where the first is not.
    fn agree(&self, first: u64, pool: &Pool) -> Result<u64, SourceError> {
        let mut tile: Option<(u64, Option<Column>)> = None;
        let mut agreed = 0;
        for (leaf, slices) in (first..self.published).zip(&pool.leaves) {
            let index = leaf / TILE_WIDTH;
            if tile.as_ref().is_none_or(|(at, _)| *at != index) {
                let width = width_at(self.published, 0, index);
                let name = TileName { kind: TileKind::Hashes(0), index, width };
                tile = Some((index, fetch(self.source, &name)?.map(|t| Column::tile(t, width))));
            }
            let hashes = tile.as_ref().and_then(|(_, column)| column.as_ref());
            let hash = hashes.and_then(|c| c.hashes.get((leaf % TILE_WIDTH) as usize));
            let own = merkle::leaf_hash(&pool.bytes[slices.leaf.clone()]);
            agreed += u64::from(hash == Some(&own));
        }
        // One with more leaves than the next pool leaves room for is not the better one.
        let whole = agreed == pool.leaves.len() as u64;
        Ok(agreed + u64::from(whole && agreed > 0) * TILE_WIDTH)
    }
}
