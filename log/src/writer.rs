//! The one writer: gathers what comes in, commits, acknowledges, applies, publishes.

use crate::answers::{acknowledge_again, answer_passed, turn_down};
use crate::clock::unix_ns;
use crate::event::Event;
use crate::intake::take_in;
use crate::judge::{Judge, Judged, Passed};
use crate::lacking::Insist;
use crate::log::Log;
use crate::misfit::Misfit;
use crate::owned::Owned;
use crate::recall::Recalled;
use crate::sessions::{Heard, SILENT_AFTER_NS};
use crate::signatures;
use crate::submission::{Accepted, Submission, SubmitError};
use crate::tree::{Growth, Tree};
use bytes::Bytes;
use meshchain_core::session::BadSignature;
use meshchain_core::tile::TileName;
use meshchain_core::{Checkpoint, SignedHead};
use meshchain_store::{Lack, Store, StoreError};
use meshchain_stored::staging::{self, StagingWriter};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// Time between commits under load: several batches share the syncs of one. Far below the second
/// within which a checkpoint is promised, and below what a filter notices.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes at which a commit is made early.
const MAX_COMMIT_BYTES: usize = 32 << 20;
/// How often an idle writer looks whether the log is still its own, and which sessions are silent.
const IDLE_CHECK: Duration = Duration::from_secs(5);
/// Bytes of sessions that stay in memory though all they have is sealed: what is not there is read for the next batch.
const SESSIONS_ROOM: usize = 64 << 20;

/// The store failed at or after a commit point, and not for want of room, or another collector took over: the process
/// must end, and the next start recovers.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct Fatal(#[from] StoreError);

/// The right to write the log.
pub struct Writer {
    log: Arc<Log>,
    tree: Tree,
    owned: Owned,
    /// Leaves that were sealed when sessions were last let go.
    swept: u64,
}

/// Runs until `stop` is true and what was submitted before is answered.
pub async fn run(
    mut writer: Writer,
    mut submissions: mpsc::Receiver<Submission>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Fatal> {
    let mut waiting = Vec::new();
    let mut idle = tokio::time::interval(IDLE_CHECK);
    let mut next_commit = Instant::now();
    loop {
        if waiting.is_empty() {
            tokio::select! {
                received = submissions.recv() => match received {
                    Some(submission) => waiting.push(submission),
                    None => return Ok(()),
                },
                () = stopped(&mut stop), if !submissions.is_closed() => {
                    submissions.close();
                    continue;
                }
                _ = idle.tick() => {
                    writer.look_for_room().await;
                    writer.report_silence();
                    writer.log.sessions_mut().let_sealed_go(writer.log.tables().end(), SESSIONS_ROOM);
                    writer.check_owned().await?;
                    continue;
                }
            }
        }
        let mut bytes: usize = waiting.iter().map(|s: &Submission| s.batch.bytes()).sum();
        while bytes < MAX_COMMIT_BYTES {
            let Ok(Some(submission)) = timeout_at(next_commit, submissions.recv()).await else {
                break;
            };
            bytes += submission.batch.bytes();
            waiting.push(submission);
        }
        next_commit = Instant::now() + COMMIT_INTERVAL;
        writer.log.lag.begin();
        match writer.wait_for_sealing().await {
            Ok(()) => writer.commit(std::mem::take(&mut waiting)).await?,
            Err(lack) => refuse(waiting.drain(..), || SubmitError::Lacking(lack)),
        }
        writer.log.lag.end();
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What is known of a commit's batches before it is made.
#[derive(Default)]
struct Judgement {
    /// They go into it.
    taken: Vec<Submission>,
    /// They are in it already: as which of `taken`.
    again: Vec<(Submission, usize)>,
    /// They contradict it.
    refused: Vec<(Submission, Misfit)>,
}

impl Judgement {
    /// The commit failed: nothing is known of any of them.
    fn call_off(self, why: impl Fn() -> SubmitError) {
        let again = self.again.into_iter().map(|(submission, _)| submission);
        let refused = self.refused.into_iter().map(|(submission, _)| submission);
        refuse(self.taken.into_iter().chain(again).chain(refused), why);
    }
}

fn refuse(submissions: impl Iterator<Item = Submission>, why: impl Fn() -> SubmitError) {
    for submission in submissions {
        let _ = submission.reply.send(Err(why()));
    }
}

impl Writer {
    pub(crate) fn new(log: Arc<Log>, tree: Tree, owned: Owned) -> Self {
        Self { log, tree, owned, swept: 0 }
    }

    /// Another collector may take over what no lock holds, and a directory be exchanged, its lock with it.
    async fn check_owned(&self) -> Result<(), Fatal> {
        match self.owned.check().await {
            Err(error @ StoreError::TakenOver(_)) => Err(error.into()),
            Err(error) => {
                log::warn!("cannot tell whether the log was taken over: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Takes batches again where room or files lacked. Whether they still do, the next commit tells.
    async fn look_for_room(&self) {
        if self.log.writer_lacks.get().is_some() && self.log.store.ready().await.is_ok() {
            self.log.writer_lacks.set(None);
        }
    }

    /// What is not sealed is in memory: it does not grow faster than it is sealed. An error where it is not sealed for
    /// want of room.
    async fn wait_for_sealing(&self) -> Result<(), Lack> {
        while self.log.must_seal() && self.log.barred().is_none() {
            if let Some(lack) = self.log.sealer_lacks.get() {
                return Err(lack);
            }
            let sealed = timeout(IDLE_CHECK, self.log.parts_sealed.notified());
            if sealed.await.is_err() {
                log::warn!("batches wait, as too much of the log is not sealed yet");
            }
        }
        Ok(())
    }

    /// Commits what is waiting, and answers it.
    pub(crate) async fn commit(&mut self, waiting: Vec<Submission>) -> Result<(), Fatal> {
        if let Some(barred) = self.log.barred() {
            refuse(waiting.into_iter(), || SubmitError::Barred(barred.clone()));
            return Ok(());
        }
        let started = Instant::now();
        let waiting = verified(&self.log, waiting).await;
        let log = self.log.clone();
        let sessions = waiting.iter().map(|submission| submission.batch.session).collect();
        let Recalled { back, unread } = log.recall(sessions).await;
        let (unknown, known): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|submission| unread.contains(&submission.batch.session));
        for submission in unknown {
            let _ = submission.reply.send(Err(SubmitError::Unavailable));
        }
        let committed = self.commit_known(known, started).await;
        let end = log.tables().end();
        if std::mem::replace(&mut self.swept, end) != end {
            log.sessions_mut().let_sealed_go(end, SESSIONS_ROOM);
        } else if !back.is_empty() {
            log.sessions_mut().let_go(&back, end);
        }
        committed
    }

    /// As [`Writer::commit`], once all that the log has of the batches' sessions is in memory.
    async fn commit_known(
        &mut self,
        waiting: Vec<Submission>,
        started: Instant,
    ) -> Result<(), Fatal> {
        let judgement = self.judge(waiting);
        let Judgement { taken, again, refused } = &judgement;
        log::debug!(
            "a commit of {} batches: {} came twice, {} contradict others of it",
            taken.len(),
            again.len(),
            refused.len()
        );
        if taken.is_empty() {
            return Ok(());
        }
        let first = self.tree.head().size;
        let received_ns = unix_ns();
        let mut bundle = StagingWriter::default();
        for submission in &judgement.taken {
            let batch = &submission.batch;
            bundle.push(&batch.leaf(received_ns), &batch.entries, &batch.records);
        }
        let (bundle, slices, sum) = bundle.finish();
        let bundle = Bytes::from(bundle);
        let mut tree = self.tree.clone();
        let growth = tree.extend(slices.iter().map(|s| &bundle[s.leaf()]));
        let name = staging::name(first, &sum);
        let log = self.log.clone();
        let head = tree.head();
        // Before it is committed: a leaf that cannot be read again must never be.
        let intake = take_in(&name, first, &bundle, &slices, head);
        let intake = intake.map_err(|e| StoreError::damaged(&name, e))?;

        let written = async {
            log.store.ready().await?;
            log.store.put(&name, bundle.clone()).await
        };
        if let Err(error) = written.await {
            if matches!(error, StoreError::TakenOver(_)) {
                judgement.call_off(|| SubmitError::Unavailable);
                return Err(error.into());
            }
            log::error!("commit failed, nothing was changed: {error}");
            log.tell(Event::CommitFailed);
            log.failing.store(true, Ordering::Relaxed);
            log.writer_lacks.set(error.lack());
            judgement
                .call_off(|| error.lack().map_or(SubmitError::Unavailable, SubmitError::Lacking));
            return Ok(());
        }
        log::debug!("{name} is written: {} bytes, {} leaves", bundle.len(), slices.len());
        let mut insist = Insist::new();
        while let Err(error) = self.owned.commit(&head, &log.key).await {
            insist.again(&log, error).await?;
        }
        log::debug!("head of {} leaves is committed", head.size);

        // Committed: from here on nothing may fail but the process.
        self.tree = tree;
        log.tell(Event::Committed(head));
        let steps = intake.apply(&mut log.catalog_mut(), &mut log.sessions_mut());
        intake.told(&steps).for_each(|event| log.tell(event));
        for (leaf, submission) in (first..).zip(judgement.taken) {
            let _ = submission.reply.send(Ok(Accepted { leaf, replayed: false }));
        }
        for (submission, at) in judgement.again {
            acknowledge_again(&log, submission, first + at as u64);
        }
        for (submission, misfit) in judgement.refused {
            self.turn_down_now(submission, misfit);
        }
        while let Err(error) = growth.write(&log.store).await {
            insist.again(&log, error).await?;
        }
        log::debug!("{} tiles and entry bundles are written", growth.objects.len());
        let checkpoint = Checkpoint::sign(&head, &log.key);
        while let Err(error) = self.owned.publish(checkpoint.clone()).await {
            insist.again(&log, error).await?;
        }
        log.writer_lacks.set(None);
        log.failing.store(false, Ordering::Relaxed);
        let took = started.elapsed();
        log::debug!(
            "checkpoint of {} leaves is published, {took:?} after the commit began",
            head.size
        );
        log.published.send_replace(Some(SignedHead { head, checkpoint }));
        // Only now: whoever hears of it may ask for it at once.
        log.tell(Event::Published { head, leaves: head.size - first, took });
        log.parts_closed.notify_one();
        tokio::spawn(async move { delete_partials(&log.store, &growth).await });
        Ok(())
    }

    /// Answers what is refused whatever becomes of this commit, and has answered what may be logged
    /// already. Batches of a session are judged in their order, in whatever order they came.
    fn judge(&self, mut waiting: Vec<Submission>) -> Judgement {
        waiting.sort_by_key(|submission| submission.batch.seq);
        let judged: Vec<Judged> = {
            let sessions = self.log.sessions();
            let mut judge = Judge::new(&sessions);
            waiting.iter().map(|submission| judge.judge(&submission.batch)).collect()
        };
        let mut judgement = Judgement::default();
        for (submission, judged) in waiting.into_iter().zip(judged) {
            match judged {
                Judged::Next => judgement.taken.push(submission),
                Judged::Again(at) => judgement.again.push((submission, at)),
                Judged::Passed(passed) => {
                    tokio::spawn(answer_passed(self.log.clone(), submission, passed));
                }
                Judged::Refused { misfit, by_this_commit: true } => {
                    judgement.refused.push((submission, misfit));
                }
                Judged::Refused { misfit, .. } => turn_down(&self.log, submission, misfit),
            }
        }
        judgement
    }

    /// Refuses a batch that contradicts one of the commit that was made.
    fn turn_down_now(&self, submission: Submission, misfit: Misfit) {
        let log = &self.log;
        let equivocates = matches!(misfit, Misfit::Equivocation { .. });
        let session = log.sessions().get(&submission.batch.session).map(Passed::from);
        match session.filter(|_| equivocates) {
            // With the proof, as later.
            Some(passed) => drop(tokio::spawn(answer_passed(log.clone(), submission, passed))),
            None => turn_down(log, submission, misfit),
        }
    }

    fn report_silence(&self) {
        let before = unix_ns().saturating_sub(SILENT_AFTER_NS);
        let silent = self.log.sessions_mut().fall_silent(before);
        for (id, Heard { last_seq, last_received_ns }) in silent {
            self.log.tell(Event::FellSilent { session: id, last_seq, last_received_ns });
        }
    }
}

/// Those that their sessions signed; the others are refused.
async fn verified(log: &Log, waiting: Vec<Submission>) -> Vec<Submission> {
    let signed: Vec<_> = waiting.iter().map(|submission| submission.batch.signed()).collect();
    // Some 50 us each: it does not run on a thread that others wait for.
    let verifying = tokio::task::spawn_blocking(move || signatures::verify(&signed));
    let verifies = verifying.await;
    let mut good = Vec::with_capacity(waiting.len());
    for (at, submission) in waiting.into_iter().enumerate() {
        match verifies.as_ref().map(|verifies| verifies[at]) {
            Ok(true) => good.push(submission),
            Ok(false) => turn_down(log, submission, BadSignature.into()),
            // It panicked, which says nothing about any of them.
            Err(_) => drop(submission.reply.send(Err(SubmitError::Unavailable))),
        }
    }
    good
}

/// Full tiles make their partial versions superfluous (tlog-tiles, "Partial Tiles"). Failures only
/// leave files behind.
async fn delete_partials(store: &Store, growth: &Growth) {
    for name in growth.filled() {
        let partials = TileName { width: 1, ..*name }.path();
        let Some((directory, _)) = partials.rsplit_once('/') else {
            continue;
        };
        match store.list(directory).await {
            Ok(partials) => store.delete_all(partials.into_iter().map(|(name, _)| name)).await,
            Err(error) => log::warn!("{error}"),
        }
    }
}
