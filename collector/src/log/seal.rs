//! Sealing: what is published moves from staging bundles into segments, beside the writer.

use super::catalog::Sealing;
use super::open::{OpenError, random};
use super::pool;
use super::sealed::Sealed;
use super::segment_files::SegmentFiles;
use super::state::SealedState;
use super::{Log, SEALED};
use crate::audit::Audit;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError, Version};
use meshchain_core::{BatchLeaf, Canonical, DecodeError, ENTRY_LEN};
use meshchain_segment::{IndexBuilder, Layout, Part, SegmentName};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;

/// How often parts of the tail are looked over for their age.
const AGE_CHECK: Duration = Duration::from_secs(1);
/// Time after which sealing is tried again where the store failed.
const RETRY: Duration = Duration::from_secs(5);

/// The right to seal the log.
pub struct Sealer {
    log: Arc<Log>,
    state: SealedState,
    version: Version,
}

impl Sealer {
    pub(super) fn new(log: Arc<Log>, state: SealedState, version: Version) -> Self {
        Self { log, state, version }
    }

    /// Seals part after part of the tail, until another collector takes the log over.
    pub async fn run(mut self, audit: Arc<Audit>, metrics: Arc<Metrics>) -> Result<(), OpenError> {
        let log = self.log.clone();
        metrics.segments.set(self.state.segments.len() as i64);
        loop {
            let sealing = log.catalog().to_seal();
            let Some(sealing) = sealing else {
                let _ = tokio::time::timeout(AGE_CHECK, log.parts_closed.notified()).await;
                log.catalog_mut().close_old(unix_ns());
                continue;
            };
            // A segment only speaks of leaves whose tiles are written.
            let size = sealing.head.size;
            let mut published = log.published();
            let _ = published.wait_for(|p| p.as_ref().is_some_and(|p| p.head.size >= size)).await;
            drop(published);
            match self.seal(&sealing).await {
                Ok(sealed) => {
                    let line = json!({
                        "segment": sealed.name.to_string(), "leaves": sealed.layout.leaves,
                        "entries": sealed.layout.rows, "records": sealed.layout.records,
                    });
                    audit.line("sealed", line);
                    metrics.segments.inc();
                }
                Err(OpenError::Store(StoreError::TakenOver(name))) => {
                    return Err(StoreError::TakenOver(name).into());
                }
                Err(error) => {
                    metrics.seal_failures.inc();
                    log::error!("sealing failed, tried again in {RETRY:?}: {error}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Writes one segment, commits it, and deletes the bundles that it replaces.
    async fn seal(&mut self, sealing: &Sealing) -> Result<Arc<Sealed>, OpenError> {
        let store = self.log.store.clone();
        let cancel = Cancel::default();
        let build = Build {
            store: store.clone(),
            handle: Handle::current(),
            sealing: sealing.clone(),
            state: self.state.clone(),
            seed: random()?,
            cancelled: cancel.0.clone(),
        };
        let built = tokio::task::spawn_blocking(move || build.run()).await;
        let built = built.unwrap_or_else(|e| Err(StoreError::damaged("segment", e)));
        let (sealed, state, bytes) = match built {
            Ok(built) => built,
            Err(error) if store.is_shared() => {
                // What it was built from may be gone because another collector sealed it.
                store.check(SEALED, &self.version).await?;
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
        self.version = store.swap(SEALED, bytes, &self.version).await?;
        self.state = state;
        let sealed = Arc::new(sealed);
        self.log.catalog_mut().sealed_part(sealed.clone());
        self.log.parts_sealed.notify_one();
        // What stays is deleted at the next start.
        store.delete_all(sealing.pools.iter().map(|pool| pool.to_string())).await;
        Ok(sealed)
    }
}

/// Tells the thread that builds a segment that nobody waits for it any more.
#[derive(Default)]
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One segment in the making, on a thread that may block.
struct Build {
    store: Store,
    handle: Handle,
    sealing: Sealing,
    state: SealedState,
    seed: u64,
    cancelled: Arc<AtomicBool>,
}

impl Build {
    /// The segment, and the sealed state that commits it, as it is and as bytes.
    fn run(mut self) -> Result<(Sealed, SealedState, Vec<u8>), StoreError> {
        let (first, end) = (self.sealing.first, self.sealing.head.size);
        let name = SegmentName { first, end, seed: self.seed };
        let mut index = IndexBuilder::new(name.first, name.seed);
        let mut files = SegmentFiles::new(self.store.clone(), self.handle.clone(), name);
        let mut at = name.first;
        for pool in std::mem::take(&mut self.sealing.pools) {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(StoreError::damaged("segment", "sealing was called off"));
            }
            let bytes = self.handle.block_on(self.store.get(&pool))?;
            let bytes = bytes.ok_or_else(|| StoreError::missing(&pool))?;
            let (slices, _) = pool::parse(&bytes).map_err(|e| StoreError::damaged(&pool, e))?;
            for slices in slices {
                let damaged = |fault: DecodeError| StoreError::damaged(&pool, fault);
                let leaf = BatchLeaf::decode(&bytes[slices.leaf()]).map_err(damaged)?;
                let header = leaf.parse_header().map_err(damaged)?;
                let entries = &bytes[slices.entries()];
                files.entries(at, &leaf, &header, entries)?;
                let records = files.records(at, &header, &bytes[slices.records()])?;
                let traces = entries.as_chunks::<ENTRY_LEN>().0.iter();
                let traces = traces.filter_map(|entry| entry[2..].first_chunk());
                index.leaf(&header.session, header.seq, leaf.received_ns, traces, records);
                self.state.sessions.record(&leaf, &header, at);
                at += 1;
            }
        }
        if at != name.end {
            let fault = format!("the bundles end at leaf {at}");
            return Err(StoreError::damaged(&name.path(Part::Index), fault));
        }
        let (entries_len, records_len) = files.finish()?;
        let index = index.finish();
        let damaged = |e| StoreError::damaged(&name.path(Part::Index), e);
        let layout = Layout::parse(&index, index.len() as u64).map_err(damaged)?;
        self.handle.block_on(self.store.put(&name.path(Part::Index), index))?;
        self.state.segments.push(name);
        self.state.root = self.sealing.head.root;
        let bytes = self.state.to_bytes()?;
        Ok((Sealed { name, layout, entries_len, records_len }, self.state, bytes))
    }
}

pub(super) fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}
