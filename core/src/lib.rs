//! The formats of MeshChain and the proofs over them.
//!
//! Everything here is pure: bytes in, bytes or a verdict out. Time, randomness and keys are
//! arguments, so the same code runs in the proxy (wasm), in the collector and in the verifier.
//! `docs/format.md` draws each format; `tests/vectors` freezes them.
//!
//! From a request to a signed tree head:
//! [`HopPart`] + [`OwnPart`] -> [`Entry`] -> [`BatchHeader`] + chain -> [`BatchLeaf`] ->
//! [`merkle`] -> [`tile`] -> [`Checkpoint`] -> [`TlogProof`] -> [`Evidence`].

pub mod canonical;
pub mod context;
pub mod entries_page;
pub mod entry;
pub mod equivocation;
pub mod evidence;
pub mod hash;
pub mod header;
pub mod hop;
pub mod leaf;
mod lower_hex;
pub mod merkle;
pub mod note;
pub mod own;
pub mod record;
pub mod session;
pub mod session_header;
pub mod target;
pub mod tile;
pub mod tlog_checkpoint;
pub mod tlog_proof;

pub use canonical::{Canonical, DecodeError};
pub use context::{ContextSource, Sampling, SpanId, TraceContext, TraceId};
pub use entry::{ENTRY_LEN, Entry, Side};
pub use equivocation::Equivocation;
pub use evidence::Evidence;
pub use hash::Hash;
pub use header::{BatchHeader, BatchKind, DropReason, Dropped, Previous, Source};
pub use hop::HopPart;
pub use leaf::{BatchLeaf, chain_hash};
pub use note::{SigningKey, VerifierKey};
pub use own::OwnPart;
pub use record::SpanRecord;
pub use session::{SessionId, SessionKey};
pub use tlog_checkpoint::{Checkpoint, SignedHead, TreeHead};
pub use tlog_proof::TlogProof;
