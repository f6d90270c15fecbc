//! Sealing: what is published moves from staging bundles into segments, beside the writer.

use crate::build::{Build, Built};
use crate::catalog::Sealing;
use crate::clock::unix_ns;
use crate::error::{OpenError, random};
use crate::event::Event;
use crate::log::Log;
use crate::rebuild::Torn;
use crate::segment::Sealed;
use meshchain_store::{StoreError, Version};
use meshchain_stored::sealed::{SEALED, SealedState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

/// How often parts of the tail are looked over for their age.
const AGE_CHECK: Duration = Duration::from_secs(1);
/// First and longest time after which sealing is tried again where the store failed: a try writes all of a segment.
const PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(600)];

/// What there is to do.
enum Work {
    Seal(Sealing),
    /// A session table fails.
    Mend(Torn),
}

/// The right to seal the log.
pub struct Sealer {
    log: Arc<Log>,
    state: SealedState,
    version: Version,
}

impl Sealer {
    pub(crate) fn new(log: Arc<Log>, state: SealedState, version: Version) -> Self {
        Self { log, state, version }
    }

    /// Seals part after part of the tail until `stop` is true, which calls off the segment in the making;
    /// nothing is left of that one. An error where another collector takes the log over.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), OpenError> {
        let mut pause = PAUSES[0];
        while let Some(work) = self.next(&mut stop).await {
            let sealing = match work {
                Work::Seal(sealing) => sealing,
                Work::Mend(torn) => {
                    self.mend(&torn).await?;
                    let _ = timeout(PAUSES[0], stopped(&mut stop)).await;
                    continue;
                }
            };
            match self.seal(&sealing, &mut stop).await {
                Ok(sealed) => {
                    pause = PAUSES[0];
                    self.log.sealer_lacks.set(None);
                    self.log.tell(Event::Sealed {
                        segment: sealed.name,
                        leaves: sealed.layout.leaves,
                        entries: sealed.layout.rows,
                        records: sealed.layout.records,
                    });
                }
                Err(OpenError::Store(StoreError::TakenOver(name))) => {
                    return Err(StoreError::TakenOver(name).into());
                }
                Err(_) if *stop.borrow() => break,
                Err(error) => {
                    self.log.tell(Event::SealFailed);
                    let lack = match &error {
                        OpenError::Store(error) => error.lack(),
                        _ => None,
                    };
                    self.log.sealer_lacks.set(lack);
                    if let OpenError::Store(error) = &error
                        && let Some(torn) = self.log.tables().torn(error)
                    {
                        self.mend(&torn).await?;
                    }
                    self.log.parts_sealed.notify_one();
                    // Whether there is room again is told by a look.
                    let now = if lack.is_some() { PAUSES[0] } else { pause };
                    log::error!("sealing failed, tried again in {now:?}: {error}");
                    let _ = timeout(now, stopped(&mut stop)).await;
                    pause = (now * 2).min(PAUSES[1]);
                }
            }
        }
        Ok(())
    }

    /// Makes a session table again. An error only where another collector took the log over.
    async fn mend(&self, torn: &Torn) -> Result<(), OpenError> {
        if self.log.barred().is_some() {
            return Ok(());
        }
        if self.log.store.is_shared()
            && let Err(error @ StoreError::TakenOver(_)) =
                self.log.store.check(SEALED, &self.version).await
        {
            return Err(error.into());
        }
        let mut tables = self.log.tables();
        match tables.mend(&self.log.store, torn).await {
            Ok(()) => self.log.set_tables(tables),
            Err(error) => log::error!("it cannot be made again: {error}"),
        }
        Ok(())
    }

    /// A table that is to be made again, or the next part to be sealed, once its tiles are written: a segment speaks
    /// of no other leaves. `None` where the log stops first.
    async fn next(&self, stop: &mut watch::Receiver<bool>) -> Option<Work> {
        let found = async {
            let sealing = loop {
                let torn = self.log.torn.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(torn) = torn {
                    return Work::Mend(torn);
                }
                let sealing = self.log.catalog().to_seal();
                if let (Some(sealing), None) = (sealing, self.log.barred()) {
                    break sealing;
                }
                let _ = timeout(AGE_CHECK, self.log.parts_closed.notified()).await;
                self.log.catalog_mut().close_old(unix_ns());
            };
            let size = sealing.head.size;
            let mut published = self.log.published();
            let _ = published.wait_for(|p| p.as_ref().is_some_and(|p| p.head.size >= size)).await;
            Work::Seal(sealing)
        };
        tokio::select! {
            biased;
            () = stopped(stop) => None,
            work = found => Some(work),
        }
    }

    /// Writes one segment, commits it, and deletes the bundles and session tables that it replaces.
    async fn seal(
        &mut self,
        sealing: &Sealing,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Arc<Sealed>, OpenError> {
        let store = self.log.store.clone();
        let cancel = Cancel::default();
        let build = Build {
            store: store.clone(),
            runtime: Handle::current(),
            sealing: sealing.clone(),
            state: self.state.clone(),
            tables: self.log.tables(),
            seed: random()?,
            cancelled: cancel.0.clone(),
        };
        room_for(&build).await?;
        // What stays of a try that failed goes at the next start.
        let objects = build.objects();
        let (first, end) = (sealing.first, sealing.head.size);
        log::debug!("leaves {first} to {end} are being sealed: {} bundles", sealing.bundles.len());
        let mut building = tokio::task::spawn_blocking(move || build.run());
        let built = tokio::select! {
            built = &mut building => built,
            () = stopped(stop) => {
                drop(cancel);
                building.await
            }
        };
        let built = built.unwrap_or_else(|e| Err(StoreError::damaged("segment", e)));
        let Built { sealed, state, tables, merged } = match built {
            Ok(built) => built,
            Err(error) => {
                // The next try has another name.
                store.delete_all(objects).await;
                if !store.is_shared() {
                    return Err(error.into());
                }
                // What it was built from may be gone because another collector sealed it.
                store.check(SEALED, &self.version).await?;
                return Err(error.into());
            }
        };
        log::debug!("segment {} is written", sealed.name);
        let bytes = state.to_bytes();
        self.version = match store.swap(SEALED, bytes.clone(), &self.version).await {
            Ok(version) => version,
            Err(error) => match store.get_version(SEALED).await {
                // Only the answer was lost.
                Ok(Some((found, version))) if found == bytes => version,
                // In a bucket, what failed may still come to pass: then its objects are needed.
                Ok(_) if !store.is_shared() => {
                    store.delete_all(objects).await;
                    return Err(error.into());
                }
                _ => return Err(error.into()),
            },
        };
        self.state = state;
        let sealed = Arc::new(sealed);
        self.log.set_tables(tables);
        self.log.catalog_mut().sealed_part(sealed.clone());
        self.log.parts_sealed.notify_one();
        log::debug!("segment {} is committed: its bundles go", sealed.name);
        // What stays is deleted at the next start.
        let bundles = sealing.bundles.iter().map(|bundle| bundle.to_string());
        store.delete_all(bundles.chain(merged)).await;
        Ok(sealed)
    }
}

/// A segment takes as much as its bundles, which stay until it is there, and so do the tables that become one. Fails
/// where that is not free.
async fn room_for(build: &Build) -> Result<(), StoreError> {
    let (asked, name, needed) = (build.store.clone(), build.name(), build.bytes());
    let free = tokio::task::spawn_blocking(move || asked.free_bytes()).await;
    let Ok(Some(free)) = free else { return Ok(()) };
    if needed <= free {
        return Ok(());
    }
    let name = format!("the segment of leaves {} to {}", name.first, name.end);
    Err(StoreError::NoRoom { name, needed, free })
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Tells the thread that builds a segment, when it is dropped, that nobody waits for it any more.
#[derive(Default)]
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
