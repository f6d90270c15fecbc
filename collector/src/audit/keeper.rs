//! The one thread that keeps audit lines, and the bounded queue that leads to it.

use super::bucket::AuditBucket;
use super::file::AuditFile;
use meshchain_store::{Lack, StoreError};
use prometheus_client::metrics::gauge::Gauge;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Bytes of lines that may wait. Refusals, which strangers cause, may take half of it.
const MAX_WAITING: usize = 32 << 20;
/// Time within which lines are gathered for one object of a bucket, unless somebody waits for them.
const GATHER: Duration = Duration::from_secs(1);
/// First and longest pause between two tries.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Why lines are not kept at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotKept {
    /// Something is used up that it takes.
    Lacking(Lack),
    /// The disk, or the bucket, fails.
    Failing,
}

/// Whose lines they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// They may be dropped before others are.
    Refusal,
    /// They are told whatever comes.
    Log,
    /// A batch is acknowledged only when it is kept.
    Batch,
}

/// Where lines are kept.
pub(super) enum Sink {
    File(AuditFile),
    Bucket(AuditBucket),
}

impl Sink {
    fn keep(&mut self, lines: &[u8]) -> Result<(), (NotKept, String)> {
        match self {
            Self::File(file) => file.keep(lines).map_err(|error| {
                let why = Lack::of(&error).map_or(NotKept::Failing, NotKept::Lacking);
                (why, error.to_string())
            }),
            Self::Bucket(bucket) => {
                let failing = |error: StoreError| (NotKept::Failing, error.to_string());
                bucket.keep(lines).map_err(failing)
            }
        }
    }

    fn gather(&self) -> Duration {
        match self {
            Self::File(_) => Duration::ZERO,
            Self::Bucket(_) => GATHER,
        }
    }
}

/// How far lines are kept.
#[derive(Clone, Copy, Default)]
struct Kept {
    /// So many lines.
    lines: u64,
    /// Why not more.
    failing: Option<NotKept>,
    /// The thread has ended.
    ended: bool,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Bytes that the thread has taken and not kept yet.
    taken: usize,
    /// Lines so far, kept or not.
    lines: u64,
    /// The last of these that a batch waits for.
    needed: u64,
    since: Option<Instant>,
    urgent: bool,
    closed: bool,
}

/// The queue.
pub(super) struct Keeper {
    /// Held for moments only, by whoever tells a line and by the thread, never while it writes.
    waiting: Mutex<Waiting>,
    wake: Condvar,
    kept: watch::Sender<Kept>,
    /// 1 while lines are not kept.
    failing: Gauge,
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn start(sink: Sink, failing: Gauge) -> io::Result<Arc<Self>> {
        let keeper = Arc::new(Self {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            kept: watch::Sender::default(),
            failing,
        });
        let work = keeper.clone();
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            // However it ends: whoever waits for it must not wait for ever.
            let work = Ending(work);
            work.0.run(sink);
        })?;
        Ok(keeper)
    }

    /// Takes a line with its newline; false where too many bytes wait.
    pub(super) fn push(&self, line: &[u8], weight: Weight) -> bool {
        let mut waiting = self.lock();
        let most = if weight == Weight::Refusal { MAX_WAITING / 2 } else { MAX_WAITING };
        if waiting.bytes.len() + waiting.taken + line.len() > most {
            return false;
        }
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        waiting.since.get_or_insert_with(Instant::now);
        if weight == Weight::Batch {
            waiting.needed = waiting.lines;
        }
        self.wake.notify_one();
        true
    }

    /// Waits until what batches have told so far is kept.
    pub(super) async fn kept(&self) -> Result<(), NotKept> {
        self.settled(|waiting| waiting.needed).await
    }

    /// Waits until all that was told so far is kept.
    pub(super) async fn all_kept(&self) -> Result<(), NotKept> {
        self.settled(|waiting| waiting.lines).await
    }

    async fn settled(&self, of: impl Fn(&Waiting) -> u64) -> Result<(), NotKept> {
        let mut kept = self.kept.subscribe();
        let lines = {
            let mut waiting = self.lock();
            let lines = of(&waiting);
            waiting.urgent |= kept.borrow().lines < lines;
            lines
        };
        self.wake.notify_one();
        let settled = kept.wait_for(|kept| kept.lines >= lines || kept.failing.is_some()).await;
        match settled.as_deref() {
            Ok(kept) if kept.lines >= lines => Ok(()),
            Ok(Kept { failing: Some(why), .. }) => Err(*why),
            _ => Err(NotKept::Failing),
        }
    }

    /// Why lines are not kept at the moment, if so.
    pub(super) fn failing(&self) -> Option<NotKept> {
        self.kept.borrow().failing
    }

    /// Waits until the thread has ended: before it was told to, by a fault of the program.
    pub(super) async fn ended(&self) {
        let _ = self.kept.subscribe().wait_for(|kept| kept.ended).await;
    }

    /// Nothing more will be told: the thread ends when it has kept what there is.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut sink: Sink) {
        while let Some((lines, count)) = self.take(sink.gather()) {
            let mut pause = PAUSES[0];
            while let Err((why, error)) = sink.keep(&lines) {
                let seconds = pause.as_secs_f32();
                log::error!(
                    "audit log: {error}; no batch is acknowledged; tried again in {seconds} s"
                );
                self.failing.set(1);
                self.kept.send_modify(|kept| kept.failing = Some(why));
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSES[1]);
            }
            self.failing.set(0);
            self.lock().taken = 0;
            self.kept.send_replace(Kept { lines: count, ..Kept::default() });
        }
    }

    /// The lines that wait, and how many there were up to them; `None` at the end.
    fn take(&self, gather: Duration) -> Option<(Vec<u8>, u64)> {
        let mut waiting = self.lock();
        loop {
            let now = Instant::now();
            let left = waiting.since.map(|since| gather.saturating_sub(now - since));
            let all = waiting.urgent || waiting.closed;
            waiting = match left {
                Some(left) if left.is_zero() || all => break,
                None if waiting.closed => return None,
                Some(left) => {
                    self.wake.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
        waiting.since = None;
        waiting.urgent = false;
        waiting.taken = waiting.bytes.len();
        Some((std::mem::take(&mut waiting.bytes), waiting.lines))
    }
}

struct Ending(Arc<Keeper>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.kept.send_modify(|kept| {
            kept.ended = true;
            kept.failing = kept.failing.or(Some(NotKept::Failing));
        });
    }
}
