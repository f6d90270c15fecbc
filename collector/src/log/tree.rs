//! The growing tree, and the objects that each growth writes.

use meshchain_core::tile::{EdgeTiles, TILE_WIDTH, TileKind, TileName, put_entry};
use meshchain_core::{Hash, TreeHead, merkle};

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
    /// Names of the tiles that became full: their partial versions may go.
    pub fn filled(&self) -> impl Iterator<Item = &TileName> {
        self.objects.iter().map(|(name, _)| name).filter(|n| u64::from(n.width) == TILE_WIDTH)
    }
}

impl Tree {
    /// Size and root.
    pub fn head(&self) -> TreeHead {
        TreeHead { size: self.edge.size(), root: self.edge.root() }
    }

    /// Appends leaves (their bytes, each at most 65,535 long) and lists what is to be written.
    pub fn extend<'a>(&mut self, leaves: impl IntoIterator<Item = &'a [u8]>) -> Growth {
        let mut growth = Growth::default();
        let width = TILE_WIDTH as u16;
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
            let name =
                TileName { kind: TileKind::Hashes(level), index, width: hashes.len() as u16 };
            growth.objects.push((name, hashes.as_flattened().to_vec()));
        }
        let (index, within) = (self.edge.size() / TILE_WIDTH, self.edge.size() % TILE_WIDTH);
        if within > 0 {
            let name = TileName { kind: TileKind::Entries, index, width: within as u16 };
            growth.objects.push((name, self.bundle.clone()));
        }
        growth
    }
}

/// Hashes out of a tile's bytes.
pub fn hashes(tile: &[u8]) -> Vec<Hash> {
    tile.as_chunks::<32>().0.to_vec()
}
