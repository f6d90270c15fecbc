//! Checks MeshChain evidence without trusting the collector, its operator, or the file itself.
//!
//! [`verify()`] is pure: the evidence, the verifier's own [`Policy`], and a [`ChainView`] that
//! answers whether a block belongs to a chain. It returns a [`Report`] that says step by step what
//! was checked, what was refuted and what was not checked. `docs/trust.md` says what each verdict
//! rests on.

mod anchor;
mod chain;
mod checkpoint;
mod equivocation;
mod fetch;
mod history;
mod hop_report;
pub mod hops;
pub mod log;
mod nodes;
mod policy;
mod report;
mod rpc;
mod rpc_anchors;
mod rpc_proof;
mod shown;
mod span;
mod text;
mod verify;

pub use anchor::MAX_LOOKUPS;
pub use chain::{
    BlockAnswer, BlockQuery, ChainView, HeaderHash, KnownHashes, NoChain, NotHeaderHash,
};
pub use checkpoint::MAX_CHECKPOINTS;
pub use equivocation::{EquivocationReport, judge_equivocation};
pub use fetch::{EvidencePage, FetchError, PagePlace, fetch_evidence, write_atomically};
pub use hops::HopAgreement;
pub use meshchain_evm::{AnchorFact, EvmError, anchored_topic, read_anchor};
pub use nodes::{NodeUrl, Nodes, NotNodeUrl};
pub use policy::{AnchorPolicy, Finality, LogPolicy, Policy, PolicyError};
pub use report::{
    AnchorReport, Call, CheckpointReport, Conclusions, HopReport, HopSideShown, LogPlace, Outcome,
    OwnShown, REPORT_FORMAT, Report, SourceShown, SpanReport, Step, Verdict,
};
pub use rpc::RpcChain;
pub use shown::{quoted, shown, shown_time};
pub use text::render;
pub use verify::verify;
