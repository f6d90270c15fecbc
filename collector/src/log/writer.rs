//! The one writer: pools what comes in, commits, acknowledges, applies, publishes.

use super::answers::{acknowledge_again, answer_passed, turn_down};
use super::open::{put_all, take_in};
use super::pool::{self, PoolWriter};
use super::seal::unix_ns;
use super::state::Owned;
use super::tree::{Growth, Tree};
use super::{Accepted, Log, SubmitError};
use crate::anchor::SignedHead;
use crate::audit::Audit;
use crate::batch::{Checked, Refusal};
use crate::judge::{Judge, Judged, Next};
use crate::metrics::Metrics;
use crate::signatures;
use crate::store::{Store, StoreError};
use meshchain_core::session::BadSignature;
use meshchain_core::tile::TileName;
use meshchain_core::{BatchKind, Checkpoint, Source};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// Time between commits under load: several batches share the syncs of one. Far below the second
/// within which a checkpoint is promised, and below what a filter notices.
const POOL_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes at which a pool is committed early.
const MAX_POOL_BYTES: usize = 32 << 20;
/// How often an idle writer looks whether the log is still its own, and which sessions are silent.
const IDLE_CHECK: Duration = Duration::from_secs(5);
/// Parts of the tail that may wait to be sealed; past that, batches wait.
const MAX_UNSEALED: usize = 3;
/// A session is reported as silent after this long: four default heartbeats.
pub const SILENT_AFTER_NS: u64 = 120_000_000_000;

/// A checked batch on its way into the log.
pub struct Submission {
    /// The batch.
    pub batch: Checked,
    /// Told when the batch is durable, or why it is not.
    pub reply: oneshot::Sender<Result<Accepted, SubmitError>>,
    /// Its share of the memory that waiting batches may take.
    pub room: Box<dyn Send>,
}

/// The store failed at or after a commit point, or another collector took over: the process must end,
/// and the next start recovers.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct Fatal(#[from] StoreError);

/// The right to write the log.
pub struct Writer {
    log: Arc<Log>,
    tree: Tree,
    owned: Owned,
}

/// Runs until `stop` is true and what was submitted before is answered.
pub async fn run(
    mut writer: Writer,
    mut submissions: mpsc::Receiver<Submission>,
    mut stop: watch::Receiver<bool>,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
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
                    writer.report_silence(&audit);
                    writer.check_owned().await?;
                    continue;
                }
            }
        }
        let mut bytes: usize = waiting.iter().map(|s: &Submission| s.batch.bytes()).sum();
        while bytes < MAX_POOL_BYTES {
            let Ok(Some(submission)) = timeout_at(next_commit, submissions.recv()).await else {
                break;
            };
            bytes += submission.batch.bytes();
            waiting.push(submission);
        }
        next_commit = Instant::now() + POOL_INTERVAL;
        writer.log.lag.begin();
        writer.wait_for_sealing().await;
        writer.commit(std::mem::take(&mut waiting), &audit, &metrics).await?;
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
    pooled: Vec<(Submission, Next)>,
    /// They are in it already: as which of `pooled`.
    again: Vec<(Submission, usize)>,
    /// They contradict it.
    refused: Vec<(Submission, Refusal)>,
}

impl Judgement {
    /// The commit failed: nothing is known of any of them.
    fn call_off(self) {
        let pooled = self.pooled.into_iter().map(|(submission, _)| submission);
        let again = self.again.into_iter().map(|(submission, _)| submission);
        let refused = self.refused.into_iter().map(|(submission, _)| submission);
        for submission in pooled.chain(again).chain(refused) {
            let _ = submission.reply.send(Err(SubmitError::Unavailable));
        }
    }
}

impl Writer {
    pub(super) fn new(log: Arc<Log>, tree: Tree, owned: Owned) -> Self {
        Self { log, tree, owned }
    }

    /// Another collector may take over what no lock holds.
    async fn check_owned(&self) -> Result<(), Fatal> {
        if !self.log.store.is_shared() {
            return Ok(());
        }
        match self.owned.check().await {
            Err(error @ StoreError::TakenOver(_)) => Err(error.into()),
            Err(error) => {
                log::warn!("cannot tell whether the log was taken over: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// What is not sealed is in memory: it does not grow faster than it is sealed.
    async fn wait_for_sealing(&self) {
        loop {
            let waiting = self.log.catalog().waiting();
            if waiting < MAX_UNSEALED {
                return;
            }
            let sealed = timeout(IDLE_CHECK, self.log.parts_sealed.notified());
            if sealed.await.is_err() {
                log::warn!("batches wait, as {waiting} parts of the log are not sealed yet");
            }
        }
    }

    /// Commits what is waiting, and answers it.
    pub(super) async fn commit(
        &mut self,
        waiting: Vec<Submission>,
        audit: &Arc<Audit>,
        metrics: &Arc<Metrics>,
    ) -> Result<(), Fatal> {
        let started = Instant::now();
        let waiting = verified(waiting, audit, metrics).await;
        let judgement = self.judge(waiting, audit, metrics);
        if judgement.pooled.is_empty() {
            return Ok(());
        }
        let first = self.tree.head().size;
        let received_ns = unix_ns();
        let mut bundle = PoolWriter::default();
        for (submission, _) in &judgement.pooled {
            bundle.push(&submission.batch, received_ns);
        }
        let (bundle, slices, sum) = bundle.finish();
        let bundle = bytes::Bytes::from(bundle);
        let mut tree = self.tree.clone();
        let growth = tree.extend(slices.iter().map(|s| &bundle[s.leaf()]));
        let name = pool::name(first, &sum);
        let log = self.log.clone();
        let head = tree.head();
        // Before it is committed: a leaf that cannot be read again must never be.
        let taken = take_in(&name, first, &bundle, &slices, head);
        let taken = taken.map_err(|e| StoreError::damaged(&name, e))?;

        if let Err(error) = log.store.put(&name, bundle.clone()).await {
            log::error!("commit failed, nothing was changed: {error}");
            metrics.commit_failures.inc();
            judgement.call_off();
            return Ok(());
        }
        self.owned.commit(&head, &log.key).await?;

        // Committed: from here on nothing may fail but the process.
        self.tree = tree;
        audit.set_head(head);
        taken.apply(&mut log.catalog_mut(), &mut log.sessions_mut());
        for (leaf, (submission, next)) in (first..).zip(judgement.pooled) {
            tell(&submission.batch, next, leaf, audit, metrics);
            let _ = submission.reply.send(Ok(Accepted { leaf, replayed: false }));
        }
        for (submission, at) in judgement.again {
            acknowledge_again(submission, first + at as u64, metrics);
        }
        for (submission, refusal) in judgement.refused {
            turn_down(submission, refusal, audit, metrics);
        }
        put_all(&log.store, &growth).await?;
        let checkpoint = Checkpoint::sign(&head, &log.key);
        self.owned.publish(checkpoint.clone()).await?;
        metrics.published(head.size, started.elapsed());
        log.published.send_replace(Some(SignedHead { head, checkpoint }));
        // Whoever follows the audit log may ask for what it tells of at once.
        audit.line("checkpoint", json!({ "leaves": head.size - first }));
        if let Err(error) = audit.sync() {
            log::error!("audit log: {error}");
        }
        log.parts_closed.notify_one();
        tokio::spawn(async move { delete_partials(&log.store, &growth).await });
        Ok(())
    }

    /// Answers what is refused whatever becomes of this commit, and has answered what may be logged
    /// already. Batches of a session are judged in their order, in whatever order they came.
    fn judge(
        &self,
        mut waiting: Vec<Submission>,
        audit: &Arc<Audit>,
        metrics: &Arc<Metrics>,
    ) -> Judgement {
        waiting.sort_by_key(|submission| submission.batch.seq);
        let judged: Vec<Judged> = {
            let sessions = self.log.sessions();
            let mut judge = Judge::new(&sessions);
            waiting.iter().map(|submission| judge.judge(&submission.batch)).collect()
        };
        let mut judgement = Judgement::default();
        for (submission, judged) in waiting.into_iter().zip(judged) {
            match judged {
                Judged::Next(next) => judgement.pooled.push((submission, next)),
                Judged::Again(at) => judgement.again.push((submission, at)),
                Judged::Passed(passed) => {
                    let (log, audit, metrics) = (self.log.clone(), audit.clone(), metrics.clone());
                    tokio::spawn(answer_passed(log, submission, passed, audit, metrics));
                }
                Judged::Refused { refusal, by_this_commit: true } => {
                    judgement.refused.push((submission, refusal));
                }
                Judged::Refused { refusal, .. } => turn_down(submission, refusal, audit, metrics),
            }
        }
        judgement
    }

    fn report_silence(&self, audit: &Audit) {
        let before = unix_ns().saturating_sub(SILENT_AFTER_NS);
        let silent = self.log.sessions_mut().fall_silent(before);
        for id in silent {
            let Some((last_seq, last_received_ns)) =
                self.log.sessions().get(&id).map(|s| (s.last_seq, s.last_received_ns))
            else {
                continue;
            };
            let line = json!({
                "session": hex::encode(id), "why": "silent", "last_seq": last_seq,
                "last_received_ns": last_received_ns,
            });
            audit.line("session_closed", line);
        }
    }
}

/// Those that their sessions signed; the others are refused.
async fn verified(waiting: Vec<Submission>, audit: &Audit, metrics: &Metrics) -> Vec<Submission> {
    let signed: Vec<_> = waiting.iter().map(|submission| submission.batch.signed()).collect();
    // Some 50 us each: it does not run on a thread that others wait for.
    let verifying = tokio::task::spawn_blocking(move || signatures::verify(&signed));
    let verifies = verifying.await;
    let mut good = Vec::with_capacity(waiting.len());
    for (at, submission) in waiting.into_iter().enumerate() {
        match verifies.as_ref().map(|verifies| verifies[at]) {
            Ok(true) => good.push(submission),
            Ok(false) => turn_down(submission, BadSignature.into(), audit, metrics),
            // It panicked, which says nothing about any of them.
            Err(_) => drop(submission.reply.send(Err(SubmitError::Unavailable))),
        }
    }
    good
}

/// Tells of a batch that is in the log.
fn tell(batch: &Checked, next: Next, leaf: u64, audit: &Audit, metrics: &Metrics) {
    let header = batch.header();
    let session = hex::encode(batch.session);
    metrics.accepted(header.kind, header.count.into());
    if next.opens {
        let mut line = json!({
            "session": session, "leaf": leaf, "source": source_json(&header.source),
            "principal": batch.principal,
        });
        if let Some(former) = &header.previous {
            let dropped = former.dropped.iter().fold(0, |sum: u64, d| sum.saturating_add(d.count));
            line["previous"] = json!({
                "session": hex::encode(former.session), "batches": former.batches,
                "dropped": dropped,
            });
        }
        audit.line("session_opened", line);
    }
    if let Some(from) = next.gap_from {
        metrics.missing.inc_by(batch.seq - from);
        let line = json!({ "session": session, "leaf": leaf, "from": from, "to": batch.seq - 1 });
        audit.line("gap", line);
    }
    if header.kind == BatchKind::Close {
        audit.line("session_closed", json!({ "session": session, "leaf": leaf, "why": "close" }));
    }
}

fn source_json(source: &Source<'_>) -> Value {
    json!({
        "mesh": source.mesh, "cluster": source.cluster, "namespace": source.namespace,
        "workload": source.workload, "pod": source.pod, "revision": source.revision,
        "filter": source.filter,
    })
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
