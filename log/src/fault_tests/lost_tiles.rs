//! Tiles of the right edge that are lost: a start makes them again where that can be done, and none of it changes the log.

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

#[tokio::test(start_paused = true)]
async fn a_lost_partial_tile_is_made_again_and_without_any_of_it_nothing_starts_wrongly() {
    let mut made = 0;
    for commits in [&[3, 2][..], &[7], &[200, 100, 3], &[256, 1], &[256, 256, 44]] {
        let whole = grown(commits).await;
        let all = tiles(&whole).await;
        let partial = |path: &&String| TileName::parse(path).is_some_and(|name| name.width < 256);
        for lost in all.keys().filter(partial) {
            let objects = copy(&whole).await;
            objects.delete(&lost.as_str().into()).await.unwrap();
            let name = TileName::parse(lost).unwrap();
            let opened = reopen(Store::over(objects.clone(), true)).await;
            match opened {
                Ok(log) => {
                    check(&objects, &log, &[]).await;
                    let now = tiles(&objects).await;
                    assert!(now.iter().all(|(path, bytes)| all.get(path) == Some(bytes)), "{lost}");
                    made += usize::from(now.len() == all.len());
                }
                // The leaves themselves stand nowhere else once they are sealed.
                Err(error) => {
                    assert_eq!(name.kind, TileKind::Entries, "{lost}: {error}");
                    assert!(error.to_string().contains(lost), "{error}");
                }
            }
        }
    }
    assert!(made > 8, "{made} tiles were made again");
    assert!(made > 8, "{made} tiles were made again");
    const { assert!(SEAL_AT.leaves < 7, "some of these logs are sealed") };
}
