//! Why a step ended early, and what that says of the next one.

use crate::rpc::RpcError;
use crate::state::StateError;
use meshchain_evm::ProofError;
use meshchain_store::StoreError;

/// Why a step ended early.
pub(crate) enum Trouble {
    /// Try again at the next poll.
    Hold(String),
    /// The chain does not hold the last final anchor, and does not lag: try again, and count such looks.
    Rewound(String),
    /// Never again.
    Stop(String),
    /// Never again, and the log must not grow: what is kept says that it is not the one that was anchored.
    OtherHistory(String),
    /// The log must not grow while the node says that it is not the one that was anchored.
    NodeSaysOther(String),
    /// Another collector goes on from here.
    TakenOver(StateError),
}

impl From<RpcError> for Trouble {
    fn from(error: RpcError) -> Self {
        Self::Hold(error.to_string())
    }
}

impl From<ProofError> for Trouble {
    fn from(error: ProofError) -> Self {
        Self::Hold(error.to_string())
    }
}

impl From<StateError> for Trouble {
    /// What cannot be made durable is not sent; where the storage is to blame, the next poll tries again.
    fn from(error: StateError) -> Self {
        match error {
            StateError::Store(StoreError::TakenOver(_)) => Self::TakenOver(error),
            StateError::Store(_) => Self::Hold(error.to_string()),
            _ => Self::Stop(error.to_string()),
        }
    }
}
