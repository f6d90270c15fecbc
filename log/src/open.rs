//! Opening a log: from whatever a crash left to a writer that may go on.

use crate::catalog::{Catalog, SealAt};
use crate::error::{OpenError, damaged, random};
use crate::event::{Event, Events};
use crate::growth::Witness;
use crate::log::Log;
use crate::owned::{HEAD, Owned, TakenOver};
use crate::past::contradiction;
use crate::rebuild::{Torn, made_again};
use crate::replay::{Bundles, Replay};
use crate::seal::Sealer;
use crate::segment::Sealed;
use crate::sessions::{SILENT_AFTER_NS, Sessions};
use crate::table::{Table, Tables};
use crate::tree::Tree;
use crate::writer::Writer;
use futures::{StreamExt, TryStreamExt, stream};
use meshchain_core::{BatchLeaf, Canonical, SignedHead, SigningKey};
use meshchain_store::{Store, StoreError};
use meshchain_stored::audit_line::CUT_OFF;
use meshchain_stored::sealed::{SEALED, SealedState};
use meshchain_stored::{SegmentFile, SegmentName, parse_table_path, staging, table_path};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Indexes of segments that are read at the same time.
const READ_AHEAD: usize = 8;

/// Opens the log in `store`, making it where there is none: takes it over, checks the bundles that
/// are not sealed against the head, rebuilds their index, and publishes what was committed. Where something beside
/// the head speaks of another history, the log is halted: [`Log::halt`]. `told`: leaves whose [`Event::Logged`] is known to
/// be kept; those behind it are told again, once all else is well, unless they are more than a crash leaves.
pub async fn open(
    store: Store,
    key: SigningKey,
    seal_at: SealAt,
    told: u64,
    events: Events,
) -> Result<(Arc<Log>, Writer, Sealer), OpenError> {
    let earlier = |(name, _): &(String, u64)| staging::first_of(name).is_none();
    if let Some((name, _)) = store.list("pool").await?.into_iter().find(earlier) {
        return Err(OpenError::Earlier(name));
    }
    let writer = format!("{:016x}", random()?);
    let taken = Owned::take_over(&store, &key, writer).await?;
    let TakenOver { mut owned, head, published, sealed, sealed_version } = taken;
    let applied = published.as_ref().map_or(0, |(head, _)| head.size);
    let (end, committed) = (sealed.end(), head.size);
    log::debug!("taken over: {end} leaves sealed, {applied} published, {committed} committed");
    let tree = Tree::load(&store, &sealed.head()).await?;
    let sealed_tree = tree.clone();
    let (segments, mut leftovers) = segments(&store, &sealed).await?;
    let (tables, merged) = tables(&store, &sealed).await?;
    leftovers.extend(merged);
    let mut replay = Replay {
        store: &store,
        applied,
        head,
        tree,
        catalog: Catalog::new(segments, seal_at, random()?),
        sessions: Sessions::default(),
        tables,
        untold: if committed.saturating_sub(told) <= CUT_OFF { told } else { u64::MAX },
        again: Vec::new(),
    };
    let (bundles, sealed_ones) = bundles(&store, sealed.end()).await?;
    leftovers.extend(sealed_ones);
    replay.run(&bundles).await?;
    let found = replay.tree.head();
    if found != head {
        let fault = format!(
            "the bundles make a tree of {} leaves with root {}, the head speaks of {} leaves with root {}",
            found.size,
            hex::encode(found.root),
            head.size,
            hex::encode(head.root)
        );
        return Err(damaged(HEAD, fault));
    }
    let contradiction = contradiction(&store, &replay.tree, &bundles, &leftovers).await?;
    // Only now that all is there without them, and as long as nobody else has begun to write.
    if !leftovers.is_empty() && contradiction.is_none() {
        if store.is_shared() {
            store.check(SEALED, &sealed_version).await?;
        }
        log::debug!("{} objects that a crash left are deleted", leftovers.len());
        store.delete_all(leftovers).await;
    }
    let Replay { tree, catalog, mut sessions, mut tables, again, .. } = replay;
    // Who had been silent for so long when the newest batch was received was told.
    let newest_ns = sessions.newest_ns().max(tables.newest_ns());
    let before_ns = newest_ns.saturating_sub(SILENT_AFTER_NS);
    let open = tables.insist(&store, async |tables| tables.open_since(&store, before_ns).await);
    for (id, heard) in open.await? {
        sessions.mark(id, heard);
    }
    sessions.count_silent(before_ns);
    sessions.fall_silent(before_ns);
    let checkpoint = owned.publish_taken(&head, published, &key).await?;
    // Where something speaks of another history, all stays as it is.
    if contradiction.is_none() {
        for tree in [&sealed_tree, &tree] {
            tree.mend_edge(&store).await?;
        }
    }
    let signed = SignedHead { head, checkpoint };
    let log = Arc::new(Log::new(store, key, catalog, (sessions, tables), signed, events));
    match contradiction {
        Some(why) => log.halt(Witness::Kept, why),
        None => {
            log.tell(Event::Committed(head));
            for (index, leaf, step) in &again {
                let leaf = &BatchLeaf::decode(leaf).unwrap_or_default();
                let header = &leaf.parse_header().unwrap_or_default();
                log.tell(Event::Logged { index: *index, leaf, header, step, again: true });
            }
        }
    }
    let writer = Writer::new(log.clone(), tree, owned);
    Ok((log.clone(), writer, Sealer::new(log, sealed, sealed_version)))
}

/// The segments that the sealed state speaks of, and what else lies there: a crash left it.
async fn segments(
    store: &Store,
    state: &SealedState,
) -> Result<(Vec<Arc<Sealed>>, Vec<String>), OpenError> {
    let names: HashSet<_> = state.segments.iter().copied().collect();
    let (mut lengths, mut leftovers) = (HashMap::new(), Vec::new());
    for (path, len) in store.list("segment").await? {
        match SegmentName::parse(&path).filter(|(name, _)| names.contains(name)) {
            Some((name, part)) => drop(lengths.insert((name, part as u8), len)),
            None => leftovers.push(path),
        }
    }
    let loads = state.segments.iter().map(|&name| {
        let length = |part| lengths.get(&(name, part as u8)).copied();
        let (index, entries_len) = (length(SegmentFile::Index), length(SegmentFile::Entries));
        let records_len = length(SegmentFile::Records);
        async move {
            let missing = |part| damaged(name.path(part), "missing");
            let index = index.ok_or_else(|| missing(SegmentFile::Index))?;
            let layout = Sealed::load(store, name, index).await?;
            if entries_len.is_none() && layout.rows > 0 {
                return Err(missing(SegmentFile::Entries));
            }
            Ok(Arc::new(Sealed { name, layout, entries_len, records_len }))
        }
    });
    let loaded = stream::iter(loads.collect::<Vec<_>>()).buffered(READ_AHEAD).try_collect();
    let segments: Vec<Arc<Sealed>> = loaded.await?;
    let without = |s: &&Arc<Sealed>| s.records_len.is_none() && s.layout.records > 0;
    match segments.iter().filter(without).count() {
        0 => {}
        count => log::info!("the records of {count} segments are gone: deleted by age, or lost"),
    }
    Ok((segments, leftovers))
}

/// The session tables that the sealed state speaks of, and what else lies there: a crash left it.
async fn tables(store: &Store, state: &SealedState) -> Result<(Tables, Vec<String>), OpenError> {
    let (mut lengths, mut leftovers) = (HashMap::new(), Vec::new());
    for (path, len) in store.list("sessions").await? {
        match parse_table_path(&path).filter(|name| state.sessions.contains(name)) {
            Some(name) => drop(lengths.insert(name, len)),
            None => leftovers.push(path),
        }
    }
    let mut tables = Vec::with_capacity(state.sessions.len());
    for name in &state.sessions {
        let loaded = match lengths.get(name) {
            Some(len) => Table::load(store, *name, *len).await,
            None => Err(StoreError::missing(&table_path(name))),
        };
        let table = match loaded {
            Err(error) if error.lost().is_some() => {
                let torn = Torn { name: *name, why: error.to_string() };
                made_again(store, Tables(tables.clone()), &torn).await?
            }
            loaded => loaded?,
        };
        tables.push(Arc::new(table));
    }
    Ok((Tables(tables), leftovers))
}

/// Bundles by first leaf, from `end` on, and those before: they are sealed already.
async fn bundles(store: &Store, end: u64) -> Result<(Bundles, Vec<String>), OpenError> {
    let (mut bundles, mut leftovers) = (Bundles::new(), Vec::new());
    for (name, _) in store.list("pool").await? {
        match staging::first_of(&name).ok_or_else(|| damaged(&name, "not a bundle's name"))? {
            first if first < end => leftovers.push(name),
            first => bundles.entry(first).or_default().push(name),
        }
    }
    Ok((bundles, leftovers))
}
