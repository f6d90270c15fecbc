//! Why an anchor cannot start, or go on.

use crate::config::SettingError;
use crate::state::StateError;
use thiserror::Error;

/// Why anchoring could not start or ended by itself. What only the chain can tell comes as an alert instead.
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
    /// The state of an earlier run cannot be read, or the state is another collector's by now.
    #[error("anchor {chain}: {source}")]
    State {
        /// Chain as configured.
        chain: String,
        /// Cause.
        source: StateError,
    },
    /// Nothing to tell this writer of the state from another by.
    #[error("anchor {chain}: no randomness: {source}")]
    Random {
        /// Chain as configured.
        chain: String,
        /// Cause.
        source: getrandom::Error,
    },
    /// The task ended though nobody stopped it: it panicked.
    #[error("anchor {chain} ended: {reason}")]
    Ended {
        /// Chain as configured.
        chain: String,
        /// How.
        reason: String,
    },
}
