//! Building a segment out of staging bundles: its files and its index, not yet committed.

use crate::catalog::Sealing;
use crate::segment::Sealed;
use crate::segment_files::SegmentFiles;
use meshchain_core::{BatchLeaf, Canonical, DecodeError, ENTRY_LEN};
use meshchain_store::{Store, StoreError, wait};
use meshchain_stored::sealed::SealedState;
use meshchain_stored::{IndexBuilder, Layout, SegmentFile, SegmentName, staging};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;

/// One segment in the making.
pub(crate) struct Build {
    pub(crate) store: Store,
    pub(crate) runtime: Handle,
    pub(crate) sealing: Sealing,
    pub(crate) state: SealedState,
    pub(crate) seed: u64,
    /// Set where nobody waits for it any more.
    pub(crate) cancelled: Arc<AtomicBool>,
}

impl Build {
    /// Its name.
    pub(crate) fn name(&self) -> SegmentName {
        SegmentName { first: self.sealing.first, end: self.sealing.head.size, seed: self.seed }
    }

    /// Writes its objects: the segment, and the sealed state that commits it, as it is and as bytes. Only
    /// for threads that may block.
    pub(crate) fn run(mut self) -> Result<(Sealed, SealedState, Vec<u8>), StoreError> {
        let name = self.name();
        let mut index = IndexBuilder::new(name.first, name.seed);
        let mut files = SegmentFiles::new(self.store.clone(), self.runtime.clone(), name);
        let mut at = name.first;
        for bundle in std::mem::take(&mut self.sealing.bundles) {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(StoreError::damaged("segment", "sealing was called off"));
            }
            let (store, of) = (self.store.clone(), bundle.clone());
            let bytes = wait(&self.runtime, async move { store.get(&of).await })?;
            let bytes = bytes.ok_or_else(|| StoreError::missing(&bundle))?;
            let (slices, _) =
                staging::parse(&bytes).map_err(|e| StoreError::damaged(&bundle, e))?;
            for slices in slices {
                let damaged = |fault: DecodeError| StoreError::damaged(&bundle, fault);
                let leaf = BatchLeaf::decode(&bytes[slices.leaf()]).map_err(damaged)?;
                let header = leaf.parse_header().map_err(damaged)?;
                let entries = &bytes[slices.entries()];
                files.entries(at, &leaf, &header, entries)?;
                let records = files.records(at, &header, &bytes, slices.records())?;
                let traces = entries.as_chunks::<ENTRY_LEN>().0.iter();
                let traces = traces.filter_map(|entry| entry[2..].first_chunk());
                index.leaf(&header.session, header.seq, leaf.received_ns, traces, records);
                // What would be odd about it was refused.
                let session = self.state.sessions.entry(header.session).or_default();
                let _ = session.record(&leaf, &header, at);
                at += 1;
            }
        }
        if at != name.end {
            let fault = format!("the bundles end at leaf {at}");
            return Err(StoreError::damaged(&name.path(SegmentFile::Index), fault));
        }
        let (entries_len, records_len) = files.finish()?;
        let index = index.finish();
        let damaged = |e| StoreError::damaged(&name.path(SegmentFile::Index), e);
        let layout = Layout::parse(&index, index.len() as u64).map_err(damaged)?;
        let (store, path) = (self.store.clone(), name.path(SegmentFile::Index));
        wait(&self.runtime, async move { store.put(&path, index).await })?;
        self.state.segments.push(name);
        self.state.root = self.sealing.head.root;
        let bytes = self.state.to_bytes();
        Ok((Sealed { name, layout, entries_len, records_len }, self.state, bytes))
    }
}
