//! The hop part: what both sidecars of a call see on the wire between them, in canonical form.

use crate::canonical::{Canonical, MAX_FIELD, Value, exact, put_bytes, put_uint, short, small};
use crate::context::{SpanId, TraceId};
use crate::hash::{HOP_DOMAIN, Hash, OVERFLOW_DOMAIN, tagged};
use crate::target::{canonical_authority, canonical_path};

/// One call as it crossed the wire between two sidecars.
///
/// The client side fills it from the context it sent on, the server side from the context it
/// received; both then hold the same bytes. Nothing in it depends on configuration. Drawn in
/// `docs/format.md`, "Hop part".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HopPart<'a> {
    /// Trace id, `None` where no context crossed.
    pub trace_id: Option<TraceId>,
    /// Span id of this hop, `None` where no context crossed.
    pub span_id: Option<SpanId>,
    /// Request id, see [`stable_id`].
    pub request_id: &'a [u8],
    /// `:method`.
    pub method: &'a [u8],
    /// `:authority`, canonical.
    pub authority: &'a [u8],
    /// `:path` without query and fragment, canonical.
    pub path: &'a [u8],
    /// Status of the response, 0 where no complete response crossed the wire.
    pub status: u32,
    /// Set where one of the four texts is longer than 1024 bytes: see [`HopPart::capture`].
    pub overflow: Option<Hash>,
}

/// Texts of a call as one side saw them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen<'a> {
    /// Request id.
    pub request_id: &'a [u8],
    /// `:method`.
    pub method: &'a [u8],
    /// `:authority`.
    pub authority: &'a [u8],
    /// `:path`, whole.
    pub target: &'a [u8],
}

/// Memory for the canonical values that differ from what was seen; to be used again.
#[derive(Debug)]
pub struct Room {
    id: [u8; UUID],
    authority: Vec<u8>,
    path: Vec<u8>,
}

impl Default for Room {
    fn default() -> Self {
        Self { id: [0; UUID], authority: Vec::new(), path: Vec::new() }
    }
}

impl<'a> HopPart<'a> {
    /// Builds the hop part from values as one side saw them, by the rules of `docs/format.md`.
    ///
    /// Texts over 1024 bytes are cut to 1024, and `overflow` then holds a hash over all four uncut
    /// canonical texts, each behind its length (u32, big-endian), so that the digest still covers
    /// every byte.
    pub fn capture(
        trace_id: Option<TraceId>,
        span_id: Option<SpanId>,
        seen: &Seen<'a>,
        status: u32,
        room: &'a mut Room,
    ) -> Self {
        let request_id = stable_id(seen.request_id, &mut room.id);
        let authority = canonical_authority(seen.authority, &mut room.authority);
        let path = canonical_path(split_target(seen.target).0, &mut room.path);
        let texts = [request_id, seen.method, authority, path];
        let overflow = texts.iter().any(|t| t.len() > MAX_FIELD).then(|| overflow_hash(texts));
        Self {
            trace_id,
            span_id,
            request_id: cut(request_id),
            method: cut(seen.method),
            authority: cut(authority),
            path: cut(path),
            status,
            overflow,
        }
    }

    /// The hop digest: equal on both sides of a call that both saw alike.
    pub fn digest(&self) -> Hash {
        hop_digest(&self.encode())
    }
}

/// Hash over its domain and four texts, each behind its length (u32, big-endian).
fn overflow_hash(texts: [&[u8]; 4]) -> Hash {
    let lengths = texts.map(|t| (t.len() as u32).to_be_bytes());
    let mut parts: Vec<&[u8]> = Vec::with_capacity(8);
    for (length, text) in lengths.iter().zip(texts) {
        parts.push(length);
        parts.push(text);
    }
    tagged(OVERFLOW_DOMAIN, &parts)
}

/// What a record shows in place of a withheld path: SHA-256 of the hop part's `path` field.
pub fn path_hash(path: &[u8]) -> Hash {
    tagged(&[], &[path])
}

/// The hop digest of an encoded hop part.
pub fn hop_digest(encoded: &[u8]) -> Hash {
    tagged(HOP_DOMAIN, &[encoded])
}

/// Characters of a UUID.
pub const UUID: usize = 36;
/// The one that tells a UUID's version. Envoy keeps in it why a request is traced, and a server side that
/// samples otherwise than its client overwrites it before any filter sees it.
const TRACE_REASON: usize = 14;

/// A request id as both sides know it, whatever each decides about tracing: of 36 bytes, byte 14 is `4`.
pub fn stable_id<'a>(id: &'a [u8], room: &'a mut [u8; UUID]) -> &'a [u8] {
    let Ok(uuid) = <&[u8; UUID]>::try_from(id) else {
        return id;
    };
    *room = *uuid;
    room[TRACE_REASON] = b'4';
    room
}

/// Splits a request target into path and query; the fragment belongs to neither.
pub fn split_target(target: &[u8]) -> (&[u8], &[u8]) {
    let target = match target.iter().position(|&b| b == b'#') {
        Some(at) => &target[..at],
        None => target,
    };
    match target.iter().position(|&b| b == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &[]),
    }
}

/// The first 1024 bytes of `text`.
pub fn cut(text: &[u8]) -> &[u8] {
    &text[..text.len().min(MAX_FIELD)]
}

impl<'a> Canonical<'a> for HopPart<'a> {
    const NAME: &'static str = "HopPart";

    fn encode_into(&self, out: &mut Vec<u8>) {
        put_bytes(out, 1, self.trace_id.as_ref().map_or(&[], |id| &id.0));
        put_bytes(out, 2, self.span_id.as_ref().map_or(&[], |id| &id.0));
        put_bytes(out, 3, self.request_id);
        put_bytes(out, 4, self.method);
        put_bytes(out, 5, self.authority);
        put_bytes(out, 6, self.path);
        put_uint(out, 7, self.status.into());
        put_bytes(out, 8, self.overflow.as_ref().map_or(&[], |h| h));
    }

    fn field(&mut self, tag: u32, value: Value<'a>) -> Result<bool, &'static str> {
        match (tag, value) {
            (1, Value::Bytes(b)) => {
                self.trace_id = Some(TraceId::new(exact(b)?).ok_or("all zero")?)
            }
            (2, Value::Bytes(b)) => self.span_id = Some(SpanId::new(exact(b)?).ok_or("all zero")?),
            (3, Value::Bytes(b)) => self.request_id = short(b)?,
            (4, Value::Bytes(b)) => self.method = short(b)?,
            (5, Value::Bytes(b)) => self.authority = short(b)?,
            (6, Value::Bytes(b)) => self.path = short(b)?,
            (7, Value::Varint(v)) => self.status = small(v)?,
            (8, Value::Bytes(b)) => self.overflow = Some(exact(b)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn validate(&self) -> Result<(), (u32, &'static str)> {
        if self.path.iter().any(|&b| b == b'?' || b == b'#') {
            return Err((6, "has a query or fragment"));
        }
        let texts = [self.request_id, self.method, self.authority, self.path];
        if self.trace_id.is_some() != self.span_id.is_some() {
            return Err((2, "trace id and span id come together"));
        }
        // A record may withhold the very path that was cut.
        let short = !self.path.is_empty() && texts.iter().all(|t| t.len() < MAX_FIELD);
        if self.overflow.is_some_and(|hash| short || hash == overflow_hash(texts)) {
            return Err((8, "set although nothing was cut"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_and_fragment_are_not_part_of_a_hop() {
        assert_eq!(split_target(b"/a?b=1#c"), (&b"/a"[..], &b"b=1"[..]));
        assert_eq!(split_target(b"/a#c?d"), (&b"/a"[..], &b""[..]));
        assert_eq!(split_target(b""), (&b""[..], &b""[..]));
    }

    #[test]
    fn both_sides_make_the_same_of_what_their_meshes_did_to_a_call() {
        let client = Seen {
            request_id: b"6b1d4e0f-3c5a-9f8e-9d27-1a2b3c4d5e6f",
            method: b"GET",
            authority: b"Shop.example:8080",
            target: b"/a//b/%2e%2e/c%2fd?x=1",
        };
        let server = Seen {
            request_id: b"6b1d4e0f-3c5a-4f8e-9d27-1a2b3c4d5e6f",
            authority: b"shop.example",
            target: b"/a/c/d",
            ..client
        };
        let (mut one, mut other) = (Room::default(), Room::default());
        let hop = HopPart::capture(None, None, &client, 200, &mut one);
        assert_eq!(hop, HopPart::capture(None, None, &server, 200, &mut other));
    }

    #[test]
    fn long_values_differ_behind_the_cut() {
        let (a, b) = (vec![b'a'; 5000], [vec![b'a'; 4999], vec![b'b']].concat());
        let seen = |target| Seen { request_id: b"r", method: b"GET", authority: b"h", target };
        let (mut one, mut other) = (Room::default(), Room::default());
        let hop = HopPart::capture(None, None, &seen(&a), 200, &mut one);
        let longer = HopPart::capture(None, None, &seen(&b), 200, &mut other);
        assert_eq!(hop.path, longer.path);
        assert_ne!(hop.digest(), longer.digest());
        assert_eq!(HopPart::decode(&hop.encode()), Ok(hop));
    }

    #[test]
    fn a_value_of_just_the_limit_is_not_cut() {
        let path = vec![b'a'; MAX_FIELD];
        let seen = Seen { target: &path, ..Seen::default() };
        let mut room = Room::default();
        assert_eq!(HopPart::capture(None, None, &seen, 0, &mut room).overflow, None);
    }
}
