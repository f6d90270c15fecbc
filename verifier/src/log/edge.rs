//! The right edge of the tree that is recomputed. Unlike [`EdgeTiles`] it goes on where a whole
//! tile of leaves is lost, if the tile above still tells the hash over them.

use meshchain_core::tile::{EdgeTiles, TILE_WIDTH};
use meshchain_core::{Hash, TreeHead, merkle};
use std::convert::Infallible;

/// A tile that filled: level, index, hashes.
pub(crate) type Filled = (u8, u64, Vec<Hash>);

#[derive(Default, Clone)]
pub(crate) struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
    counts: Vec<u64>,
}

impl Edge {
    /// Number of leaves.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf hash.
    pub(crate) fn push(&mut self, leaf: Hash) -> Vec<Filled> {
        self.size += 1;
        self.push_at(0, leaf)
    }

    /// Appends a full tile of leaves by the hash over it. The tree must end at a full tile.
    pub(crate) fn push_tile(&mut self, over: Hash) -> Vec<Filled> {
        self.size += TILE_WIDTH;
        self.level(0);
        self.counts[0] += 1;
        self.push_at(1, over)
    }

    fn level(&mut self, level: usize) -> &mut Vec<Hash> {
        while self.levels.len() <= level {
            self.levels.push(Vec::new());
            self.counts.push(0);
        }
        &mut self.levels[level]
    }

    fn push_at(&mut self, mut level: usize, mut hash: Hash) -> Vec<Filled> {
        let mut filled = Vec::new();
        loop {
            let tile = self.level(level);
            tile.push(hash);
            if tile.len() < TILE_WIDTH as usize {
                return filled;
            }
            let tile = std::mem::take(tile);
            hash = merkle::root(&tile);
            filled.push((level as u8, self.counts[level], tile));
            self.counts[level] += 1;
            level += 1;
        }
    }

    /// The partial tiles.
    pub(crate) fn partials(&self) -> Vec<Filled> {
        let levels = (0u8..).zip(self.levels.iter().zip(&self.counts));
        let partial = levels.filter(|(_, (tile, _))| !tile.is_empty());
        partial.map(|(level, (tile, index))| (level, *index, tile.clone())).collect()
    }

    pub(crate) fn head(&self) -> TreeHead {
        let edge = EdgeTiles::load(self.size, |level, _, _| {
            Ok::<_, Infallible>(self.levels.get(usize::from(level)).cloned().unwrap_or_default())
        });
        let root = match edge {
            Ok(Some(edge)) => edge.root(),
            _ => merkle::empty_root(),
        };
        TreeHead { size: self.size, root }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_with_a_tile_told_by_its_hash_has_the_root_of_its_leaves() {
        let leaves: Vec<Hash> = (0..700u64).map(|i| merkle::leaf_hash(&i.to_be_bytes())).collect();
        let (mut edge, mut told) = (Edge::default(), Edge::default());
        for (count, leaf) in (1..).zip(&leaves) {
            edge.push(*leaf);
            assert_eq!(edge.head().root, merkle::root(&leaves[..count]), "{count} leaves");
        }
        leaves[..256].iter().for_each(|leaf| drop(told.push(*leaf)));
        told.push_tile(merkle::root(&leaves[256..512]));
        leaves[512..].iter().for_each(|leaf| drop(told.push(*leaf)));
        assert_eq!(told.head(), edge.head());
        assert_eq!(told.partials(), edge.partials());
    }
}
