//! What a request's headers tell.

use crate::headers::{HeaderMap, serialize};
use meshchain_core::canonical::MAX_FIELD;
use meshchain_core::context::{TraceHeaders, without_space};
use meshchain_core::hop::{Room, Seen, cut, split_target};
use meshchain_core::own::{HeaderField, MAX_HEADERS};
use meshchain_core::{Hash, HopPart, SessionId, SpanId, TraceId};

/// The headers that a hop and its record are made of; empty where missing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// `x-request-id`
    pub id: &'a [u8],
    /// `:method`
    pub method: &'a [u8],
    /// `:authority`
    pub authority: &'a [u8],
    /// `:path`, whole.
    pub target: &'a [u8],
    /// Whether it is a gRPC call.
    pub grpc: bool,
    /// `x-forwarded-client-cert`, the last one.
    pub client_cert: &'a [u8],
    /// Whether this proxy names its operation to the next one's tracer, as Envoy does where it traces.
    pub decorated: bool,
    /// Trace headers, and what the client's proxy says of itself.
    pub trace: TraceHeaders<'a>,
    /// Whether there were any headers at all: a malformed request has none.
    pub readable: bool,
}

impl<'a> Request<'a> {
    /// Reads all headers once. Where one came several times, the first counts. White space around the values of those
    /// that a hop is made of is nothing: the codec of the next hop may take it away.
    pub fn read(map: &'a HeaderMap) -> Self {
        let mut request = Self::default();
        for (name, value) in map.iter() {
            request.readable = true;
            let slot = match name {
                b"x-request-id" => {
                    if request.id.is_empty() {
                        request.id = without_space(value);
                    }
                    continue;
                }
                b":method" => &mut request.method,
                b":authority" => &mut request.authority,
                b":path" => &mut request.target,
                b"content-type" => {
                    request.grpc |= is_grpc(without_space(value));
                    continue;
                }
                b"x-forwarded-client-cert" => {
                    request.client_cert = value;
                    continue;
                }
                b"x-envoy-decorator-operation" => {
                    request.decorated = true;
                    continue;
                }
                _ => {
                    request.trace.take(name, value);
                    continue;
                }
            };
            if slot.is_empty() {
                *slot = value;
            }
        }
        request
    }

    /// The texts of the hop, as they stand on the wire. The request id that the client's proxy names counts:
    /// `x-request-id` may be lost on the way, and Envoy then makes one up.
    pub fn seen(&self) -> Seen<'a> {
        let named = self.trace.session_header().and_then(|header| header.request_id);
        Seen {
            request_id: named.unwrap_or(self.id),
            method: self.method,
            authority: self.authority,
            target: self.target,
        }
    }

    /// Whether the request id says that a proxy traces this request.
    pub fn is_traced(&self) -> bool {
        const REASON: usize = 14;
        self.decorated
            || self.id.len() == 36 && matches!(self.id.get(REASON), Some(b'9' | b'a' | b'b'))
    }
}

/// gRPC-Web is none: its status stands in the body.
fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The headers that a configuration includes, in order, their values cut to what a record can hold.
pub fn included<'a>(map: &'a HeaderMap, names: &[String]) -> Vec<HeaderField<'a>> {
    if names.is_empty() {
        return Vec::new();
    }
    let wanted = |name: &[u8]| names.iter().any(|wanted| wanted.as_bytes() == name);
    let fields = map.iter().filter(|(name, _)| wanted(name));
    fields.map(|(name, value)| HeaderField { name, value: cut(value) }).take(MAX_HEADERS).collect()
}

/// The peer's SPIFFE id by the last element of `x-forwarded-client-cert`, which this proxy wrote itself: its
/// one URI; empty where it is in doubt.
pub fn principal_of(client_cert: &[u8]) -> &[u8] {
    let element = last_element(client_cert);
    let (mut quoted, mut escaped) = (false, false);
    let (mut start, mut own, mut uri, mut uris): (_, _, &[u8], _) = (0, false, &[], 0);
    for at in 0..=element.len() {
        match element.get(at) {
            Some(_) if escaped => escaped = false,
            Some(b'\\') if quoted => escaped = true,
            Some(b'"') => quoted = !quoted,
            Some(b';') if quoted => {}
            None | Some(b';') => {
                let pair = element.get(start..at).unwrap_or_default();
                start = at + 1;
                own |= pair.starts_with(b"Hash=");
                if let Some(value) = pair.strip_prefix(b"URI=") {
                    (uri, uris) = (value, uris + 1);
                }
            }
            Some(_) => {}
        }
    }
    let sure = own && uris == 1 && !quoted && is_spiffe(uri);
    if sure { uri } else { &[] }
}

/// What stands behind the last comma that is not quoted, read from the end: what a caller sent stands before it,
/// and its quotes say nothing.
fn last_element(client_cert: &[u8]) -> &[u8] {
    let mut quoted = false;
    for at in (0..client_cert.len()).rev() {
        match client_cert.get(at) {
            Some(b',') if !quoted => return client_cert.get(at + 1..).unwrap_or_default(),
            Some(b'"') => {
                let before = client_cert.get(..at).unwrap_or_default();
                let escapes = before.iter().rev().take_while(|&&byte| byte == b'\\').count();
                quoted ^= escapes % 2 == 0;
            }
            _ => {}
        }
    }
    client_cert
}

/// A SPIFFE id, none of whose parts is empty.
fn is_spiffe(uri: &[u8]) -> bool {
    let id = uri.strip_prefix(b"spiffe://").unwrap_or_default();
    id.split(|&byte| byte == b'/').all(|part| !part.is_empty())
}

/// The texts of a hop, canonical, of which one was cut: what its hop part needs, while the texts themselves are as
/// long as a caller likes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutTexts {
    texts: Texts<4>,
    overflow: Option<Hash>,
}

impl CutTexts {
    /// `None` where no text is longer than a hop part shows.
    fn of(seen: &Seen<'_>) -> Option<Self> {
        let texts = [seen.request_id, seen.method, seen.authority, seen.target];
        if texts.iter().all(|text| text.len() <= MAX_FIELD) {
            return None;
        }
        let mut room = Room::default();
        let part = HopPart::capture(None, None, seen, 0, &mut room);
        let texts = Texts::new([part.request_id, part.method, part.authority, part.path]);
        Some(Self { texts, overflow: part.overflow })
    }

    /// The hop part of these texts.
    pub fn part(
        &self,
        trace_id: Option<TraceId>,
        span_id: Option<SpanId>,
        status: u32,
    ) -> HopPart<'_> {
        let [request_id, method, authority, path] = self.texts.all();
        let overflow = self.overflow;
        HopPart { trace_id, span_id, request_id, method, authority, path, status, overflow }
    }
}

/// Texts, one behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Texts<const N: usize> {
    bytes: Vec<u8>,
    lengths: [usize; N],
}

impl<const N: usize> Texts<N> {
    fn new(texts: [&[u8]; N]) -> Self {
        Self { bytes: texts.concat(), lengths: texts.map(<[u8]>::len) }
    }

    fn all(&self) -> [&[u8]; N] {
        let mut rest = self.bytes.as_slice();
        self.lengths.map(|length| {
            let (text, tail) = rest.split_at_checked(length).unwrap_or_default();
            rest = tail;
            text
        })
    }
}

impl<const N: usize> Default for Texts<N> {
    fn default() -> Self {
        Self::new([&[]; N])
    }
}

/// A request's headers, kept until its end: those that a record shows, and no more of each than it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptRequest {
    /// Request id, method, authority, path, query, principal and `x-request-id`.
    texts: Texts<7>,
    cut: Option<Box<CutTexts>>,
    cut_left: Option<Box<CutTexts>>,
    included: HeaderMap,
    /// Session that the client's proxy named.
    pub peer_session: Option<SessionId>,
    /// Whether it is a gRPC call.
    pub grpc: bool,
    /// Whether there were any headers at all.
    pub readable: bool,
}

impl KeptRequest {
    /// Copies what is needed; `principal` is the peer's where a header told it.
    pub fn new(request: &Request<'_>, included: &[HeaderField<'_>], principal: &[u8]) -> Self {
        let included: Vec<_> = included.iter().map(|field| (field.name, field.value)).collect();
        let seen = request.seen();
        let left = Seen { request_id: request.id, ..seen };
        let (path, query) = split_target(seen.target);
        let texts =
            [seen.request_id, seen.method, seen.authority, path, query, principal, request.id];
        let cut_left = if left.request_id == seen.request_id { None } else { CutTexts::of(&left) };
        Self {
            texts: Texts::new(texts.map(cut)),
            cut: CutTexts::of(&seen).map(Box::new),
            cut_left: cut_left.map(Box::new),
            included: if included.is_empty() { HeaderMap::default() } else { serialize(&included) },
            peer_session: request.trace.session_header().map(|header| header.session),
            grpc: request.grpc,
            readable: request.readable,
        }
    }

    /// Whether a request that came later may be this one again, met by the filter a second time.
    pub fn is_alike(&self, request: &Request<'_>) -> bool {
        let [.., id] = self.texts.all();
        id == cut(request.id)
    }

    /// Bytes of memory that it takes, about.
    pub fn bytes(&self) -> usize {
        let cut =
            |cut: &Option<Box<CutTexts>>| cut.as_ref().map_or(0, |cut| cut.texts.bytes.len() + 64);
        let texts = self.texts.bytes.len() + cut(&self.cut) + cut(&self.cut_left);
        size_of::<Self>() + texts + self.included.bytes()
    }

    /// The hop that is sent on, as the request phase left it: with this proxy's request id, not that which the one
    /// before named.
    pub fn left(&self) -> Shown<'_> {
        let [.., request_id] = self.texts.all();
        let shown = self.shown();
        let cut =
            if shown.seen.request_id == request_id { shown.cut } else { self.cut_left.as_deref() };
        Shown { seen: Seen { request_id, ..shown.seen }, cut, ..shown }
    }

    /// The included headers.
    pub fn included(&self) -> Vec<HeaderField<'_>> {
        self.included.iter().map(|(name, value)| HeaderField { name, value }).collect()
    }

    /// The hop that was received.
    pub fn shown(&self) -> Shown<'_> {
        let [request_id, method, authority, target, query, ..] = self.texts.all();
        let seen = Seen { request_id, method, authority, target };
        Shown { seen, query, cut: self.cut.as_deref() }
    }

    /// The peer's principal, where a header told it.
    pub fn principal(&self) -> &[u8] {
        let [.., principal, _] = self.texts.all();
        principal
    }
}

/// The texts of one hop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown<'a> {
    /// As they were seen, the target without its query; of kept ones no more than a record shows.
    pub seen: Seen<'a>,
    /// The query.
    pub query: &'a [u8],
    /// What the hop part needs where they are not whole.
    pub cut: Option<&'a CutTexts>,
}

impl<'a> Shown<'a> {
    /// The texts of a request whose headers are at hand.
    pub fn of(request: &Request<'a>) -> Self {
        let seen = request.seen();
        let (target, query) = split_target(seen.target);
        Self { seen: Seen { target, ..seen }, query, cut: None }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::headers::serialize;

    #[test]
    fn what_is_kept_of_a_request_is_what_was_read() {
        let session = [b"07".repeat(16).as_slice(), b";id=4711"].concat();
        let map = serialize(&[
            (b":method", b"POST"),
            (b":path", b"/a?b"),
            (b":path", b"/second"),
            (b"content-type", b"application/grpc+proto"),
            (b"x-request-id", b"made up on the way"),
            (b"x-meshchain-session", &session),
            (b"x-b3-traceid", b"1"),
        ]);
        let read = Request::read(&map);
        let names = ["content-type".to_owned(), ":path".to_owned(), "missing".to_owned()];
        let kept = KeptRequest::new(&read, &included(&map, &names), b"spiffe://a");
        let fields = kept.included();
        let fields: Vec<_> = fields.iter().map(|field| (field.name, field.value)).collect();
        let expected: [(&[u8], &[u8]); 3] = [
            (b":path", b"/a?b"),
            (b":path", b"/second"),
            (b"content-type", b"application/grpc+proto"),
        ];
        assert_eq!(fields, expected);
        assert_eq!(kept.shown(), Shown::of(&read));
        let Shown { seen, query, cut } = kept.shown();
        assert_eq!((seen.method, seen.target, query), (&b"POST"[..], &b"/a"[..], &b"b"[..]));
        assert_eq!(cut, None);
        assert_eq!((seen.request_id, seen.authority), (&b"4711"[..], &b""[..]));
        assert_eq!(kept.left().seen.request_id, b"made up on the way");
        assert_eq!((kept.principal(), kept.peer_session), (&b"spiffe://a"[..], Some([7; 16])));
        assert!(kept.grpc && kept.readable);
        assert_eq!(read.trace.b3_trace_id, Some(&b"1"[..]));
        assert!(!Request::read(&HeaderMap::default()).readable);
    }

    #[test]
    fn white_space_around_a_value_is_nothing() {
        let session = [b" ", b"07".repeat(16).as_slice(), b";id=4711 \t"].concat();
        let map = serialize(&[
            (b"x-request-id", b"\tid "),
            (b"x-b3-traceid", b" 463ac35c9f6413ad"),
            (b"x-b3-spanid", b"a2fb4a1d1a96d312\t"),
            (b"b3", b" 0 "),
            (b"content-type", b" application/grpc "),
            (b"x-meshchain-session", &session),
        ]);
        let read = Request::read(&map);
        assert_eq!((read.id, read.seen().request_id, read.grpc), (&b"id"[..], &b"4711"[..], true));
        assert_eq!(
            read.trace.context().unwrap().span_id,
            SpanId::from_hex(b"a2fb4a1d1a96d312").unwrap()
        );
        let map = serialize(&[(b"x-request-id", b" "), (b"x-request-id", b"second")]);
        assert_eq!(Request::read(&map).id, b"second");
    }

    #[test]
    fn what_is_kept_of_long_texts_is_bounded_and_makes_the_same_hop() {
        let long = |byte: u8, length| vec![byte; length];
        let lengths = [0, 1, MAX_FIELD - 1, MAX_FIELD, MAX_FIELD + 1, 60_000];
        for (id, host, path, query) in lengths.iter().flat_map(|id| {
            lengths.iter().flat_map(move |host| {
                [(*id, *host, 7, 0), (*id, *host, 60_000, 3), (*id, *host, 900, 60_000)]
            })
        }) {
            let target = [b"/%e9", &long(b'p', path)[..], b"?", &long(b'q', query)].concat();
            let named = [b"07".repeat(16).as_slice(), b";id=named"].concat();
            for session in [&b""[..], &named] {
                let map = serialize(&[
                    (b"x-request-id", &long(b'i', id)),
                    (b":method", b"GET"),
                    (b":authority", &long(b'H', host)),
                    (b":path", &target),
                    (b"x-meshchain-session", session),
                ]);
                let read = Request::read(&map);
                let kept = KeptRequest::new(&read, &[], b"spiffe://a/b");
                assert!(kept.bytes() < 20 << 10, "{}", kept.bytes());
                let left = Seen { request_id: read.id, ..read.seen() };
                for (shown, seen) in [(kept.shown(), read.seen()), (kept.left(), left)] {
                    let (mut one, mut other) = (Room::default(), Room::default());
                    let expected = HopPart::capture(None, None, &seen, 200, &mut one);
                    let found = match shown.cut {
                        Some(whole) => whole.part(None, None, 200),
                        None => HopPart::capture(None, None, &shown.seen, 200, &mut other),
                    };
                    assert_eq!(found, expected, "{id} {host} {path} {query}");
                    let (path, query) = split_target(seen.target);
                    assert_eq!((cut(path), cut(query)), (shown.seen.target, shown.query));
                }
            }
        }
    }

    #[test]
    fn grpc_is_told_by_the_whole_content_type() {
        let grpc: [&[u8]; 3] =
            [b"application/grpc", b"application/grpc+proto", b"application/grpc; charset=x"];
        let others: [&[u8]; 4] =
            [b"application/grpc-web+proto", b"application/grpcfoo", b"text/plain", b""];
        assert!(grpc.iter().all(|text| is_grpc(text)));
        assert!(others.iter().all(|text| !is_grpc(text)));
    }

    #[test]
    fn a_principal_is_the_one_uri_of_the_last_element() {
        let subject = br#"URI=spiffe://old;Hash=1,By=x;Hash=2;Subject="CN=a\",URI=spiffe://evil;O=b";URI=spiffe://d/ns/n/sa/s"#;
        for (header, expected) in [
            (&subject[..], &b"spiffe://d/ns/n/sa/s"[..]),
            (b"By=x;Hash=2;URI=spiffe://a/b", b"spiffe://a/b"),
            (b"Hash=2;URI=spiffe://a;DNS=x", b"spiffe://a"),
            (b"Hash=2;URI=spiffe://a;URI=spiffe://b", b""),
            (b"Hash=2;URI=spiffe://a;DNS=x,URI=spiffe://evil", b""),
            (b"Hash=2;URI=https://a", b""),
            (br#"Hash=2;Subject="a,URI=spiffe://evil""#, b""),
            (br#"Hash=2;URI=spiffe://a;Subject="unfinished"#, b""),
            // Whatever a caller sent before it.
            (br#"",Hash=2;URI=spiffe://a/b"#, b"spiffe://a/b"),
            (br#"x="\",Hash=1;URI=spiffe://evil,Hash=2;URI=spiffe://a/b"#, b"spiffe://a/b"),
            (br#"Hash=1;Subject="a\\",Hash=2;Subject="b\"";URI=spiffe://a/b"#, b"spiffe://a/b"),
            (b"Hash=2;URI=spiffe://d/ns//sa/web", b""),
            (b"Hash=2;URI=spiffe://d/ns/a/sa/", b""),
            (b"Hash=2;URI=spiffe://", b""),
            (b"", b""),
        ] {
            assert_eq!(principal_of(header), expected, "{}", String::from_utf8_lossy(header));
        }
    }
}
