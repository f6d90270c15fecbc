//! Tiles and entry bundles of C2SP tlog-tiles (<https://c2sp.org/tlog-tiles>).
//!
//! A tile holds up to 256 consecutive hashes of one level; level `l` of the tiles is level `8 l` of
//! the tree. [`EdgeTiles`] grows a tree and hands out each tile as it fills.

use crate::hash::Hash;
use crate::merkle::{node_hash, subtree_root};
use std::convert::Infallible;

/// Hashes in a full tile.
pub const TILE_WIDTH: u64 = 256;
/// Levels of the tree that one tile spans.
pub const TILE_HEIGHT: u32 = 8;
/// Longest entry that a bundle can hold, in bytes (a u16 length stands before it).
pub const MAX_ENTRY_LEN: usize = 65_535;

/// What a tile resource holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileKind {
    /// Hashes of this tile level, 0 to 63.
    Hashes(u8),
    /// The entries below the level-0 tile of the same index.
    Entries,
}

impl TileKind {
    /// Tile level; entries lie beside level 0.
    pub fn level(self) -> u8 {
        match self {
            Self::Hashes(level) => level,
            Self::Entries => 0,
        }
    }
}

/// Name of one tile or entry bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileName {
    /// Hashes or entries.
    pub kind: TileKind,
    /// Index within the level.
    pub index: u64,
    /// Number of hashes or entries, 1 to 256.
    pub width: u16,
}

impl TileName {
    /// Path below the log's prefix, without a leading slash: `tile/0/x001/067.p/12`.
    pub fn path(&self) -> String {
        let mut path = match self.kind {
            TileKind::Hashes(level) => format!("tile/{level}/"),
            TileKind::Entries => "tile/entries/".to_owned(),
        };
        let digits = format!("{:03}", self.index);
        let padded = format!("{digits:0>width$}", width = digits.len().div_ceil(3) * 3);
        let groups = padded.len() / 3;
        for group in 0..groups {
            let element = &padded[3 * group..3 * group + 3];
            path.push_str(if group + 1 < groups { "x" } else { "" });
            path.push_str(element);
            path.push_str(if group + 1 < groups { "/" } else { "" });
        }
        if u64::from(self.width) < TILE_WIDTH {
            path.push_str(&format!(".p/{}", self.width));
        }
        path
    }

    /// Parses a path as [`TileName::path`] prints it; `None` for any other spelling.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("tile/")?;
        let (level, rest) = rest.split_once('/')?;
        let kind = match level {
            "entries" => TileKind::Entries,
            _ => TileKind::Hashes(level.parse().ok().filter(|&l| l < 64)?),
        };
        let (elements, width) = match rest.split_once(".p/") {
            Some((elements, width)) => (elements, width.parse().ok()?),
            None => (rest, TILE_WIDTH as u16),
        };
        let mut index = 0u64;
        for element in elements.split('/') {
            let digits = element.strip_prefix('x').unwrap_or(element);
            let number: u64 = digits.parse().ok()?;
            index = index.checked_mul(1000)?.checked_add(number)?;
        }
        let name = Self { kind, index, width };
        (name.width > 0 && name.path() == path).then_some(name)
    }
}

/// Width at which the tile `index` of tile level `level` is stored for a tree of `size` leaves; 0
/// where the tree has no such tile.
pub fn width_at(size: u64, level: u8, index: u64) -> u16 {
    let hashes = size.checked_shr(TILE_HEIGHT * u32::from(level)).unwrap_or(0);
    let before = index.saturating_mul(TILE_WIDTH);
    hashes.saturating_sub(before).min(TILE_WIDTH) as u16
}

/// Where a node of the tree lies: the hashes `start..start + count` of a tile, hashed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeInTile {
    /// Tile level.
    pub level: u8,
    /// Tile index.
    pub index: u64,
    /// First hash.
    pub start: usize,
    /// Number of hashes, a power of two.
    pub count: usize,
}

impl NodeInTile {
    /// Location of the complete subtree of 2^`level` leaves at `index`.
    pub fn of(level: u32, index: u64) -> Self {
        let within = level % TILE_HEIGHT;
        let first = index << within;
        Self {
            level: (level / TILE_HEIGHT) as u8,
            index: first / TILE_WIDTH,
            start: (first % TILE_WIDTH) as usize,
            count: 1 << within,
        }
    }

    /// The node's hash, out of the tile's hashes; `None` where the tile is too short.
    pub fn hash(&self, tile: &[Hash]) -> Option<Hash> {
        Some(complete_root(tile.get(self.start..self.start + self.count)?))
    }
}

/// Root over a power-of-two number of node hashes.
fn complete_root(hashes: &[Hash]) -> Hash {
    match hashes {
        [only] => *only,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node_hash(&complete_root(left), &complete_root(right))
        }
    }
}

/// The right edge of a growing tree: for each tile level the hashes of its partial tile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdgeTiles {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

impl EdgeTiles {
    /// The edge of a tree of `size` leaves. `partial` gives the hashes of the partial tile of a
    /// level, of the width asked for: (level, index, width). `None` where one has another width.
    pub fn load<E>(
        size: u64,
        mut partial: impl FnMut(u8, u64, u16) -> Result<Vec<Hash>, E>,
    ) -> Result<Option<Self>, E> {
        let mut levels = Vec::new();
        let mut hashes = size;
        while hashes > 0 {
            let width = (hashes % TILE_WIDTH) as u16;
            let tile = match width {
                0 => Vec::new(),
                _ => partial(levels.len() as u8, hashes / TILE_WIDTH, width)?,
            };
            if tile.len() != usize::from(width) {
                return Ok(None);
            }
            levels.push(tile);
            hashes /= TILE_WIDTH;
        }
        Ok(Some(Self { size, levels }))
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf hash; `full` is called with (level, index, hashes) of each tile that fills.
    pub fn append(&mut self, leaf: Hash, mut full: impl FnMut(u8, u64, &[Hash])) {
        let mut carry = leaf;
        self.size += 1;
        for level in 0u8.. {
            if self.levels.len() == usize::from(level) {
                self.levels.push(Vec::with_capacity(TILE_WIDTH as usize));
            }
            let tile = &mut self.levels[usize::from(level)];
            tile.push(carry);
            if tile.len() < TILE_WIDTH as usize {
                return;
            }
            let filled = self.size >> (TILE_HEIGHT * (u32::from(level) + 1));
            full(level, filled - 1, tile);
            carry = complete_root(tile);
            tile.clear();
        }
    }

    /// Root of the tree.
    pub fn root(&self) -> Hash {
        let mut node = |level: u32, index: u64| {
            let at = NodeInTile::of(level, index);
            // The complete subtrees that make up a root all lie in the partial tiles.
            let tile = self.levels.get(usize::from(at.level)).map_or(&[][..], Vec::as_slice);
            Ok::<_, Infallible>(at.hash(tile).unwrap_or_default())
        };
        match subtree_root(0, self.size, &mut node) {
            Ok(root) => root,
            Err(never) => match never {},
        }
    }

    /// The partial tiles, (level, index, hashes), lowest level first.
    pub fn partials(&self) -> impl Iterator<Item = (u8, u64, &[Hash])> {
        self.levels.iter().enumerate().filter(|(_, tile)| !tile.is_empty()).map(|(level, tile)| {
            let index = self.size.checked_shr(TILE_HEIGHT * (level as u32 + 1)).unwrap_or(0);
            (level as u8, index, tile.as_slice())
        })
    }
}

/// Appends an entry to a bundle: its length (u16, big-endian), then its bytes. `false`, and nothing
/// appended, where it is too long.
pub fn put_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> bool {
    let Ok(length) = u16::try_from(entry.len()) else {
        return false;
    };
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    true
}

/// Splits a bundle into its entries; `None` where it is malformed.
pub fn split_bundle(mut bundle: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let (length, rest) = bundle.split_at_checked(2)?;
        let length = u16::from_be_bytes([length[0], length[1]]);
        let (entry, rest) = rest.split_at_checked(length.into())?;
        entries.push(entry);
        bundle = rest;
    }
    Some(entries)
}

/// The hashes of a tile from its bytes; `None` unless it holds `width` hashes.
pub fn parse_tile(bytes: &[u8], width: u16) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    (rest.is_empty() && hashes.len() == usize::from(width)).then(|| hashes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{leaf_hash, root};

    #[test]
    fn names_are_spelt_as_the_specification_does() {
        let name = |kind, index, width| TileName { kind, index, width };
        let cases = [
            (name(TileKind::Hashes(0), 1_234_067, 256), "tile/0/x001/x234/067"),
            (name(TileKind::Hashes(2), 5, 12), "tile/2/005.p/12"),
            (name(TileKind::Entries, 1000, 1), "tile/entries/x001/000.p/1"),
        ];
        for (name, path) in cases {
            assert_eq!(name.path(), path);
            assert_eq!(TileName::parse(path), Some(name));
        }
        for path in [
            "tile/0/5",
            "tile/64/005",
            "tile/00/005",
            "tile/0/005.p/0",
            "tile/0/005.p/256",
            "tile/0/005.p/01",
            "tile/0/x005",
            "tile/0/001/005",
            "tile/0/",
            "tile/0/+05",
            "tile/entries/../005",
        ] {
            assert_eq!(TileName::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_grown_tree_has_the_root_of_its_leaves_and_reloads_from_its_tiles() {
        let leaves: Vec<Hash> = (0..66_000u64).map(|i| leaf_hash(&i.to_be_bytes())).collect();
        let mut edge = EdgeTiles::default();
        let mut full = 0;
        for (count, leaf) in (1u64..).zip(&leaves) {
            edge.append(*leaf, |level, index, hashes| {
                assert_eq!(hashes.len(), 256);
                assert_eq!(width_at(count, level, index), 256);
                full += 1;
            });
            if count < 600 || count == 65_536 || count == 66_000 {
                assert_eq!(edge.root(), root(&leaves[..count as usize]), "{count} leaves");
                let partials: Vec<_> =
                    edge.partials().map(|(l, i, h)| ((l, i, h.len() as u16), h.to_vec())).collect();
                let reloaded = EdgeTiles::load(count, |level, index, width| {
                    partials
                        .iter()
                        .find(|p| p.0 == (level, index, width))
                        .map(|p| p.1.clone())
                        .ok_or(())
                });
                assert_eq!(reloaded.unwrap().unwrap().root(), edge.root());
            }
        }
        assert_eq!(full, 66_000 / 256 + 1);
    }

    #[test]
    fn a_bundle_splits_into_its_entries_and_a_torn_one_does_not() {
        let mut bundle = Vec::new();
        assert!(put_entry(&mut bundle, b"one") && put_entry(&mut bundle, b""));
        assert!(!put_entry(&mut bundle, &vec![0; MAX_ENTRY_LEN + 1]));
        assert_eq!(split_bundle(&bundle), Some(vec![&b"one"[..], b""]));
        assert_eq!(split_bundle(&bundle[..4]), None);
        assert_eq!(split_bundle(&bundle[..6]), None);
    }
}
