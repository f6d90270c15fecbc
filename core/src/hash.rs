//! SHA-256 with the domain separation that all of MeshChain's own digests share.

use sha2::{Digest, Sha256};

/// A SHA-256 digest, 32 bytes.
pub type Hash = [u8; 32];

/// Domain of the hash that stands for texts too long for a hop part.
pub const OVERFLOW_DOMAIN: &[u8] = b"meshchain/overflow/v1\0";
/// Domain of the hop digest: equal on both sides of a call.
pub const HOP_DOMAIN: &[u8] = b"meshchain/hop/v1\0";
/// Domain of the span digest: one side's whole record.
pub const SPAN_DOMAIN: &[u8] = b"meshchain/span/v1\0";
/// Domain of the session id: a hash of the session's public key.
pub const SESSION_DOMAIN: &[u8] = b"meshchain/session/v1\0";
/// Domain of what is signed for a batch.
pub const BATCH_DOMAIN: &[u8] = b"meshchain/batch/v1\0";
/// Domain of what a session's key signs when another session follows it.
pub const HANDOVER_DOMAIN: &[u8] = b"meshchain/handover/v1\0";
/// Domain of the session chain.
pub const CHAIN_DOMAIN: &[u8] = b"meshchain/chain/v1\0";
/// Domain of the log id that an anchor contract knows a log by.
pub const LOG_DOMAIN: &[u8] = b"meshchain/log/v1\0";

/// SHA-256 over `domain` and then each of `parts`, in order, with nothing between them.
///
/// The caller keeps the parts unambiguous: fixed widths, or a length before what follows.
pub fn tagged(domain: &[u8], parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new_with_prefix(domain);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// The 32 bytes that the anchor contract keys a log by: SHA-256 of the log domain and the
/// origin line of its checkpoints.
pub fn log_id(origin: &str) -> Hash {
    tagged(LOG_DOMAIN, &[origin.as_bytes()])
}
