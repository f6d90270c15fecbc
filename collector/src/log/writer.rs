//! The one writer: pools what comes in, commits, acknowledges, applies, publishes.

use super::open::{put_all, take_in};
use super::pool::{self, PoolWriter};
use super::seal::unix_ns;
use super::state::Owned;
use super::tree::{Growth, Tree};
use super::{Accepted, Log, SubmitError};
use crate::anchor::SignedHead;
use crate::audit::{Audit, RefusalLine};
use crate::batch::{Checked, Refusal};
use crate::metrics::Metrics;
use crate::session::{Follows, Judged, Passed};
use crate::signatures;
use crate::store::{Store, StoreError};
use meshchain_core::session::BadSignature;
use meshchain_core::tile::TileName;
use meshchain_core::{BatchKind, Checkpoint};
use serde_json::json;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
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
    pub permit: OwnedSemaphorePermit,
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
    let mut waiting = VecDeque::new();
    let mut idle = tokio::time::interval(IDLE_CHECK);
    let mut next_commit = Instant::now();
    loop {
        if waiting.is_empty() {
            tokio::select! {
                received = submissions.recv() => match received {
                    Some(submission) => waiting.push_back(submission),
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
            waiting.push_back(submission);
        }
        next_commit = Instant::now() + POOL_INTERVAL;
        writer.log.lag.begin();
        writer.wait_for_sealing().await;
        waiting = writer.commit(waiting, &audit, &metrics).await?;
        writer.log.lag.end();
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A batch that goes into this commit.
struct Pooled {
    submission: Submission,
    follows: Follows,
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

    /// Commits what is waiting; what must wait for the next commit is returned.
    async fn commit(
        &mut self,
        waiting: VecDeque<Submission>,
        audit: &Arc<Audit>,
        metrics: &Arc<Metrics>,
    ) -> Result<VecDeque<Submission>, Fatal> {
        let started = Instant::now();
        let waiting = verified(waiting, audit, metrics).await;
        let (pooled, later) = self.judge(waiting, audit, metrics);
        if pooled.is_empty() {
            return Ok(later);
        }
        let first = self.tree.head().size;
        let received_ns = unix_ns();
        let mut bundle = PoolWriter::default();
        for Pooled { submission, .. } in &pooled {
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
            for Pooled { submission, .. } in pooled {
                let _ = submission.reply.send(Err(SubmitError::Unavailable));
            }
            return Ok(later);
        }
        self.owned.commit(&head, &log.key).await?;

        // Committed: from here on nothing may fail but the process.
        self.tree = tree;
        audit.set_head(head);
        taken.apply(&mut log.catalog_mut(), &mut log.sessions_mut());
        for (leaf, Pooled { submission, follows }) in (first..).zip(pooled) {
            self.tell(&submission.batch, follows, leaf, audit, metrics);
            let _ = submission.reply.send(Ok(Accepted { leaf, replayed: false }));
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
        Ok(later)
    }

    /// Answers what is refused, and has answered what may be logged already. At most one batch of a
    /// session goes into a commit, so that each is judged against what is committed.
    fn judge(
        &self,
        waiting: VecDeque<Submission>,
        audit: &Arc<Audit>,
        metrics: &Arc<Metrics>,
    ) -> (Vec<Pooled>, VecDeque<Submission>) {
        let (mut pooled, mut later, mut seen) = (Vec::new(), VecDeque::new(), HashSet::new());
        let sessions = self.log.sessions();
        for submission in waiting {
            if !seen.insert(submission.batch.session) {
                later.push_back(submission);
                continue;
            }
            match sessions.judge(&submission.batch) {
                Ok(Judged::Follows(follows)) => pooled.push(Pooled { submission, follows }),
                Ok(Judged::Passed(passed)) => {
                    let (log, audit, metrics) = (self.log.clone(), audit.clone(), metrics.clone());
                    tokio::spawn(answer_passed(log, submission, passed, audit, metrics));
                }
                Err(refusal) => {
                    refuse(audit, metrics, &refusal, Some(&submission.batch));
                    let _ = submission.reply.send(Err(refusal.into()));
                }
            }
        }
        (pooled, later)
    }

    fn tell(&self, batch: &Checked, follows: Follows, leaf: u64, audit: &Audit, metrics: &Metrics) {
        let header = batch.header();
        let session = hex::encode(batch.session);
        let source = &header.source;
        metrics.accepted(header.kind, header.count.into());
        if self.log.sessions().get(&batch.session).is_some_and(|s| s.batches == 1) {
            let source = json!({
                "mesh": source.mesh, "cluster": source.cluster, "namespace": source.namespace,
                "workload": source.workload, "pod": source.pod,
            });
            let line = json!({
                "session": session, "leaf": leaf, "source": source, "principal": batch.principal,
            });
            audit.line("session_opened", line);
        }
        if let Follows::AfterGap { from } = follows {
            metrics.missing.inc_by(batch.seq - from);
            let line =
                json!({ "session": session, "leaf": leaf, "from": from, "to": batch.seq - 1 });
            audit.line("gap", line);
        }
        if header.kind == BatchKind::Close {
            audit.line(
                "session_closed",
                json!({ "session": session, "leaf": leaf, "why": "close" }),
            );
        }
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
async fn verified(
    waiting: VecDeque<Submission>,
    audit: &Audit,
    metrics: &Metrics,
) -> VecDeque<Submission> {
    let signed: Vec<_> = waiting.iter().map(|submission| submission.batch.signed()).collect();
    // Some 50 us each: it does not run on a thread that others wait for.
    let verifying = tokio::task::spawn_blocking(move || signatures::verify(&signed));
    let verifies = verifying.await;
    let mut good = VecDeque::with_capacity(waiting.len());
    for (at, submission) in waiting.into_iter().enumerate() {
        match verifies.as_ref().map(|verifies| verifies[at]) {
            Ok(true) => good.push_back(submission),
            Ok(false) => {
                let refusal = Refusal::from(BadSignature);
                refuse(audit, metrics, &refusal, Some(&submission.batch));
                let _ = submission.reply.send(Err(refusal.into()));
            }
            // It panicked, which says nothing about any of them.
            Err(_) => drop(submission.reply.send(Err(SubmitError::Unavailable))),
        }
    }
    good
}

/// Answers a batch whose place in its session was passed: it is in the log, or it comes too late. That
/// takes reads and changes nothing, so the writer does not wait for it.
async fn answer_passed(
    log: Arc<Log>,
    submission: Submission,
    passed: Passed,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
) {
    let Submission { batch, reply, permit: _permit } = submission;
    let (seq, last) = (batch.seq, passed.last);
    let _turn = log.lookups.acquire().await;
    let refusal = match log.logged(&batch.session, seq, passed.first_leaf).await {
        Ok(Some((leaf, chain))) if chain == batch.chain => {
            metrics.replayed.inc();
            let _ = reply.send(Ok(Accepted { leaf, replayed: true }));
            return;
        }
        Ok(Some(_)) => Refusal::Equivocation { seq },
        Ok(None) => Refusal::Reordered { seq, last },
        Err(error) => {
            log::error!("a batch that may be logged already cannot be looked up: {error}");
            let _ = reply.send(Err(SubmitError::Unavailable));
            return;
        }
    };
    refuse(&audit, &metrics, &refusal, Some(&batch));
    let _ = reply.send(Err(refusal.into()));
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

/// Counts a refusal and writes its audit line.
pub fn refuse(audit: &Audit, metrics: &Metrics, refusal: &Refusal, batch: Option<&Checked>) {
    metrics.refused(refusal.reason());
    audit.refusal(&RefusalLine {
        reason: refusal.reason(),
        detail: &refusal.to_string(),
        session: batch.map(|b| hex::encode(b.session)),
        seq: batch.map(|b| b.seq),
        chain: batch.map(|b| hex::encode(b.chain)),
        principal: batch.map_or("", |b| &b.principal),
    });
}
