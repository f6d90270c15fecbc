//! Answers to batches that a commit does not take: refused, or logged already.

use super::{Accepted, Log, Submission, SubmitError};
use crate::audit::{Audit, RefusalLine};
use crate::batch::{Checked, Refusal};
use crate::judge::Passed;
use crate::metrics::Metrics;
use std::sync::Arc;

/// Refuses a batch that came to the writer.
pub(super) fn turn_down(
    submission: Submission,
    refusal: Refusal,
    audit: &Audit,
    metrics: &Metrics,
) {
    let Submission { batch, reply, .. } = submission;
    refuse(audit, metrics, &refusal, &batch.principal, Some(&batch));
    let _ = reply.send(Err(refusal.into()));
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
        Ok(Some(_)) => Refusal::Equivocation { seq },
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
    audit.refusal(&RefusalLine {
        reason: refusal.reason(),
        detail: &refusal.to_string(),
        session: batch.map(|b| hex::encode(b.session)),
        seq: batch.map(|b| b.seq),
        chain: batch.map(|b| hex::encode(b.chain)),
        principal,
        owner: refusal.owner(),
    });
}
