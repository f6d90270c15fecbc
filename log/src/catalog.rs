//! Where things are: sealed segments, and the tail that is not sealed yet, indexed in memory.

use crate::segment::{EntryPlace, Sealed};
use hashbrown::HashTable;
use meshchain_core::{ENTRY_LEN, Hash, SessionId, TreeHead};
use meshchain_stored::staging::LeafSlices;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use twox_hash::XxHash64;

/// When a part of the tail is big enough to be sealed.
#[derive(Debug, Clone, Copy)]
pub struct SealAt {
    /// Entries.
    pub entries: u32,
    /// Leaves.
    pub leaves: u32,
    /// Staging bundles: a start reads them one by one.
    pub bundles: usize,
    /// Bytes in staging bundles.
    pub bytes: u64,
    /// Bytes that the sessions take which came into memory for it, about: they can leave when it is sealed.
    pub session_bytes: usize,
    /// Time since its first batch was received.
    pub age: Duration,
}

impl Default for SealAt {
    /// Such a part takes some 50 MB of memory.
    fn default() -> Self {
        Self {
            entries: 1_400_000,
            leaves: 1 << 17,
            bundles: 4096,
            bytes: 512 << 20,
            session_bytes: 8 << 20,
            age: Duration::from_secs(24 * 3600),
        }
    }
}

/// What a session takes in memory beside its texts, which are about as long as a leaf of it.
const SESSION_BYTES: usize = 1024;

/// A leaf that is not sealed yet.
#[derive(Debug, Clone)]
pub struct LeafPlace {
    /// Staging bundle that holds it.
    pub bundle: Arc<str>,
    /// Its parts within the bundle.
    pub slices: LeafSlices,
    /// Position in its session.
    pub seq: u64,
    /// Chain value, for batches that come again.
    pub chain: Hash,
}

/// A leaf that is committed.
pub struct PushedLeaf<'a> {
    /// Of its batch.
    pub session: SessionId,
    /// The session came into memory for it.
    pub came: bool,
    /// Where it is.
    pub place: LeafPlace,
    /// The batch's entries.
    pub entries: &'a [u8],
}

/// A run of leaves that becomes one segment.
#[derive(Debug, Default)]
pub struct Part {
    first: u64,
    /// Tree at its end.
    head: Option<TreeHead>,
    since_ns: u64,
    bytes: u64,
    session_bytes: usize,
    bundles: Vec<Arc<str>>,
    leaves: Vec<LeafPlace>,
    /// Leaves of each session, less `first`, ascending.
    sessions: HashMap<[u8; 16], Vec<u32>>,
    rows: Vec<Row>,
    /// The last row of each trace, by the hash of its id.
    traces: HashTable<u32>,
}

/// An entry, and the row before it with the same hash: a trace with very many rows costs no more.
#[derive(Debug, Clone, Copy)]
struct Row {
    hash: [u32; 2],
    leaf: u32,
    index: u32,
    before: u32,
}

/// No row.
const NONE: u32 = u32::MAX;

impl Row {
    fn hash(&self) -> u64 {
        u64::from(self.hash[0]) << 32 | u64::from(self.hash[1])
    }
}

impl Part {
    fn push_row(&mut self, hash: u64, leaf: u32, index: u32) {
        let Self { rows, traces, .. } = self;
        let at = rows.len() as u32;
        let found = traces.find_mut(hash, |&last| rows[last as usize].hash() == hash);
        let before = match found {
            Some(last) => std::mem::replace(last, at),
            None => NONE,
        };
        rows.push(Row { hash: [(hash >> 32) as u32, hash as u32], leaf, index, before });
        if before == NONE {
            traces.insert_unique(hash, at, |&row| rows[row as usize].hash());
        }
    }

    /// Rows of a trace, the last first.
    fn trace(&self, hash: u64) -> impl Iterator<Item = &Row> {
        let last = self.traces.find(hash, |&last| self.rows[last as usize].hash() == hash);
        let row = |at: u32| self.rows.get(at as usize);
        std::iter::successors(last.and_then(|&last| row(last)), move |found| row(found.before))
    }
}

/// What is to be sealed: leaves `first..head.size`.
#[derive(Debug, Clone)]
pub struct Sealing {
    /// First leaf.
    pub first: u64,
    /// Tree at its end.
    pub head: TreeHead,
    /// Staging bundles, in order.
    pub bundles: Vec<Arc<str>>,
    /// Their bytes.
    pub bytes: u64,
}

/// Where a leaf is.
#[derive(Debug, Clone)]
pub enum Place {
    /// In a staging bundle.
    Tail(LeafPlace),
    /// In a segment.
    Sealed(Arc<Sealed>),
}

/// The index of one log.
pub struct Catalog {
    seal_at: SealAt,
    seed: u64,
    sealed: Arc<[Arc<Sealed>]>,
    sealed_entries: u64,
    /// Parts that wait to be sealed, and the one that grows.
    parts: VecDeque<Part>,
}

impl Catalog {
    /// A catalog of `sealed` segments, which follow each other from leaf 0. `seed` is drawn at
    /// random, so that nobody makes trace ids that collide.
    pub fn new(sealed: Vec<Arc<Sealed>>, seal_at: SealAt, seed: u64) -> Self {
        let first = sealed.last().map_or(0, |s| s.layout.end());
        let sealed_entries = sealed.iter().map(|s| u64::from(s.layout.rows)).sum();
        let part = Part { first, ..Part::default() };
        let parts = VecDeque::from([part]);
        Self { seal_at, seed, sealed: sealed.into(), sealed_entries, parts }
    }

    /// Takes in a committed bundle: its leaves, and the tree at its end.
    pub fn push_bundle<'a>(
        &mut self,
        bundle: Arc<str>,
        bytes: usize,
        head: TreeHead,
        received_ns: u64,
        leaves: impl IntoIterator<Item = PushedLeaf<'a>>,
    ) {
        let seed = self.seed;
        let Some(part) = self.parts.back_mut() else {
            return;
        };
        if part.bundles.is_empty() {
            part.since_ns = received_ns;
        }
        for PushedLeaf { session, came, place, entries } in leaves {
            let leaf = part.leaves.len() as u32;
            part.sessions.entry(session).or_default().push(leaf);
            if came {
                part.session_bytes += SESSION_BYTES + place.slices.leaf().len();
            }
            part.leaves.push(place);
            for (index, entry) in (0..).zip(entries.chunks_exact(ENTRY_LEN)) {
                part.push_row(XxHash64::oneshot(seed, &entry[2..18]), leaf, index);
            }
        }
        part.bundles.push(bundle);
        part.bytes += bytes as u64;
        part.head = Some(head);
        let at = &self.seal_at;
        let full = part.rows.len() >= at.entries as usize
            || part.leaves.len() >= at.leaves as usize
            || part.bundles.len() >= at.bundles
            || part.bytes >= at.bytes
            || part.session_bytes >= at.session_bytes;
        if full {
            self.close();
        }
    }

    fn close(&mut self) {
        let end = self.parts.back().map_or(0, |part| part.first + part.leaves.len() as u64);
        self.parts.push_back(Part { first: end, ..Part::default() });
    }

    /// Closes the growing part where it became too old at `now_ns`.
    pub fn close_old(&mut self, now_ns: u64) {
        let Some(part) = self.parts.back() else {
            return;
        };
        let age = now_ns.saturating_sub(part.since_ns);
        if !part.leaves.is_empty() && u128::from(age) >= self.seal_at.age.as_nanos() {
            self.close();
        }
    }

    /// The oldest part that waits to be sealed.
    pub fn to_seal(&self) -> Option<Sealing> {
        let part = self.parts.front().filter(|_| self.parts.len() > 1)?;
        let (first, bytes) = (part.first, part.bytes);
        Some(Sealing { first, head: part.head?, bundles: part.bundles.clone(), bytes })
    }

    /// Number of parts that wait to be sealed.
    pub fn waiting(&self) -> usize {
        self.parts.len() - 1
    }

    /// A part was sealed.
    pub fn sealed_part(&mut self, sealed: Arc<Sealed>) {
        self.sealed_entries += u64::from(sealed.layout.rows);
        self.sealed = self.sealed.iter().cloned().chain([sealed]).collect();
        self.parts.pop_front();
    }

    /// A segment is replaced by itself without its records.
    pub fn without_records(&mut self, of: &Sealed) {
        let replaced = self.sealed.iter().map(|sealed| {
            if sealed.name == of.name {
                Arc::new(Sealed { records_len: None, ..(**sealed).clone() })
            } else {
                sealed.clone()
            }
        });
        self.sealed = replaced.collect();
    }

    /// All segments, in order.
    pub fn sealed(&self) -> Arc<[Arc<Sealed>]> {
        self.sealed.clone()
    }

    /// Place of a leaf.
    pub fn leaf(&self, leaf: u64) -> Option<Place> {
        let after = self.sealed.partition_point(|sealed| sealed.layout.end() <= leaf);
        if let Some(sealed) = self.sealed.get(after) {
            return Some(Place::Sealed(sealed.clone()));
        }
        let part = self.parts.iter().rev().find(|part| part.first <= leaf)?;
        let place = part.leaves.get(usize::try_from(leaf - part.first).ok()?)?;
        Some(Place::Tail(place.clone()))
    }

    /// Entries of a trace that are not sealed yet, in log order: the first `most` behind `after`, and one more where
    /// there are more.
    pub fn tail_trace(
        &self,
        trace_id: &[u8; 16],
        after: Option<EntryPlace>,
        most: usize,
    ) -> Vec<EntryPlace> {
        let hash = XxHash64::oneshot(self.seed, trace_id);
        let rows = self.parts.iter().rev().flat_map(|part| {
            part.trace(hash).map(|row| (part.first + u64::from(row.leaf), row.index))
        });
        // The rows come last first; of those that are kept, the last ones are the first in the log.
        let mut first = VecDeque::with_capacity(most.min(64));
        for place in rows.take_while(|place| after.is_none_or(|after| *place > after)) {
            if first.len() > most {
                first.pop_front();
            }
            first.push_back(place);
        }
        first.into_iter().rev().collect()
    }

    /// A batch that is not sealed yet: its leaf and chain value.
    pub fn tail_batch(&self, session: &[u8; 16], seq: u64) -> Option<(u64, Hash)> {
        self.parts.iter().rev().find_map(|part| {
            let leaves = part.sessions.get(session)?;
            let place = |leaf: &u32| &part.leaves[*leaf as usize];
            let at = leaves.binary_search_by_key(&seq, |leaf| place(leaf).seq).ok()?;
            Some((part.first + u64::from(leaves[at]), place(&leaves[at]).chain))
        })
    }

    /// Number of entries in the log.
    pub fn entries(&self) -> u64 {
        self.sealed_entries + self.parts.iter().map(|part| part.rows.len() as u64).sum::<u64>()
    }
}
