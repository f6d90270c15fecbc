//! What Envoy knows of a call at its end, read in one crossing.
//!
//! Each single attribute costs a host call; a CEL list costs little more than one of them
//! (docs/performance.md). A missing attribute fails the whole list, so each that may be missing has a
//! default in the expression. Where a host has no expressions, or one fails, single attributes serve.

use crate::headers::HeaderMap;
use crate::host::Host;
use std::cell::OnceCell;

/// Number of attributes.
pub const COUNT: usize = 12;

/// One attribute: as a CEL expression that cannot fail, and as the path of a property.
struct Attribute {
    cel: &'static str,
    path: &'static str,
}

const fn attribute(cel: &'static str, path: &'static str) -> Attribute {
    Attribute { cel, path }
}

const COMMON: [Attribute; COUNT - 1] = [
    attribute("request.time", "request\0time"),
    attribute("request.duration", "request\0duration"),
    attribute("has(response.code) ? response.code : 0", "response\0code"),
    attribute("response.flags", "response\0flags"),
    attribute("has(response.code_details) ? response.code_details : ''", "response\0code_details"),
    attribute("request.total_size", "request\0total_size"),
    attribute("response.total_size", "response\0total_size"),
    attribute("has(request.protocol) ? request.protocol : ''", "request\0protocol"),
    attribute("has(xds.cluster_name) ? xds.cluster_name : ''", "xds\0cluster_name"),
    attribute("has(xds.route_name) ? xds.route_name : ''", "xds\0route_name"),
    attribute(
        "has(upstream.request_attempt_count) ? upstream.request_attempt_count : 0",
        "upstream\0request_attempt_count",
    ),
];
const SERVER_PEER: Attribute = attribute(
    "connection.mtls ? connection.uri_san_peer_certificate : ''",
    "connection\0uri_san_peer_certificate",
);
const CLIENT_PEER: Attribute = attribute(
    "has(upstream.uri_san_peer_certificate) ? upstream.uri_san_peer_certificate : ''",
    "upstream\0uri_san_peer_certificate",
);

fn attributes(server: bool) -> impl Iterator<Item = &'static Attribute> {
    COMMON.iter().chain([if server { &SERVER_PEER } else { &CLIENT_PEER }])
}

/// The expressions of one root context, which is what Envoy keeps them by; made at their first use.
#[derive(Debug, Default)]
pub struct Expressions {
    server: OnceCell<Option<u32>>,
    client: OnceCell<Option<u32>>,
}

impl Expressions {
    fn token(&self, host: &impl Host, server: bool) -> Option<u32> {
        let cell = if server { &self.server } else { &self.client };
        *cell.get_or_init(|| {
            let items: Vec<_> = attributes(server).map(|a| a.cel).collect();
            host.create_expression(&format!("[{}]", items.join(", ")))
        })
    }
}

/// The host's answer, raw.
pub enum Answer {
    /// A CEL list: its elements stand where a header map has its names.
    List(HeaderMap),
    /// Single attributes, empty where missing.
    Singles(Vec<Vec<u8>>),
}

impl Answer {
    /// Asks for the attributes of the current stream.
    pub fn read(host: &impl Host, expressions: &Expressions, server: bool) -> Self {
        let list = expressions.token(host, server).and_then(|token| host.evaluate(token));
        let list = list.map(HeaderMap::new).filter(|list| list.iter().count() == COUNT);
        list.map_or_else(
            || {
                let single = |a: &Attribute| host.property(a.path).unwrap_or_default();
                Self::Singles(attributes(server).map(single).collect())
            },
            Self::List,
        )
    }

    /// The attributes in it.
    pub fn attributes(&self) -> Attributes<'_> {
        let mut values: [&[u8]; COUNT] = [&[]; COUNT];
        match self {
            Self::List(list) => values.iter_mut().zip(list.iter()).for_each(|(v, (e, _))| *v = e),
            Self::Singles(list) => values.iter_mut().zip(list).for_each(|(v, e)| *v = e),
        }
        let [
            time,
            duration,
            code,
            flags,
            code_details,
            request_size,
            response_size,
            protocol,
            cluster,
            route,
            attempts,
            peer,
        ] = values;
        Attributes {
            start_ns: integer(time),
            duration_ns: integer(duration),
            code: integer(code) as u32,
            flags: integer(flags),
            code_details,
            request_bytes: integer(request_size),
            response_bytes: integer(response_size),
            protocol,
            cluster,
            route,
            attempts: integer(attempts) as u32,
            peer,
        }
    }
}

/// Attributes of a call; a missing one is 0 or empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// Start of the request, unix nanoseconds.
    pub start_ns: u64,
    /// Duration, nanoseconds.
    pub duration_ns: u64,
    /// Status of the response.
    pub code: u32,
    /// Response flags.
    pub flags: u64,
    /// Response code details.
    pub code_details: &'a [u8],
    /// Bytes of the request.
    pub request_bytes: u64,
    /// Bytes of the response.
    pub response_bytes: u64,
    /// Protocol.
    pub protocol: &'a [u8],
    /// Upstream cluster.
    pub cluster: &'a [u8],
    /// Route name.
    pub route: &'a [u8],
    /// Upstream attempts.
    pub attempts: u32,
    /// SPIFFE id of the peer, from mTLS.
    pub peer: &'a [u8],
}

/// An integer, time or duration: 8 bytes, little-endian; 0 for anything else.
pub fn integer(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
pub(crate) fn paths(server: bool) -> Vec<&'static str> {
    attributes(server).map(|a| a.path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_host::TestHost;

    #[test]
    fn a_list_and_single_attributes_tell_the_same() {
        let host = TestHost::default();
        host.set_number("request\0time", 5);
        host.set_number("response\0code", 503);
        host.set_text("xds\0route_name", b"default");
        host.set_text("connection\0uri_san_peer_certificate", b"spiffe://server-side");
        host.set_text("upstream\0uri_san_peer_certificate", b"spiffe://client-side");
        for (server, peer) in
            [(true, &b"spiffe://server-side"[..]), (false, b"spiffe://client-side")]
        {
            host.has_expressions.set(false);
            let singles = Answer::read(&host, &Expressions::default(), server);
            assert!(matches!(singles, Answer::Singles(_)));
            host.has_expressions.set(true);
            let list = Answer::read(&host, &Expressions::default(), server);
            assert!(matches!(list, Answer::List(_)));
            assert_eq!(list.attributes(), singles.attributes());
            assert_eq!((list.attributes().start_ns, list.attributes().code), (5, 503));
            assert_eq!((list.attributes().route, list.attributes().peer), (&b"default"[..], peer));
        }
    }
}
