//! Sessions that leave memory, and come back: no answer depends on it.

use crate::commit_tests::{Answer, commit};
use crate::fault_tests::{SEAL_AT, checked, key};
use crate::table::Tables;
use crate::{Checked, Listed, Log, MAX_JUMP, OpenError, SealAt, Writer, open};
use meshchain_core::{BatchHeader, BatchKind, Canonical, Hash, SessionId, SessionKey, Source};
use meshchain_store::Store;
use meshchain_stored::table_path;
use meshchain_wire::Batch;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

mod torn;

const OWNER: &str = "spiffe://d/ns/shop/sa/owner";
const STRANGER: &str = "spiffe://d/ns/shop/sa/stranger";
const SESSIONS: u8 = 6;
/// Longest wait for a table that is made again.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a sender does next.
#[derive(Debug, Clone, Copy)]
enum Sent {
    /// The next batch, after so many that are lost.
    Next { lost: u64 },
    /// The next batch, which closes the session.
    Close,
    /// The batch that is so many before the next one, once more.
    Again { back: u64 },
    /// Another batch at its place.
    Other { back: u64 },
    /// The next batch, of another chain.
    OtherPrev,
    /// The next batch, from somebody else.
    Foreign,
    /// The next batch, with another claimed source.
    OtherSource,
}

#[derive(Debug, Clone)]
enum Step {
    /// Of these sessions, in one commit.
    Send(BTreeMap<u8, Sent>),
    /// What is there becomes a segment.
    Seal,
    /// There is no room for what is sealed; where so, who is not closed falls silent first.
    Leave {
        silent: bool,
    },
    Restart,
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        6 => (0..3u64).prop_map(|lost| Sent::Next { lost }),
        1 => Just(Sent::Next { lost: MAX_JUMP + 1 }),
        2 => Just(Sent::Close),
        3 => (0..5u64).prop_map(|back| Sent::Again { back }),
        3 => (0..5u64).prop_map(|back| Sent::Other { back }),
        1 => Just(Sent::OtherPrev),
        1 => Just(Sent::Foreign),
        1 => Just(Sent::OtherSource),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::btree_map(0..SESSIONS, sent(), 1..4).prop_map(Step::Send),
        3 => Just(Step::Seal),
        4 => any::<bool>().prop_map(|silent| Step::Leave { silent }),
        1 => Just(Step::Restart),
    ]
}

/// What of a session is in the log: its batches and their leaves, by seq.
type Logged = BTreeMap<u64, (u64, Checked)>;

/// A log that keeps all sessions for ever.
#[derive(Default)]
struct Model {
    sessions: BTreeMap<u8, Logged>,
    /// Those that ended without a close batch.
    silent: BTreeSet<u8>,
    size: u64,
}

impl Model {
    fn batch(&self, of: u8, sent: Sent) -> Checked {
        let nothing = Logged::new();
        let session = self.sessions.get(&of).unwrap_or(&nothing);
        let next = session.last_key_value().map_or(0, |(seq, _)| seq + 1);
        let seq = match sent {
            Sent::Next { lost } => next + lost,
            Sent::Again { back } | Sent::Other { back } => next.saturating_sub(back + 1),
            _ => next,
        };
        if let (Sent::Again { .. }, Some((_, batch))) = (sent, session.get(&seq)) {
            return batch.clone();
        }
        let before = session.range(..seq).next_back();
        let prev = match sent {
            Sent::OtherPrev if seq > 0 => [7; 32],
            _ => before.map_or([0; 32], |(_, (_, batch))| batch.chain),
        };
        let key = SessionKey::from_seed([of + 1; 32]);
        let odd = u64::from(matches!(sent, Sent::Other { .. }));
        let header = BatchHeader {
            kind: match sent {
                Sent::Close => BatchKind::Close,
                _ => BatchKind::Heartbeat,
            },
            source: Source {
                namespace: "shop",
                workload: if matches!(sent, Sent::OtherSource) { "bank" } else { "cart" },
                ..Source::default()
            },
            session: key.id(),
            seq,
            first_ns: odd,
            last_ns: odd,
            ..BatchHeader::default()
        };
        let principal = if matches!(sent, Sent::Foreign) { STRANGER } else { OWNER };
        checked(Batch::seal(&key, &prev, header.encode(), Vec::new(), Vec::new()), principal)
    }

    fn answer(&mut self, of: u8, batch: &Checked) -> Answer {
        let session = self.sessions.entry(of).or_default();
        let refused = |reason: &str| Err(reason.to_owned());
        let next = session.last_key_value().map_or(0, |(seq, _)| seq + 1);
        if let Some((_, (_, first))) = session.first_key_value()
            && (first.principal != batch.principal
                || first.header().source != batch.header().source)
        {
            return refused("foreign_session");
        }
        match session.get(&batch.seq) {
            Some((leaf, logged)) if logged.chain == batch.chain => return Ok((*leaf, true)),
            Some(_) => return refused("equivocation"),
            None if batch.seq < next => return refused("reordered"),
            None if batch.seq - next > MAX_JUMP => return refused("seq_jump"),
            None => {}
        }
        if let Some((last, (_, before))) = session.last_key_value()
            && batch.seq == last + 1
            && batch.prev != before.chain
        {
            return refused("wrong_prev");
        }
        session.insert(batch.seq, (self.size, batch.clone()));
        self.silent.remove(&of);
        self.size += 1;
        Ok((self.size - 1, false))
    }

    /// Those that are not closed.
    fn open(&self) -> Vec<u8> {
        let open = |session: &Logged| {
            let last = session.last_key_value();
            last.is_some_and(|(_, (_, batch))| batch.header().kind != BatchKind::Close)
        };
        self.sessions.iter().filter(|(_, session)| open(session)).map(|(of, _)| *of).collect()
    }

    /// What a list shows of each session, by id.
    fn list(&self) -> Vec<Shown> {
        let shown = |(of, session): (&u8, &Logged)| {
            let (_, (first_leaf, owner)) = session.first_key_value()?;
            let (last_seq, (_, last)) = session.last_key_value()?;
            let batches = session.len() as u64;
            Some(Shown {
                id: owner.session,
                principal: owner.principal.clone(),
                first_leaf: *first_leaf,
                batches,
                last_seq: *last_seq,
                chain: last.chain,
                missing: last_seq + 1 - batches,
                closed: last.header().kind == BatchKind::Close,
                silent: self.silent.contains(of),
            })
        };
        let mut list: Vec<Shown> = self.sessions.iter().filter_map(shown).collect();
        list.sort_by_key(|shown| shown.id);
        list
    }
}

#[derive(Debug, PartialEq)]
struct Shown {
    id: SessionId,
    principal: String,
    first_leaf: u64,
    batches: u64,
    last_seq: u64,
    chain: Hash,
    missing: u64,
    closed: bool,
    silent: bool,
}

struct Collector {
    log: Arc<Log>,
    writer: Writer,
    sealing: JoinHandle<Result<(), OpenError>>,
    /// Dropped, it would stop the sealing.
    _seals: watch::Sender<bool>,
}

impl Collector {
    async fn open(objects: &Arc<InMemory>) -> Self {
        // Some six sessions that come are a segment.
        let seal_at = SealAt { leaves: 1000, session_bytes: 8 << 10, ..SEAL_AT };
        let store = Store::over(objects.clone(), true);
        let (log, writer, sealer) =
            open(store, key(), seal_at, u64::MAX, Box::new(|_| {})).await.unwrap();
        let (seals, never) = watch::channel(false);
        Self { log, writer, sealing: tokio::spawn(sealer.run(never)), _seals: seals }
    }

    async fn commit(&mut self, batches: Vec<Checked>) -> Vec<Answer> {
        commit(&mut self.writer, batches).await
    }

    /// Commits a batch that comes again until something is known about it.
    async fn commit_at_last(&mut self, batch: Checked) -> Answer {
        let mut tables = self.log.tables.subscribe();
        loop {
            let found = self.commit(vec![batch.clone()]).await.pop().unwrap();
            if found != Err("unavailable".to_owned()) {
                return found;
            }
            mended(&mut tables).await;
        }
    }

    /// Makes a segment of what is not sealed.
    async fn seal(&self) {
        self.log.catalog_mut().close_old(u64::MAX);
        self.log.parts_closed.notify_one();
        while self.log.catalog().waiting() > 0 {
            self.log.parts_sealed.notified().await;
        }
    }

    /// Who is sealed leaves memory, in silence or not.
    fn leave(&self, silent: bool) {
        let mut sessions = self.log.sessions_mut();
        if silent {
            sessions.fall_silent(u64::MAX);
        }
        sessions.let_sealed_go(self.log.tables().end(), 0);
    }

    /// A page, once it can be read.
    async fn page_at_last(&self, after: Option<SessionId>) -> (Vec<Listed>, bool) {
        let mut tables = self.log.tables.subscribe();
        loop {
            if let Ok(page) = self.log.session_page(after, 2).await {
                return page;
            }
            mended(&mut tables).await;
        }
    }

    async fn list(&self) -> Vec<Shown> {
        let (mut list, mut after) = (Vec::new(), None);
        loop {
            let (page, more) = self.page_at_last(after).await;
            after = page.last().map(|listed| listed.id);
            list.extend(page.into_iter().map(|Listed { id, session, silent }| Shown {
                id,
                silent,
                principal: session.principal,
                first_leaf: session.first_leaf,
                batches: session.batches,
                last_seq: session.last_seq,
                chain: session.chain,
                missing: session.missing,
                closed: session.closed,
            }));
            if !more {
                return list;
            }
        }
    }
}

/// Waits for other tables than were seen last.
async fn mended(tables: &mut watch::Receiver<Tables>) {
    let changed = tokio::time::timeout(DEADLINE, tables.changed()).await;
    changed.expect("no table is made again for a minute").unwrap();
}

async fn answers_as_the_model(steps: Vec<Step>) {
    let objects = Arc::new(InMemory::new());
    let mut collector = Collector::open(&objects).await;
    let mut model = Model::default();
    for step in steps {
        match &step {
            Step::Send(sent) => {
                let batches = sent.iter().map(|(of, sent)| (*of, model.batch(*of, *sent)));
                let mut batches: Vec<(u8, Checked)> = batches.collect();
                batches.sort_by_key(|(_, batch)| batch.seq);
                let sent = batches.iter().map(|(_, batch)| batch.clone()).collect();
                let found = collector.commit(sent).await;
                let expected: Vec<Answer> =
                    batches.iter().map(|(of, batch)| model.answer(*of, batch)).collect();
                assert_eq!(found, expected, "{step:?}");
            }
            Step::Seal => collector.seal().await,
            Step::Leave { silent } => {
                collector.leave(*silent);
                if *silent {
                    model.silent.extend(model.open());
                }
                let end = collector.log.tables().end();
                for session in model.sessions.values() {
                    let Some((_, (leaf, batch))) = session.last_key_value() else { continue };
                    let there = collector.log.sessions().get(&batch.session).is_some();
                    assert_eq!(there, *leaf >= end, "leaf {leaf} of {end} sealed ones");
                }
            }
            Step::Restart => {
                collector.sealing.abort();
                let _ = (&mut collector.sealing).await;
                collector = Collector::open(&objects).await;
                // Nobody was silent for as long when the newest batch was received.
                model.silent.clear();
            }
        }
        assert_eq!(collector.list().await, model.list(), "{step:?}");
    }
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_answer_is_that_of_a_log_that_keeps_all_sessions_in_memory(
        steps in prop::collection::vec(step(), 1..100)
    ) {
        block_on(answers_as_the_model(steps));
    }
}

/// A log of three sessions that left memory; one was closed.
async fn left(objects: &Arc<InMemory>) -> (Collector, Model) {
    let mut collector = Collector::open(objects).await;
    let mut model = Model::default();
    for (of, sent) in [(0, Sent::Next { lost: 1 }), (1, Sent::Close), (2, Sent::Next { lost: 0 })] {
        for sent in [Sent::Next { lost: 0 }, Sent::Next { lost: 2 }, sent] {
            let batch = model.batch(of, sent);
            let expected = model.answer(of, &batch);
            assert_eq!(collector.commit(vec![batch]).await, [expected]);
        }
    }
    collector.seal().await;
    collector.leave(true);
    (collector, model)
}

#[tokio::test]
async fn what_cannot_be_read_of_a_table_or_is_damaged_refuses_and_accepts_nothing() {
    let objects = Arc::new(InMemory::new());
    let (mut collector, mut model) = left(&objects).await;
    let mut batches = Vec::new();
    for of in 0..3 {
        let sent = [
            Sent::Again { back: 0 },
            Sent::Again { back: 1 },
            Sent::Other { back: 0 },
            Sent::OtherPrev,
            Sent::Foreign,
            Sent::Next { lost: MAX_JUMP + 1 },
        ];
        for sent in sent {
            let batch = model.batch(of, sent);
            batches.push((batch.clone(), model.answer(of, &batch)));
        }
    }
    let name = collector.log.tables().0[0].name();
    let path = Path::from(table_path(&name));
    let whole = objects.get(&path).await.unwrap().bytes().await.unwrap();
    let blocks = collector.log.tables().0[0].0.layout.index_at().start as usize;
    let mut unread = 0;
    for at in (0..blocks).step_by(11) {
        let mut damaged = whole.to_vec();
        damaged[at] ^= 1;
        objects.put(&path, damaged.into()).await.unwrap();
        for (batch, expected) in &batches {
            let found = collector.commit(vec![batch.clone()]).await.pop().unwrap();
            if found == Err("unavailable".to_owned()) {
                unread += 1;
            } else {
                assert_eq!(found, *expected, "byte {at}");
            }
        }
    }
    assert!(unread >= blocks / 11, "{unread} of {blocks}: nobody noticed");
}
