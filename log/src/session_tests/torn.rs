//! Session tables that are lost or damaged: they are made again, and cost no session.

use super::{Collector, SESSIONS, Sent, left};
use crate::rebuild::Rebuild;
use crate::table::Tables;
use meshchain_stored::table_path;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What is done to a session table.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Gone,
    Flipped { at: usize },
    Cut { to: usize },
    Replaced,
}

async fn harm(objects: &InMemory, path: &Path, harm: Harm) {
    let whole = objects.get(path).await.unwrap().bytes().await.unwrap();
    let mut bytes = whole.to_vec();
    match harm {
        Harm::Gone => return objects.delete(path).await.unwrap(),
        Harm::Flipped { at } => bytes[at % whole.len()] ^= 0x10,
        Harm::Cut { to } => bytes.truncate(to % whole.len()),
        Harm::Replaced => bytes = b"something else".to_vec(),
    }
    objects.put(path, bytes.into()).await.unwrap();
}

fn harms() -> impl Strategy<Value = Harm> {
    prop_oneof![
        Just(Harm::Gone),
        any::<usize>().prop_map(|at| Harm::Flipped { at }),
        any::<usize>().prop_map(|to| Harm::Cut { to }),
        Just(Harm::Cut { to: 0 }),
        Just(Harm::Replaced),
    ]
}

/// A log of many tables of which one is harmed while it runs, or before a start, and what it answers then.
async fn goes_on_without(which: prop::sample::Index, what: Harm, restarts: bool) {
    let objects = Arc::new(InMemory::new());
    let (mut collector, mut model) = left(&objects).await;
    for of in [1, 3, 0, 4] {
        let batch = model.batch(of, Sent::Next { lost: 0 });
        let expected = model.answer(of, &batch);
        assert_eq!(collector.commit(vec![batch]).await, [expected]);
        collector.seal().await;
        collector.leave(false);
    }
    let tables = collector.log.tables().0;
    let path = Path::from(table_path(&which.get(&tables).name()));
    let whole = objects.get(&path).await.unwrap().bytes().await.unwrap();
    harm(&objects, &path, what).await;
    if restarts {
        collector = Collector::open(&objects).await;
    }
    for of in 0..SESSIONS {
        let batch = model.batch(of, Sent::Next { lost: 0 });
        let expected = model.answer(of, &batch);
        let found = collector.commit_at_last(batch).await;
        assert_eq!(found, expected, "session {of}");
    }
    collector.seal().await;
    assert_eq!(collector.list().await, model.list());
    let found = match objects.get(&path).await {
        Ok(found) => found.bytes().await.unwrap(),
        Err(error) => panic!("{path} was not made again: {error}"),
    };
    // What nobody read may be as it was harmed.
    if restarts && !matches!(what, Harm::Flipped { .. }) {
        assert!(found == whole, "{path} is not as it was");
    }
}

#[tokio::test]
async fn a_table_that_is_made_again_part_by_part_is_the_one_that_was_lost() {
    let objects = Arc::new(InMemory::new());
    let (collector, _) = left(&objects).await;
    let tables = collector.log.tables();
    let name = tables.0[0].name();
    let path = Path::from(table_path(&name));
    let whole = objects.get(&path).await.unwrap().bytes().await.unwrap();
    for part in 1..=name.end + 1 {
        objects.delete(&path).await.unwrap();
        let (store, runtime) = (collector.log.store.clone(), Handle::current());
        let rebuild = Rebuild { store, runtime, older: Tables::default(), name, part };
        tokio::task::spawn_blocking(move || rebuild.run()).await.unwrap().unwrap();
        assert_eq!(objects.get(&path).await.unwrap().bytes().await.unwrap(), whole, "{part}");
        let left = collector.log.store.list("sessions").await.unwrap();
        assert_eq!(left.len(), 1, "{part}: {left:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_table_that_is_lost_or_damaged_is_made_again_and_costs_no_session(
        which in any::<prop::sample::Index>(), what in harms(), restarts in any::<bool>()
    ) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(goes_on_without(which, what, restarts));
    }
}
