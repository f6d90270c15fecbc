//! The own part: what one side alone knows about a call, blinded by a salt.

use crate::canonical::{Canonical, Value, exact, put_bytes, put_uint, short, small};
use crate::context::{ContextSource, Sampling, SpanId};
use crate::entry::Side;
use crate::hash::{Hash, SPAN_DOMAIN, tagged};
use crate::session::SessionId;

/// Most headers that a record may include.
pub const MAX_HEADERS: usize = 32;

/// One request header that the configuration asked to include.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeaderField<'a> {
    /// Lower-case name.
    pub name: &'a [u8],
    /// Value as received.
    pub value: &'a [u8],
}

/// One side's own knowledge of a call. Texts over 1024 bytes are cut by the proxy.
///
/// Drawn in `docs/format.md`, "Own part".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnPart<'a> {
    /// Side of the call.
    pub side: Side,
    /// Parent of the hop's span, where known.
    pub parent_span_id: Option<SpanId>,
    /// Sampling decision as received.
    pub sampling: Sampling,
    /// Where the context came from.
    pub context: ContextSource,
    /// Protocol, as Envoy names it ("HTTP/1.1").
    pub protocol: &'a [u8],
    /// gRPC status, `None` where the call was not gRPC.
    pub grpc_status: Option<u32>,
    /// Envoy's response flags, a bit field.
    pub response_flags: u64,
    /// Envoy's response code details.
    pub code_details: &'a [u8],
    /// Start of the request, unix nanoseconds.
    pub start_ns: u64,
    /// Duration of the request, nanoseconds.
    pub duration_ns: u64,
    /// Bytes of request headers, body and trailers.
    pub request_bytes: u64,
    /// Bytes of response headers, body and trailers.
    pub response_bytes: u64,
    /// SPIFFE id of the peer, authenticated by mTLS.
    pub peer_principal: &'a [u8],
    /// Upstream cluster.
    pub cluster: &'a [u8],
    /// Route name.
    pub route: &'a [u8],
    /// Upstream attempts, retries included.
    pub attempts: u32,
    /// Query of the target, only where configured.
    pub query: &'a [u8],
    /// 16 random bytes that keep the digest from being guessed.
    pub salt: [u8; 16],
    /// Headers that the configuration names.
    pub headers: Vec<HeaderField<'a>>,
    /// Path as seen, without query and fragment, where it is not the canonical one of the hop part.
    pub raw_path: &'a [u8],
    /// Authority as seen, where it is not the canonical one of the hop part.
    pub raw_authority: &'a [u8],
    /// Session that the client's proxy named in `x-meshchain-session`.
    pub peer_session: Option<SessionId>,
}

/// The span digest: one side's whole record, of which either part can be shown alone.
pub fn span_digest(hop_digest: &Hash, encoded_own: &[u8]) -> Hash {
    tagged(SPAN_DOMAIN, &[hop_digest, encoded_own])
}

impl<'a> Canonical<'a> for OwnPart<'a> {
    const NAME: &'static str = "OwnPart";
    const REPEATED: &'static [u32] = &[20];

    fn encode_into(&self, out: &mut Vec<u8>) {
        put_uint(out, 1, self.side as u64);
        put_bytes(out, 2, self.parent_span_id.as_ref().map_or(&[], |id| &id.0));
        put_uint(out, 3, self.sampling as u64);
        put_uint(out, 4, self.context as u64);
        put_bytes(out, 5, self.protocol);
        put_uint(out, 6, self.grpc_status.map_or(0, |s| u64::from(s) + 1));
        put_uint(out, 7, self.response_flags);
        put_bytes(out, 8, self.code_details);
        put_uint(out, 9, self.start_ns);
        put_uint(out, 10, self.duration_ns);
        put_uint(out, 11, self.request_bytes);
        put_uint(out, 12, self.response_bytes);
        put_bytes(out, 13, self.peer_principal);
        put_bytes(out, 15, self.cluster);
        put_bytes(out, 16, self.route);
        put_uint(out, 17, self.attempts.into());
        put_bytes(out, 18, self.query);
        put_bytes(out, 19, &self.salt);
        let mut nested = Vec::new();
        for header in &self.headers {
            nested.clear();
            header.encode_into(&mut nested);
            put_bytes(out, 20, &nested);
        }
        put_bytes(out, 21, self.raw_path);
        put_bytes(out, 22, self.raw_authority);
        put_bytes(out, 23, self.peer_session.as_ref().map_or(&[], |id| id));
    }

    fn field(&mut self, tag: u32, value: Value<'a>) -> Result<bool, &'static str> {
        match (tag, value) {
            (1, Value::Varint(v)) => self.side = Side::from_number(v).ok_or("unknown side")?,
            (2, Value::Bytes(b)) => {
                self.parent_span_id = Some(SpanId::new(exact(b)?).ok_or("all zero")?);
            }
            (3, Value::Varint(v)) => {
                self.sampling = Sampling::from_number(v).ok_or("unknown sampling")?;
            }
            (4, Value::Varint(v)) => {
                self.context = ContextSource::from_number(v).ok_or("unknown context source")?;
            }
            (5, Value::Bytes(b)) => self.protocol = short(b)?,
            (6, Value::Varint(v)) => {
                self.grpc_status = Some(small(v.checked_sub(1).ok_or("explicit default")?)?);
            }
            (7, Value::Varint(v)) => self.response_flags = v,
            (8, Value::Bytes(b)) => self.code_details = short(b)?,
            (9, Value::Varint(v)) => self.start_ns = v,
            (10, Value::Varint(v)) => self.duration_ns = v,
            (11, Value::Varint(v)) => self.request_bytes = v,
            (12, Value::Varint(v)) => self.response_bytes = v,
            (13, Value::Bytes(b)) => self.peer_principal = short(b)?,
            (15, Value::Bytes(b)) => self.cluster = short(b)?,
            (16, Value::Bytes(b)) => self.route = short(b)?,
            (17, Value::Varint(v)) => self.attempts = small(v)?,
            (18, Value::Bytes(b)) => self.query = short(b)?,
            (19, Value::Bytes(b)) => self.salt = exact(b)?,
            (20, Value::Bytes(b)) => {
                if self.headers.len() == MAX_HEADERS {
                    return Err("more than 32 headers");
                }
                self.headers.push(HeaderField::decode(b).map_err(|_| "not a header field")?);
            }
            (21, Value::Bytes(b)) => self.raw_path = short(b)?,
            (22, Value::Bytes(b)) => self.raw_authority = short(b)?,
            (23, Value::Bytes(b)) => {
                self.peer_session = Some(nonzero(exact(b)?).ok_or("all zero")?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn validate(&self) -> Result<(), (u32, &'static str)> {
        if self.raw_path.iter().any(|&b| b == b'?' || b == b'#') {
            return Err((21, "has a query or fragment"));
        }
        if self.salt == [0; 16] {
            return Err((19, "missing"));
        }
        Ok(())
    }
}

fn nonzero(id: SessionId) -> Option<SessionId> {
    (id != SessionId::default()).then_some(id)
}

impl<'a> Canonical<'a> for HeaderField<'a> {
    const NAME: &'static str = "HeaderField";

    fn encode_into(&self, out: &mut Vec<u8>) {
        put_bytes(out, 1, self.name);
        put_bytes(out, 2, self.value);
    }

    fn field(&mut self, tag: u32, value: Value<'a>) -> Result<bool, &'static str> {
        match (tag, value) {
            (1, Value::Bytes(b)) => self.name = short(b)?,
            (2, Value::Bytes(b)) => self.value = short(b)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn validate(&self) -> Result<(), (u32, &'static str)> {
        if self.name.is_empty() { Err((1, "missing")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> OwnPart<'static> {
        OwnPart {
            side: Side::GatewayOut,
            grpc_status: Some(0),
            salt: [7; 16],
            headers: vec![
                HeaderField { name: b"x", value: b"" },
                HeaderField { name: b"", value: b"y" },
            ],
            ..Default::default()
        }
    }

    #[test]
    fn grpc_status_zero_is_not_the_same_as_no_grpc() {
        let grpc = OwnPart { headers: vec![], ..sample() };
        let http = OwnPart { grpc_status: None, ..grpc.clone() };
        assert_ne!(grpc.encode(), http.encode());
        let encoded = grpc.encode();
        assert_eq!(OwnPart::decode(&encoded).unwrap().grpc_status, Some(0));
    }

    #[test]
    fn a_side_is_required_and_a_header_needs_a_name() {
        assert!(OwnPart::decode(&[]).is_err(), "no side");
        assert!(OwnPart::decode(&sample().encode()).is_err(), "header without a name");
    }
}
