//! The span record: hop part and own part together, as a proxy hands it to its own collector.

use crate::canonical::{Canonical, Value, exact, put_bytes, put_uint};
use crate::entry::Entry;
use crate::hash::Hash;
use crate::hop::{HopPart, hop_digest};
use crate::own::{OwnPart, span_digest};
use thiserror::Error;

/// What a record shows of the path. The hop digest always covers the path itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ShownPath {
    /// The hop part is whole.
    #[default]
    Whole,
    /// The hop part has no path; its SHA-256 is shown instead.
    Hashed(Hash),
    /// The hop part has no path.
    Dropped,
}

/// A record: the encoded parts, kept as bytes because the bytes are what is hashed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpanRecord<'a> {
    /// Canonical [`HopPart`], without its path where `path` says so.
    pub hop: &'a [u8],
    /// Canonical [`OwnPart`].
    pub own: &'a [u8],
    /// What is shown of the path.
    pub path: ShownPath,
}

/// Why a record does not belong to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The hop part hashes to another hop digest.
    #[error("the hop part does not hash to the entry's hop digest")]
    HopDigest,
    /// The own part hashes to another span digest.
    #[error("the own part does not hash to the entry's span digest")]
    SpanDigest,
    /// Ids or side of the record differ from those in the entry.
    #[error("the record's ids or side differ from the entry's")]
    Ids,
}

impl SpanRecord<'_> {
    /// Recomputes the digests of `entry` from this record, and compares ids and side.
    ///
    /// The hop digest cannot be recomputed where the path is withheld; all else still is.
    pub fn check(&self, entry: &Entry) -> Result<(), RecordError> {
        if self.path == ShownPath::Whole && hop_digest(self.hop) != entry.hop_digest {
            return Err(RecordError::HopDigest);
        }
        if span_digest(&entry.hop_digest, self.own) != entry.span_digest {
            return Err(RecordError::SpanDigest);
        }
        let (Ok(hop), Ok(own)) = (HopPart::decode(self.hop), OwnPart::decode(self.own)) else {
            return Err(RecordError::Ids);
        };
        let ids =
            Entry::new(own.side, hop.trace_id, hop.span_id, entry.hop_digest, entry.span_digest);
        if ids == *entry { Ok(()) } else { Err(RecordError::Ids) }
    }
}

impl<'a> Canonical<'a> for SpanRecord<'a> {
    const NAME: &'static str = "SpanRecord";

    fn encode_into(&self, out: &mut Vec<u8>) {
        put_bytes(out, 1, self.hop);
        put_bytes(out, 2, self.own);
        match &self.path {
            ShownPath::Whole => {}
            ShownPath::Hashed(hash) => put_bytes(out, 3, hash),
            ShownPath::Dropped => put_uint(out, 4, 1),
        }
    }

    fn field(&mut self, tag: u32, value: Value<'a>) -> Result<bool, &'static str> {
        match (tag, value) {
            (1, Value::Bytes(b)) => {
                HopPart::decode(b).map_err(|_| "not a hop part")?;
                self.hop = b;
            }
            (2, Value::Bytes(b)) => {
                OwnPart::decode(b).map_err(|_| "not an own part")?;
                self.own = b;
            }
            (3, Value::Bytes(b)) => self.path = ShownPath::Hashed(exact(b)?),
            (4, Value::Varint(1)) if self.path == ShownPath::Whole => {
                self.path = ShownPath::Dropped
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn validate(&self) -> Result<(), (u32, &'static str)> {
        if self.own.is_empty() {
            return Err((2, "missing"));
        }
        let hop = HopPart::decode(self.hop).map_err(|_| (1, "not a hop part"))?;
        if self.path != ShownPath::Whole && !hop.path.is_empty() {
            return Err((1, "shows the path that it says is withheld"));
        }
        Ok(())
    }
}
