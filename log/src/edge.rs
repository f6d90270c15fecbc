//! The right edge of a tree: the partial tiles that a start needs, and finds elsewhere where one was lost or damaged.

use crate::tiles::{cut, hashes, tile};
use bytes::Bytes;
use meshchain_core::tile::{TILE_WIDTH, TileKind, TileName, split_bundle};
use meshchain_core::{Hash, merkle};
use meshchain_store::{Store, StoreError};

/// Where a tile is looked for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Under its name.
    There,
    /// In wider ones.
    Wider,
    /// In what stands below it.
    Below,
}

/// A tile or entry bundle: the object of its name, cut out of a wider one, or made of what stands below it. Whether it is
/// right, the root tells. `None` where nothing holds it.
pub(crate) async fn find(
    store: &Store,
    name: &TileName,
    look: Look,
) -> Result<Option<Bytes>, StoreError> {
    let order = match look {
        Look::There => [Place::Name, Place::Wider, Place::Below],
        Look::Wider => [Place::Wider, Place::Name, Place::Below],
        Look::Below => [Place::Below, Place::Wider, Place::Name],
    };
    for place in order {
        let found = match place {
            Place::Name => tile(store, name).await?,
            Place::Wider => of_wider(store, name).await?,
            Place::Below => made(store, name).await?,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Where it may be.
enum Place {
    Name,
    Wider,
    Below,
}

async fn made(store: &Store, name: &TileName) -> Result<Option<Bytes>, StoreError> {
    let made = match name.kind {
        TileKind::Entries => None,
        TileKind::Hashes(0) => of_entries(store, name).await?,
        TileKind::Hashes(level) => of_tiles_below(store, name, level - 1).await?,
    };
    Ok(made.map(|hashes| hashes.as_flattened().to_vec().into()))
}

/// Partial tiles stay until the full one is there.
async fn of_wider(store: &Store, name: &TileName) -> Result<Option<Bytes>, StoreError> {
    let path = name.path();
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    for (path, _) in store.list(folder).await? {
        let wider = TileName::parse(&path).filter(|other| other.width > name.width);
        if wider.is_some_and(|other| (other.kind, other.index) == (name.kind, name.index)) {
            return Ok(store.get(&path).await?.map(|bytes| cut(&bytes, name)));
        }
    }
    Ok(None)
}

async fn of_entries(store: &Store, name: &TileName) -> Result<Option<Vec<Hash>>, StoreError> {
    let entries = TileName { kind: TileKind::Entries, ..*name };
    let bundle = match of_wider(store, &entries).await? {
        Some(found) => Some(found),
        None => tile(store, &entries).await?,
    };
    let leaves = bundle.as_deref().and_then(split_bundle);
    let hashed = leaves.map(|leaves| leaves.iter().map(|leaf| merkle::leaf_hash(leaf)).collect());
    Ok(hashed.filter(|hashes: &Vec<Hash>| hashes.len() == usize::from(name.width)))
}

async fn of_tiles_below(
    store: &Store,
    name: &TileName,
    level: u8,
) -> Result<Option<Vec<Hash>>, StoreError> {
    let mut roots = Vec::new();
    for within in 0..u64::from(name.width) {
        let (kind, index) = (TileKind::Hashes(level), name.index * TILE_WIDTH + within);
        let full = TileName { kind, index, width: TILE_WIDTH as u16 };
        let Some(below) = store.get(&full.path()).await? else { return Ok(None) };
        roots.push(root_of_full(hashes(&below)));
    }
    Ok(Some(roots))
}

/// The root over the hashes of a full tile.
fn root_of_full(mut nodes: Vec<Hash>) -> Hash {
    while nodes.len() > 1 {
        let (pairs, _) = nodes.as_chunks::<2>();
        nodes = pairs.iter().map(|[left, right]| merkle::node_hash(left, right)).collect();
    }
    nodes.first().copied().unwrap_or_default()
}
