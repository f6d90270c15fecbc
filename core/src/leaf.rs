//! The batch leaf: the log's entry, and the chain that ties the batches of a session together.

use crate::canonical::{Canonical, Value, exact, put_bytes, put_uint, short};
use crate::entry::ENTRY_LEN;
use crate::hash::{CHAIN_DOMAIN, Hash, tagged};
use crate::header::BatchHeader;
use crate::merkle;
use crate::session::{KEY_LEN, Signed, session_id};

pub use crate::session::Signature;

/// `prev` of a session's first batch.
pub const CHAIN_START: Hash = [0; 32];

/// The session chain: SHA-256 over its domain, the chain so far, the SHA-256 of the entries, and the
/// header. Computed in the proxy, so a collector cannot drop, reorder or insert batches unseen. The
/// entries come as a digest so that a proxy can hash them as they come.
pub fn chain_hash(prev: &Hash, header: &[u8], entries: &[u8]) -> Hash {
    chain_of(prev, header, &tagged(&[], &[entries]))
}

/// [`chain_hash`] where the SHA-256 of the entries is known.
pub fn chain_of(prev: &Hash, header: &[u8], entries_digest: &Hash) -> Hash {
    tagged(CHAIN_DOMAIN, &[prev, entries_digest, header])
}

/// RFC 6962 leaf hashes of concatenated 90-byte entries; a partial entry at the end is ignored.
pub fn entry_hashes(entries: &[u8]) -> Vec<Hash> {
    entries.chunks_exact(ENTRY_LEN).map(merkle::leaf_hash).collect()
}

/// One batch as the log holds it. Drawn in `docs/format.md`, "Batch leaf".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchLeaf<'a> {
    /// Canonical [`BatchHeader`], as bytes because the chain covers the bytes.
    pub header: &'a [u8],
    /// Chain value of the batch before, [`CHAIN_START`] for the first.
    pub prev: Hash,
    /// [`chain_hash`] of this batch.
    pub chain: Hash,
    /// RFC 6962 root over the entries.
    pub entries_root: Hash,
    /// SPIFFE id that delivered the batch, from mTLS; empty where unknown.
    pub principal: &'a [u8],
    /// When the collector accepted it, unix nanoseconds.
    pub received_ns: u64,
    /// Public key of the session, whose id is a hash of it.
    pub public_key: [u8; KEY_LEN],
    /// The session's signature over `chain`.
    pub signature: Signature,
}

impl<'a> BatchLeaf<'a> {
    /// Whose word the batch is: to be verified, which [`Canonical::decode`] does not.
    pub fn signed(&self) -> Signed {
        let Self { public_key, chain, signature: Signature(signature), .. } = *self;
        Signed { public_key, chain, signature }
    }

    /// The header, parsed. It cannot fail on a leaf that came from [`Canonical::decode`].
    pub fn parse_header(&self) -> Result<BatchHeader<'a>, crate::DecodeError> {
        BatchHeader::decode(self.header)
    }

    /// Whether `entries` are the entries of this leaf: count, chain and root all fit.
    pub fn holds(&self, entries: &[u8]) -> bool {
        self.parse_header().is_ok_and(|h| h.count as usize * ENTRY_LEN == entries.len())
            && chain_hash(&self.prev, self.header, entries) == self.chain
            && merkle::root(&entry_hashes(entries)) == self.entries_root
    }
}

const VERSION: u64 = 1;

impl<'a> Canonical<'a> for BatchLeaf<'a> {
    const NAME: &'static str = "BatchLeaf";

    fn encode_into(&self, out: &mut Vec<u8>) {
        put_uint(out, 1, VERSION);
        put_bytes(out, 2, self.header);
        put_bytes(out, 3, &self.prev);
        put_bytes(out, 4, &self.chain);
        put_bytes(out, 5, &self.entries_root);
        put_bytes(out, 6, self.principal);
        put_uint(out, 7, self.received_ns);
        put_bytes(out, 8, &self.public_key);
        put_bytes(out, 9, &self.signature.0);
    }

    fn field(&mut self, tag: u32, value: Value<'a>) -> Result<bool, &'static str> {
        match (tag, value) {
            (1, Value::Varint(v)) if v != VERSION => return Err("unknown version"),
            (1, Value::Varint(_)) => {}
            (2, Value::Bytes(b)) => {
                BatchHeader::decode(b).map_err(|_| "not a batch header")?;
                self.header = b;
            }
            (3, Value::Bytes(b)) => self.prev = exact(b)?,
            (4, Value::Bytes(b)) => self.chain = exact(b)?,
            (5, Value::Bytes(b)) => self.entries_root = exact(b)?,
            (6, Value::Bytes(b)) => self.principal = short(b)?,
            (7, Value::Varint(v)) => self.received_ns = v,
            (8, Value::Bytes(b)) => self.public_key = exact(b)?,
            (9, Value::Bytes(b)) => self.signature = Signature(exact(b)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn validate(&self) -> Result<(), (u32, &'static str)> {
        let header = self.parse_header().map_err(|_| (2, "missing"))?;
        if header.seq == 0 && self.prev != CHAIN_START {
            return Err((3, "not zero in the first batch of a session"));
        }
        if header.count == 0 && self.entries_root != merkle::empty_root() {
            return Err((5, "not the empty root in a batch without entries"));
        }
        if session_id(&self.public_key) != header.session {
            return Err((8, "not the key of the session"));
        }
        Ok(())
    }
}
