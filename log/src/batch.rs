//! A batch as the log takes it.

use meshchain_core::leaf::Signature;
use meshchain_core::session::{KEY_LEN, Signed};
use meshchain_core::{BatchHeader, BatchLeaf, Canonical, Hash};

/// A batch that holds together: header, entries, chain and records fit each other, and the key is the
/// session's. The signature is checked with those of other batches, when it is judged.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Canonical header.
    pub header: Vec<u8>,
    /// Session id.
    pub session: [u8; 16],
    /// Position in the session.
    pub seq: u64,
    /// Chain value before.
    pub prev: Hash,
    /// Chain value of this batch.
    pub chain: Hash,
    /// Public key of the session.
    pub public_key: [u8; KEY_LEN],
    /// The session's signature over `chain`.
    pub signature: Signature,
    /// RFC 6962 root over the entries.
    pub entries_root: Hash,
    /// Entries, 90 bytes each.
    pub entries: Vec<u8>,
    /// Canonical records: none, or one per entry.
    pub records: Vec<Vec<u8>>,
    /// SPIFFE id that delivered it; empty where unknown.
    pub principal: String,
}

impl Checked {
    /// The header, parsed again from its bytes.
    pub fn header(&self) -> BatchHeader<'_> {
        BatchHeader::decode(&self.header).unwrap_or_default()
    }

    /// Its leaf, canonical, as accepted at `received_ns` (unix nanoseconds).
    pub fn leaf(&self, received_ns: u64) -> Vec<u8> {
        BatchLeaf {
            header: &self.header,
            prev: self.prev,
            chain: self.chain,
            entries_root: self.entries_root,
            principal: self.principal.as_bytes(),
            received_ns,
            public_key: self.public_key,
            signature: self.signature,
        }
        .encode()
    }

    /// Whose word it is: to be verified.
    pub fn signed(&self) -> Signed {
        let Self { public_key, chain, signature: Signature(signature), .. } = *self;
        Signed { public_key, chain, signature }
    }

    /// Bytes that this batch holds in memory.
    pub fn bytes(&self) -> usize {
        let records: usize = self.records.iter().map(Vec::len).sum();
        self.header.len() + self.entries.len() + records
    }
}
