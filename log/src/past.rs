//! What lies beside the head and speaks of the log's past: of a tree that is larger than the head's, or another
//! one of the same size. Then this is an older copy of the log, or another log, and it must not grow.

use crate::replay::Bundles;
use crate::tree::Tree;
use meshchain_core::tile::{TILE_HEIGHT, TILE_WIDTH, TileKind, TileName, split_bundle};
use meshchain_core::{TreeHead, merkle};
use meshchain_store::{Store, StoreError};
use meshchain_stored::{SegmentName, parse_table_path};

/// Levels of tiles that a tree of 2^64 leaves has.
const LEVELS: u8 = 8;

/// What contradicts the log of which `tree` is all that was committed; `None` where nothing does.
pub(crate) async fn contradiction(
    store: &Store,
    tree: &Tree,
    bundles: &Bundles,
    unsealed: &[String],
) -> Result<Option<String>, StoreError> {
    let head = tree.head();
    // A crash leaves a bundle that would come next, never one beyond it.
    let beyond = bundles.range(head.size + 1..).find_map(|(_, names)| names.first());
    if let Some(name) = beyond {
        return Ok(Some(ahead(name, &head)));
    }
    let later = |name: &&String| {
        let segment = SegmentName::parse(name).map(|(segment, _)| segment);
        segment.or_else(|| parse_table_path(name)).is_some_and(|of| of.end > head.size)
    };
    if let Some(name) = unsealed.iter().find(later) {
        return Ok(Some(ahead(name, &head)));
    }
    if let Some(name) = tile_ahead(store, &head).await? {
        return Ok(Some(ahead(&name, &head)));
    }
    other_edge(store, tree).await
}

fn ahead(name: &str, head: &TreeHead) -> String {
    format!("{name} is of a larger tree than the head's {} leaves", head.size)
}

/// A tile or entry bundle of a larger tree. Any such tree has one where the head's right edge is.
async fn tile_ahead(store: &Store, head: &TreeHead) -> Result<Option<String>, StoreError> {
    let levels = (0..LEVELS).map(|level| (TileKind::Hashes(level), u32::from(level)));
    for (kind, level) in levels.chain([(TileKind::Entries, 0)]) {
        let hashes = head.size.checked_shr(TILE_HEIGHT * level).unwrap_or(0);
        let (index, within) = (hashes / TILE_WIDTH, (hashes % TILE_WIDTH) as u16);
        let full = TileName { kind, index, width: TILE_WIDTH as u16 };
        if store.get(&full.path()).await?.is_some() {
            return Ok(Some(full.path()));
        }
        for (name, _) in store.list(&format!("{}.p", full.path())).await? {
            if TileName::parse(&name).is_some_and(|tile| tile.width > within) {
                return Ok(Some(name));
            }
        }
    }
    Ok(None)
}

/// Whether the newest leaves in the tiles are others than the head's. Hashes and entries must say so both: one of
/// them alone is rot.
async fn other_edge(store: &Store, tree: &Tree) -> Result<Option<String>, StoreError> {
    let size = tree.head().size;
    let (index, width) = (size / TILE_WIDTH, (size % TILE_WIDTH) as u16);
    let name = |kind| TileName { kind, index, width }.path();
    let (hashes, entries) = (name(TileKind::Hashes(0)), name(TileKind::Entries));
    if width == 0 {
        return Ok(None);
    }
    let (Some(found), Some(bundle)) = (store.get(&hashes).await?, store.get(&entries).await?)
    else {
        return Ok(None);
    };
    let leaves = split_bundle(&bundle).unwrap_or_default();
    let made: Vec<u8> = leaves.iter().flat_map(|leaf| merkle::leaf_hash(leaf)).collect();
    let other = made == found && bundle != tree.bundle();
    Ok(other.then(|| format!("{hashes} and {entries} hold other leaves than the head's tree")))
}
