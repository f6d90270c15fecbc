//! What a filter sends to a collector: one protobuf message per HTTP POST.

use meshchain_core::{Hash, SessionKey, leaf::chain_hash};
use prost::Message;

/// Media type of a [`Batch`] in an HTTP body.
pub const CONTENT_TYPE: &str = "application/x-protobuf; messageType=\"meshchain.v1.Batch\"";

/// Largest body of a POST, in bytes, that a collector takes.
pub const MAX_BODY: usize = 16 << 20;

/// One batch of a session, with what its leaf is made of.
#[derive(Clone, PartialEq, Message)]
pub struct Batch {
    /// Canonical `BatchHeader`.
    #[prost(bytes = "vec", tag = "1")]
    pub header: Vec<u8>,
    /// Chain value of the batch before, 32 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub prev: Vec<u8>,
    /// Chain value of this batch, 32 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub chain: Vec<u8>,
    /// Entries, 90 bytes each.
    #[prost(bytes = "vec", tag = "4")]
    pub entries: Vec<u8>,
    /// Canonical `SpanRecord`s: none, or one per entry in the same order.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub records: Vec<Vec<u8>>,
    /// Public key of the session, 32 bytes; the session's id is a hash of it.
    #[prost(bytes = "vec", tag = "6")]
    pub public_key: Vec<u8>,
    /// Signature of the session's key over the chain value, 64 bytes.
    #[prost(bytes = "vec", tag = "7")]
    pub signature: Vec<u8>,
}

impl Batch {
    /// Closes a batch: computes its chain value from that of the batch before, and signs it.
    pub fn seal(
        key: &SessionKey,
        prev: &Hash,
        header: Vec<u8>,
        entries: Vec<u8>,
        records: Vec<Vec<u8>>,
    ) -> Self {
        let chain = chain_hash(prev, &header, &entries);
        Self {
            header,
            prev: prev.to_vec(),
            chain: chain.to_vec(),
            entries,
            records,
            public_key: key.public().to_vec(),
            signature: key.sign(&chain).to_vec(),
        }
    }
}
