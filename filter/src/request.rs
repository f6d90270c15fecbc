//! What a request's headers tell.

use crate::headers::{HeaderMap, serialize};
use meshchain_core::context::TraceHeaders;
use meshchain_core::hop::cut;
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
    /// `x-envoy-peer-metadata-id`: the workload that the peer says it is.
    pub peer: &'a [u8],
    /// Whether it is a gRPC call.
    pub grpc: bool,
    /// Whether there is an `x-forwarded-client-cert`.
    pub client_cert: bool,
    /// Trace headers.
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
                b"x-envoy-peer-metadata-id" => &mut request.peer,
                b"content-type" => {
                    request.grpc |= value.starts_with(b"application/grpc");
                    continue;
                }
                b"x-forwarded-client-cert" => {
                    request.client_cert = true;
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

/// A request's headers, kept until its end: those that a record shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptRequest {
    /// Id, method, authority, target and peer, one behind the other.
    texts: Vec<u8>,
    lengths: [usize; 5],
    grpc: bool,
    readable: bool,
    included: HeaderMap,
}

impl KeptRequest {
    /// Copies what is needed.
    pub fn new(request: &Request<'_>, included: &[HeaderField<'_>]) -> Self {
        let included: Vec<_> = included.iter().map(|field| (field.name, field.value)).collect();
        let texts = [request.id, request.method, request.authority, request.target, request.peer];
        Self {
            texts: texts.concat(),
            lengths: texts.map(<[u8]>::len),
            grpc: request.grpc,
            readable: request.readable,
            included: if included.is_empty() { HeaderMap::default() } else { serialize(&included) },
        }
    }

    /// The included headers.
    pub fn included(&self) -> Vec<HeaderField<'_>> {
        self.included.iter().map(|(name, value)| HeaderField { name, value }).collect()
    }

    /// What was kept.
    pub fn request(&self) -> Request<'_> {
        let mut rest = self.texts.as_slice();
        let [id, method, authority, target, peer] = self.lengths.map(|length| {
            let (text, tail) = rest.split_at_checked(length).unwrap_or_default();
            rest = tail;
            text
        });
        let (grpc, readable) = (self.grpc, self.readable);
        Request { id, method, authority, target, peer, grpc, readable, ..Request::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::serialize;

    #[test]
    fn what_is_kept_of_a_request_is_what_was_read() {
        let map = serialize(&[
            (b":method", b"POST"),
            (b":path", b"/a?b"),
            (b":path", b"/second"),
            (b"content-type", b"application/grpc+proto"),
            (b"x-envoy-peer-metadata-id", b"sidecar~1"),
            (b"x-b3-traceid", b"1"),
        ]);
        let read = Request::read(&map);
        let names = ["content-type".to_owned(), ":path".to_owned(), "missing".to_owned()];
        let kept = KeptRequest::new(&read, &included(&map, &names));
        let fields = kept.included();
        let fields: Vec<_> = fields.iter().map(|field| (field.name, field.value)).collect();
        let expected: [(&[u8], &[u8]); 3] = [
            (b":path", b"/a?b"),
            (b":path", b"/second"),
            (b"content-type", b"application/grpc+proto"),
        ];
        assert_eq!(fields, expected);
        let kept = kept.request();
        assert_eq!((kept.method, kept.target, kept.peer), (read.method, read.target, read.peer));
        assert_eq!((kept.method, kept.target), (&b"POST"[..], &b"/a?b"[..]));
        assert_eq!((kept.id, kept.authority), (&b""[..], &b""[..]));
        assert!(kept.grpc && kept.readable);
        assert_eq!(read.trace.b3_trace_id, Some(&b"1"[..]));
        assert!(!Request::read(&HeaderMap::default()).readable);
    }
}
