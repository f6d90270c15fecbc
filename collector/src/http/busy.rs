//! Batches that are turned away for now.

use super::room::Full;
use super::{Doors, answer_error};
use crate::audit::NotKept;
use crate::events::{CHAIN_UNKNOWN, OLDER_COPY};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use meshchain_log::{Barred, SubmitError};
use meshchain_store::Lack;
use strum::{IntoStaticStr, VariantNames};

/// Why a batch is turned away for now. As text: the label in metrics and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Busy {
    /// The log publishes too late already.
    Lag,
    /// All room is taken.
    Backlog,
    /// The sender has its share of the room.
    Share,
    /// The log must not grow.
    OlderCopy,
    /// The log is not yet compared with what its chains hold.
    ChainUnknown,
    /// The writer takes nothing.
    Unavailable,
    /// Audit lines cannot be kept.
    Audit,
    /// There is no room for what is written.
    NoSpace,
    /// There are no files for it.
    NoFiles,
}

impl From<&Barred> for Busy {
    fn from(barred: &Barred) -> Self {
        match barred {
            Barred::OtherHistory(_) => Self::OlderCopy,
            Barred::Unasked(_) => Self::ChainUnknown,
        }
    }
}

impl From<Lack> for Busy {
    fn from(lack: Lack) -> Self {
        match lack {
            Lack::Space => Self::NoSpace,
            Lack::Files => Self::NoFiles,
        }
    }
}

impl From<NotKept> for Busy {
    fn from(why: NotKept) -> Self {
        match why {
            NotKept::Lacking(lack) => lack.into(),
            NotKept::Failing => Self::Audit,
        }
    }
}

impl From<Full> for Busy {
    fn from(full: Full) -> Self {
        match full {
            Full::Share => Self::Share,
            Full::All => Self::Backlog,
        }
    }
}

impl Busy {
    /// What the writer's answer means, where it is no refusal.
    pub(super) fn of(error: &SubmitError) -> Self {
        match error {
            SubmitError::Barred(barred) => barred.into(),
            SubmitError::Lacking(lack) => (*lack).into(),
            SubmitError::Refused(_) | SubmitError::Unavailable => Self::Unavailable,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Lag => "what is taken now would be published too late".to_owned(),
            Self::Backlog => "too much is waiting to be committed".to_owned(),
            Self::Share => "too much of this sender's is waiting to be committed".to_owned(),
            Self::OlderCopy => OLDER_COPY.to_owned(),
            Self::ChainUnknown => CHAIN_UNKNOWN.to_owned(),
            Self::Unavailable => "the log could not be written".to_owned(),
            Self::Audit => "the audit log cannot be written".to_owned(),
            Self::NoSpace => Lack::Space.to_string(),
            Self::NoFiles => Lack::Files.to_string(),
        }
    }

    /// HTTP status: 507 where there is no space, else 503.
    fn status(self) -> StatusCode {
        match self {
            Self::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Counts it, and tells the sender to come again.
pub(super) fn push_back(doors: &Doors, busy: Busy) -> Response {
    let reason = busy.into();
    doors.events.metrics.pushed_back(reason);
    let mut response = answer_error(busy.status(), reason, &busy.text());
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
