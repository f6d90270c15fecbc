//! MeshChain's filter: it turns each request that a sidecar sees into a record and two digests, and
//! hands them to the organisation's collector.
//!
//! The module `plugin` only connects Envoy's callbacks to [`vm::Vm`]; every decision is there and in
//! the modules it uses, behind [`host::Host`], and runs natively in tests.

pub mod answer;
pub mod attributes;
pub mod capture;
pub mod config;
pub mod context;
pub mod headers;
pub mod host;
mod lanes;
pub mod metrics;
pub mod node;
pub mod pending;
pub mod phase;
pub mod place;
#[cfg(target_arch = "wasm32")]
mod plugin;
pub mod queue;
pub mod request;
pub mod sender;
pub mod sha;
#[cfg(test)]
mod test_host;
pub mod trouble;
pub mod vm;
