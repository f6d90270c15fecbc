//! What a request's headers tell.

use crate::headers::{HeaderMap, serialize};
use meshchain_core::SessionId;
use meshchain_core::context::TraceHeaders;
use meshchain_core::hop::{Seen, cut};
use meshchain_core::own::{HeaderField, MAX_HEADERS};

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
    /// Reads all headers once. Where one came several times, the first counts.
    pub fn read(map: &'a HeaderMap) -> Self {
        let mut request = Self::default();
        for (name, value) in map.iter() {
            request.readable = true;
            let slot = match name {
                b"x-request-id" => &mut request.id,
                b":method" => &mut request.method,
                b":authority" => &mut request.authority,
                b":path" => &mut request.target,
                b"content-type" => {
                    request.grpc |= is_grpc(value);
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
    let (mut quoted, mut escaped) = (false, false);
    // Where the pair that is read begins, and what the element has shown so far.
    let (mut start, mut own, mut uri, mut uris): (_, _, &[u8], _) = (0, false, &[], 0);
    for (at, byte) in client_cert.iter().copied().chain([b';']).enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b';' | b',' if !quoted => {
                let pair = client_cert.get(start..at).unwrap_or_default();
                start = at + 1;
                own |= pair.starts_with(b"Hash=");
                if let Some(value) = pair.strip_prefix(b"URI=") {
                    (uri, uris) = (value, uris + 1);
                }
                if byte == b',' {
                    (own, uri, uris) = (false, &[], 0);
                }
            }
            _ => {}
        }
    }
    let sure = own && uris == 1 && !quoted && uri.starts_with(b"spiffe://");
    if sure { uri } else { &[] }
}

/// A request's headers, kept until its end: those that a record shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptRequest {
    /// Request id, method, authority, target, principal and `x-request-id`, one behind the other.
    texts: Vec<u8>,
    lengths: [usize; 6],
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
        let texts =
            [seen.request_id, seen.method, seen.authority, seen.target, principal, request.id];
        Self {
            texts: texts.concat(),
            lengths: texts.map(<[u8]>::len),
            included: if included.is_empty() { HeaderMap::default() } else { serialize(&included) },
            peer_session: request.trace.session_header().map(|header| header.session),
            grpc: request.grpc,
            readable: request.readable,
        }
    }

    /// Whether a request that came later may be this one again, met by the filter a second time.
    pub fn is_alike(&self, request: &Request<'_>) -> bool {
        let [.., id] = self.texts();
        id == request.id
    }

    /// The texts of the hop that is sent on, as the request phase left them: with this proxy's request id, not
    /// that which the one before named.
    pub fn left(&self) -> Seen<'_> {
        let [.., request_id] = self.texts();
        Seen { request_id, ..self.seen() }
    }

    /// The included headers.
    pub fn included(&self) -> Vec<HeaderField<'_>> {
        self.included.iter().map(|(name, value)| HeaderField { name, value }).collect()
    }

    fn texts(&self) -> [&[u8]; 6] {
        let mut rest = self.texts.as_slice();
        self.lengths.map(|length| {
            let (text, tail) = rest.split_at_checked(length).unwrap_or_default();
            rest = tail;
            text
        })
    }

    /// The texts of the hop.
    pub fn seen(&self) -> Seen<'_> {
        let [request_id, method, authority, target, ..] = self.texts();
        Seen { request_id, method, authority, target }
    }

    /// The peer's principal, where a header told it.
    pub fn principal(&self) -> &[u8] {
        let [.., principal, _] = self.texts();
        principal
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
        assert_eq!(kept.seen(), read.seen());
        let seen = kept.seen();
        assert_eq!((seen.method, seen.target), (&b"POST"[..], &b"/a?b"[..]));
        assert_eq!((seen.request_id, seen.authority), (&b"4711"[..], &b""[..]));
        assert_eq!(kept.left().request_id, b"made up on the way");
        assert_eq!((kept.principal(), kept.peer_session), (&b"spiffe://a"[..], Some([7; 16])));
        assert!(kept.grpc && kept.readable);
        assert_eq!(read.trace.b3_trace_id, Some(&b"1"[..]));
        assert!(!Request::read(&HeaderMap::default()).readable);
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
            (b"", b""),
        ] {
            assert_eq!(principal_of(header), expected, "{}", String::from_utf8_lossy(header));
        }
    }
}
