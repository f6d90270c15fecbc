//! Why an anchor cannot start.

use crate::config::SettingError;
use crate::state::StateError;
use thiserror::Error;

/// Why anchoring could not start. What only the chain can tell comes as an alert instead.
#[derive(Debug, Error)]
pub enum AnchorError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] SettingError),
    /// The key file.
    #[error("anchor {chain}: key_file: {reason}")]
    Key {
        /// Chain as configured.
        chain: String,
        /// What is wrong with the file; never any of its content.
        reason: String,
    },
    /// The state of an earlier run cannot be read.
    #[error("anchor {chain}: {source}")]
    State {
        /// Chain as configured.
        chain: String,
        /// Cause.
        source: StateError,
    },
}
