//! Trace context from request headers: B3 single, B3 multi, W3C `traceparent`.
//!
//! Header values come from anybody; every parser here takes bytes and answers `None` to whatever
//! Envoy's tracer would not read either. A B3 trace id of up to 64 bits is widened with leading zeros.
//! Sources: <https://github.com/openzipkin/b3-propagation>, <https://www.w3.org/TR/trace-context/>.

use crate::session_header::SessionHeader;

/// Trace id, 16 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(pub [u8; 16]);

/// Span id, 8 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// `None` for all zeros, which every specification reserves for "no id".
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// From 16 or 32 hexadecimal digits.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let mut out = [0; 16];
        match text.len() {
            16 => decode_hex(text, &mut out[8..])?,
            32 => decode_hex(text, &mut out)?,
            _ => return None,
        }
        Self::new(out)
    }

    /// As a tracer of Envoy's reads it from `x-b3-traceid`: 32 digits, or up to 16 without their
    /// leading zeros.
    pub fn from_b3(text: &[u8]) -> Option<Self> {
        if text.len() == 32 {
            return Self::from_hex(text);
        }
        let mut out = [0; 16];
        out[8..].copy_from_slice(&padded_hex(text)?);
        Self::new(out)
    }
}

impl SpanId {
    /// `None` for all zeros.
    pub fn new(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }

    /// From 16 hexadecimal digits.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let mut out = [0; 8];
        decode_hex(text, &mut out)?;
        Self::new(out)
    }

    /// As a tracer of Envoy's reads it from `x-b3-spanid`: up to 16 digits, without their leading zeros.
    pub fn from_b3(text: &[u8]) -> Option<Self> {
        Self::new(padded_hex(text)?)
    }
}

impl std::fmt::Debug for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for SpanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Decodes `text` into `out`; `None` unless it is exactly `2 * out.len()` hex digits.
fn decode_hex(text: &[u8], out: &mut [u8]) -> Option<()> {
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != out.len() || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = (digit(*high)? << 4 | digit(*low)?) as u8;
    }
    Some(())
}

/// The 8 bytes of 1 to 16 hex digits.
fn padded_hex(text: &[u8]) -> Option<[u8; 8]> {
    let mut digits = [b'0'; 16];
    digits.get_mut(16_usize.checked_sub(text.len())?..)?.copy_from_slice(text);
    let mut out = [0; 8];
    decode_hex(&digits, &mut out)?;
    (!text.is_empty()).then_some(out)
}

/// The sampling decision that came with a context.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Sampling {
    /// No decision came along.
    #[default]
    Deferred = 0,
    /// Not sampled.
    Denied = 1,
    /// Sampled.
    Accepted = 2,
    /// B3 debug: sampled whatever the sampler says.
    Debug = 3,
}

impl Sampling {
    /// From the number used in records.
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Deferred),
            1 => Some(Self::Denied),
            2 => Some(Self::Accepted),
            3 => Some(Self::Debug),
            _ => None,
        }
    }
}

/// Where the context of a call came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ContextSource {
    /// There was none and none was made.
    #[default]
    None = 0,
    /// It came with the request.
    Received = 1,
    /// The proxy made it: a trace of its own where the request brought none.
    Generated = 2,
}

impl ContextSource {
    /// From the number used in records.
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Received),
            2 => Some(Self::Generated),
            _ => None,
        }
    }

    /// Lower-case name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Received => "received",
            Self::Generated => "generated",
        }
    }
}

/// A trace context as one set of headers states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Trace id.
    pub trace_id: TraceId,
    /// Span id of the sender's span.
    pub span_id: SpanId,
    /// Parent of that span, where B3 names it.
    pub parent_span_id: Option<SpanId>,
    /// Sampling decision.
    pub sampling: Sampling,
}

/// The trace headers of one request, values as received; `None` where absent.
///
/// Where a header came several times, the first counts, as Envoy's tracers do it.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceHeaders<'a> {
    /// `x-b3-traceid`
    pub b3_trace_id: Option<&'a [u8]>,
    /// `x-b3-spanid`
    pub b3_span_id: Option<&'a [u8]>,
    /// `x-b3-parentspanid`
    pub b3_parent_span_id: Option<&'a [u8]>,
    /// `x-b3-sampled`
    pub b3_sampled: Option<&'a [u8]>,
    /// `x-b3-flags`
    pub b3_flags: Option<&'a [u8]>,
    /// `b3`
    pub b3: Option<&'a [u8]>,
    /// `traceparent`
    pub traceparent: Option<&'a [u8]>,
    /// `x-meshchain-session`
    pub session: Option<&'a [u8]>,
}

/// A header's value without spaces and tabs at its ends (RFC 9110, section 5.5). HTTP/2 carries them, and HTTP/1.1 does
/// not: what two proxies read of one header is the same without them.
pub fn without_space(value: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

impl<'a> TraceHeaders<'a> {
    /// Takes in one header, without [white space](without_space) around its value; names other than trace headers are
    /// passed over.
    pub fn take(&mut self, name: &[u8], value: &'a [u8]) {
        let slot = match name {
            b"x-b3-traceid" => &mut self.b3_trace_id,
            b"x-b3-spanid" => &mut self.b3_span_id,
            b"x-b3-parentspanid" => &mut self.b3_parent_span_id,
            b"x-b3-sampled" => &mut self.b3_sampled,
            b"x-b3-flags" => &mut self.b3_flags,
            b"b3" => &mut self.b3,
            b"traceparent" => &mut self.traceparent,
            b"x-meshchain-session" => &mut self.session,
            _ => return,
        };
        slot.get_or_insert(without_space(value));
    }

    /// The context on the wire: B3 single if valid, else B3 multi, else W3C; W3C first where the
    /// sender's proxy says so in its session header.
    ///
    /// Both sides of a call apply the same order to the same headers, so they agree on the ids.
    pub fn context(&self) -> Option<TraceContext> {
        let w3c_first = self.session_header().is_some_and(|header| header.w3c);
        let first = if w3c_first { self.w3c() } else { None };
        first.or_else(|| self.b3()).or_else(|| self.w3c())
    }

    /// The context in B3: single if valid, else multi.
    pub fn b3(&self) -> Option<TraceContext> {
        self.b3_single().or_else(|| self.b3_multi())
    }

    /// Whether there are B3 ids of which no context can be read: somebody's trace, not to be touched.
    pub fn has_unreadable_b3(&self) -> bool {
        let multi = self.b3_trace_id.is_some() || self.b3_span_id.is_some();
        let single = self.b3.is_some_and(|value| lone_state(value).is_none());
        (multi || single) && self.b3().is_none()
    }

    /// Whether there is a `traceparent` of which no context can be read.
    pub fn has_unreadable_w3c(&self) -> bool {
        self.traceparent.is_some() && self.w3c().is_none()
    }

    /// The sampling state where `b3` states nothing else.
    pub fn lone_state(&self) -> Option<Sampling> {
        lone_state(self.b3?)
    }

    /// What the sender's proxy tells of itself.
    pub fn session_header(&self) -> Option<SessionHeader<'a>> {
        SessionHeader::parse(self.session?)
    }

    /// The context in `b3`.
    pub fn b3_single(&self) -> Option<TraceContext> {
        b3_single(self.b3?)
    }

    /// The context in `traceparent`.
    pub fn w3c(&self) -> Option<TraceContext> {
        traceparent(self.traceparent?)
    }

    /// The context in `x-b3-traceid`, `x-b3-spanid` and those that go with them.
    pub fn b3_multi(&self) -> Option<TraceContext> {
        let trace_id = TraceId::from_b3(self.b3_trace_id?)?;
        let span_id = SpanId::from_b3(self.b3_span_id?)?;
        let sampling = match (self.b3_flags, self.b3_sampled) {
            (Some(b"1"), _) => Sampling::Debug,
            (_, Some(b"1" | b"true")) => Sampling::Accepted,
            (_, Some(b"0" | b"false")) => Sampling::Denied,
            _ => Sampling::Deferred,
        };
        let parent_span_id = self.b3_parent_span_id.and_then(SpanId::from_b3);
        Some(TraceContext { trace_id, span_id, parent_span_id, sampling })
    }
}

/// `b3: {sampling}`, which is a decision and no context.
fn lone_state(value: &[u8]) -> Option<Sampling> {
    match value {
        b"0" => Some(Sampling::Denied),
        b"1" => Some(Sampling::Accepted),
        b"d" => Some(Sampling::Debug),
        _ => None,
    }
}

/// `b3: {trace id}-{span id}[-{sampling}[-{parent span id}]]`; a lone sampling state is no context.
pub fn b3_single(value: &[u8]) -> Option<TraceContext> {
    let mut parts = value.split(|&b| b == b'-');
    let trace_id = TraceId::from_hex(parts.next()?)?;
    let span_id = SpanId::from_hex(parts.next()?)?;
    let sampling = match parts.next() {
        None => Sampling::Deferred,
        Some(b"0") => Sampling::Denied,
        Some(b"1") => Sampling::Accepted,
        Some(b"d") => Sampling::Debug,
        Some(_) => return None,
    };
    let parent_span_id = match parts.next() {
        None => None,
        Some(parent) => Some(SpanId::from_hex(parent)?),
    };
    parts.next().is_none().then_some(TraceContext { trace_id, span_id, parent_span_id, sampling })
}

/// `traceparent: {version}-{trace id}-{parent id}-{flags}`, lower-case hex. Later versions may
/// append fields; version `ff` is invalid.
pub fn traceparent(value: &[u8]) -> Option<TraceContext> {
    let (head, tail) = value.split_at_checked(55)?;
    if head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
        return None;
    }
    let mut version = [0; 1];
    decode_hex(&head[..2], &mut version)?;
    let tail_allowed = match version[0] {
        0 => tail.is_empty(),
        0xff => false,
        _ => tail.is_empty() || tail[0] == b'-',
    };
    if !tail_allowed || head.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let trace_id = TraceId::from_hex(&head[3..35])?;
    let span_id = SpanId::from_hex(&head[36..52])?;
    let mut flags = [0; 1];
    decode_hex(&head[53..55], &mut flags)?;
    let sampling = if flags[0] & 1 == 1 { Sampling::Accepted } else { Sampling::Denied };
    Some(TraceContext { trace_id, span_id, parent_span_id: None, sampling })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &[u8] = b"80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &[u8] = b"e457b5a2e4d86bd1";

    #[test]
    fn all_three_forms_state_the_same_ids() {
        let mut multi = TraceHeaders::default();
        multi.take(b"x-b3-traceid", TRACE);
        multi.take(b"x-b3-spanid", SPAN);
        multi.take(b"x-b3-sampled", b"1");
        let multi = multi.context().unwrap();
        let single = b3_single(b"80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1").unwrap();
        let w3c = traceparent(b"00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01").unwrap();
        assert_eq!((multi, multi), (single, w3c));
    }

    #[test]
    fn a_64_bit_trace_id_is_widened_with_zeros() {
        let id = TraceId::from_hex(b"463ac35c9f6413ad").unwrap();
        assert_eq!(hex::encode(id.0), "0000000000000000463ac35c9f6413ad");
    }

    #[test]
    fn ids_without_leading_zeros_are_read_as_a_tracer_reads_them() {
        let multi = TraceHeaders {
            b3_trace_id: Some(b"63ac35c9f6413ad"),
            b3_span_id: Some(b"b1"),
            ..TraceHeaders::default()
        };
        let context = multi.context().unwrap();
        assert_eq!(hex::encode(context.trace_id.0), "0000000000000000063ac35c9f6413ad");
        assert_eq!(hex::encode(context.span_id.0), "00000000000000b1");
        assert!(!multi.has_unreadable_b3());
    }

    #[test]
    fn b3_single_comes_before_multi_and_w3c_first_where_the_sender_says_so() {
        let single = b"00000000000000000000000000000001-00000000000000b1-1";
        let w3c = b"00-00000000000000000000000000000003-00000000000000b3-01";
        let mut headers = TraceHeaders {
            b3_trace_id: Some(TRACE),
            b3_span_id: Some(SPAN),
            b3: Some(single),
            traceparent: Some(w3c),
            ..TraceHeaders::default()
        };
        assert_eq!(headers.context(), b3_single(single));
        headers.session = Some(b"000102030405060708090a0b0c0d0e0f;w3c;id=1");
        assert_eq!(headers.context(), traceparent(w3c));
        headers.traceparent = None;
        assert_eq!(headers.context(), b3_single(single), "it is not there");
        headers.b3 = Some(b"d");
        assert_eq!(headers.context(), headers.b3_multi());
        assert_eq!(headers.lone_state(), Some(Sampling::Debug));
        assert!(!headers.has_unreadable_b3());
    }

    #[test]
    fn the_first_of_duplicate_headers_counts() {
        let mut headers = TraceHeaders { b3_span_id: Some(SPAN), ..Default::default() };
        headers.take(b"x-b3-traceid", TRACE);
        headers.take(b"x-b3-traceid", b"00000000000000000000000000000001");
        assert_eq!(headers.context().unwrap().trace_id, TraceId::from_hex(TRACE).unwrap());
    }

    #[test]
    fn an_invalid_form_gives_way_to_the_next() {
        let headers = TraceHeaders {
            b3_trace_id: Some(b"not hex"),
            b3_span_id: Some(SPAN),
            b3: Some(b"0"),
            traceparent: Some(b"00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-00"),
            ..Default::default()
        };
        assert_eq!(headers.context().unwrap().sampling, Sampling::Denied);
    }

    #[test]
    fn hostile_values_are_no_context() {
        let singles: [&[u8]; 8] = [
            b"",
            b"-",
            b"0",
            b"\xff\xfe",
            b"463ac35c9f6413ad-0000000000000000",
            b"00000000000000000000000000000000-e457b5a2e4d86bd1",
            b"463ac35c9f6413ad-e457b5a2e4d86bd1-x",
            b"463ac35c9f6413ad-e457b5a2e4d86bd1-1-e457b5a2e4d86bd1-1",
        ];
        for value in singles {
            assert_eq!(b3_single(value), None, "{}", String::from_utf8_lossy(value));
        }
        let parents: [&[u8]; 6] = [
            b"00-80F198EE56343BA864FE8B2A57D3EFF7-e457b5a2e4d86bd1-01",
            b"ff-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01",
            b"00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01-extra",
            b"00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1",
            b"00_80f198ee56343ba864fe8b2a57d3eff7_e457b5a2e4d86bd1_01",
            b"00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0\xff",
        ];
        let multi = |trace_id, span_id| TraceHeaders {
            b3_trace_id: Some(trace_id),
            b3_span_id: Some(span_id),
            ..TraceHeaders::default()
        };
        let unreadable: [&[u8]; 6] = [b"", b"0", b"x", b"0x12", b"00000000000000001", b"1,1"];
        for value in unreadable {
            for headers in [multi(value, SPAN), multi(TRACE, value)] {
                assert_eq!(headers.context(), None, "{}", String::from_utf8_lossy(value));
                assert!(headers.has_unreadable_b3());
            }
        }
        for value in parents {
            assert_eq!(traceparent(value), None, "{}", String::from_utf8_lossy(value));
        }
        assert!(
            traceparent(b"01-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01-x").is_some()
        );
    }
}
