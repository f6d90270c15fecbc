//! The one writer: pools what comes in, commits, acknowledges, applies, publishes.

use super::index::LeafPlace;
use super::open::put_all;
use super::pool::{LeafSlices, PoolWriter};
use super::tree::{Growth, Tree};
use super::{Accepted, CHECKPOINT, HEAD, Log, SubmitError, pool};
use crate::anchor::SignedHead;
use crate::audit::{Audit, RefusalLine};
use crate::batch::{Checked, Refusal};
use crate::metrics::Metrics;
use crate::session::Follows;
use crate::store::StoreError;
use meshchain_core::tile::TileName;
use meshchain_core::{BatchKind, BatchLeaf, Canonical, Checkpoint};
use serde_json::json;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// Time between commits under load: several batches share the syncs of one. Far below the second
/// within which a checkpoint is promised, and below what a filter notices.
const POOL_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes at which a pool is committed early.
const MAX_POOL_BYTES: usize = 32 << 20;
/// How often sessions are looked over for silence.
const SILENCE_CHECK: Duration = Duration::from_secs(10);
/// A session is reported as silent after this long: four default heartbeats.
const SILENT_AFTER: Duration = Duration::from_secs(120);

/// A checked batch on its way into the log.
pub struct Submission {
    /// The batch.
    pub batch: Checked,
    /// Told when the batch is durable, or why it is not.
    pub reply: oneshot::Sender<Result<Accepted, SubmitError>>,
    /// Its share of the memory that waiting batches may take.
    pub permit: OwnedSemaphorePermit,
}

/// The store failed at or after a commit point: the process must end, and the next start recovers.
#[derive(Debug, Error)]
#[error("fatal after the commit point, recovered at the next start: {0}")]
pub struct Fatal(#[from] StoreError);

/// The right to write the log.
pub struct Writer {
    log: Arc<Log>,
    tree: Tree,
}

/// Runs until `submissions` is closed and empty.
pub async fn run(
    mut writer: Writer,
    mut submissions: mpsc::Receiver<Submission>,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
) -> Result<(), Fatal> {
    let mut waiting = VecDeque::new();
    let mut silence = tokio::time::interval(SILENCE_CHECK);
    let mut next_commit = Instant::now();
    loop {
        if waiting.is_empty() {
            tokio::select! {
                received = submissions.recv() => match received {
                    Some(submission) => waiting.push_back(submission),
                    None => return Ok(()),
                },
                _ = silence.tick() => {
                    writer.report_silence(&audit);
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
        waiting = writer.commit(waiting, &audit, &metrics).await?;
    }
}

/// A batch that goes into this commit.
struct Pooled {
    submission: Submission,
    follows: Follows,
}

impl Writer {
    pub(super) fn new(log: Arc<Log>, tree: Tree) -> Self {
        Self { log, tree }
    }

    /// Commits what is waiting; what must wait for the next commit is returned.
    async fn commit(
        &mut self,
        waiting: VecDeque<Submission>,
        audit: &Audit,
        metrics: &Metrics,
    ) -> Result<VecDeque<Submission>, Fatal> {
        let started = Instant::now();
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
        let (bundle, slices) = bundle.finish();
        let mut tree = self.tree.clone();
        let growth = tree.extend(slices.iter().map(|s| &bundle[s.leaf.clone()]));
        let store = &self.log.store;

        let bundle = bytes::Bytes::from(bundle);
        if let Err(error) = store.put(&pool::name(first), bundle.clone()).await {
            log::error!("commit failed, nothing was changed: {error}");
            metrics.commit_failures.inc();
            for Pooled { submission, .. } in pooled {
                let _ = submission.reply.send(Err(SubmitError::Unavailable));
            }
            return Ok(later);
        }
        let head = tree.head();
        let checkpoint = Checkpoint::sign(&head, &self.log.key);
        store.put(HEAD, checkpoint.clone()).await?;

        // Committed: from here on nothing may fail but the process.
        self.tree = tree;
        audit.set_head(head);
        self.index(first, &bundle, &slices);
        for (leaf, Pooled { submission, follows }) in (first..).zip(pooled) {
            self.tell(&submission.batch, follows, leaf, audit, metrics);
            let _ = submission.reply.send(Ok(Accepted { leaf, replayed: false }));
        }
        put_all(store, &growth).await?;
        store.put(CHECKPOINT, checkpoint.clone()).await?;
        audit.line("checkpoint", json!({ "leaves": head.size - first }));
        if let Err(error) = audit.sync() {
            log::error!("audit log: {error}");
        }
        metrics.published(head.size, started.elapsed());
        self.log.published.send_replace(Some(SignedHead { head, checkpoint }));
        self.delete_partials(&growth).await;
        Ok(later)
    }

    /// Answers what is refused or logged already. At most one batch of a session goes into a
    /// commit, so that each is judged against what is committed.
    fn judge(
        &self,
        waiting: VecDeque<Submission>,
        audit: &Audit,
        metrics: &Metrics,
    ) -> (Vec<Pooled>, VecDeque<Submission>) {
        let (mut pooled, mut later, mut seen) = (Vec::new(), VecDeque::new(), HashSet::new());
        let (sessions, index) = (self.log.sessions(), self.log.index());
        for submission in waiting {
            if !seen.insert(submission.batch.session) {
                later.push_back(submission);
                continue;
            }
            let chain_of = |leaf| index.leaf(leaf).map(|place| place.chain);
            match sessions.judge(&submission.batch, chain_of) {
                Ok(Follows::Logged { leaf }) => {
                    metrics.replayed.inc();
                    let _ = submission.reply.send(Ok(Accepted { leaf, replayed: true }));
                }
                Ok(follows) => pooled.push(Pooled { submission, follows }),
                Err(refusal) => {
                    refuse(audit, metrics, &refusal, Some(&submission.batch));
                    let _ = submission.reply.send(Err(refusal.into()));
                }
            }
        }
        (pooled, later)
    }

    fn index(&self, first: u64, bundle: &[u8], slices: &[LeafSlices]) {
        let (mut sessions, mut index) = (self.log.sessions_mut(), self.log.index_mut());
        for (at, slices) in (first..).zip(slices) {
            let leaf = BatchLeaf::decode(&bundle[slices.leaf.clone()]).unwrap_or_default();
            let header = leaf.parse_header().unwrap_or_default();
            sessions.record(&leaf, &header, at);
            let place = LeafPlace { pool: first, slices: slices.clone(), chain: leaf.chain };
            index.push(place, &bundle[slices.entries.clone()]);
        }
    }

    fn tell(&self, batch: &Checked, follows: Follows, leaf: u64, audit: &Audit, metrics: &Metrics) {
        let header = batch.header();
        let session = hex::encode(batch.session);
        let source = &header.source;
        metrics.accepted(header.kind, header.count.into());
        if self.log.sessions().get(&batch.session).is_some_and(|s| s.batches.len() == 1) {
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
        let before = unix_ns().saturating_sub(SILENT_AFTER.as_nanos() as u64);
        for session in self.log.sessions_mut().close_silent(before) {
            let session = hex::encode(session);
            audit.line("session_closed", json!({ "session": session, "why": "silent" }));
        }
    }

    /// Full tiles make their partial versions superfluous (tlog-tiles, "Partial Tiles"). Failures
    /// only leave files behind.
    async fn delete_partials(&self, growth: &Growth) {
        for name in growth.filled() {
            let partials = TileName { width: 1, ..*name }.path();
            let Some((directory, _)) = partials.rsplit_once('/') else {
                continue;
            };
            for partial in self.log.store.list(directory).await.unwrap_or_default() {
                if let Err(error) = self.log.store.delete(&partial).await {
                    log::warn!("{error}");
                }
            }
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

fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}
