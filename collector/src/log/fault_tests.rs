//! Faults at every storage operation of the commit path. After each: the log opens again, every
//! acknowledged batch is there exactly once, all checkpoints ever published are consistent, and
//! tiles, bundles and root fit each other.

use super::{Accepted, Log, OpenError, Submission, SubmitError, open, run};
use crate::audit::Audit;
use crate::batch::Checked;
use crate::metrics::Metrics;
use crate::store::Store;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use meshchain_core::tile::{TileKind, TileName, parse_tile, split_bundle, width_at};
use meshchain_core::{
    BatchHeader, BatchKind, Canonical, Entry, Hash, Side, SigningKey, TreeHead, merkle,
};
use meshchain_wire::Batch;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use prost::Message;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// What goes wrong at one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It fails without effect (EIO, ENOSPC, 503); the next ones work.
    Refused,
    /// It takes effect and then reports an error (a failed fsync, a timeout after success).
    LostAnswer,
    /// The process dies before it.
    CrashBefore,
    /// The process dies after it.
    CrashAfter,
    /// Half of what is written is there, and the process dies. Not for what is replaced by rename.
    Torn,
}

const FAULTS: [Fault; 5] =
    [Fault::Refused, Fault::LostAnswer, Fault::CrashBefore, Fault::CrashAfter, Fault::Torn];

/// A store that fails at its `at`-th operation.
#[derive(Debug)]
struct Faulty {
    inner: Arc<InMemory>,
    fault: Fault,
    at: u64,
    operations: AtomicU64,
    dead: AtomicBool,
}

enum Turn {
    Works,
    FailsBefore,
    FailsAfter,
    Tears,
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "injected".into() }
}

impl Faulty {
    fn turn(&self) -> Turn {
        if self.dead.load(Ordering::SeqCst) {
            return Turn::FailsBefore;
        }
        if self.operations.fetch_add(1, Ordering::SeqCst) != self.at {
            return Turn::Works;
        }
        let crash = !matches!(self.fault, Fault::Refused | Fault::LostAnswer);
        self.dead.store(crash, Ordering::SeqCst);
        match self.fault {
            Fault::Refused | Fault::CrashBefore => Turn::FailsBefore,
            Fault::LostAnswer | Fault::CrashAfter => Turn::FailsAfter,
            Fault::Torn => Turn::Tears,
        }
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, at: &Path, data: PutPayload, how: PutOptions) -> Result<PutResult> {
        match self.turn() {
            Turn::Works => self.inner.put_opts(at, data, how).await,
            Turn::FailsBefore => Err(failure()),
            Turn::FailsAfter => {
                self.inner.put_opts(at, data, how).await?;
                Err(failure())
            }
            Turn::Tears => {
                let whole = bytes::Bytes::from(data);
                let replaced_by_rename = ["head", "checkpoint"].contains(&at.as_ref());
                if !replaced_by_rename {
                    self.inner.put(at, whole.slice(..whole.len() / 2).into()).await?;
                }
                Err(failure())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(failure())
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        match self.turn() {
            Turn::Works => self.inner.get_opts(at, how).await,
            _ => Err(failure()),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.turn() {
            Turn::Works => self.inner.delete_stream(locations),
            Turn::FailsAfter => self.inner.delete_stream(locations).map(|_| Err(failure())).boxed(),
            _ => futures::stream::once(async { Err(failure()) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.turn() {
            Turn::Works => self.inner.list(prefix),
            _ => futures::stream::once(async { Err(failure()) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(failure())
    }
}

fn key() -> SigningKey {
    SigningKey::from_seed("faults.example/log", &[1; 32]).unwrap()
}

/// Batches of sessions, each with its chain; every odd one carries an entry.
#[derive(Default)]
struct Source {
    chains: HashMap<u16, (u64, Hash)>,
}

impl Source {
    fn next(&mut self, session: u16) -> Checked {
        let (seq, prev) = *self.chains.entry(session).or_insert((0, [0; 32]));
        let mut id = [1; 16];
        id[..2].copy_from_slice(&session.to_be_bytes());
        let count = u32::from(session % 2);
        let header = BatchHeader {
            kind: if count == 0 { BatchKind::Heartbeat } else { BatchKind::Data },
            session: id,
            seq,
            count,
            ..BatchHeader::default()
        };
        let entry = Entry::new(Side::Client, None, None, [seq as u8; 32], [7; 32]).to_bytes();
        let entries = if count == 0 { Vec::new() } else { entry.to_vec() };
        let batch = Batch::seal(&prev, header.encode(), entries, Vec::new());
        let chain = batch.chain.as_slice().try_into().unwrap();
        self.chains.insert(session, (seq + 1, chain));
        Checked::parse(&batch.encode_to_vec(), "").unwrap()
    }
}

/// Times that a batch is sent; a store that is dead for good answers none.
const ATTEMPTS: u32 = 3;

/// One life of a collector: submits the rounds, each of several sessions at once, until all are
/// acknowledged or the writer died. What was published is appended to `heads`.
async fn live(
    objects: Arc<dyn ObjectStore>,
    rounds: &[Vec<Checked>],
    heads: &mut Vec<TreeHead>,
) -> Result<Vec<Accepted>, OpenError> {
    let (log, writer) = open(Store::over(objects), key()).await?;
    heads.extend(log.published().borrow().as_ref().map(|p| p.head));
    let directory = tempfile::tempdir().unwrap();
    let audit = Audit::open(directory.path(), "faults.example/log", std::io::sink()).unwrap();
    let (send, receive) = mpsc::channel(1024);
    let writing = tokio::spawn(run(writer, receive, Arc::new(audit), Arc::new(Metrics::default())));
    let permits = Arc::new(Semaphore::new(1 << 20));
    let mut accepted = Vec::new();
    'rounds: for round in rounds {
        let mut waiting: Vec<Checked> = round.clone();
        for attempt in 0.. {
            if waiting.is_empty() {
                break;
            }
            if attempt == ATTEMPTS {
                break 'rounds;
            }
            let mut answers = Vec::new();
            for batch in waiting.drain(..) {
                let (reply, answer) = oneshot::channel();
                let permit = permits.clone().acquire_owned().await.unwrap();
                let kept = batch.clone();
                if send.send(Submission { batch, reply, permit }).await.is_err() {
                    break 'rounds;
                }
                answers.push((kept, answer));
            }
            for (batch, answer) in answers {
                match answer.await {
                    Ok(Ok(leaf)) => accepted.push(leaf),
                    Ok(Err(SubmitError::Unavailable)) => waiting.push(batch),
                    Ok(Err(SubmitError::Refused(refusal))) => panic!("refused: {refusal}"),
                    Err(_) => {}
                }
            }
            heads.extend(log.published().borrow().as_ref().map(|p| p.head));
        }
    }
    drop(send);
    let _ = writing.await.unwrap();
    heads.extend(log.published().borrow().as_ref().map(|p| p.head));
    Ok(accepted)
}

/// Recomputes tiles, bundles and root, and every proof between heads that were published.
async fn check(log: &Log, heads: &[TreeHead]) {
    let head = log.published().borrow().as_ref().unwrap().head;
    let mut hashes = Vec::new();
    for index in 0..head.size.div_ceil(256) {
        let width = width_at(head.size, 0, index);
        let tile = log.tile(&TileName { kind: TileKind::Hashes(0), index, width }).await;
        let bundle = log.tile(&TileName { kind: TileKind::Entries, index, width }).await;
        let tile = parse_tile(&tile.unwrap().unwrap(), width).unwrap();
        let bundle = bundle.unwrap().unwrap();
        let leaves = split_bundle(&bundle).unwrap();
        let found: Vec<Hash> = leaves.iter().map(|leaf| merkle::leaf_hash(leaf)).collect();
        assert_eq!(tile, found, "tile {index}");
        hashes.extend(found);
    }
    assert_eq!(merkle::root(&hashes), head.root);
    for old in heads {
        let proof = log.consistency_proof(old.size, head.size).await.unwrap();
        assert_eq!(merkle::verify_consistency(old, &head, &proof), Ok(()));
    }
}

/// A log of 254 leaves, so that the rounds fill a tile, and the rounds.
async fn grown() -> (Arc<InMemory>, Vec<Vec<Checked>>) {
    let objects = Arc::new(InMemory::new());
    let mut source = Source::default();
    let first = (100..354).map(|session| source.next(session)).collect();
    live(objects.clone(), &[first], &mut Vec::new()).await.unwrap();
    let rounds = (0..3).map(|_| (0..3).map(|session| source.next(session)).collect());
    (objects, rounds.collect())
}

async fn copy(objects: &InMemory) -> Arc<InMemory> {
    let copied = InMemory::new();
    for meta in objects.list(None).try_collect::<Vec<_>>().await.unwrap() {
        let data = objects.get(&meta.location).await.unwrap().bytes().await.unwrap();
        copied.put(&meta.location, data.into()).await.unwrap();
    }
    Arc::new(copied)
}

fn faulty(objects: &Arc<InMemory>, fault: Fault, at: u64) -> Arc<Faulty> {
    Arc::new(Faulty {
        inner: objects.clone(),
        fault,
        at,
        operations: AtomicU64::new(0),
        dead: AtomicBool::new(false),
    })
}

/// Runs the rounds with a fault, restarts, and checks. False where the fault came too late to hit.
async fn survives(start: &InMemory, rounds: &[Vec<Checked>], fault: Fault, at: u64) -> bool {
    let objects = copy(start).await;
    let faulty = faulty(&objects, fault, at);
    let mut heads = Vec::new();
    // A fault while opening only means that the collector does not start.
    let accepted = live(faulty.clone(), rounds, &mut heads).await.unwrap_or_default();
    let (log, _) = open(Store::over(objects.clone()), key())
        .await
        .unwrap_or_else(|e| panic!("{fault:?} at operation {at}: {e}"));
    check(&log, &heads).await;
    let size = log.published().borrow().as_ref().unwrap().head.size;
    for Accepted { leaf, .. } in &accepted {
        assert!(*leaf < size, "{fault:?} at {at}: an acknowledged batch is gone");
    }
    // The filters send again what was not acknowledged, and also what was: nothing is logged twice.
    live(objects.clone(), rounds, &mut heads).await.unwrap();
    let (log, _) = open(Store::over(objects), key()).await.unwrap();
    check(&log, &heads).await;
    let size = log.published().borrow().as_ref().unwrap().head.size;
    assert_eq!(size, 254 + 9, "{fault:?} at operation {at}");
    faulty.operations.load(Ordering::SeqCst) > at
}

#[tokio::test(start_paused = true)]
async fn every_fault_at_every_operation_loses_nothing_that_was_acknowledged() {
    let (start, rounds) = grown().await;
    for fault in FAULTS {
        let mut at = 0;
        while survives(&start, &rounds, fault, at).await {
            at += 1;
        }
        assert!(at > 20, "{fault:?}: only {at} operations were hit");
    }
}

/// Life after life, each ended by a fault of its own at a place of its own, then one without.
async fn survives_lives(start: &InMemory, rounds: &[Vec<Checked>], seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut below = |bound: u64| random.next_u64() % bound;
    let objects = copy(start).await;
    let (mut heads, mut acknowledged) = (Vec::new(), 0);
    for _ in 0..=below(5) {
        let fault = FAULTS[below(FAULTS.len() as u64) as usize];
        let faulty = faulty(&objects, fault, below(60));
        let accepted = live(faulty, rounds, &mut heads).await.unwrap_or_default();
        acknowledged = acknowledged.max(accepted.iter().map(|a| a.leaf + 1).max().unwrap_or(0));
        let (log, _) = open(Store::over(objects.clone()), key())
            .await
            .unwrap_or_else(|e| panic!("seed {seed}, {fault:?}: {e}"));
        check(&log, &heads).await;
        let size = log.published().borrow().as_ref().unwrap().head.size;
        assert!(size >= acknowledged, "seed {seed}: an acknowledged batch is gone");
    }
    live(objects.clone(), rounds, &mut heads).await.unwrap();
    let (log, _) = open(Store::over(objects), key()).await.unwrap();
    check(&log, &heads).await;
    let size = log.published().borrow().as_ref().unwrap().head.size;
    assert_eq!(size, 254 + 9, "seed {seed}");
}

/// `SEEDS=N` runs N seeds (`make crash`).
#[tokio::test(start_paused = true)]
async fn random_faults_in_life_after_life_lose_nothing_that_was_acknowledged() {
    let seeds = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let (start, rounds) = grown().await;
    for seed in 0..seeds {
        survives_lives(&start, &rounds, seed).await;
    }
    println!("{seeds} seeds, nothing lost");
}
