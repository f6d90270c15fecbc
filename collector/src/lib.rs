//! The collector: ingest -> log -> publish -> anchor, and the read API over it.

pub mod anchor;
pub mod audit;
pub mod batch;
pub mod config;
pub mod count;
pub mod http;
pub mod judge;
pub mod key;
pub mod limit;
pub mod log;
pub mod metrics;
pub mod quota;
pub mod run;
pub mod session;
pub mod signatures;
pub mod store;
pub mod xfcc;
