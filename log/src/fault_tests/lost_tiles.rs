//! Tiles of the right edge that are lost or damaged: a start makes them again where that can be done, and none of it changes the log.

use super::{SEAL_AT, Source, check, copy, live, reopen};
use futures::TryStreamExt;
use meshchain_core::tile::{TileKind, TileName};
use meshchain_store::Store;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A log that grew in commits of so many leaves.
async fn grown(commits: &[u16]) -> Arc<InMemory> {
    let objects = Arc::new(InMemory::new());
    let mut source = Source::default();
    let mut session = 0;
    let mut rounds = Vec::new();
    for count in commits {
        rounds.push(
            (0..*count)
                .map(|_| {
                    source.next({
                        session += 1;
                        session
                    })
                })
                .collect(),
        );
    }
    live(Store::over(objects.clone(), true), &rounds, &mut Vec::new()).await.unwrap();
    objects
}

async fn tiles(objects: &InMemory) -> BTreeMap<String, Vec<u8>> {
    let mut tiles = BTreeMap::new();
    for meta in objects.list(Some(&"tile".into())).try_collect::<Vec<_>>().await.unwrap() {
        let bytes = objects.get(&meta.location).await.unwrap().bytes().await.unwrap();
        tiles.insert(meta.location.to_string(), bytes.to_vec());
    }
    tiles
}

/// What becomes of a tile, by the place at which it is flipped or cut; `None` where it is lost.
fn harms(whole: &[u8]) -> Vec<Option<Vec<u8>>> {
    let flipped = |at: usize| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1;
        Some(bytes)
    };
    let last = whole.len() - 1;
    vec![None, flipped(0), flipped(last / 2), flipped(last), Some(whole[..last].to_vec())]
}

#[tokio::test(start_paused = true)]
async fn a_partial_tile_is_made_again_and_without_any_of_it_nothing_starts_wrongly() {
    let mut made = 0;
    for commits in [&[3, 2][..], &[7], &[200, 100, 3], &[256, 1], &[256, 256, 44]] {
        let whole = grown(commits).await;
        let all = tiles(&whole).await;
        let partial = |(path, _): &(&String, &Vec<u8>)| {
            TileName::parse(path).is_some_and(|name| name.width < 256)
        };
        for (path, bytes) in all.iter().filter(partial) {
            for (number, harm) in harms(bytes).into_iter().enumerate() {
                let objects = copy(&whole).await;
                match harm {
                    None => objects.delete(&path.as_str().into()).await.unwrap(),
                    Some(harm) => drop(objects.put(&path.as_str().into(), harm.into()).await),
                }
                let name = TileName::parse(path).unwrap();
                match reopen(Store::over(objects.clone(), true)).await {
                    Ok(log) => {
                        let now = tiles(&objects).await;
                        let others = now.iter().filter(|(other, _)| *other != path);
                        others.for_each(|(other, bytes)| assert_eq!(all.get(other), Some(bytes)));
                        if now.get(path) == Some(bytes) {
                            made += 1;
                        } else if now.contains_key(path) {
                            // No start needs it, and it may go.
                            objects.delete(&path.as_str().into()).await.unwrap();
                        }
                        check(&objects, &log, &[]).await;
                    }
                    // The leaves themselves stand nowhere else once they are sealed.
                    Err(error) => {
                        assert_eq!(name.kind, TileKind::Entries, "{path} {number}: {error}");
                        assert!(error.to_string().contains(path), "{path} {number}: {error}");
                    }
                }
            }
        }
    }
    assert!(made > 40, "{made} tiles were made again");
    const { assert!(SEAL_AT.leaves < 7, "some of these logs are sealed") };
}
