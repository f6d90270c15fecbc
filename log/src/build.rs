//! Building a segment out of staging bundles: its files, its index, and the table of its sessions, not yet
//! committed.

use crate::build_table::{find, write_table};
use crate::catalog::Sealing;
use crate::segment::Sealed;
use crate::segment_files::SegmentFiles;
use crate::table::Tables;
use meshchain_core::{BatchLeaf, Canonical, DecodeError, ENTRY_LEN, SessionId};
use meshchain_store::{Store, StoreError, wait};
use meshchain_stored::sealed::SealedState;
use meshchain_stored::{
    IndexBuilder, Layout, SegmentFile, SegmentName, Session, covered, staging, table_path,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;

/// One segment in the making.
pub(crate) struct Build {
    pub(crate) store: Store,
    pub(crate) runtime: Handle,
    pub(crate) sealing: Sealing,
    pub(crate) state: SealedState,
    /// Those of `state`.
    pub(crate) tables: Tables,
    pub(crate) seed: u64,
    /// Set where nobody waits for it any more.
    pub(crate) cancelled: Arc<AtomicBool>,
}

/// What was written, and is not committed.
pub(crate) struct Built {
    pub(crate) sealed: Sealed,
    /// What commits it.
    pub(crate) state: SealedState,
    /// The tables of `state`.
    pub(crate) tables: Tables,
    /// Names of the tables that are in others now.
    pub(crate) merged: Vec<String>,
}

impl Build {
    /// Name of the segment.
    pub(crate) fn name(&self) -> SegmentName {
        SegmentName { first: self.sealing.first, end: self.sealing.head.size, seed: self.seed }
    }

    /// How many of the tables stay beside the new one; it takes the others in.
    fn kept(&self) -> usize {
        self.tables.0.len() - covered(&self.state.sessions, &self.state.segments)
    }

    /// Name of the table.
    fn table_name(&self) -> SegmentName {
        let name = self.name();
        let first = self.tables.0.get(self.kept()).map_or(name.first, |table| table.name().first);
        SegmentName { first, ..name }
    }

    /// Names of all that it may write.
    pub(crate) fn objects(&self) -> Vec<String> {
        let name = self.name();
        let parts = [SegmentFile::Entries, SegmentFile::Records, SegmentFile::Index];
        let table = table_path(&self.table_name());
        parts.into_iter().map(|part| name.path(part)).chain([table]).collect()
    }

    /// Bytes that it writes, about.
    pub(crate) fn bytes(&self) -> u64 {
        let tables = self.tables.0[self.kept()..].iter().map(|table| table.0.layout.bytes());
        self.sealing.bytes + tables.sum::<u64>()
    }

    /// Writes its objects: the segment and the table. Only for threads that may block.
    pub(crate) fn run(mut self) -> Result<Built, StoreError> {
        let name = self.name();
        let mut index = IndexBuilder::new(name.first, name.seed);
        let mut files = SegmentFiles::new(self.store.clone(), self.runtime.clone(), name);
        let mut sessions = BTreeMap::new();
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
            let mut leaves = Vec::with_capacity(slices.len());
            for slices in slices {
                let damaged = |fault: DecodeError| StoreError::damaged(&bundle, fault);
                let leaf = BatchLeaf::decode(&bytes[slices.leaf()]).map_err(damaged)?;
                let header = leaf.parse_header().map_err(damaged)?;
                leaves.push((leaf, header, slices));
            }
            let ids = leaves.iter().map(|(_, header, _)| header.session);
            let new = ids.filter(|id| !sessions.contains_key(id)).collect();
            sessions.extend(find(&self.store, &self.runtime, &self.tables, new)?);
            for (leaf, header, slices) in leaves {
                let entries = &bytes[slices.entries()];
                files.entries(at, &leaf, &header, entries)?;
                let records = files.records(at, &header, &bytes, slices.records())?;
                let traces = entries.as_chunks::<ENTRY_LEN>().0.iter();
                let traces = traces.filter_map(|entry| entry[2..].first_chunk());
                index.leaf(&header.session, header.seq, leaf.received_ns, traces, records);
                // What would be odd about it was refused.
                let session: &mut Session = sessions.entry(header.session).or_default();
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
        let sealed = Sealed { name, layout, entries_len, records_len };
        self.finish(sealed, &sessions)
    }

    /// Writes the table, with as many of the others in it as keeps them few.
    fn finish(
        self,
        sealed: Sealed,
        sessions: &BTreeMap<SessionId, Session>,
    ) -> Result<Built, StoreError> {
        let (name, kept) = (self.table_name(), self.kept());
        let (mut state, Tables(mut tables)) = (self.state, self.tables);
        let merged = tables.split_off(kept);
        let table = write_table(&self.store, &self.runtime, name, &merged, sessions)?;
        tables.push(Arc::new(table));
        state.segments.push(sealed.name);
        state.sessions = tables.iter().map(|table| table.name()).collect();
        state.root = self.sealing.head.root;
        let merged = merged.iter().map(|table| table_path(&table.name())).collect();
        Ok(Built { sealed, state, tables: Tables(tables), merged })
    }
}
