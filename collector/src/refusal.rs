//! Why the door or the log refuses a batch, and how the sender is told.

use crate::xfcc::NoPrincipal;
use meshchain_core::DecodeError;
use meshchain_log::Misfit;
use strum::{IntoStaticStr, VariantNames};
use thiserror::Error;

/// Why a batch is refused. Nothing of it reaches the log.
#[derive(Debug, Clone, PartialEq, Eq, Error, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Refusal {
    /// More bytes than a batch may have.
    #[error("the body is longer than {0} bytes")]
    Oversized(usize),
    /// The sender went away in the middle of it.
    #[error("the body broke off: the sender went away")]
    BrokenOff,
    /// The body took too long.
    #[error("the body did not arrive in time")]
    Slow,
    /// Not a protobuf message of this shape.
    #[error("the body is not a meshchain.v1.Batch message: {0}")]
    Malformed(String),
    /// A part that is not in its canonical encoding.
    #[error("{part}: {fault}")]
    NotCanonical {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        fault: DecodeError,
    },
    /// An entry, a record or a hash that is not of its shape.
    #[error("{0}")]
    BadPart(String),
    /// The chain value is not that of header and entries.
    #[error("the chain value is not the hash of prev, header and entries")]
    WrongChain,
    /// Its sender has sent as much as the configuration lets it.
    #[error("limits.{limit} of the configuration is reached for {principal}")]
    Limited {
        /// Key of the limit.
        limit: &'static str,
        /// SPIFFE id that sends.
        principal: String,
        /// Seconds until it is worth to come again.
        retry_after_s: u64,
    },
    /// A record does not hash to its entry.
    #[error("record {index}: {fault}")]
    WrongDigest {
        /// Index of the record.
        index: usize,
        /// Which digest.
        fault: meshchain_core::record::RecordError,
    },
    /// Nobody proved by mTLS who sends it.
    #[error("x-forwarded-client-cert does not tell who sends: {0}")]
    NoPrincipal(#[from] NoPrincipal),
    /// The sender is of another trust domain than this collector serves.
    #[error("{principal} is not of trust domain {expected}")]
    WrongTrustDomain {
        /// SPIFFE id from mTLS.
        principal: String,
        /// Trust domain as configured.
        expected: String,
    },
    /// The principal that delivered it is not of the source's namespace.
    #[error("{principal} may not speak for namespace {namespace}")]
    WrongPrincipal {
        /// SPIFFE id from mTLS.
        principal: String,
        /// Namespace that the header claims.
        namespace: String,
    },
    /// It does not fit the log.
    #[error(transparent)]
    Misfit(#[from] Misfit),
}

impl Refusal {
    /// Label in metrics, audit lines and answers.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Misfit(misfit) => misfit.reason(),
            refusal => refusal.into(),
        }
    }

    /// All labels.
    pub fn reasons() -> impl Iterator<Item = &'static str> {
        let own = Self::VARIANTS.iter().filter(|variant| **variant != "misfit");
        own.chain(Misfit::VARIANTS).copied()
    }

    /// Whose session it is, where it is not the sender's.
    pub fn owner(&self) -> Option<&str> {
        match self {
            Self::Misfit(misfit) => misfit.owner(),
            _ => None,
        }
    }

    /// HTTP status: 408 and 413 for the body as such, 400 malformed, 403 not entitled, 409 against the log,
    /// 410 the session cannot go on here, and the sender's calls can in another one, 422 false digests
    /// and signatures, 429 too much from this sender.
    pub fn status(&self) -> u16 {
        match self {
            Self::Oversized(_) => 413,
            Self::Slow => 408,
            Self::BrokenOff | Self::Malformed(_) | Self::NotCanonical { .. } | Self::BadPart(_) => {
                400
            }
            Self::NoPrincipal(_) | Self::WrongTrustDomain { .. } | Self::WrongPrincipal { .. } => {
                403
            }
            Self::WrongChain | Self::WrongDigest { .. } => 422,
            Self::Limited { .. } => 429,
            Self::Misfit(misfit) => match misfit {
                Misfit::Reordered { .. }
                | Misfit::Equivocation { .. }
                | Misfit::WrongPrev { .. } => 409,
                Misfit::SeqJump { .. } | Misfit::ForeignSession { .. } => 410,
                Misfit::BadSignature(_) => 422,
            },
        }
    }
}
