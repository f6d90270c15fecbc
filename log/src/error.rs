//! Why a log cannot be opened or sealed.

use meshchain_core::tlog_checkpoint::CheckpointError;
use meshchain_store::StoreError;
use thiserror::Error;

/// Why a log cannot be opened. It is left as it is.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The head is not signed by this key under this origin.
    #[error("{object} is not of this log and key: {source}")]
    Foreign {
        /// Object.
        object: &'static str,
        /// Cause.
        source: CheckpointError,
    },
    /// An object is damaged or missing.
    #[error(
        "the log is damaged: {object}: {fault}; `meshchain fsck` tells what it costs, restore the data from a copy"
    )]
    Damaged {
        /// Object.
        object: String,
        /// What is wrong with it.
        fault: String,
    },
    /// Two collectors could write this log at the same time.
    #[error(
        "the bucket does not honour If-Match and If-None-Match on PUT: a log cannot be kept there"
    )]
    Unconditional,
    /// Another layout.
    #[error("{0} is of an earlier version of the collector, whose data this one cannot read")]
    Earlier(String),
    /// No random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

pub(crate) fn damaged(object: impl Into<String>, fault: impl ToString) -> OpenError {
    OpenError::Damaged { object: object.into(), fault: fault.to_string() }
}

pub(crate) fn random() -> Result<u64, OpenError> {
    getrandom::u64().map_err(OpenError::Random)
}
