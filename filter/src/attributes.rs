//! What Envoy knows of a call at its end, read in one crossing.
//!
//! Each single attribute costs a host call; a CEL list costs little more than two of them
//! (docs/performance.md). A missing attribute fails the whole list: then a second list is asked for,
//! in which each that may be missing has a default. Where a host has no expressions, single attributes
//! serve.

use crate::headers::HeaderMap;
use crate::host::Host;

/// Most attributes.
const MOST: usize = 12;

/// One attribute, as CEL and as the path of a property.
struct Attribute {
    /// What nearly every call has: an unguarded attribute takes half of the time of a guarded one.
    quick: &'static str,
    /// What cannot fail.
    sure: &'static str,
    path: &'static str,
}

const fn attribute(quick: &'static str, sure: &'static str, path: &'static str) -> Attribute {
    Attribute { quick, sure, path }
}

const fn present(cel: &'static str, path: &'static str) -> Attribute {
    attribute(cel, cel, path)
}

/// Of either side.
const COMMON: [Attribute; 10] = [
    present("request.time", "request\0time"),
    present("request.duration", "request\0duration"),
    attribute("response.code", "has(response.code) ? response.code : 0", "response\0code"),
    present("response.flags", "response\0flags"),
    attribute(
        "response.code_details",
        "has(response.code_details) ? response.code_details : ''",
        "response\0code_details",
    ),
    present("request.total_size", "request\0total_size"),
    present("response.total_size", "response\0total_size"),
    attribute(
        "request.protocol",
        "has(request.protocol) ? request.protocol : ''",
        "request\0protocol",
    ),
    attribute("xds.route_name", "has(xds.route_name) ? xds.route_name : ''", "xds\0route_name"),
    attribute(
        "xds.cluster_name",
        "has(xds.cluster_name) ? xds.cluster_name : ''",
        "xds\0cluster_name",
    ),
];
const SERVER: [Attribute; 2] = [
    present(
        "connection.mtls ? connection.uri_san_peer_certificate : ''",
        "connection\0uri_san_peer_certificate",
    ),
    // Asked for where it is not known; the last, so that it can be left out.
    present("xds.listener_direction", "xds\0listener_direction"),
];
const CLIENT: [Attribute; 2] = [
    present(
        "has(upstream.uri_san_peer_certificate) ? upstream.uri_san_peer_certificate : ''",
        "upstream\0uri_san_peer_certificate",
    ),
    attribute(
        "upstream.request_attempt_count",
        "has(upstream.request_attempt_count) ? upstream.request_attempt_count : 0",
        "upstream\0request_attempt_count",
    ),
];

/// As which side the attributes are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// A client side, or a gateway.
    Client,
    /// The server side.
    Server,
    /// What seems to be the server side: the direction is asked for too.
    Unknown,
}

fn attributes(side: As) -> impl Iterator<Item = &'static Attribute> {
    let (own, known) = match side {
        As::Client => (&CLIENT, 0),
        As::Server => (&SERVER, 1),
        As::Unknown => (&SERVER, 0),
    };
    COMMON.iter().chain(own.iter().take(own.len() - known))
}

fn list(side: As, cel: impl Fn(&Attribute) -> &'static str) -> String {
    let items: Vec<_> = attributes(side).map(cel).collect();
    format!("[{}]", items.join(", "))
}

/// The expressions, in the order in which they are made.
const QUICK: u32 = 0;
const SURE: u32 = 3;

/// The expressions of one root context, by the number of the first; none where the host has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expressions {
    first: Option<u32>,
}

impl Expressions {
    /// Makes the expressions of the current root context; the host numbers them one after the other.
    pub fn create(host: &impl Host) -> Self {
        let sides = [As::Client, As::Server, As::Unknown];
        let quick = sides.map(|side| list(side, |a| a.quick));
        let sure = sides.map(|side| list(side, |a| a.sure));
        let mut tokens = quick.iter().chain(&sure).map(|text| host.create_expression(text));
        let first = tokens.next().flatten();
        let follow =
            |first: &u32| tokens.zip(*first + 1..).all(|(token, next)| token == Some(next));
        Self { first: first.filter(follow) }
    }

    fn evaluate(self, host: &impl Host, which: u32, side: As) -> Option<Vec<u8>> {
        host.evaluate(self.first? + which + side as u32)
    }
}

/// The host's answer, raw.
pub enum Answer {
    /// A CEL list: its elements stand where a header map has its names.
    List(HeaderMap),
    /// Single attributes, empty where missing.
    Singles(Vec<Vec<u8>>),
    /// Status only, of a response without flags.
    Brief {
        /// Status.
        code: u32,
        /// Whether the response is the upstream's.
        via_upstream: bool,
    },
}

const VIA_UPSTREAM: &[u8] = b"via_upstream";
/// What Envoy's router adds to each response that came from an upstream.
const UPSTREAM_TIME: &[u8] = b"x-envoy-upstream-service-time";

impl Answer {
    /// Asks for the attributes of the current stream.
    pub fn read(host: &impl Host, expressions: Expressions, side: As) -> Self {
        let list = expressions.evaluate(host, QUICK, side);
        let list = list.or_else(|| expressions.evaluate(host, SURE, side));
        let count = attributes(side).count();
        let list = list.map(HeaderMap::new).filter(|list| list.count() == count);
        list.map_or_else(
            || {
                let single = |a: &Attribute| host.property(a.path).unwrap_or_default();
                Self::Singles(attributes(side).map(single).collect())
            },
            Self::List,
        )
    }

    /// Asks for status and flags only; for all attributes where that is not enough: no response, one
    /// with flags, or one to a client side that did not come from its upstream.
    pub fn read_brief(host: &impl Host, expressions: Expressions, side: As) -> Self {
        let headers = host.response_headers();
        let status = headers.get(b":status").and_then(|text| std::str::from_utf8(text).ok());
        let code = status.and_then(|text| text.parse().ok());
        let via_upstream = headers.get(UPSTREAM_TIME).is_some();
        let flags = || host.property("response\0flags").map(|bytes| integer(&bytes));
        match code.filter(|_| (via_upstream || side != As::Client) && flags() == Some(0)) {
            Some(code) => Self::Brief { code, via_upstream },
            None => Self::read(host, expressions, side),
        }
    }

    /// The attributes in it, which was read as the same side.
    pub fn attributes(&self, side: As) -> Attributes<'_> {
        let mut values: [&[u8]; MOST] = [&[]; MOST];
        match self {
            Self::List(list) => values.iter_mut().zip(list.iter()).for_each(|(v, (e, _))| *v = e),
            Self::Singles(list) => values.iter_mut().zip(list).for_each(|(v, e)| *v = e),
            Self::Brief { code, via_upstream } => {
                let code_details = if *via_upstream { VIA_UPSTREAM } else { &[] };
                return Attributes { code: *code, code_details, ..Attributes::default() };
            }
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
            route,
            cluster,
            peer,
            last,
        ] = values;
        let (direction, attempts) =
            if side == As::Client { (&[][..], last) } else { (last, &[][..]) };
        Attributes {
            direction: integer(direction),
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// Direction of the listener: 1 inbound, 2 outbound, 0 neither. Only where it was not known.
    pub direction: u64,
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

/// What a host answers to an expression of this module.
#[cfg(test)]
pub(crate) fn evaluate(text: &str, property: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let side = match (text.contains("connection.mtls"), text.contains("direction")) {
        (false, _) => As::Client,
        (true, false) => As::Server,
        (true, true) => As::Unknown,
    };
    let quick = text == list(side, |a| a.quick);
    let values: Option<Vec<_>> = attributes(side)
        .map(|a| property(a.path).or((!quick || a.quick == a.sure).then(Vec::new)))
        .collect();
    let values = values?;
    let pairs: Vec<_> = values.iter().map(|v| (v.as_slice(), &[][..])).collect();
    Some(crate::headers::serialize(&pairs).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_host::TestHost;

    fn host() -> TestHost {
        let host = TestHost::default();
        host.has_expressions.set(true);
        host.set_number("xds\0listener_direction", 2);
        host.set_number("request\0time", 5);
        host.set_number("response\0code", 503);
        host.set_number("response\0flags", 0);
        host.set_text("response\0code_details", b"via_upstream");
        host.set_text("xds\0route_name", b"default");
        host.set_text("xds\0cluster_name", b"inbound|9080||");
        host.set_text("connection\0uri_san_peer_certificate", b"spiffe://server-side");
        host.set_text("upstream\0uri_san_peer_certificate", b"spiffe://client-side");
        host
    }

    #[test]
    fn a_list_and_single_attributes_tell_the_same() {
        let host = host();
        let expressions = Expressions::create(&host);
        let peers: [(As, &[u8]); 3] = [
            (As::Server, b"spiffe://server-side"),
            (As::Unknown, b"spiffe://server-side"),
            (As::Client, b"spiffe://client-side"),
        ];
        for (side, peer) in peers {
            let singles = Answer::read(&host, Expressions::default(), side);
            assert!(matches!(singles, Answer::Singles(_)));
            // The sure list, then the quick one.
            for protocol in [None, Some(b"HTTP/2")] {
                if let Some(protocol) = protocol {
                    host.set_text("request\0protocol", protocol);
                    host.set_number("upstream\0request_attempt_count", 1);
                }
                let list = Answer::read(&host, expressions, side);
                assert!(matches!(list, Answer::List(_)));
                let quick = expressions.evaluate(&host, QUICK, side);
                assert_eq!(quick.is_some(), protocol.is_some(), "which list served");
                let (list, singles) = (list.attributes(side), singles.attributes(side));
                assert_eq!((list.start_ns, list.code, list.flags), (5, 503, 0));
                assert_eq!((list.route, list.peer), (&b"default"[..], peer));
                let protocol = protocol.map_or(&[][..], |p| &p[..]);
                let attempts = u32::from(side == As::Client && !protocol.is_empty());
                assert_eq!(list, Attributes { protocol, attempts, ..singles });
            }
            host.properties.borrow_mut().remove("request\0protocol");
            host.properties.borrow_mut().remove("upstream\0request_attempt_count");
        }
    }

    #[test]
    fn expressions_are_those_that_follow_each_other() {
        let host = host();
        assert_eq!(Expressions::create(&host), Expressions { first: Some(0) });
        assert_eq!(Expressions::create(&host), Expressions { first: Some(6) });
        host.has_expressions.set(false);
        assert_eq!(Expressions::create(&host), Expressions::default());
    }

    #[test]
    fn a_brief_answer_has_the_status_and_all_is_asked_for_where_that_is_not_enough() {
        let host = host();
        let expressions = Expressions::create(&host);
        let respond = |pairs: &[(&[u8], &[u8])]| {
            *host.response.borrow_mut() =
                pairs.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        };
        let start = |side| {
            let answer = Answer::read_brief(&host, expressions, side);
            let call = answer.attributes(side);
            (call.start_ns, call.code, call.code_details.to_vec())
        };
        let (via, none) = (b"via_upstream".to_vec(), Vec::new());
        respond(&[(b":status", b"204"), (UPSTREAM_TIME, b"3")]);
        assert_eq!(start(As::Client), (0, 204, via.clone()));
        assert_eq!(start(As::Server), (0, 204, via.clone()));
        respond(&[(b":status", b"403")]);
        assert_eq!(start(As::Server), (0, 403, none));
        assert_eq!(start(As::Client), (5, 503, via.clone()), "it answered itself");
        host.set_number("response\0flags", 2);
        assert_eq!(start(As::Server), (5, 503, via.clone()), "it has flags");
        host.set_number("response\0flags", 0);
        respond(&[]);
        assert_eq!(start(As::Server), (5, 503, via), "no response");
    }
}
