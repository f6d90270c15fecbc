//! What the writer, the sealer, the readers and the doors share.

use crate::catalog::Catalog;
use crate::event::{Event, Events};
use crate::growth::{Barred, Growth, Witness};
use crate::lacking::Lacking;
use crate::lag::Lag;
use crate::rebuild::Torn;
use crate::segment::Files;
use crate::sessions::Sessions;
use crate::table::Tables;
use meshchain_core::{SignedHead, SigningKey};
use meshchain_store::{Lack, Store};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};

/// Time that a commit may take before senders are told to come again: a checkpoint is promised within
/// a second of acceptance.
const MAX_LAG: Duration = Duration::from_millis(500);

/// See [`Log::lookups`].
const LOOKUPS: usize = 8;
/// Parts of the tail that may wait to be sealed; past that, batches wait.
const MAX_UNSEALED: usize = 3;

/// The read side, shared by the writer and the doors.
pub struct Log {
    pub(crate) store: Store,
    pub(crate) key: SigningKey,
    /// Changed by the writer, the sealer and retention, for moments only; where both are held, it is taken
    /// before `sessions`.
    catalog: RwLock<Catalog>,
    /// Changed by the writer alone.
    sessions: RwLock<Sessions>,
    /// Where the other sessions stand. Changed by the sealer, for moments only.
    pub(crate) tables: watch::Sender<Tables>,
    pub(crate) files: Arc<Files>,
    pub(crate) published: watch::Sender<Option<SignedHead>>,
    /// A part of the tail may wait to be sealed.
    pub(crate) parts_closed: Notify,
    /// A part was sealed.
    pub(crate) parts_sealed: Notify,
    /// A session table failed, and is to be made again.
    pub(crate) torn: Mutex<Option<Torn>>,
    pub(crate) lag: Lag,
    /// The last commit failed.
    pub(crate) failing: AtomicBool,
    /// What the writer lacks.
    pub(crate) writer_lacks: Lacking,
    /// What the sealer lacks.
    pub(crate) sealer_lacks: Lacking,
    events: Events,
    growth: RwLock<Growth>,
    /// Batches that are looked up at the same time, as they may be logged already.
    pub(crate) lookups: Semaphore,
}

impl Log {
    /// The log of which `catalog`, `sessions` and `tables` know all that is committed.
    pub(crate) fn new(
        store: Store,
        key: SigningKey,
        catalog: Catalog,
        (sessions, tables): (Sessions, Tables),
        published: SignedHead,
        events: Events,
    ) -> Self {
        Self {
            files: Arc::new(Files::new(store.clone())),
            store,
            key,
            catalog: RwLock::new(catalog),
            sessions: RwLock::new(sessions),
            tables: watch::Sender::new(tables),
            published: watch::Sender::new(Some(published)),
            parts_closed: Notify::new(),
            parts_sealed: Notify::new(),
            torn: Mutex::default(),
            lag: Lag::default(),
            failing: AtomicBool::new(false),
            writer_lacks: Lacking::default(),
            sealer_lacks: Lacking::default(),
            events,
            growth: RwLock::default(),
            lookups: Semaphore::new(LOOKUPS),
        }
    }

    /// The log's key; its name is the origin.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The published checkpoint, now and later.
    pub fn published(&self) -> watch::Receiver<Option<SignedHead>> {
        self.published.subscribe()
    }

    /// The sessions in memory.
    pub(crate) fn sessions(&self) -> RwLockReadGuard<'_, Sessions> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sessions_mut(&self) -> RwLockWriteGuard<'_, Sessions> {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of sessions that fell silent since this log was opened, and were not heard of again.
    pub fn silent_sessions(&self) -> usize {
        self.sessions().silent()
    }

    /// The tables of this moment.
    pub(crate) fn tables(&self) -> Tables {
        self.tables.borrow().clone()
    }

    pub(crate) fn set_tables(&self, tables: Tables) {
        self.tables.send_replace(tables);
    }

    pub(crate) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is accepted now would be published too late.
    pub fn lags(&self) -> bool {
        self.lag.exceeds(MAX_LAG)
    }

    fn growth_mut(&self) -> RwLockWriteGuard<'_, Growth> {
        self.growth.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the log not grow before [`Log::fits`] was said of this chain.
    pub fn must_ask(&self, chain: &str) {
        self.growth_mut().must_ask(chain);
    }

    /// Lets the log grow no more, for a reason of `why`: somebody speaks of another history than this one's. Reads
    /// go on. The first reason of each counts.
    pub fn halt(&self, by: Witness, why: String) {
        let head = self.published.borrow().as_ref().map(|p| p.head);
        let new = self.growth_mut().halt(&by, &why);
        if let (true, Some(head)) = (new, head) {
            self.tell(Event::Halted { head, by, why });
        }
    }

    /// What the chain holds is of this log's history: it waits no more for that, and a halt by the word of its node
    /// is lifted.
    pub fn fits(&self, chain: &str) {
        let said = self.growth_mut().fits(chain);
        let head = self.published.borrow().as_ref().map(|p| p.head);
        if let (Some(said), Some(head)) = (said, head) {
            let halted = matches!(self.barred(), Some(Barred::OtherHistory(_)));
            self.tell(Event::TakenBack { head, chain: chain.to_owned(), said, halted });
        }
        self.parts_closed.notify_one();
    }

    /// Why the log does not grow, if so. Nothing is written, sealed or deleted then.
    pub fn barred(&self) -> Option<Barred> {
        self.growth.read().unwrap_or_else(PoisonError::into_inner).barred()
    }

    /// What is used up, if batches are not taken for that; they are again as soon as it passes.
    pub fn lack(&self) -> Option<Lack> {
        let sealing = || self.must_seal().then(|| self.sealer_lacks.get()).flatten();
        self.writer_lacks.get().or_else(sealing)
    }

    /// Whether the last commit failed: nobody knows that the next one will not.
    pub fn failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Bytes that are free where the log is; `None` in a bucket. Blocks for as long as a stat does.
    pub fn free_bytes(&self) -> Option<u64> {
        self.store.free_bytes()
    }

    /// What is not sealed is in memory: whether it may grow no more.
    pub(crate) fn must_seal(&self) -> bool {
        self.catalog().waiting() >= MAX_UNSEALED
    }

    /// Tells whoever runs the log. No lock may be held.
    pub(crate) fn tell(&self, event: Event<'_>) {
        (self.events)(event);
    }

    /// Number of sealed segments.
    pub fn segments(&self) -> usize {
        self.catalog().sealed().len()
    }

    /// Number of entries in the log.
    pub fn entries(&self) -> u64 {
        self.catalog().entries()
    }
}
