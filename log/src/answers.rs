//! Answers to batches that a commit does not take: refused, or logged already.

use crate::batch::Checked;
use crate::event::Event;
use crate::judge::Passed;
use crate::log::Log;
use crate::misfit::Misfit;
use crate::submission::{Accepted, Submission, SubmitError};
use meshchain_core::equivocation::SignedBatch;
use meshchain_core::hash::tagged;
use meshchain_core::{BatchLeaf, Canonical, Equivocation};
use std::sync::Arc;

/// Refuses a batch that came to the writer.
pub(crate) fn turn_down(log: &Log, submission: Submission, misfit: Misfit) {
    turn_down_with(log, submission, misfit, None);
}

fn turn_down_with(
    log: &Log,
    submission: Submission,
    misfit: Misfit,
    proof: Option<Box<Equivocation>>,
) {
    let Submission { batch, reply, .. } = submission;
    log.tell(Event::Refused { batch: &batch, misfit: &misfit, proof });
    let _ = reply.send(Err(misfit.into()));
}

/// The logged batch and this one, which its session's key signed for one place.
async fn prove(log: &Log, leaf: u64, batch: &Checked) -> Option<Box<Equivocation>> {
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
    Some(Box::new(Equivocation::of([logged, offered])))
}

/// Acknowledges a batch that is in the log already.
pub(crate) fn acknowledge_again(log: &Log, submission: Submission, leaf: u64) {
    log.tell(Event::Replayed);
    let _ = submission.reply.send(Ok(Accepted { leaf, replayed: true }));
}

/// Answers a batch whose place in its session was passed: it is in the log, or it comes too late. That
/// takes reads and changes nothing, so the writer does not wait for it.
pub(crate) async fn answer_passed(log: Arc<Log>, submission: Submission, passed: Passed) {
    let batch = &submission.batch;
    let (seq, last) = (batch.seq, passed.last);
    let _turn = log.lookups.acquire().await;
    let misfit = match log.logged(&batch.session, seq, passed.first_leaf).await {
        Ok(Some((leaf, chain))) if chain == batch.chain => {
            return acknowledge_again(&log, submission, leaf);
        }
        Ok(Some((leaf, _))) => {
            let proof = prove(&log, leaf, batch).await;
            return turn_down_with(&log, submission, Misfit::Equivocation { seq }, proof);
        }
        Ok(None) => Misfit::Reordered { seq, last },
        Err(error) => {
            log::error!("a batch that may be logged already cannot be looked up: {error}");
            let _ = submission.reply.send(Err(SubmitError::Unavailable));
            return;
        }
    };
    turn_down(&log, submission, misfit);
}
