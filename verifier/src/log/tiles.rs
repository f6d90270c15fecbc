//! Tiles and entry bundles as the source has them, damaged or not.

use super::source::{LogSource, SourceError};
use meshchain_core::tile::{MAX_ENTRY_LEN, TILE_WIDTH, TileKind, TileName};
use meshchain_core::{Hash, merkle};
use std::ops::Range;

const MAX_TILE: u64 = TILE_WIDTH * 32;
/// Most bytes of an entry bundle.
pub(super) const MAX_BUNDLE: u64 = TILE_WIDTH * (MAX_ENTRY_LEN as u64 + 2);

/// An object that is there.
pub(crate) struct Stored {
    /// Its file: the full tile's where the partial one was pruned.
    pub(crate) file: String,
    pub(crate) bytes: Vec<u8>,
    /// Whether it may hold more than was asked for.
    pub(crate) wider: bool,
}

/// Reads a tile or bundle. Partial ones may be pruned when the full one is there (tlog-tiles,
/// "Partial Tiles").
pub(crate) fn fetch(
    source: &dyn LogSource,
    name: &TileName,
) -> Result<Option<Stored>, SourceError> {
    let limit = match name.kind {
        TileKind::Hashes(_) => MAX_TILE,
        TileKind::Entries => MAX_BUNDLE,
    };
    let file = name.path();
    if let Some(bytes) = source.get(&file, limit)? {
        return Ok(Some(Stored { file, bytes, wider: false }));
    }
    let full = TileName { width: TILE_WIDTH as u16, ..*name };
    if full == *name {
        return Ok(None);
    }
    let file = full.path();
    let bytes = source.get(&file, limit)?;
    Ok(bytes.map(|bytes| Stored { file, bytes, wider: true }))
}

/// The hashes or leaves of one stored object, as far as it can be read.
pub(crate) struct Column {
    pub(crate) file: String,
    pub(crate) bytes: Vec<u8>,
    /// Where each hash or leaf lies.
    pub(crate) parts: Vec<Range<usize>>,
    /// Leaf hashes or hashes, one per part.
    pub(crate) hashes: Vec<Hash>,
    /// Where the file's shape is wrong, and how.
    pub(crate) fault: Option<(usize, String)>,
}

impl Column {
    /// A tile of `width` hashes.
    pub(crate) fn tile(stored: Stored, width: u16) -> Self {
        let width = usize::from(width);
        let Stored { file, bytes, wider } = stored;
        let hashes: Vec<Hash> = bytes.as_chunks::<32>().0.iter().take(width).copied().collect();
        let (found, expected) = (bytes.len(), 32 * width);
        let wrong = found < expected || (found > expected && !wider);
        let fault = wrong.then(|| {
            (32 * hashes.len(), format!("{found} bytes, not the {expected} of {width} hashes"))
        });
        let parts = (0..hashes.len()).map(|n| 32 * n..32 * n + 32).collect();
        Self { file, bytes, parts, hashes, fault }
    }

    /// A bundle of `width` leaves.
    pub(crate) fn bundle(stored: Stored, width: u16) -> Self {
        let Stored { file, bytes, wider } = stored;
        let mut parts: Vec<Range<usize>> = Vec::new();
        let mut fault = None;
        let mut at = 0;
        while parts.len() < usize::from(width) {
            let length = bytes.get(at..at + 2).and_then(|b| b.try_into().ok());
            let end = length.map(|b| at + 2 + usize::from(u16::from_be_bytes(b)));
            match end.filter(|&end| end <= bytes.len()) {
                Some(end) => {
                    parts.push(at + 2..end);
                    at = end;
                }
                None => {
                    let found = parts.len();
                    fault = Some((at, format!("ends within leaf {found} of its {width}")));
                    break;
                }
            }
        }
        if fault.is_none() && at < bytes.len() && !wider {
            fault = Some((at, format!("{} bytes after its {width} leaves", bytes.len() - at)));
        }
        let hashes = parts.iter().map(|part| merkle::leaf_hash(&bytes[part.clone()])).collect();
        Self { file, bytes, parts, hashes, fault }
    }

    /// The leaf or hash at this position of the tile.
    pub(crate) fn part(&self, at: usize) -> Option<&[u8]> {
        self.bytes.get(self.parts.get(at)?.clone())
    }

    /// Byte where the part at this position begins; for a leaf, its length.
    pub(crate) fn offset(&self, at: usize, kind: TileKind) -> usize {
        let before = if kind == TileKind::Entries { 2 } else { 0 };
        match self.parts.get(at) {
            Some(part) => part.start - before,
            None => self.fault.as_ref().map_or(self.bytes.len(), |(offset, _)| *offset),
        }
    }
}
