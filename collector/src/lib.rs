//! The collector: the process around log, store and anchors. Its doors take batches in and serve the
//! log; what log and anchors tell becomes audit lines and metrics.

pub mod aside;
pub mod audit;
pub mod batch;
mod charge;
pub mod config;
pub mod count;
mod disk;
pub mod events;
pub mod found;
pub mod http;
pub mod key;
pub mod limit;
pub mod metrics;
pub mod past;
pub mod quota;
pub mod refusal;
pub mod run;
mod secret;
pub mod xfcc;
