//! Opening a log: from whatever a crash left to a writer that may go on.

use crate::catalog::{Catalog, LeafPlace, SealAt};
use crate::event::Events;
use crate::lag::Lag;
use crate::pool::{self, LeafSlices};
use crate::seal::Sealer;
use crate::sealed::{Files, Sealed};
use crate::sessions::Sessions;
use crate::state::{Owned, SealedState, TakenOver};
use crate::tree::{Growth, Tree};
use crate::writer::{SILENT_AFTER_NS, Writer};
use crate::{HEAD, LOOKUPS, Log, SEALED};
use bytes::Bytes;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use meshchain_core::SignedHead;
use meshchain_core::tlog_checkpoint::CheckpointError;
use meshchain_core::{BatchLeaf, Canonical, SigningKey, TreeHead};
use meshchain_segment::{Part, SegmentName};
use meshchain_store::{Store, StoreError};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, RwLock};
use thiserror::Error;
use tokio::sync::{Notify, Semaphore, watch};

/// Bundles that are read ahead of the one that is taken in.
const READ_AHEAD: usize = 8;

/// Why a log cannot be opened. It is left as it is.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The head is not signed by this key under this origin.
    #[error("{object} is not of this log and key: {source}")]
    Foreign {
        /// Object.
        object: &'static str,
        /// Cause.
        source: CheckpointError,
    },
    /// An object is damaged or missing.
    #[error(
        "the log is damaged: {object}: {fault}; `meshchain fsck` tells what it costs, restore the data from a copy"
    )]
    Damaged {
        /// Object.
        object: String,
        /// What is wrong with it.
        fault: String,
    },
    /// Two collectors could write this log at the same time.
    #[error(
        "the bucket does not honour If-Match and If-None-Match on PUT: a log cannot be kept there"
    )]
    Unconditional,
    /// Another layout.
    #[error("{0} is of an earlier version of the collector, whose data this one cannot read")]
    Earlier(String),
    /// No random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

pub(crate) fn damaged(object: impl Into<String>, fault: impl ToString) -> OpenError {
    OpenError::Damaged { object: object.into(), fault: fault.to_string() }
}

pub(crate) fn random() -> Result<u64, OpenError> {
    getrandom::u64().map_err(OpenError::Random)
}

/// Opens the log in `store`, making it where there is none: takes it over, checks the bundles that
/// are not sealed against the head, rebuilds their index, and publishes what was committed.
pub async fn open(
    store: Store,
    key: SigningKey,
    seal_at: SealAt,
    events: Events,
) -> Result<(Arc<Log>, Writer, Sealer), OpenError> {
    let earlier = |(name, _): &(String, u64)| pool::first_of(name).is_none();
    if let Some((name, _)) = store.list("pool").await?.into_iter().find(earlier) {
        return Err(OpenError::Earlier(name));
    }
    let writer = format!("{:016x}", random()?);
    let taken = Owned::take_over(&store, &key, writer).await?;
    let TakenOver { mut owned, head, published, sealed, sealed_version } = taken;
    let applied = published.as_ref().map_or(0, |(head, _)| head.size);
    let tree = Tree::load(&store, sealed.end()).await?;
    if tree.head() != sealed.head() {
        return Err(damaged(
            "tile",
            format!("they do not make the tree of {} leaves", sealed.end()),
        ));
    }
    let (segments, mut leftovers) = segments(&store, &sealed).await?;
    let mut replay = Replay {
        store: &store,
        applied,
        head,
        tree,
        catalog: Catalog::new(segments, seal_at, random()?),
        sessions: sealed.sessions.clone(),
    };
    let (pools, sealed_pools) = pools(&store, sealed.end()).await?;
    leftovers.extend(sealed_pools);
    replay.run(&pools).await?;
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
    // A crash leaves a bundle that would come next, never one beyond it.
    if let Some(beyond) = pools.range(head.size + 1..).find_map(|(_, names)| names.first()) {
        return Err(damaged(beyond, format!("leaf {} is missing before it", head.size)));
    }
    // Only now that all is there without them, and as long as nobody else has begun to write.
    if !leftovers.is_empty() {
        if store.is_shared() {
            store.check(SEALED, &sealed_version).await?;
        }
        store.delete_all(leftovers).await;
    }
    let Replay { tree, catalog, mut sessions, .. } = replay;
    sessions.forget_silent(SILENT_AFTER_NS);
    let checkpoint = owned.publish_taken(&head, published, &key).await?;
    let log = Arc::new(Log {
        files: Arc::new(Files::new(store.clone())),
        store,
        key,
        catalog: RwLock::new(catalog),
        sessions: RwLock::new(sessions),
        published: watch::Sender::new(Some(SignedHead { head, checkpoint })),
        parts_closed: Notify::new(),
        parts_sealed: Notify::new(),
        lag: Lag::default(),
        events,
        lookups: Semaphore::new(LOOKUPS),
    });
    let writer = Writer::new(log.clone(), tree, owned);
    Ok((log.clone(), writer, Sealer::new(log, sealed, sealed_version)))
}

/// Writes tiles and bundles, side by side.
pub(crate) async fn put_all(store: &Store, growth: &Growth) -> Result<(), StoreError> {
    let puts = growth.objects.iter().map(|(name, bytes)| {
        let path = name.path();
        async move { store.put(&path, bytes.clone()).await }
    });
    try_join_all(puts).await.map(drop)
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
        let (index, entries_len) = (length(Part::Index), length(Part::Entries));
        let records_len = length(Part::Records);
        async move {
            let missing = |part| damaged(name.path(part), "missing");
            let index = index.ok_or_else(|| missing(Part::Index))?;
            let layout = Sealed::load(store, name, index).await?;
            if entries_len.is_none() && layout.rows > 0 {
                return Err(missing(Part::Entries));
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

/// Bundles by first leaf, from `end` on, and those before: they are sealed already.
async fn pools(store: &Store, end: u64) -> Result<(Pools, Vec<String>), OpenError> {
    let (mut pools, mut leftovers) = (Pools::new(), Vec::new());
    for (name, _) in store.list("pool").await? {
        match pool::first_of(&name).ok_or_else(|| damaged(&name, "not a bundle's name"))? {
            first if first < end => leftovers.push(name),
            first => pools.entry(first).or_default().push(name),
        }
    }
    Ok((pools, leftovers))
}

type Pools = BTreeMap<u64, Vec<String>>;

/// A bundle and where its leaves lie.
async fn read(store: &Store, name: &str) -> Result<(Bytes, Vec<LeafSlices>), OpenError> {
    let bytes = store.get(name).await?.ok_or_else(|| damaged(name, "gone"))?;
    let (slices, sum) = pool::parse(&bytes).map_err(|e| damaged(name, e))?;
    if pool::first_of(name).is_none_or(|first| pool::name(first, &sum) != name) {
        return Err(damaged(name, "holds another bundle than its name says"));
    }
    Ok((bytes, slices))
}

struct Replay<'a> {
    store: &'a Store,
    applied: u64,
    head: TreeHead,
    tree: Tree,
    catalog: Catalog,
    sessions: Sessions,
}

impl Replay<'_> {
    /// Takes in all bundles up to the head, reading some ahead.
    async fn run(&mut self, pools: &Pools) -> Result<(), OpenError> {
        let store = self.store;
        let reads = pools.range(..self.head.size).map(|(first, names)| async move {
            let single = match names.as_slice() {
                [name] => Some(read(store, name).await),
                _ => None,
            };
            (*first, names, single)
        });
        let mut reads = stream::iter(reads.collect::<Vec<_>>()).buffered(READ_AHEAD);
        while let Some((first, names, single)) = reads.next().await {
            let next = self.tree.head().size;
            if first > next {
                break;
            }
            match (single, names.first()) {
                // It was written for a place within one that was committed.
                _ if first < next => {}
                (Some(read), Some(name)) => {
                    let (bytes, slices) = read?;
                    self.take(name, bytes, slices).await?;
                }
                _ => self.choose(names).await?,
            }
        }
        let next = self.tree.head().size;
        if next < self.head.size {
            return Err(damaged(format!("pool/{next:020}"), "leaf is missing"));
        }
        Ok(())
    }

    /// Takes in one of several bundles for the same place: commits that failed leave others. The one
    /// that was committed makes a tree that was published, or the head's.
    async fn choose(&mut self, candidates: &[String]) -> Result<(), OpenError> {
        for name in candidates {
            let (bytes, slices) = match read(self.store, name).await {
                Ok(read) => read,
                Err(error @ OpenError::Store(_)) => return Err(error),
                Err(_) => continue,
            };
            let mut tree = self.tree.clone();
            tree.extend(slices.iter().map(|s| &bytes[s.leaf()]));
            let after = tree.head();
            let committed = match after.size {
                size if size == self.head.size => after == self.head,
                size if size <= self.applied => match Tree::load(self.store, size).await {
                    Ok(published) => published.head() == after,
                    // No tree of this size was published.
                    Err(error) if error.is_missing() => false,
                    Err(error) => return Err(error.into()),
                },
                _ => false,
            };
            if committed {
                return self.take(name, bytes, slices).await;
            }
        }
        Err(damaged(candidates.join(", "), "none of them was committed"))
    }

    async fn take(
        &mut self,
        name: &str,
        bytes: Bytes,
        slices: Vec<LeafSlices>,
    ) -> Result<(), OpenError> {
        let first = self.tree.head().size;
        let growth = self.tree.extend(slices.iter().map(|s| &bytes[s.leaf()]));
        if self.tree.head().size > self.applied {
            put_all(self.store, &growth).await?;
        }
        let taken = take_in(name, first, &bytes, &slices, self.tree.head());
        let taken = taken.map_err(|e| damaged(name, e))?;
        if let Some(leaf) = taken.without_its_entries() {
            return Err(damaged(name, format!("leaf {leaf} does not hold its entries")));
        }
        taken.apply(&mut self.catalog, &mut self.sessions);
        Ok(())
    }
}

/// A committed bundle, parsed: what catalog and sessions learn of it.
pub(crate) struct Taken<'a> {
    pool: Arc<str>,
    first: u64,
    bytes: &'a [u8],
    head: TreeHead,
    leaves: Vec<(BatchLeaf<'a>, LeafSlices)>,
}

/// Parses the leaves of a bundle that is committed as `first..head.size`.
pub(crate) fn take_in<'a>(
    name: &str,
    first: u64,
    bytes: &'a [u8],
    slices: &[LeafSlices],
    head: TreeHead,
) -> Result<Taken<'a>, meshchain_core::DecodeError> {
    let leaves = slices.iter().map(|s| Ok((BatchLeaf::decode(&bytes[s.leaf()])?, *s)));
    let leaves = leaves.collect::<Result<_, _>>()?;
    Ok(Taken { pool: name.into(), first, bytes, head, leaves })
}

impl Taken<'_> {
    /// The first leaf whose entries beside it are not its own.
    fn without_its_entries(&self) -> Option<u64> {
        let holds = |(leaf, slices): &(BatchLeaf<'_>, LeafSlices)| {
            leaf.holds(&self.bytes[slices.entries()])
        };
        let bad = self.leaves.iter().position(|leaf| !holds(leaf))?;
        Some(self.first + bad as u64)
    }

    /// Teaches catalog and sessions.
    pub(crate) fn apply(self, catalog: &mut Catalog, sessions: &mut Sessions) {
        let mut known = Vec::with_capacity(self.leaves.len());
        for (at, (leaf, slices)) in (self.first..).zip(&self.leaves) {
            let header = leaf.parse_header().unwrap_or_default();
            sessions.record(leaf, &header, at);
            let place = LeafPlace {
                pool: self.pool.clone(),
                slices: *slices,
                seq: header.seq,
                chain: leaf.chain,
            };
            known.push((header.session, place, &self.bytes[slices.entries()]));
        }
        let received = self.leaves.first().map_or(0, |(leaf, _)| leaf.received_ns);
        catalog.push_pool(self.pool, self.bytes.len(), self.head, received, known);
    }
}
