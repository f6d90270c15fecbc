//! The entry: one side's 90-byte statement about one call, what the batches are made of.
//!
//! ```text
//!  0        1      2            18            26           58            90
//!  +--------+------+------------+-------------+------------+-------------+
//!  | version| side | trace id   | hop span id | hop digest | span digest |
//!  |  1 = 1 |  1   | 16         | 8           | 32         | 32          |
//!  +--------+------+------------+-------------+------------+-------------+
//! ```

use crate::context::{SpanId, TraceId};
use crate::hash::Hash;
use thiserror::Error;

/// Length of an encoded entry in bytes.
pub const ENTRY_LEN: usize = 90;
const VERSION: u8 = 1;

/// Which side of a call a proxy was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    /// The caller's sidecar (outbound listener).
    #[default]
    Client = 1,
    /// The callee's sidecar (inbound listener).
    Server = 2,
    /// A proxy in the middle (gateway or waypoint), of the hop that it sent on.
    GatewayOut = 3,
    /// A proxy in the middle, of the hop that it received.
    GatewayIn = 4,
}

impl Side {
    /// From the number used in entries and records.
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Client),
            2 => Some(Self::Server),
            3 => Some(Self::GatewayOut),
            4 => Some(Self::GatewayIn),
            _ => None,
        }
    }

    /// Whether this side sent the hop's request; the others received it.
    pub fn sends(self) -> bool {
        matches!(self, Self::Client | Self::GatewayOut)
    }

    /// Lower-case name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::GatewayOut => "gateway_out",
            Self::GatewayIn => "gateway_in",
        }
    }
}

/// Why 90 bytes are not an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Not 90 bytes.
    #[error("an entry has 90 bytes, not {0}")]
    Length(usize),
    /// A version this code does not know.
    #[error("unknown entry version {0}")]
    Version(u8),
    /// A side other than 1 to 4.
    #[error("unknown side {0}")]
    Side(u8),
    /// A trace id without a span id, or a span id without a trace id.
    #[error("trace id and span id come together")]
    Ids,
}

/// One side's statement about one call. Zero ids mean that no trace context crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The side that states it.
    pub side: Side,
    /// Trace id, zero where there was none.
    pub trace_id: [u8; 16],
    /// Span id of the hop, zero where there was none.
    pub span_id: [u8; 8],
    /// See [`crate::HopPart::digest`].
    pub hop_digest: Hash,
    /// See [`crate::own::span_digest`].
    pub span_digest: Hash,
}

impl Entry {
    /// Entry of a call whose digests are known.
    pub fn new(
        side: Side,
        trace_id: Option<TraceId>,
        span_id: Option<SpanId>,
        hop_digest: Hash,
        span_digest: Hash,
    ) -> Self {
        Self {
            side,
            trace_id: trace_id.map_or([0; 16], |id| id.0),
            span_id: span_id.map_or([0; 8], |id| id.0),
            hop_digest,
            span_digest,
        }
    }

    /// The 90 bytes.
    pub fn to_bytes(&self) -> [u8; ENTRY_LEN] {
        let mut out = [0; ENTRY_LEN];
        out[0] = VERSION;
        out[1] = self.side as u8;
        out[2..18].copy_from_slice(&self.trace_id);
        out[18..26].copy_from_slice(&self.span_id);
        out[26..58].copy_from_slice(&self.hop_digest);
        out[58..90].copy_from_slice(&self.span_digest);
        out
    }

    /// Parses exactly 90 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, EntryError> {
        let bytes: &[u8; ENTRY_LEN] =
            bytes.try_into().map_err(|_| EntryError::Length(bytes.len()))?;
        if bytes[0] != VERSION {
            return Err(EntryError::Version(bytes[0]));
        }
        let side = Side::from_number(bytes[1].into()).ok_or(EntryError::Side(bytes[1]))?;
        if (bytes[2..18] == [0; 16]) != (bytes[18..26] == [0; 8]) {
            return Err(EntryError::Ids);
        }
        Ok(Self {
            side,
            trace_id: array(&bytes[2..18]),
            span_id: array(&bytes[18..26]),
            hop_digest: array(&bytes[26..58]),
            span_digest: array(&bytes[58..90]),
        })
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_of_bytes_is_the_entry_and_bad_bytes_are_named() {
        let entry = Entry {
            side: Side::Server,
            trace_id: [1; 16],
            span_id: [2; 8],
            hop_digest: [3; 32],
            span_digest: [4; 32],
        };
        let bytes = entry.to_bytes();
        assert_eq!(Entry::parse(&bytes), Ok(entry));
        assert_eq!(Entry::parse(&bytes[..89]), Err(EntryError::Length(89)));
        let mut other = bytes;
        other[0] = 2;
        assert_eq!(Entry::parse(&other), Err(EntryError::Version(2)));
        other = bytes;
        other[1] = 9;
        assert_eq!(Entry::parse(&other), Err(EntryError::Side(9)));
    }
}
