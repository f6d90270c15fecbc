//! What is not sealed, read again at each start: bundle by bundle, up to the head.

use crate::catalog::Catalog;
use crate::error::{OpenError, damaged};
use crate::intake::take_in;
use crate::sessions::Sessions;
use crate::table::Tables;
use crate::tiles::leaf_hashes;
use crate::tree::Tree;
use bytes::Bytes;
use futures::{StreamExt, stream};
use meshchain_core::{Hash, SessionId, TreeHead, merkle};
use meshchain_store::Store;
use meshchain_stored::Step;
use meshchain_stored::committed::{Candidate, Known, committed};
use meshchain_stored::staging::{self, LeafSlices};
use std::collections::BTreeMap;

/// Bundles that are read ahead of the one that is taken in.
const READ_AHEAD: usize = 8;

/// Names of bundles by their first leaf: several for one where commits failed.
pub(crate) type Bundles = BTreeMap<u64, Vec<String>>;

/// A bundle and where its leaves lie.
async fn read(store: &Store, name: &str) -> Result<(Bytes, Vec<LeafSlices>), OpenError> {
    let bytes = store.get(name).await?.ok_or_else(|| damaged(name, "gone"))?;
    let (slices, sum) = staging::parse(&bytes).map_err(|e| damaged(name, e))?;
    if staging::first_of(name).is_none_or(|first| staging::name(first, &sum) != name) {
        return Err(damaged(name, "holds another bundle than its name says"));
    }
    Ok((bytes, slices))
}

/// A log on its way from what is sealed to what is committed, bundle by bundle.
pub(crate) struct Replay<'a> {
    pub(crate) store: &'a Store,
    /// Leaves that were published.
    pub(crate) applied: u64,
    /// Tree that was committed.
    pub(crate) head: TreeHead,
    /// Tree of what was taken in.
    pub(crate) tree: Tree,
    pub(crate) catalog: Catalog,
    /// Those with batches that were taken in.
    pub(crate) sessions: Sessions,
    /// Where the sessions stand at the end of what is sealed.
    pub(crate) tables: Tables,
    /// Leaves from here on are told again.
    pub(crate) untold: u64,
    /// Those, by index.
    pub(crate) again: Vec<(u64, Vec<u8>, Step)>,
}

impl Replay<'_> {
    /// Takes in all bundles up to the head, reading some ahead.
    pub(crate) async fn run(&mut self, bundles: &Bundles) -> Result<(), OpenError> {
        let store = self.store;
        let reads = bundles.range(..self.head.size).map(|(first, names)| async move {
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
            return Err(damaged(staging::place(next), "leaf is missing"));
        }
        Ok(())
    }

    /// Takes in one of several bundles for the same place: commits that failed leave others. What has been
    /// published is in the tiles; the last commit may be in the head alone.
    async fn choose(&mut self, names: &[String]) -> Result<(), OpenError> {
        let (mut found, mut candidates) = (Vec::new(), Vec::new());
        for name in names {
            match read(self.store, name).await {
                Ok((bytes, slices)) => {
                    let hash = |s: &LeafSlices| merkle::leaf_hash(&bytes[s.leaf()]);
                    let leaves = slices.iter().map(hash).collect();
                    candidates.push(Candidate { leaves, intact: true });
                    found.push((name, bytes, slices));
                }
                Err(error @ OpenError::Store(_)) => return Err(error),
                Err(_) => {}
            }
        }
        let first = self.tree.head().size;
        let committed = if first < self.applied {
            let most = candidates.iter().map(|c| c.leaves.len()).max().unwrap_or(0);
            let end = self.applied.min(first + most as u64);
            let tree = leaf_hashes(self.store, first..end, self.applied).await?;
            committed(&candidates, &Known::Published(&tree))
        } else {
            let grown = |leaves: &[Hash]| self.tree.head_with(leaves);
            committed(&candidates, &Known::Ahead { head: self.head, grown: &grown })
        };
        match committed {
            Some((at, true)) => {
                let (name, bytes, slices) = found.swap_remove(at);
                self.take(name, bytes, slices).await
            }
            _ => Err(damaged(names.join(", "), "none of them was committed")),
        }
    }

    async fn take(
        &mut self,
        name: &str,
        bytes: Bytes,
        slices: Vec<LeafSlices>,
    ) -> Result<(), OpenError> {
        let (store, first) = (self.store, self.tree.head().size);
        let growth = self.tree.extend(slices.iter().map(|s| &bytes[s.leaf()]));
        let end = self.tree.head().size;
        log::debug!("{name}: leaves {first} to {end} are taken in again");
        if end > self.applied {
            growth.write(store).await?;
        }
        let intake = take_in(name, first, &bytes, &slices, self.tree.head());
        let intake = intake.map_err(|e| damaged(name, e))?;
        if let Some(leaf) = intake.without_its_entries() {
            return Err(damaged(name, format!("leaf {leaf} does not hold its entries")));
        }
        let new = intake.sessions().filter(|id| self.sessions.get(id).is_none()).collect();
        let new: Vec<SessionId> = new;
        let found =
            self.tables.insist(store, async |tables| tables.find_all(store, new.clone()).await);
        for (id, session) in found.await? {
            self.sessions.restore(id, session);
        }
        let steps = intake.apply(&mut self.catalog, &mut self.sessions);
        let leaves = (first..).zip(&slices).zip(steps);
        let untold = leaves.skip_while(|((index, _), _)| *index < self.untold);
        self.again.extend(
            untold.map(|((index, slices), step)| (index, bytes[slices.leaf()].to_vec(), step)),
        );
        Ok(())
    }
}
