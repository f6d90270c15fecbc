//! Which batches go into one commit, and in what order they came, changes no answer.

use crate::fault_tests::store::{Fault, Faulty};
use crate::fault_tests::{self, SEAL_AT, key};
use crate::{Checked, Event, Log, Submission, SubmitError, Writer, open};
use meshchain::log::LogKey;
use meshchain_core::{BatchHeader, BatchKind, Canonical, SessionKey, Source};
use meshchain_store::Store;
use meshchain_wire::Batch;
use object_store::memory::InMemory;
use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

const OWNER: &str = "spiffe://d/ns/shop/sa/owner";
const STRANGER: &str = "spiffe://d/ns/shop/sa/stranger";

/// What a sender does instead of sending the next batch of an honest session.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sent {
    Honest,
    /// The same place, other contents.
    OtherBatch,
    /// It continues no chain.
    OtherPrev,
    /// From another principal.
    Foreign,
    /// With another claimed source.
    OtherSource,
    /// Not signed by the session's key.
    Unsigned,
}

/// A batch at `seq` of a session, whose honest batches follow each other.
fn batch(session: u8, seq: u64, sent: Sent) -> Checked {
    let key = SessionKey::from_seed([session + 1; 32]);
    let mut prev = [0; 32];
    let mut sealed = Batch::default();
    for at in 0..=seq {
        let last = at == seq;
        if last && sent == Sent::OtherPrev && seq > 0 {
            prev = [7; 32];
        }
        let other = last && matches!(sent, Sent::OtherBatch);
        let workload = if last && sent == Sent::OtherSource { "bank" } else { "cart" };
        let header = BatchHeader {
            kind: BatchKind::Heartbeat,
            source: Source { namespace: "shop", workload, ..Source::default() },
            session: key.id(),
            seq: at,
            first_ns: other.into(),
            last_ns: other.into(),
            ..BatchHeader::default()
        };
        sealed = Batch::seal(&key, &prev, header.encode(), Vec::new(), Vec::new());
        prev = sealed.chain.as_slice().try_into().unwrap();
    }
    if sent == Sent::Unsigned {
        sealed.signature[0] ^= 1;
    }
    let principal = if sent == Sent::Foreign { STRANGER } else { OWNER };
    fault_tests::checked(sealed, principal)
}

/// What became of a batch: its leaf and whether it was there already, or why not.
pub(crate) type Answer = Result<(u64, bool), String>;

struct Collector {
    log: Arc<Log>,
    writer: Writer,
}

/// One commit: the answers, in the order in which the batches came.
pub(crate) async fn commit(writer: &mut Writer, batches: Vec<Checked>) -> Vec<Answer> {
    let (mut waiting, mut answers) = (Vec::new(), Vec::new());
    for batch in batches {
        let (reply, answer) = oneshot::channel();
        waiting.push(Submission { batch, reply, room: Box::new(()) });
        answers.push(answer);
    }
    writer.commit(waiting).await.unwrap();
    let mut found = Vec::new();
    for answer in answers {
        found.push(match answer.await.unwrap() {
            Ok(accepted) => Ok((accepted.leaf, accepted.replayed)),
            Err(SubmitError::Refused(misfit)) => Err(misfit.reason().to_owned()),
            Err(error) => Err(format!("{error:?}").to_lowercase()),
        });
    }
    found
}

impl Collector {
    async fn open(store: Store) -> Option<Self> {
        let (log, writer, _) =
            open(store, key(), SEAL_AT, u64::MAX, Box::new(|_| {})).await.ok()?;
        Some(Self { log, writer })
    }

    async fn commit(&mut self, batches: Vec<Checked>) -> Vec<Answer> {
        commit(&mut self.writer, batches).await
    }

    fn size(&self) -> u64 {
        self.log.published().borrow().as_ref().unwrap().head.size
    }
}

/// The answers to batches, those of each list in one commit, or each batch in one of its own in order of
/// seq within its list.
async fn answers(commits: &[Vec<Checked>], together: bool) -> Vec<Answer> {
    let objects = Arc::new(InMemory::new());
    let mut collector = Collector::open(Store::over(objects.clone(), true)).await.unwrap();
    let mut all = Vec::new();
    for batches in commits {
        if together {
            all.extend(collector.commit(batches.clone()).await);
            continue;
        }
        let mut order: Vec<_> = (0..batches.len()).collect();
        order.sort_by_key(|&at| batches[at].seq);
        let mut found = vec![Err(String::new()); batches.len()];
        for at in order {
            found[at] = collector.commit(vec![batches[at].clone()]).await.pop().unwrap();
        }
        all.extend(found);
    }
    let accepted = all.iter().filter(|answer| matches!(answer, Ok((_, false)))).count();
    assert_eq!(collector.size(), accepted as u64);
    fault_tests::fsck::assert_clean(&objects, &LogKey::Key(key().verifier().clone()));
    assert!(Collector::open(Store::over(objects, true)).await.is_some(), "it opens again");
    all
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(future)
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        12 => Just(Sent::Honest),
        1 => Just(Sent::OtherBatch),
        1 => Just(Sent::OtherPrev),
        1 => Just(Sent::Foreign),
        1 => Just(Sent::OtherSource),
        1 => Just(Sent::Unsigned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batches_in_one_commit_are_answered_as_one_by_one(
        // Few places, so that some come again, in any order, and some never.
        batches in prop::collection::vec((0..3u8, 0..6u64, sent()), 1..40),
        splits in prop::collection::vec(1..12usize, 1..8),
    ) {
        let mut batches = batches.into_iter().map(|(session, seq, sent)| batch(session, seq, sent));
        let mut commits: Vec<Vec<Checked>> =
            splits.iter().map(|&most| batches.by_ref().take(most).collect()).collect();
        commits.push(batches.collect());
        run(async {
            assert_eq!(answers(&commits, true).await, answers(&commits, false).await);
        });
    }
}

#[test]
fn consecutive_batches_of_a_session_go_into_one_commit_in_whatever_order_they_came() {
    let batches = [4, 1, 0, 3, 2, 3].map(|seq| batch(0, seq, Sent::Honest)).to_vec();
    let found = run(answers(&[batches], true));
    let leaf = |leaf, replayed| Ok((leaf, replayed));
    let expected = [
        leaf(4, false),
        leaf(1, false),
        leaf(0, false),
        leaf(3, false),
        leaf(2, false),
        leaf(3, true),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_bad_signature_among_good_ones_is_refused_alone() {
    let sent = [Sent::Honest, Sent::Unsigned, Sent::Honest];
    let batches = (0..).zip(sent).map(|(session, sent)| batch(session, 0, sent)).collect();
    let expected = [Ok((0, false)), Err("bad_signature".to_owned()), Ok((1, false))];
    assert_eq!(run(answers(&[batches], true)), expected);
}

#[test]
fn an_equivocation_is_proved_also_within_one_commit() {
    for together in [true, false] {
        run(async {
            let proved = Arc::new(Mutex::new(Vec::new()));
            let told = proved.clone();
            let tell = Box::new(move |event: Event<'_>| {
                if let Event::Refused { misfit, proof, .. } = event {
                    let seq = proof.map(|proof| proof.check().unwrap().seq);
                    told.lock().unwrap().push((misfit.reason(), seq));
                }
            });
            let store = Store::over(Arc::new(InMemory::new()), true);
            let (_, mut writer, _) = open(store, key(), SEAL_AT, u64::MAX, tell).await.unwrap();
            let (one, other) = (batch(0, 0, Sent::Honest), batch(0, 0, Sent::OtherBatch));
            let refused = Err("equivocation".to_owned());
            if together {
                let answers = commit(&mut writer, vec![one, other]).await;
                assert_eq!(answers, [Ok((0, false)), refused]);
            } else {
                assert_eq!(commit(&mut writer, vec![one]).await, [Ok((0, false))]);
                assert_eq!(commit(&mut writer, vec![other]).await, [refused]);
            }
            assert_eq!(*proved.lock().unwrap(), [("equivocation", Some(0))], "{together}");
        });
    }
}

#[test]
fn what_contradicts_a_commit_that_fails_is_not_refused_for_it() {
    let batches = || {
        vec![
            batch(0, 0, Sent::Honest),
            batch(0, 0, Sent::Honest),
            batch(0, 0, Sent::OtherBatch),
            batch(0, 1, Sent::OtherPrev),
            batch(0, 1, Sent::Foreign),
            batch(1, 0, Sent::Unsigned),
        ]
    };
    run(async {
        // The fault hits the start first; then the bundle.
        for at in 0.. {
            let faulty = Faulty::new(&Arc::new(InMemory::new()), Fault::Refused, at);
            let Some(mut collector) = Collector::open(Store::over(faulty, true)).await else {
                continue;
            };
            let unavailable = || Err("unavailable".to_owned());
            let mut expected = vec![unavailable(); 5];
            expected.push(Err("bad_signature".to_owned()));
            assert_eq!(collector.commit(batches()).await, expected);
            let refused = |reason: &str| Err(reason.to_owned());
            let again = collector.commit(batches()).await;
            assert_eq!(again[..2], [Ok((0, false)), Ok((0, true))]);
            let reasons = ["equivocation", "wrong_prev", "foreign_session", "bad_signature"];
            assert_eq!(again[2..], reasons.map(refused));
            return;
        }
    });
}
