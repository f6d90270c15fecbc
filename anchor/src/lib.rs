//! Anchoring: the newest tree head goes to a contract on an EVM chain and is followed to finality.
//!
//! Per chain there is one key, one nonce in flight and one task. An anchor stays in flight until
//! its block is final by the chain's rule; only then does the next one start. So there is never
//! more than one transaction that a reorganisation could take back, and the time between anchors
//! is the interval or the time to finality, whichever is longer.
//!
//! Whoever starts makes the anchor's state its own, and each transaction, repeated ones too, is sent
//! after a write of the state that shows that it still is: of two collectors over one bucket only the
//! one that started last sends.
//!
//! What survives a crash: an attempt is on disk before its first byte is sent, and a final anchor
//! with its proof is on disk before its nonce is given up. Everything between is asked of the chain
//! again. The log is never rewound for anything that a chain does.

mod config;
mod error;
mod event;
mod former;
mod handle;
mod history;
mod look;
mod machine;
mod node;
mod objects;
mod older;
mod proof;
mod rewound;
mod rpc;
mod runner;
mod state;
mod steps;
mod tell;
mod trouble;
mod tx;
mod voice;

pub use config::{AnchorConfig, Finality, SettingError};
pub use error::AnchorError;
pub use event::{AnchorEvent, Sent, Witness};
pub use handle::{AnchorHandle, AnchorStatus, Finals, InFlightStatus};
pub use history::{OwnHead, OwnHeads};
pub use runner::{check_key, start};
pub use state::{FinalAnchor, StateError};
