//! Where things are: leaves in bundles, traces in leaves. In memory, rebuilt on start.

use super::pool::LeafSlices;
use meshchain_core::{ENTRY_LEN, Hash};
use std::collections::HashMap;

/// A leaf's place.
#[derive(Debug, Clone)]
pub struct LeafPlace {
    /// First leaf of the bundle that holds it.
    pub pool: u64,
    /// Its parts within the bundle.
    pub slices: LeafSlices,
    /// Chain value, for batches that come again.
    pub chain: Hash,
}

/// One entry: its leaf, and its index within the leaf's batch.
pub type EntryPlace = (u64, u32);

/// The index of one log.
#[derive(Debug, Default)]
pub struct Index {
    leaves: Vec<LeafPlace>,
    traces: HashMap<[u8; 16], Vec<EntryPlace>>,
    entries: u64,
}

impl Index {
    /// Takes in the next leaf, with the bytes of its entries.
    pub fn push(&mut self, place: LeafPlace, entries: &[u8]) {
        let leaf = self.leaves.len() as u64;
        for (index, entry) in (0u32..).zip(entries.chunks_exact(ENTRY_LEN)) {
            let mut trace_id = [0; 16];
            trace_id.copy_from_slice(&entry[2..18]);
            self.traces.entry(trace_id).or_default().push((leaf, index));
            self.entries += 1;
        }
        self.leaves.push(place);
    }

    /// Place of a leaf.
    pub fn leaf(&self, index: u64) -> Option<&LeafPlace> {
        self.leaves.get(usize::try_from(index).ok()?)
    }

    /// Entries of a trace, in log order.
    pub fn trace(&self, trace_id: &[u8; 16]) -> &[EntryPlace] {
        self.traces.get(trace_id).map_or(&[], Vec::as_slice)
    }

    /// Number of entries in the log.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Number of traces in the log.
    pub fn traces(&self) -> usize {
        self.traces.len()
    }
}
