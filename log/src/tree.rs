//! The growing tree, and the objects that each growth writes.

use crate::edge::{self, Look};
use crate::tiles::{hashes, tile};
use bytes::Bytes;
use futures::future::try_join_all;
use meshchain_core::tile::{
    EdgeTiles, TILE_WIDTH, TileKind, TileName, put_entry, split_bundle, width_at,
};
use meshchain_core::{Hash, TreeHead, merkle};
use meshchain_store::{Store, StoreError};
use std::collections::HashMap;
use std::convert::Infallible;

/// Right edge of the tree and the entry bundle that is being filled.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    edge: EdgeTiles,
    bundle: Vec<u8>,
}

/// What a growth writes, and which partial objects it makes superfluous.
#[derive(Debug, Default)]
pub struct Growth {
    /// Tiles and bundles, by name.
    pub objects: Vec<(TileName, Vec<u8>)>,
}

impl Growth {
    /// Writes all of them, side by side; the head that speaks of them is committed.
    pub async fn write(&self, store: &Store) -> Result<(), StoreError> {
        let puts = self.objects.iter().map(|(name, bytes)| {
            let path = name.path();
            async move { store.put_committed(&path, bytes.clone().into()).await }
        });
        try_join_all(puts).await.map(drop)
    }

    /// Names of the tiles that became full: their partial versions may go.
    pub fn filled(&self) -> impl Iterator<Item = &TileName> {
        self.objects.iter().map(|(name, _)| name).filter(|n| u64::from(n.width) == TILE_WIDTH)
    }
}

impl Tree {
    /// The tree of this head, out of its stored tiles, or of what holds the same where one of them is damaged.
    pub async fn load(store: &Store, head: &TreeHead) -> Result<Self, StoreError> {
        let mut first = None;
        for look in [Look::There, Look::Wider, Look::Below] {
            match Self::find(store, head.size, look).await {
                Ok(tree) if tree.head() == *head => return Ok(tree),
                Err(error) if error.lost().is_none() => return Err(error),
                Err(error) => drop(first.get_or_insert(error)),
                Ok(_) => {}
            }
        }
        let fault = format!("they do not make the tree of {} leaves", head.size);
        Err(first.unwrap_or_else(|| StoreError::damaged("tile", fault)))
    }

    async fn find(store: &Store, size: u64, look: Look) -> Result<Self, StoreError> {
        let mut tiles = HashMap::new();
        let (mut level, mut count) = (0, size);
        while count > 0 {
            let (index, width) = (count / TILE_WIDTH, (count % TILE_WIDTH) as u16);
            if width > 0 {
                let name = TileName { kind: TileKind::Hashes(level), index, width };
                tiles.insert((level, index), required(store, &name, look).await?);
            }
            (level, count) = (level + 1, count / TILE_WIDTH);
        }
        let edge = EdgeTiles::load(size, |level, index, _| {
            let tile = tiles.get(&(level, index));
            Ok::<_, Infallible>(tile.map(|bytes| hashes(bytes)).unwrap_or_default())
        });
        let Ok(edge) = edge;
        let edge = edge.ok_or_else(|| StoreError::damaged("tile", "of another width"))?;
        let (index, width) = (size / TILE_WIDTH, (size % TILE_WIDTH) as u16);
        let name = TileName { kind: TileKind::Entries, index, width };
        let bundle =
            if width > 0 { required(store, &name, look).await?.to_vec() } else { Vec::new() };
        let leaves = split_bundle(&bundle).unwrap_or_default();
        let hashed = leaves.iter().map(|leaf| merkle::leaf_hash(leaf));
        let within = edge.partials().find(|(level, ..)| *level == 0).map_or(&[][..], |(.., h)| h);
        if !hashed.eq(within.iter().copied()) {
            return Err(StoreError::damaged(&name.path(), "other leaves than the tile beside it"));
        }
        Ok(Self { edge, bundle })
    }

    /// Writes those tiles of the right edge that are not there, or not right, of a tree that is published.
    pub async fn mend_edge(&self, store: &Store) -> Result<(), StoreError> {
        for (name, bytes) in self.right_edge() {
            if tile(store, &name).await?.is_none_or(|found| found != bytes) {
                log::warn!("{} was lost or damaged, and is made again", name.path());
                store.put_committed(&name.path(), bytes.into()).await?;
            }
        }
        Ok(())
    }

    /// The partial tiles, and the entry bundle that is being filled.
    fn right_edge(&self) -> Vec<(TileName, Vec<u8>)> {
        let tiles = self.edge.partials().map(|(level, index, hashes)| {
            let width = hashes.len() as u16;
            let name = TileName { kind: TileKind::Hashes(level), index, width };
            (name, hashes.as_flattened().to_vec())
        });
        let mut edge: Vec<_> = tiles.collect();
        let (index, width) = (self.edge.size() / TILE_WIDTH, self.edge.size() % TILE_WIDTH);
        if width > 0 {
            let name = TileName { kind: TileKind::Entries, index, width: width as u16 };
            edge.push((name, self.bundle.clone()));
        }
        edge
    }

    /// Size and root.
    pub fn head(&self) -> TreeHead {
        TreeHead { size: self.edge.size(), root: self.edge.root() }
    }

    /// The entry bundle that is being filled.
    pub fn bundle(&self) -> &[u8] {
        &self.bundle
    }

    /// Size and root with some more leaves, given by their hashes.
    pub fn head_with(&self, leaf_hashes: &[Hash]) -> TreeHead {
        let mut edge = self.edge.clone();
        leaf_hashes.iter().for_each(|hash| edge.append(*hash, |_, _, _| {}));
        TreeHead { size: edge.size(), root: edge.root() }
    }

    /// Appends leaves (their bytes, each at most 65,535 long) and lists what is to be written.
    pub fn extend<'a>(&mut self, leaves: impl IntoIterator<Item = &'a [u8]>) -> Growth {
        let mut growth = Growth::default();
        let width = TILE_WIDTH as u16;
        let before = self.edge.size();
        for leaf in leaves {
            put_entry(&mut self.bundle, leaf);
            self.edge.append(merkle::leaf_hash(leaf), |level, index, hashes| {
                let name = TileName { kind: TileKind::Hashes(level), index, width };
                growth.objects.push((name, hashes.as_flattened().to_vec()));
            });
            let (index, within) = (self.edge.size() / TILE_WIDTH, self.edge.size() % TILE_WIDTH);
            if within == 0 {
                let name = TileName { kind: TileKind::Entries, index: index - 1, width };
                growth.objects.push((name, std::mem::take(&mut self.bundle)));
            }
        }
        // The upper levels seldom change: then the tile is there.
        let changed = |name: &TileName| match name.kind {
            TileKind::Hashes(level) => width_at(before, level, name.index) != name.width,
            TileKind::Entries => true,
        };
        growth.objects.extend(self.right_edge().into_iter().filter(|(name, _)| changed(name)));
        growth
    }
}

async fn required(store: &Store, name: &TileName, look: Look) -> Result<Bytes, StoreError> {
    edge::find(store, name, look).await?.ok_or_else(|| StoreError::missing(&name.path()))
}
