//! Tiles and entry bundles as they are stored.

use bytes::Bytes;
use meshchain_core::Hash;
use meshchain_core::tile::{TILE_WIDTH, TileKind, TileName, split_bundle, width_at};
use meshchain_store::{Store, StoreError};
use std::ops::Range;

/// A tile or entry bundle; a partial one that was deleted is cut out of the full one.
pub(crate) async fn tile(store: &Store, name: &TileName) -> Result<Option<Bytes>, StoreError> {
    if let Some(found) = store.get(&name.path()).await? {
        return Ok(Some(found));
    }
    let full = TileName { width: TILE_WIDTH as u16, ..*name };
    if full == *name {
        return Ok(None);
    }
    Ok(store.get(&full.path()).await?.map(|bytes| cut(&bytes, name)))
}

/// The tile `name` out of the bytes of a wider one.
pub(crate) fn cut(wider: &Bytes, name: &TileName) -> Bytes {
    let width = usize::from(name.width);
    let end = match name.kind {
        TileKind::Hashes(_) => width * 32,
        TileKind::Entries => split_bundle(wider)
            .map_or(0, |entries| entries.iter().take(width).map(|e| e.len() + 2).sum()),
    };
    wider.slice(..end.min(wider.len()))
}

/// Hashes out of a tile's bytes.
pub(crate) fn hashes(tile: &[u8]) -> Vec<Hash> {
    tile.as_chunks::<32>().0.to_vec()
}

/// Leaf hashes of the tree of `size` leaves, `None` where no tile has them.
pub(crate) async fn leaf_hashes(
    store: &Store,
    leaves: Range<u64>,
    size: u64,
) -> Result<Vec<Option<Hash>>, StoreError> {
    let (mut found, mut read) = (Vec::new(), None);
    for leaf in leaves {
        let (index, within) = (leaf / TILE_WIDTH, (leaf % TILE_WIDTH) as usize);
        if read.as_ref().is_none_or(|(at, _)| *at != index) {
            let width = width_at(size, 0, index);
            let name = TileName { kind: TileKind::Hashes(0), index, width };
            let tile = tile(store, &name).await?;
            read = Some((index, tile.map(|bytes| hashes(&bytes)).unwrap_or_default()));
        }
        found.push(read.as_ref().and_then(|(_, hashes)| hashes.get(within).copied()));
    }
    Ok(found)
}
