//! What Envoy knows of a call at its end, read in one crossing.
//!
//! Each single attribute costs a host call; a CEL list costs little more than two of them
//! (docs/performance.md). A missing attribute fails the whole list: then a list is asked for in which each
//! that may be missing has a default, and so it is for the calls that follow as long as something is missing.
//! Where a host has no expressions, single attributes serve.

use crate::headers::HeaderMap;
use crate::host::Host;

/// Most attributes.
const MOST: usize = 12;

/// One attribute, as CEL in each [`Kind`] of list, and as the path of a property.
struct Attribute {
    cel: [&'static str; 3],
    path: &'static str,
}

/// Which list. A guarded attribute takes twice the time of a bare one, so usual calls go without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    /// All bare: what nearly every call by mTLS has.
    #[default]
    Quick,
    /// All bare but the peer, for calls without mTLS.
    Plain,
    /// What cannot fail.
    Sure,
}

const fn present(cel: &'static str, path: &'static str) -> Attribute {
    Attribute { cel: [cel; 3], path }
}

const fn attribute(quick: &'static str, sure: &'static str, path: &'static str) -> Attribute {
    Attribute { cel: [quick, quick, sure], path }
}

/// Of either side.
const COMMON: [Attribute; 10] = [
    present("request.time", "request\0time"),
    present("request.duration", "request\0duration"),
    attribute("response.code", "has(response.code) ? response.code : false", "response\0code"),
    present("response.flags", "response\0flags"),
    attribute(
        "response.code_details",
        "has(response.code_details) ? response.code_details : false",
        "response\0code_details",
    ),
    present("request.total_size", "request\0total_size"),
    present("response.total_size", "response\0total_size"),
    attribute(
        "request.protocol",
        "has(request.protocol) ? request.protocol : false",
        "request\0protocol",
    ),
    attribute("xds.route_name", "has(xds.route_name) ? xds.route_name : false", "xds\0route_name"),
    attribute(
        "xds.cluster_name",
        "has(xds.cluster_name) ? xds.cluster_name : false",
        "xds\0cluster_name",
    ),
];
const SERVER: [Attribute; 2] = [
    Attribute {
        cel: [
            "connection.uri_san_peer_certificate",
            "connection.mtls", // in place of the peer, to know when there is one
            "has(connection.uri_san_peer_certificate) ? connection.uri_san_peer_certificate : false",
        ],
        path: "connection\0uri_san_peer_certificate",
    },
    // Asked for where it is not known; the last, so that it can be left out.
    present("xds.listener_direction", "xds\0listener_direction"),
];
const IF_ANY: &str =
    "has(upstream.uri_san_peer_certificate) ? upstream.uri_san_peer_certificate : false";
const CLIENT: [Attribute; 2] = [
    Attribute {
        cel: ["upstream.uri_san_peer_certificate", IF_ANY, IF_ANY],
        path: "upstream\0uri_san_peer_certificate",
    },
    attribute(
        "upstream.request_attempt_count",
        "has(upstream.request_attempt_count) ? upstream.request_attempt_count : false",
        "upstream\0request_attempt_count",
    ),
];
/// Where the peer stands in a list.
const PEER: usize = COMMON.len();

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
    let own = match side {
        As::Client => &CLIENT[..],
        As::Server => &SERVER[..1],
        As::Unknown => &SERVER[..],
    };
    COMMON.iter().chain(own)
}

fn list(side: As, kind: Kind) -> String {
    let items: Vec<_> =
        attributes(side).filter_map(|a| a.cel.get(kind as usize).copied()).collect();
    format!("[{}]", items.join(", "))
}

const SIDES: [As; 3] = [As::Client, As::Server, As::Unknown];
const KINDS: [Kind; 3] = [Kind::Quick, Kind::Plain, Kind::Sure];

/// The expressions of all root contexts, by the number of the first; none where the host has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expressions {
    first: Option<u32>,
    /// The list that would have done for the last call, by kind of side: the next call is asked about with it.
    usual: [Kind; SIDES.len()],
}

impl Expressions {
    /// Makes the expressions of the current root context; the host numbers them one after the other.
    pub fn create(host: &impl Host) -> Self {
        let texts = SIDES.iter().flat_map(|&side| KINDS.map(|kind| list(side, kind)));
        let mut tokens = texts.map(|text| host.create_expression(&text));
        let first = tokens.next().flatten();
        let follow =
            |first: &u32| tokens.zip(*first + 1..).all(|(token, next)| token == Some(next));
        Self { first: first.filter(follow), ..Self::default() }
    }

    /// These and another root context's: a host numbers each one's alike. Should one not, there are none.
    pub fn also(self, other: Self) -> Self {
        Self { first: self.first.filter(|first| other.first == Some(*first)), ..self }
    }

    fn evaluate(self, host: &impl Host, kind: Kind, side: As) -> Option<HeaderMap> {
        let token = self.first? + KINDS.len() as u32 * side as u32 + kind as u32;
        let list = HeaderMap::new(host.evaluate(token)?);
        (list.count() == attributes(side).count()).then_some(list)
    }

    /// The list of the current stream; `None` where the host evaluates none.
    fn list(&mut self, host: &impl Host, side: As) -> Option<HeaderMap> {
        let usual = self.usual.get(side as usize).copied()?;
        let list = match (usual, self.evaluate(host, usual, side)) {
            (Kind::Quick, Some(list)) => return Some(list),
            (Kind::Plain, Some(list)) if !has_peer(&list) => return Some(list),
            // Server sides say that there is a peer, and not which.
            (Kind::Plain, Some(list)) if side == As::Client => list,
            (Kind::Sure, Some(list)) => list,
            _ => self.evaluate(host, Kind::Sure, side)?,
        };
        if let Some(usual) = self.usual.get_mut(side as usize) {
            *usual = enough_for(&list);
        }
        Some(list)
    }
}

/// What a list has in place of a missing attribute: no attribute that is there looks like CEL's `false`, and an
/// empty text, as the name of a route without one, is not missing.
const MISSING: &[u8] = &[0];

fn has_peer(list: &HeaderMap) -> bool {
    list.iter().nth(PEER).is_some_and(|(peer, _)| !matches!(peer, [] | MISSING))
}

/// The least list that would have told what this one does.
fn enough_for(list: &HeaderMap) -> Kind {
    let mut elements = list.iter().enumerate();
    if elements.any(|(at, (element, _))| at != PEER && element == MISSING) {
        Kind::Sure
    } else if has_peer(list) {
        Kind::Quick
    } else {
        Kind::Plain
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
    pub fn read(host: &impl Host, expressions: &mut Expressions, side: As) -> Self {
        expressions.list(host, side).map_or_else(
            || {
                let single = |a: &Attribute| host.property(a.path).unwrap_or_default();
                Self::Singles(attributes(side).map(single).collect())
            },
            Self::List,
        )
    }

    /// Asks for status and flags only; for all attributes where that is not enough: no response, one
    /// with flags, or one to a client side that did not come from its upstream.
    pub fn read_brief(host: &impl Host, expressions: &mut Expressions, side: As) -> Self {
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
            Self::List(list) => {
                let present = list.iter().map(|(e, _)| if e == MISSING { &[] } else { e });
                values.iter_mut().zip(present).for_each(|(v, e)| *v = e);
            }
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
    let kinds = SIDES.iter().flat_map(|&side| KINDS.map(|kind| (side, kind)));
    let (side, kind) = kinds.into_iter().find(|&(side, kind)| text == list(side, kind))?;
    let values = attributes(side).map(|a| {
        let [quick, plain, sure] = a.cel;
        let guarded = kind == Kind::Sure || plain == IF_ANY && kind == Kind::Plain;
        let missing = match quick == sure {
            true => Some(Vec::new()), // which hosts always have
            false => guarded.then(|| MISSING.to_vec()),
        };
        match kind {
            Kind::Plain if plain == "connection.mtls" => {
                Some(vec![u8::from(property(a.path).is_some())])
            }
            _ => property(a.path).or(missing),
        }
    });
    let values: Vec<_> = values.collect::<Option<_>>()?;
    let pairs: Vec<_> = values.iter().map(|v| (v.as_slice(), &[][..])).collect();
    Some(crate::headers::serialize(&pairs).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_host::TestHost;

    const PEERS: [(As, &str, &[u8]); 3] = [
        (As::Unknown, "connection\0uri_san_peer_certificate", b"spiffe://server-side"),
        (As::Server, "connection\0uri_san_peer_certificate", b"spiffe://server-side"),
        (As::Client, "upstream\0uri_san_peer_certificate", b"spiffe://client-side"),
    ];

    const CLUSTER: &str = "xds\0cluster_name";

    fn host() -> TestHost {
        let host = TestHost::default();
        host.has_expressions.set(true);
        host.set_number("xds\0listener_direction", 2);
        host.set_number("request\0time", 5);
        host.set_number("response\0code", 503);
        host.set_number("response\0flags", 0);
        host.set_text("response\0code_details", b"via_upstream");
        host.set_text("xds\0route_name", b"default");
        host.set_text(CLUSTER, b"inbound|9080||");
        host.set_text("request\0protocol", b"HTTP/2");
        host.set_number("upstream\0request_attempt_count", 1);
        PEERS.iter().for_each(|(_, path, peer)| host.set_text(path, peer));
        host
    }

    #[test]
    fn a_list_and_single_attributes_tell_the_same() {
        for (side, path, peer) in PEERS {
            let host = host();
            host.set_text("xds\0route_name", b""); // there, and without a name
            let mut expressions = Expressions::create(&host);
            // Which lists are asked for, and with which the next call begins.
            let mut asked = |missing: &[&str], lists: &[Kind], next: Kind| {
                let take = |path: &&str| {
                    Some((path.to_string(), host.properties.borrow_mut().remove(*path)?))
                };
                let left: Vec<_> = missing.iter().filter_map(take).collect();
                host.evaluated.borrow_mut().clear();
                let answer = Answer::read(&host, &mut expressions, side);
                assert!(matches!(answer, Answer::List(_)));
                let singles = Answer::read(&host, &mut Expressions::default(), side);
                assert!(matches!(singles, Answer::Singles(_)));
                let call = answer.attributes(side);
                assert_eq!(call, singles.attributes(side));
                assert_eq!(call.direction, if side == As::Unknown { 2 } else { 0 });
                assert_eq!((call.start_ns, call.code, call.route), (5, 503, &b""[..]));
                assert_eq!(call.peer, if missing.contains(&path) { b"" } else { peer });
                assert_eq!(call.protocol.is_empty(), missing.contains(&"request\0protocol"));
                assert_eq!(call.cluster.is_empty(), missing.contains(&CLUSTER));
                assert_eq!(call.attempts, u32::from(side == As::Client));
                let tokens = lists.iter().map(|&kind| 3 * side as u32 + kind as u32);
                assert_eq!(*host.evaluated.borrow(), tokens.collect::<Vec<_>>());
                assert_eq!(expressions.usual.get(side as usize), Some(&next));
                host.properties.borrow_mut().extend(left);
            };
            asked(&[], &[Kind::Quick], Kind::Quick);
            asked(&["request\0protocol"], &[Kind::Quick, Kind::Sure], Kind::Sure);
            asked(&[], &[Kind::Sure], Kind::Quick);
            asked(&[CLUSTER], &[Kind::Quick, Kind::Sure], Kind::Sure);
            asked(&[CLUSTER, path], &[Kind::Sure], Kind::Sure);
            asked(&[path], &[Kind::Sure], Kind::Plain);
            asked(&[path], &[Kind::Plain], Kind::Plain);
            asked(&[CLUSTER, path], &[Kind::Plain, Kind::Sure], Kind::Sure);
            asked(&[], &[Kind::Sure], Kind::Quick);
            asked(&[path], &[Kind::Quick, Kind::Sure], Kind::Plain);
            let again = [Kind::Plain, Kind::Sure];
            asked(&[], if side == As::Client { &again[..1] } else { &again }, Kind::Quick);
            asked(&[], &[Kind::Quick], Kind::Quick);
        }
    }

    #[test]
    fn expressions_are_those_that_follow_each_other() {
        let host = host();
        let from = |first| Expressions { first, ..Expressions::default() };
        let (first, second) = (Expressions::create(&host), Expressions::create(&host));
        assert_eq!((first, second), (from(Some(0)), from(Some(9))));
        assert_eq!(first.also(first), first);
        assert_eq!(first.also(second), from(None), "another root context's have other numbers");
        host.has_expressions.set(false);
        assert_eq!(Expressions::create(&host), from(None));
        assert_eq!(first.also(from(None)), from(None));
    }

    #[test]
    fn a_brief_answer_has_the_status_and_all_is_asked_for_where_that_is_not_enough() {
        let host = host();
        let mut expressions = Expressions::create(&host);
        let respond = |pairs: &[(&[u8], &[u8])]| {
            *host.response.borrow_mut() =
                pairs.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        };
        let mut start = |side| {
            let answer = Answer::read_brief(&host, &mut expressions, side);
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
