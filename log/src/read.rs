//! Reading the log: batches, traces, tiles and proofs.

use crate::catalog::Place;
use crate::log::Log;
use crate::segment::{self, EntryPlace, SessionBatch};
use crate::tiles::{hashes, tile};
use bytes::Bytes;
use meshchain_core::tile::{NodeInTile, TILE_WIDTH, TileKind, TileName, split_bundle, width_at};
use meshchain_core::{BatchLeaf, Canonical, Checkpoint, Hash, SignedHead, TreeHead, merkle};
use meshchain_store::StoreError;
use meshchain_stored::staging;
use std::collections::HashMap;
use std::ops::Range;

/// One batch out of the log.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Canonical batch leaf.
    pub leaf: Bytes,
    /// Entries, 90 bytes each.
    pub entries: Bytes,
    /// Records: none, or one per entry.
    pub records: Vec<Bytes>,
}

/// Reads once more what is not there: it was sealed, merged or deleted after its place was looked up.
pub(crate) async fn again_if_missing<T, R>(read: impl Fn() -> R) -> Result<T, StoreError>
where
    R: Future<Output = Result<T, StoreError>>,
{
    match read().await {
        Err(error) if error.is_missing() => read().await,
        done => done,
    }
}

impl Log {
    /// Places that may be of a trace, in log order, from the first one behind `after`: another trace's, once in a
    /// long while. `most` at most, and some more where there are more.
    pub async fn trace(
        &self,
        trace_id: &[u8; 16],
        after: Option<EntryPlace>,
        most: usize,
    ) -> Result<Vec<EntryPlace>, StoreError> {
        // Both in one moment: what is sealed meanwhile is found in the tail.
        let (segments, tail) = {
            let catalog = self.catalog();
            (catalog.sealed(), catalog.tail_trace(trace_id, after, most))
        };
        let mut places = segment::trace(&self.store, &segments, trace_id, after, most).await?;
        places.extend(tail);
        Ok(places)
    }

    /// A leaf, its entries and its records; `None` where the log has no such leaf.
    pub async fn batch(&self, leaf: u64) -> Result<Option<Batch>, StoreError> {
        again_if_missing(|| self.read_batch(leaf)).await
    }

    async fn read_batch(&self, leaf: u64) -> Result<Option<Batch>, StoreError> {
        let place = self.catalog().leaf(leaf);
        match place {
            None => Ok(None),
            Some(Place::Tail(place)) => {
                let all = place.slices.all();
                let start = all.start;
                let range = all.start as u64..all.end as u64;
                let bytes = self.store.get_range(&place.bundle, range).await?;
                let cut = |range: Range<usize>| bytes.slice(range.start - start..range.end - start);
                let records = cut(place.slices.records());
                let each = staging::records(&records, 0..records.len());
                Ok(Some(Batch {
                    leaf: cut(place.slices.leaf()),
                    entries: cut(place.slices.entries()),
                    records: each.map_while(Result::ok).map(|r| records.slice(r)).collect(),
                }))
            }
            Some(Place::Sealed(sealed)) => {
                let rows = sealed.place(&self.store, leaf).await?;
                let bytes = self.leaf(leaf).await?;
                let (entries, records) = self.files.read(sealed, rows).await?;
                Ok(Some(Batch {
                    leaf: bytes,
                    entries: entries.into(),
                    records: records.into_iter().map(Bytes::from).collect(),
                }))
            }
        }
    }

    /// A published leaf's bytes, out of its entry bundle.
    async fn leaf(&self, leaf: u64) -> Result<Bytes, StoreError> {
        let (index, within) = (leaf / TILE_WIDTH, (leaf % TILE_WIDTH) as usize);
        let size = self.published.borrow().as_ref().map_or(0, |p| p.head.size);
        let width = width_at(size, 0, index);
        let name = TileName { kind: TileKind::Entries, index, width };
        let bundle = self.tile(&name).await?;
        let bundle = bundle.ok_or_else(|| StoreError::missing(&name.path()))?;
        let leaves = split_bundle(&bundle);
        let found = leaves.as_ref().and_then(|leaves| leaves.get(within));
        found
            .map(|found| bundle.slice_ref(found))
            .ok_or_else(|| StoreError::damaged(&name.path(), "not an entry bundle of this width"))
    }

    /// The batch at a place of a session that was passed: its leaf and chain value. `first_leaf` is
    /// the session's first.
    pub(crate) async fn logged(
        &self,
        session: &[u8; 16],
        seq: u64,
        first_leaf: u64,
    ) -> Result<Option<(u64, Hash)>, StoreError> {
        let segments = {
            let catalog = self.catalog();
            if let Some(found) = catalog.tail_batch(session, seq) {
                return Ok(Some(found));
            }
            catalog.sealed()
        };
        let reach = segments.iter().rev().take_while(|s| s.layout.end() > first_leaf);
        for segment in reach {
            let mut leaves = match segment.session_batch(&self.store, session, seq).await? {
                SessionBatch::Before => continue,
                SessionBatch::Nowhere => return Ok(None),
                SessionBatch::Among(leaves) => leaves,
            };
            // Both ascend, leaves and seqs.
            while !leaves.is_empty() {
                let middle = leaves.len() / 2;
                let index = leaves[middle];
                let bytes = self.leaf(index).await?;
                let (found, chain) = seq_of(&bytes)
                    .ok_or_else(|| StoreError::damaged("tile/entries", format!("leaf {index}")))?;
                match found.cmp(&seq) {
                    std::cmp::Ordering::Equal => return Ok(Some((index, chain))),
                    std::cmp::Ordering::Less => leaves = leaves.split_off(middle + 1),
                    std::cmp::Ordering::Greater => leaves.truncate(middle),
                }
            }
            return Ok(None);
        }
        Ok(None)
    }

    /// A tile or bundle as the log serves it. A partial one that was deleted is cut out of the full
    /// one.
    pub async fn tile(&self, name: &TileName) -> Result<Option<Bytes>, StoreError> {
        tile(&self.store, name).await
    }

    /// Inclusion proof of `leaf` in the tree of `size` leaves.
    pub async fn inclusion_proof(&self, leaf: u64, size: u64) -> Result<Vec<Hash>, StoreError> {
        self.prove(size, |node| merkle::inclusion_proof(leaf, size, node)).await
    }

    /// Consistency proof between the trees of `old` and `new` leaves.
    pub async fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Hash>, StoreError> {
        self.prove(new, |node| merkle::consistency_proof(old, new, node)).await
    }

    /// Root of this log's tree as it was at `size` leaves; `None` where it has not that many. The tiles that make it
    /// are checked against the published tree.
    pub async fn root_at(&self, size: u64) -> Result<Option<Hash>, StoreError> {
        let head = self.published.borrow().as_ref().map(|p| p.head);
        let Some(head) = head.filter(|head| head.size >= size) else { return Ok(None) };
        if size == 0 || size == head.size {
            return Ok(Some(if size == 0 { merkle::empty_root() } else { head.root }));
        }
        let root = |node: &mut dyn FnMut(u32, u64) -> Result<Hash, ()>| {
            merkle::subtree_root(0, size, &mut |level, index| node(level, index)).map(|r| vec![r])
        };
        let root = self.prove(head.size, root).await?[0];
        let proof = self.consistency_proof(size, head.size).await?;
        let old = TreeHead { size, root };
        merkle::verify_consistency(&old, &head, &proof)
            .map_err(|fault| StoreError::damaged("tile", fault))?;
        Ok(Some(root))
    }

    /// The head of this log's tree as it was at `size` leaves, signed: the checkpoint of then, byte for byte. `None`
    /// where it has not that many.
    pub async fn signed_at(&self, size: u64) -> Result<Option<SignedHead>, StoreError> {
        let head = self.root_at(size).await?.map(|root| TreeHead { size, root });
        Ok(head.map(|head| SignedHead { head, checkpoint: Checkpoint::sign(&head, &self.key) }))
    }

    /// Runs a proof twice: to learn which tiles it needs, and with them.
    async fn prove(
        &self,
        size: u64,
        proof: impl Fn(&mut dyn FnMut(u32, u64) -> Result<Hash, ()>) -> Result<Vec<Hash>, ()>,
    ) -> Result<Vec<Hash>, StoreError> {
        let mut tiles: HashMap<(u8, u64), Vec<Hash>> = HashMap::new();
        let _ = proof(&mut |level, index| {
            let node = NodeInTile::of(level, index);
            tiles.insert((node.level, node.index), Vec::new());
            Ok([0; 32])
        });
        for ((level, index), kept) in &mut tiles {
            let (level, index) = (*level, *index);
            let width = width_at(size, level, index);
            let name = TileName { kind: TileKind::Hashes(level), index, width };
            let bytes = self.tile(&name).await?;
            *kept = hashes(&bytes.ok_or_else(|| StoreError::missing(&name.path()))?);
        }
        let proof = proof(&mut |level, index| {
            let node = NodeInTile::of(level, index);
            tiles.get(&(node.level, node.index)).and_then(|tile| node.hash(tile)).ok_or(())
        });
        proof.map_err(|()| StoreError::missing("a node of the tree"))
    }
}

fn seq_of(leaf: &[u8]) -> Option<(u64, Hash)> {
    let leaf = BatchLeaf::decode(leaf).ok()?;
    Some((leaf.parse_header().ok()?.seq, leaf.chain))
}
