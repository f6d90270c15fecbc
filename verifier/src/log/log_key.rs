//! Who is to have signed a log's checkpoints.

use crate::policy::Policy;
use crate::shown::shown;
use meshchain_core::VerifierKey;

/// Who is to have signed the checkpoint.
#[derive(Debug, Clone)]
pub enum LogKey {
    /// Unknown: the signature is not checked.
    Unknown,
    /// This key.
    Key(VerifierKey),
    /// The policy's key for the origin.
    Policy(Policy),
}

impl LogKey {
    /// The key for an origin, or why there is none.
    pub(crate) fn of(&self, origin: &str) -> Result<&VerifierKey, String> {
        match self {
            Self::Unknown => Err("no key given (--vkey or --policy)".to_owned()),
            Self::Key(key) => Ok(key),
            Self::Policy(policy) => match policy.log(origin) {
                Some(log) => Ok(&log.vkey),
                None => Err(format!("the policy does not know log {}", shown(origin))),
            },
        }
    }
}
