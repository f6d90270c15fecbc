//! Why the log does not take a batch that holds together by itself.

use meshchain_core::session::BadSignature;
use strum::{IntoStaticStr, VariantNames};
use thiserror::Error;

/// Batches that a session may jump over at once. A proxy gives up what it has sealed and not sent: its
/// queue is 256 MiB at most, and a batch takes 280 bytes of it at least (an entry, header, chain values,
/// key and signature), so no honest jump is longer.
pub const MAX_JUMP: u64 = 1_000_000;

/// Why a batch does not fit the log. Nothing of it reaches the log.
#[derive(Debug, Clone, PartialEq, Eq, Error, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Misfit {
    /// It is not signed by the session's key.
    #[error(transparent)]
    BadSignature(#[from] BadSignature),
    /// The session is somebody else's.
    #[error("{}", foreign(owner, principal))]
    ForeignSession {
        /// SPIFFE id that delivered its first batch; empty where unknown.
        owner: String,
        /// SPIFFE id that delivered this one.
        principal: String,
    },
    /// It jumps over more than a proxy can have lost.
    #[error(
        "seq {seq} comes where {next} was next: no proxy loses more than {MAX_JUMP} batches at once"
    )]
    SeqJump {
        /// Seq of the batch.
        seq: u64,
        /// Seq that would have been next.
        next: u64,
    },
    /// Its place in the session was passed without it.
    #[error("seq {seq} comes after seq {last} was logged: late batches are refused")]
    Reordered {
        /// Seq of the batch.
        seq: u64,
        /// Last seq in the log.
        last: u64,
    },
    /// Another batch with this session and seq is in the log.
    #[error("seq {seq} is in the log with another chain value: the session is equivocating")]
    Equivocation {
        /// Seq of the batch.
        seq: u64,
    },
    /// It is the next batch, but does not continue the chain.
    #[error("prev of seq {seq} is not the chain value of seq {last}: the session is equivocating")]
    WrongPrev {
        /// Seq of the batch.
        seq: u64,
        /// Last seq in the log.
        last: u64,
    },
}

fn foreign(owner: &str, principal: &str) -> String {
    match owner == principal {
        true => "the session's first batch claims another source than this one".to_owned(),
        false => format!(
            "the session belongs to {owner:?} and the source of its first batch; this one is of {principal:?}"
        ),
    }
}

impl Misfit {
    /// Label in metrics, audit lines and answers.
    pub fn reason(&self) -> &'static str {
        self.into()
    }

    /// Whose session it is, where it is not the sender's.
    pub fn owner(&self) -> Option<&str> {
        match self {
            Self::ForeignSession { owner, .. } => Some(owner),
            _ => None,
        }
    }
}
