//! Answers to batches that a commit does not take: refused, or logged already.

use super::{Accepted, Log, Submission, SubmitError};
use crate::audit::{Audit, RefusalLine};
use crate::batch::{Checked, Refusal};
use crate::judge::Passed;
use crate::metrics::Metrics;
use meshchain_core::equivocation::SignedBatch;
use meshchain_core::hash::tagged;
use meshchain_core::{BatchLeaf, Canonical, Equivocation};
use std::sync::Arc;

/// Refuses a batch that came to the writer.
pub(super) fn turn_down(
    submission: Submission,
    refusal: Refusal,
    audit: &Audit,
    metrics: &Metrics,
) {
    turn_down_with(submission, refusal, None, audit, metrics);
}

fn turn_down_with(
    submission: Submission,
    refusal: Refusal,
    proof: Option<Equivocation>,
    audit: &Audit,
    metrics: &Metrics,
) {
    let Submission { batch, reply, .. } = submission;
    metrics.refused(refusal.reason());
    audit.refusal(&line(&refusal, &batch.principal, Some(&batch), proof));
    let _ = reply.send(Err(refusal.into()));
}

/// The logged batch and this one, which its session's key signed for one place.
async fn prove(log: &Log, leaf: u64, batch: &Checked) -> Option<Equivocation> {
    let logged = log.batch(leaf).await.ok()??;
    let leaf = BatchLeaf::decode(&logged.leaf).ok()?;
    let logged = SignedBatch {
        header: leaf.header.to_vec(),
        prev: leaf.prev,
        entries_digest: tagged(&[], &[&logged.entries]),
        public_key: leaf.public_key,
        signature: leaf.signature.0,
    };
    let offered = SignedBatch {
        header: batch.header.clone(),
        prev: batch.prev,
        entries_digest: tagged(&[], &[&batch.entries]),
        public_key: batch.public_key,
        signature: batch.signature.0,
    };
    Some(Equivocation::of([logged, offered]))
}

/// Acknowledges a batch that is in the log already.
pub(super) fn acknowledge_again(submission: Submission, leaf: u64, metrics: &Metrics) {
    metrics.replayed.inc();
    let _ = submission.reply.send(Ok(Accepted { leaf, replayed: true }));
}

/// Answers a batch whose place in its session was passed: it is in the log, or it comes too late. That
/// takes reads and changes nothing, so the writer does not wait for it.
pub(super) async fn answer_passed(
    log: Arc<Log>,
    submission: Submission,
    passed: Passed,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
) {
    let batch = &submission.batch;
    let (seq, last) = (batch.seq, passed.last);
    let _turn = log.lookups.acquire().await;
    let refusal = match log.logged(&batch.session, seq, passed.first_leaf).await {
        Ok(Some((leaf, chain))) if chain == batch.chain => {
            return acknowledge_again(submission, leaf, &metrics);
        }
        Ok(Some((leaf, _))) => {
            let refusal = Refusal::Equivocation { seq };
            let proof = prove(&log, leaf, batch).await;
            return turn_down_with(submission, refusal, proof, &audit, &metrics);
        }
        Ok(None) => Refusal::Reordered { seq, last },
        Err(error) => {
            log::error!("a batch that may be logged already cannot be looked up: {error}");
            let _ = submission.reply.send(Err(SubmitError::Unavailable));
            return;
        }
    };
    turn_down(submission, refusal, &audit, &metrics);
}

/// Counts a refusal and writes its audit line. `principal` is the sender, as far as it is known.
pub fn refuse(
    audit: &Audit,
    metrics: &Metrics,
    refusal: &Refusal,
    principal: &str,
    batch: Option<&Checked>,
) {
    metrics.refused(refusal.reason());
    audit.refusal(&line(refusal, principal, batch, None));
}

fn line<'a>(
    refusal: &'a Refusal,
    principal: &'a str,
    batch: Option<&Checked>,
    proof: Option<Equivocation>,
) -> RefusalLine<'a> {
    RefusalLine {
        reason: refusal.reason(),
        detail: refusal.to_string(),
        session: batch.map(|b| hex::encode(b.session)),
        seq: batch.map(|b| b.seq),
        chain: batch.map(|b| hex::encode(b.chain)),
        principal,
        owner: refusal.owner(),
        proof,
    }
}
