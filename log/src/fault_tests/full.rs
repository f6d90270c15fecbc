//! A disk that is full for a while, at every place of the commit path: nobody is told what is not so, nothing ends, and
//! all goes on by itself when there is room.

use super::store::{Fault, Faulty};
use super::{SEAL_AT, check, copy, grown, key, reopen};
use crate::{Checked, Submission, SubmitError, open, run};
use meshchain_core::TreeHead;
use meshchain_store::Store;
use object_store::memory::InMemory;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

/// Operations for which something lacks: more than a commit has.
const LACKS: u64 = 20;
/// Times that a batch is sent: more than operations that fail.
const ATTEMPTS: usize = 2 * LACKS as usize;
/// Pause between two of them.
const PAUSE: Duration = Duration::from_secs(1);

/// Sends a round until all of it is acknowledged.
async fn deliver(submissions: &mpsc::Sender<Submission>, round: &[Checked], what: &str) {
    let mut waiting = round.to_vec();
    for _ in 0..ATTEMPTS {
        let mut answers = Vec::new();
        for batch in waiting.drain(..) {
            let (reply, answer) = oneshot::channel();
            let submission = Submission { batch: batch.clone(), reply, room: Box::new(()) };
            submissions.send(submission).await.unwrap_or_else(|_| panic!("{what}: it ended"));
            answers.push((batch, answer));
        }
        for (batch, answer) in answers {
            match answer.await {
                Ok(Ok(_)) => {}
                Ok(Err(SubmitError::Lacking(_))) => waiting.push(batch),
                other => panic!("{what}: {other:?}"),
            }
        }
        if waiting.is_empty() {
            return;
        }
        sleep(PAUSE).await;
    }
    panic!("{what}: {} batches are not acknowledged", waiting.len());
}

/// One life in which something lacks from operation `at` of the load on; false where that came too late.
async fn goes_on(start: &InMemory, rounds: &[Vec<Checked>], of: ErrorKind, at: u64) -> bool {
    let what = format!("{of:?} from operation {at} on");
    let objects = copy(start).await;
    let opening = Faulty::new(&objects, Fault::Refused, u64::MAX);
    open(Store::over(opening.clone(), true), key(), SEAL_AT, u64::MAX, Box::new(|_| {}))
        .await
        .unwrap();
    let at = opening.operations() + at;
    let objects = copy(start).await;
    let faulty = Faulty::new(&objects, Fault::Lacking(LACKS, of), at);
    let store = Store::over(faulty.clone(), true);
    let (log, writer, sealer) =
        open(store, key(), SEAL_AT, u64::MAX, Box::new(|_| {})).await.unwrap();
    let (send, receive) = mpsc::channel(1024);
    let (stop, stopped) = watch::channel(false);
    let (writing, sealing) =
        (tokio::spawn(run(writer, receive, stopped.clone())), tokio::spawn(sealer.run(stopped)));
    let mut heads: Vec<TreeHead> = Vec::new();
    for round in rounds {
        deliver(&send, round, &what).await;
        heads.extend(log.published().borrow().as_ref().map(|p| p.head));
    }
    // By itself, and though nothing more is sent: once the lack has passed, it is told no more.
    while log.lack().is_some() || log.catalog().waiting() > 0 {
        sleep(PAUSE).await;
    }
    stop.send_replace(true);
    assert!(writing.await.unwrap().is_ok() && sealing.await.unwrap().is_ok(), "{what}: it ended");
    let log = reopen(Store::over(objects.clone(), true)).await.unwrap();
    check(&objects, &log, &heads).await;
    let batches = rounds.iter().map(Vec::len).sum::<usize>() as u64;
    assert_eq!(log.published().borrow().as_ref().unwrap().head.size, 254 + batches, "{what}");
    faulty.hit()
}

#[tokio::test(start_paused = true)]
async fn what_is_used_up_for_a_while_at_any_operation_ends_nothing() {
    let (start, rounds) = grown().await;
    for of in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
        let mut at = 0;
        while goes_on(&start, &rounds, of, at).await {
            at += 1;
        }
        assert!(at > 20, "{at} operations were tried");
    }
}
