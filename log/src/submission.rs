//! A batch on its way into the log, and what its sender is told.

use crate::batch::Checked;
use crate::growth::Barred;
use crate::misfit::Misfit;
use meshchain_store::Lack;
use thiserror::Error;
use tokio::sync::oneshot;

/// A checked batch on its way into the log.
pub struct Submission {
    /// The batch.
    pub batch: Checked,
    /// Told when the batch is durable, or why it is not.
    pub reply: oneshot::Sender<Result<Accepted, SubmitError>>,
    /// Its share of the memory that waiting batches may take.
    pub room: Box<dyn Send>,
}

/// What an accepted batch is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its leaf index.
    pub leaf: u64,
    /// It was in the log already.
    pub replayed: bool,
}

/// Why a batch was not taken.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// It does not fit the log.
    #[error(transparent)]
    Refused(#[from] Misfit),
    /// The log does not grow.
    #[error("{0}")]
    Barred(Barred),
    /// Something is used up that it takes; it may be sent again when that has passed.
    #[error("{0}")]
    Lacking(Lack),
    /// Its commit failed; it may be sent again.
    #[error("the batch could not be made durable")]
    Unavailable,
}
