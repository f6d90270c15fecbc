//! Faults at every storage operation of the commit path. After each: the log opens again, every
//! acknowledged batch is there exactly once, all checkpoints ever published are consistent, and
//! the verifier's fsck finds nothing damaged.

pub(crate) mod fsck;
mod full;
mod lost_tiles;
pub(crate) mod store;

use crate::{Accepted, Checked, Log, OpenError, SealAt, Submission, SubmitError, open, run};
use futures::{StreamExt, TryStreamExt};
use meshchain::log::LogKey;
use meshchain_core::leaf::{Signature, entry_hashes};
use meshchain_core::tile::{TILE_WIDTH, TileKind, TileName, split_bundle};
use meshchain_core::{
    BatchHeader, BatchKind, BatchLeaf, Canonical, Entry, Hash, SessionId, SessionKey, Side,
    SigningKey, SpanId, TraceId, TreeHead, merkle,
};
use meshchain_store::Store;
use meshchain_stored::sealed::{SEALED, SealedState};
use meshchain_stored::{SegmentName, Session, parse_table_path};
use meshchain_wire::Batch;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use store::{FAULTS, Fault, Faulty};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) fn key() -> SigningKey {
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
        let mut seed = [1; 32];
        seed[..2].copy_from_slice(&session.to_be_bytes());
        let key = SessionKey::from_seed(seed);
        let id = key.id();
        let count = u32::from(session % 2);
        let header = BatchHeader {
            kind: if count == 0 { BatchKind::Heartbeat } else { BatchKind::Data },
            session: id,
            seq,
            count,
            ..BatchHeader::default()
        };
        let mut trace_id = id;
        trace_id[15] = seq as u8;
        let (trace_id, span_id) = (TraceId::new(trace_id), SpanId::new([1; 8]));
        let entry = Entry::new(Side::Client, trace_id, span_id, [seq as u8; 32], [7; 32]);
        let entry = entry.to_bytes();
        let entries = if count == 0 { Vec::new() } else { entry.to_vec() };
        let batch = Batch::seal(&key, &prev, header.encode(), entries, Vec::new());
        let chain = batch.chain.as_slice().try_into().unwrap();
        self.chains.insert(session, (seq + 1, chain));
        checked(batch, "")
    }
}

/// A batch as a door that takes everything hands it on.
pub(crate) fn checked(batch: Batch, principal: &str) -> Checked {
    let header = BatchHeader::decode(&batch.header).unwrap();
    Checked {
        session: header.session,
        seq: header.seq,
        prev: batch.prev.try_into().unwrap(),
        chain: batch.chain.try_into().unwrap(),
        public_key: batch.public_key.try_into().unwrap(),
        signature: Signature(batch.signature.try_into().unwrap()),
        entries_root: merkle::root(&entry_hashes(&batch.entries)),
        principal: principal.to_owned(),
        header: batch.header,
        entries: batch.entries,
        records: batch.records,
    }
}

/// Times that a batch is sent; a store that is dead for good answers none.
const ATTEMPTS: u32 = 3;

/// One life of a collector: submits the rounds, each of several sessions at once, until all are
/// acknowledged or the writer died. What was published is appended to `heads`.
async fn live(
    store: Store,
    rounds: &[Vec<Checked>],
    heads: &mut Vec<TreeHead>,
) -> Result<Vec<Accepted>, OpenError> {
    let (log, writer, sealer) = open(store, key(), SEAL_AT, u64::MAX, Box::new(|_| {})).await?;
    heads.extend(log.published().borrow().as_ref().map(|p| p.head));
    let (send, receive) = mpsc::channel(1024);
    let (_seals, never) = watch::channel(false);
    let sealing = tokio::spawn(sealer.run(never));
    let (stop, stopped) = watch::channel(false);
    let writing = tokio::spawn(run(writer, receive, stopped));
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
            // The second time each by itself: another bundle for the same place, of another size.
            let together = if attempt == 0 { waiting.len() } else { 1 };
            let mut again = Vec::new();
            while !waiting.is_empty() {
                let mut answers = Vec::new();
                for batch in waiting.drain(..together.min(waiting.len())) {
                    let (reply, answer) = oneshot::channel();
                    let kept = batch.clone();
                    if send.send(Submission { batch, reply, room: Box::new(()) }).await.is_err() {
                        break 'rounds;
                    }
                    answers.push((kept, answer));
                }
                for (batch, answer) in answers {
                    match answer.await {
                        Ok(Ok(leaf)) => accepted.push(leaf),
                        Ok(Err(SubmitError::Unavailable)) => again.push(batch),
                        Ok(Err(error)) => panic!("{error}"),
                        Err(_) => {}
                    }
                }
            }
            waiting = again;
            heads.extend(log.published().borrow().as_ref().map(|p| p.head));
        }
    }
    stop.send_replace(true);
    let _ = writing.await.unwrap();
    heads.extend(log.published().borrow().as_ref().map(|p| p.head));
    let sealed = async {
        while log.catalog().waiting() > 0 && !sealing.is_finished() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // A store that is dead for good lets nothing be sealed.
    let _ = tokio::time::timeout(Duration::from_secs(20), sealed).await;
    sealing.abort();
    let _ = sealing.await;
    Ok(accepted)
}

/// Some leaves are sealed, some are not.
pub(crate) const SEAL_AT: SealAt = SealAt {
    entries: 1000,
    leaves: 4,
    bundles: 100,
    bytes: 1 << 30,
    session_bytes: 1 << 30,
    age: Duration::from_secs(3600),
};

async fn reopen(store: Store) -> Result<Arc<Log>, OpenError> {
    open(store, key(), SEAL_AT, u64::MAX, Box::new(|_| {})).await.map(|(log, _, _)| log)
}

/// Checks the log from outside, by fsck, and what the collector finds in it: leaves and their traces, every session,
/// every proof between heads that were published.
async fn check(objects: &InMemory, log: &Log, heads: &[TreeHead]) {
    fsck::assert_clean(objects, &LogKey::Key(key().verifier().clone()));
    let head = log.published().borrow().as_ref().unwrap().head;
    // Of what no fault touches, a part.
    for leaf in (0..head.size).filter(|leaf| leaf % 8 == 0 || *leaf >= SETTLED) {
        let batch = log.batch(leaf).await.unwrap().unwrap();
        assert!(BatchLeaf::decode(&batch.leaf).unwrap().holds(&batch.entries), "leaf {leaf}");
        for entry in batch.entries.chunks(90) {
            let trace_id = entry[2..18].try_into().unwrap();
            // Another trace may share the key.
            assert!(
                log.trace(&trace_id, None, 10).await.unwrap().contains(&(leaf, 0)),
                "leaf {leaf}"
            );
        }
    }
    let (listed, more) = log.session_page(None, 1000).await.unwrap();
    let listed = listed.into_iter().map(|listed| (listed.id, listed.session)).collect();
    assert_eq!((sessions(objects, head.size).await, false), (listed, more));
    for old in heads {
        let proof = log.consistency_proof(old.size, head.size).await.unwrap();
        assert_eq!(merkle::verify_consistency(old, &head, &proof), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn entries_come_in_pages_of_any_length_across_segments_and_the_tail() {
    let (objects, rounds) = grown().await;
    live(Store::over(objects.clone(), true), &rounds, &mut Vec::new()).await.unwrap();
    let log = &reopen(Store::over(objects, true)).await.unwrap();
    let size = log.published().borrow().as_ref().unwrap().head.size;
    for (most, step) in [(1, 50), (90 * 3, 40), (1 << 20, 7)] {
        for from in (0..size).step_by(step) {
            let end = size.min(from + 5);
            let found = log.entries_of(from..end, most).await.unwrap();
            let bytes: usize = found.iter().map(|entries| entries.len()).sum();
            assert!(found.len() == 1 || bytes <= most, "{from}: {bytes}");
            assert!(!found.is_empty() && found.len() as u64 <= end - from);
            let whole = found.len() as u64 == end - from;
            let next = log.entries_of(from + found.len() as u64..end, usize::MAX).await.unwrap();
            assert!(whole || bytes + next[0].len() > most, "{from}: it ends early");
            for (leaf, entries) in (from..).zip(found) {
                assert_eq!(entries, log.batch(leaf).await.unwrap().unwrap().entries, "leaf {leaf}");
            }
        }
    }
}

/// What the leaves make of each session.
async fn sessions(objects: &InMemory, size: u64) -> BTreeMap<SessionId, Session> {
    let mut sessions: BTreeMap<SessionId, Session> = BTreeMap::new();
    for index in 0..size.div_ceil(TILE_WIDTH) {
        let width = TILE_WIDTH.min(size - index * TILE_WIDTH) as u16;
        let path = TileName { kind: TileKind::Entries, index, width }.path();
        let bundle = objects.get(&path.into()).await.unwrap().bytes().await.unwrap();
        for (at, leaf) in (index * TILE_WIDTH..).zip(split_bundle(&bundle).unwrap()) {
            let leaf = BatchLeaf::decode(leaf).unwrap();
            let header = leaf.parse_header().unwrap();
            sessions.entry(header.session).or_default().record(&leaf, &header, at);
        }
    }
    sessions
}

/// Leaves of the log below which nothing changes in a test, but for where the sessions stand.
const SETTLED: u64 = 222;

/// A log of 254 leaves, so that the rounds fill a tile, in so many segments that the next one takes the others'
/// session tables in; and the rounds.
async fn grown() -> (Arc<InMemory>, Vec<Vec<Checked>>) {
    let objects = Arc::new(InMemory::new());
    let mut source = Source::default();
    let first: Vec<Checked> = (100..354).map(|session| source.next(session)).collect();
    let first: Vec<Vec<Checked>> = first.chunks(37).map(<[_]>::to_vec).collect();
    live(Store::over(objects.clone(), true), &first, &mut Vec::new()).await.unwrap();
    let sealed = objects.list(Some(&"sessions".into())).count().await;
    assert_eq!(sealed, first.len(), "each round is a segment");
    // One of the sessions sends two batches at once.
    let rounds = (0..3).map(|_| [0, 1, 1].map(|session| source.next(session)).to_vec());
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

/// Runs the rounds with a fault, restarts, and checks. False where the fault came too late to hit.
async fn survives(
    start: &InMemory,
    rounds: &[Vec<Checked>],
    fault: Fault,
    at: u64,
    locked: bool,
) -> bool {
    let objects = copy(start).await;
    let faulty = Faulty::new(&objects, fault, at);
    let store = || Store::over(objects.clone(), locked);
    let mut heads = Vec::new();
    // A fault while opening only means that the collector does not start.
    let accepted = live(Store::over(faulty.clone(), locked), rounds, &mut heads).await;
    let accepted = accepted.unwrap_or_default();
    if locked && [Fault::Refused, Fault::LostAnswer].contains(&fault) {
        assert_nothing_is_left_over(start, &objects, &format!("{fault:?} at {at}")).await;
    }
    let log = reopen(store()).await.unwrap_or_else(|e| panic!("{fault:?} at operation {at}: {e}"));
    check(&objects, &log, &heads).await;
    let size = log.published().borrow().as_ref().unwrap().head.size;
    for Accepted { leaf, .. } in &accepted {
        assert!(*leaf < size, "{fault:?} at {at}: an acknowledged batch is gone");
    }
    // The filters send again what was not acknowledged, and also what was: nothing is logged twice.
    live(store(), rounds, &mut heads).await.unwrap();
    let log = reopen(store()).await.unwrap();
    check(&objects, &log, &heads).await;
    let size = log.published().borrow().as_ref().unwrap().head.size;
    assert_eq!(size, 254 + 9, "{fault:?} at operation {at}");
    faulty.hit()
}

/// What a seal that failed had written is gone without a restart.
async fn assert_nothing_is_left_over(start: &InMemory, objects: &Arc<InMemory>, after: &str) {
    let store = Store::over(objects.clone(), true);
    let sealed = SealedState::parse(&store.get(SEALED).await.unwrap().unwrap()).unwrap();
    let before = start.get(&SEALED.into()).await.unwrap().bytes().await.unwrap();
    let before = SealedState::parse(&before).unwrap();
    for (path, _) in store.list("segment").await.unwrap() {
        let (name, _) = SegmentName::parse(&path).unwrap();
        assert!(sealed.segments.contains(&name), "{after}: {path} is left over");
    }
    for (path, _) in store.list("sessions").await.unwrap() {
        let name = parse_table_path(&path).unwrap();
        // What is in another table now goes at the next start where it could not be deleted.
        let known = sealed.sessions.contains(&name) || before.sessions.contains(&name);
        assert!(known, "{after}: {path} is left over");
    }
}

async fn survives_every_fault(locked: bool) {
    let (start, rounds) = grown().await;
    for fault in FAULTS {
        let mut at = 0;
        while survives(&start, &rounds, fault, at, locked).await {
            at += 1;
        }
        assert!(at > 30, "{fault:?}: only {at} operations were hit");
    }
}

#[tokio::test(start_paused = true)]
async fn every_fault_at_every_operation_loses_nothing_that_was_acknowledged() {
    survives_every_fault(true).await;
}

#[tokio::test(start_paused = true)]
async fn every_fault_at_every_operation_of_a_bucket_loses_nothing_that_was_acknowledged() {
    survives_every_fault(false).await;
}

/// Life after life, each ended by a fault of its own at a place of its own, then one without.
async fn survives_lives(start: &InMemory, rounds: &[Vec<Checked>], seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut below = |bound: u64| random.next_u64() % bound;
    let objects = copy(start).await;
    let locked = below(2) == 0;
    let store = || Store::over(objects.clone(), locked);
    let (mut heads, mut acknowledged) = (Vec::new(), 0);
    for _ in 0..=below(5) {
        let fault = FAULTS[below(FAULTS.len() as u64) as usize];
        let faulty = Store::over(Faulty::new(&objects, fault, below(90)), locked);
        let accepted = live(faulty, rounds, &mut heads).await.unwrap_or_default();
        acknowledged = acknowledged.max(accepted.iter().map(|a| a.leaf + 1).max().unwrap_or(0));
        let log = reopen(store()).await.unwrap_or_else(|e| panic!("seed {seed}, {fault:?}: {e}"));
        check(&objects, &log, &heads).await;
        let size = log.published().borrow().as_ref().unwrap().head.size;
        assert!(size >= acknowledged, "seed {seed}: an acknowledged batch is gone");
    }
    live(store(), rounds, &mut heads).await.unwrap();
    let log = reopen(store()).await.unwrap();
    check(&objects, &log, &heads).await;
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
