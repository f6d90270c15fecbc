//! The growing tree, and the objects that each growth writes.

use crate::tiles::{hashes, tile};
use bytes::Bytes;
use futures::future::try_join_all;
use meshchain_core::tile::{EdgeTiles, TILE_WIDTH, TileKind, TileName, put_entry, width_at};
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
    /// The tree of `size` leaves, out of its stored tiles.
    pub async fn load(store: &Store, size: u64) -> Result<Self, StoreError> {
        let mut tiles = HashMap::new();
        let (mut level, mut count) = (0, size);
        while count > 0 {
            let (index, width) = (count / TILE_WIDTH, (count % TILE_WIDTH) as u16);
            if width > 0 {
                let name = TileName { kind: TileKind::Hashes(level), index, width };
                tiles.insert((level, index), required(store, &name).await?);
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
        let bundle = if width > 0 { required(store, &name).await?.to_vec() } else { Vec::new() };
        Ok(Self { edge, bundle })
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
        for (level, index, hashes) in self.edge.partials() {
            let width = hashes.len() as u16;
            // The upper levels seldom change: then the tile is there.
            if width_at(before, level, index) != width {
                let name = TileName { kind: TileKind::Hashes(level), index, width };
                growth.objects.push((name, hashes.as_flattened().to_vec()));
            }
        }
        let (index, within) = (self.edge.size() / TILE_WIDTH, self.edge.size() % TILE_WIDTH);
        if within > 0 {
            let name = TileName { kind: TileKind::Entries, index, width: within as u16 };
            growth.objects.push((name, self.bundle.clone()));
        }
        growth
    }
}

async fn required(store: &Store, name: &TileName) -> Result<Bytes, StoreError> {
    tile(store, name).await?.ok_or_else(|| StoreError::missing(&name.path()))
}
