//! What Envoy knows of a call at its end, read in one crossing.
//!
//! Each single attribute costs a host call; a CEL list costs little more than two of them
//! (docs/performance.md). A missing attribute fails the whole list: then a list is asked for in which each
//! that may be missing has a default, and so it is for the calls that follow as long as something is missing.
//! Where a host has no expressions, single attributes serve.

use crate::config::Detail;
use crate::headers::HeaderMap;
use crate::host::Host;

/// Most attributes.
const MOST: usize = 14;

/// One attribute, as CEL in each [`Kind`] of list, and as the path of a property.
#[derive(Clone, Copy)]
struct Attribute {
    field: Field,
    cel: [&'static str; 3],
    path: &'static str,
}

/// Which of [`Attributes`] an attribute is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Start,
    Duration,
    Code,
    Flags,
    Details,
    RequestBytes,
    ResponseBytes,
    Protocol,
    Route,
    Cluster,
    Peer,
    UpstreamPeer,
    Attempts,
    Grpc,
}

impl Attribute {
    fn is_peer(&self) -> bool {
        matches!(self.field, Field::Peer | Field::UpstreamPeer)
    }
}

/// Which list. A guarded attribute takes twice the time of a bare one, so usual calls go without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    /// All bare: what nearly every call by mTLS has.
    #[default]
    Quick,
    /// All bare but the peers, for calls without mTLS.
    Plain,
    /// What cannot fail.
    Sure,
}

const fn present(field: Field, cel: &'static str, path: &'static str) -> Attribute {
    Attribute { field, cel: [cel; 3], path }
}

const fn attribute(
    field: Field,
    quick: &'static str,
    sure: &'static str,
    path: &'static str,
) -> Attribute {
    Attribute { field, cel: [quick, quick, sure], path }
}

/// Of either side.
const COMMON: [Attribute; 10] = [
    present(Field::Start, "request.time", "request\0time"),
    present(Field::Duration, "request.duration", "request\0duration"),
    attribute(
        Field::Code,
        "response.code",
        "has(response.code) ? response.code : false",
        "response\0code",
    ),
    present(Field::Flags, "response.flags", "response\0flags"),
    attribute(
        Field::Details,
        "response.code_details",
        "has(response.code_details) ? response.code_details : false",
        "response\0code_details",
    ),
    present(Field::RequestBytes, "request.total_size", "request\0total_size"),
    present(Field::ResponseBytes, "response.total_size", "response\0total_size"),
    attribute(
        Field::Protocol,
        "request.protocol",
        "has(request.protocol) ? request.protocol : false",
        "request\0protocol",
    ),
    attribute(
        Field::Route,
        "xds.route_name",
        "has(xds.route_name) ? xds.route_name : false",
        "xds\0route_name",
    ),
    attribute(
        Field::Cluster,
        "xds.cluster_name",
        "has(xds.cluster_name) ? xds.cluster_name : false",
        "xds\0cluster_name",
    ),
];
const DOWNSTREAM: &str = "connection.uri_san_peer_certificate";
const DOWNSTREAM_IF_ANY: &str =
    "has(connection.uri_san_peer_certificate) ? connection.uri_san_peer_certificate : false";
/// Path of the peer of the connection that came in, from mTLS.
pub const DOWNSTREAM_PEER: &str = "connection\0uri_san_peer_certificate";
const UPSTREAM: &str = "upstream.uri_san_peer_certificate";
const UPSTREAM_IF_ANY: &str =
    "has(upstream.uri_san_peer_certificate) ? upstream.uri_san_peer_certificate : false";
/// Path of the peer of the connection that went out, from mTLS.
pub const UPSTREAM_PEER: &str = "upstream\0uri_san_peer_certificate";
/// Path of the number of upstream attempts.
pub const ATTEMPTS: &str = "upstream\0request_attempt_count";
const SERVER: [Attribute; 1] = [Attribute {
    field: Field::Peer,
    // In place of the peer its absence, to know when there is one.
    cel: [DOWNSTREAM, "connection.mtls", DOWNSTREAM_IF_ANY],
    path: DOWNSTREAM_PEER,
}];
const CLIENT: [Attribute; 2] = [
    Attribute {
        field: Field::UpstreamPeer,
        cel: [UPSTREAM, UPSTREAM_IF_ANY, UPSTREAM_IF_ANY],
        path: UPSTREAM_PEER,
    },
    attribute(
        Field::Attempts,
        "upstream.request_attempt_count",
        "has(upstream.request_attempt_count) ? upstream.request_attempt_count : false",
        ATTEMPTS,
    ),
];
const MIDDLE: [Attribute; 3] = [
    CLIENT[0],
    CLIENT[1],
    Attribute {
        field: Field::Peer,
        cel: [DOWNSTREAM, DOWNSTREAM_IF_ANY, DOWNSTREAM_IF_ANY],
        path: DOWNSTREAM_PEER,
    },
];
/// Asked for of gRPC calls alone; always the last.
const GRPC: Attribute = attribute(
    Field::Grpc,
    "response.grpc_status",
    "has(response.grpc_status) ? response.grpc_status : false",
    GRPC_STATUS,
);
/// Path of the gRPC status.
pub const GRPC_STATUS: &str = "response\0grpc_status";

/// As which side the attributes are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// The client side.
    Client,
    /// The server side.
    Server,
    /// The server side of a call whose peer a header tells.
    Told,
    /// A proxy in the middle, which has a peer on each side.
    Middle,
}

/// What is asked about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// As which side.
    pub side: As,
    /// Whether it is a gRPC call.
    pub grpc: bool,
}

impl Ask {
    fn attributes(self) -> impl Iterator<Item = &'static Attribute> {
        let own = match self.side {
            As::Client => &CLIENT[..],
            As::Server => &SERVER[..],
            As::Told => &[],
            As::Middle => &MIDDLE[..],
        };
        COMMON.iter().chain(own).chain(self.grpc.then_some(&GRPC))
    }

    fn list(self, kind: Kind) -> String {
        let items: Vec<_> =
            self.attributes().filter_map(|a| a.cel.get(kind as usize).copied()).collect();
        format!("[{}]", items.join(", "))
    }

    /// Its place among [`ASKS`].
    fn number(self) -> usize {
        2 * self.side as usize + usize::from(self.grpc)
    }

    /// Whether a list that stands in for a peer has one.
    fn has_peers(self, list: &HeaderMap) -> bool {
        let peer = |(at, a): (usize, &Attribute)| a.is_peer().then_some(at);
        let mut peers = self.attributes().enumerate().filter_map(peer);
        let present = |at| list.iter().nth(at).is_some_and(|(p, _)| !matches!(p, [] | MISSING));
        peers.all(present)
    }

    /// The least list that would have told what this one does.
    fn enough_for(self, list: &HeaderMap) -> Kind {
        let mut others = self.attributes().zip(list.iter()).filter(|(a, _)| !a.is_peer());
        if others.any(|(_, (element, _))| element == MISSING) {
            Kind::Sure
        } else if self.has_peers(list) {
            Kind::Quick
        } else {
            Kind::Plain
        }
    }
}

const SIDES: [As; 4] = [As::Client, As::Server, As::Told, As::Middle];
const KINDS: [Kind; 3] = [Kind::Quick, Kind::Plain, Kind::Sure];

fn asks() -> impl Iterator<Item = Ask> {
    SIDES.into_iter().flat_map(|side| [false, true].map(|grpc| Ask { side, grpc }))
}

/// The expressions of a root context, by the number of the first; none where the host has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expressions {
    first: Option<u32>,
    /// The list that would have done for the last call, by what is asked: the next call is asked about with it.
    usual: [Kind; 2 * SIDES.len()],
}

impl Expressions {
    /// Makes the expressions of the current root context; the host numbers them one after the other.
    pub fn create(host: &impl Host) -> Self {
        let texts = asks().flat_map(|ask| KINDS.map(|kind| ask.list(kind)));
        let mut tokens = texts.map(|text| host.create_expression(&text));
        let first = tokens.next().flatten();
        let follow =
            |first: &u32| tokens.zip(*first + 1..).all(|(token, next)| token == Some(next));
        Self { first: first.filter(follow), ..Self::default() }
    }

    fn evaluate(self, host: &impl Host, kind: Kind, ask: Ask) -> Option<HeaderMap> {
        let token = self.first? + (KINDS.len() * ask.number()) as u32 + kind as u32;
        let list = HeaderMap::new(host.evaluate(token)?);
        (list.count() == ask.attributes().count()).then_some(list)
    }

    /// The list of the current stream; `None` where the host evaluates none.
    fn list(&mut self, host: &impl Host, ask: Ask) -> Option<HeaderMap> {
        let usual = self.usual.get(ask.number()).copied()?;
        let list = match (usual, self.evaluate(host, usual, ask)) {
            (Kind::Quick, Some(list)) => return Some(list),
            (Kind::Plain, Some(list)) if !ask.has_peers(&list) => return Some(list),
            // Server sides say that there is a peer, and not which.
            (Kind::Plain, Some(list)) if ask.side != As::Server => list,
            (Kind::Sure, Some(list)) => list,
            _ => self.evaluate(host, Kind::Sure, ask)?,
        };
        if let Some(usual) = self.usual.get_mut(ask.number()) {
            *usual = ask.enough_for(&list);
        }
        Some(list)
    }
}

/// What a list has in place of a missing attribute: no attribute that is there looks like CEL's `false`, and an
/// empty text, as the name of a route without one, is not missing.
const MISSING: &[u8] = &[0];

/// The host's answer, raw.
pub enum Answer {
    /// A CEL list: its elements stand where a header map has its names.
    List(HeaderMap),
    /// Single attributes, empty where missing.
    Singles(Vec<Vec<u8>>),
    /// Of an ordinary call, only what is cheap to ask for.
    Brief(Brief),
}

/// What a brief answer has.
#[derive(Debug, Default)]
pub struct Brief {
    code: u32,
    /// Whether the response is the upstream's.
    via_upstream: bool,
    peer: Vec<u8>,
    upstream_peer: Vec<u8>,
    grpc_status: Vec<u8>,
}

/// What Envoy says of a response that came from an upstream.
pub const VIA_UPSTREAM: &[u8] = b"via_upstream";
/// What Envoy's router adds to each response that came from an upstream.
const UPSTREAM_TIME: &[u8] = b"x-envoy-upstream-service-time";

impl Answer {
    /// Asks for the attributes of the current stream.
    pub fn read(host: &impl Host, expressions: &mut Expressions, ask: Ask) -> Self {
        expressions.list(host, ask).map_or_else(
            || {
                let single = |a: &Attribute| host.property(a.path).unwrap_or_default();
                Self::Singles(ask.attributes().map(single).collect())
            },
            Self::List,
        )
    }

    /// Asks for status and flags, and with `detail: auto` for the principals; for all attributes where the
    /// call is none of the ordinary ones: no response, one with flags, or one to a sending side that did not
    /// come from its upstream; with `auto` also one that is not 2xx, or was retried.
    pub fn read_brief(
        host: &impl Host,
        expressions: &mut Expressions,
        ask: Ask,
        detail: Detail,
    ) -> Self {
        let headers = host.response_headers();
        let status = headers.get(b":status").and_then(|text| std::str::from_utf8(text).ok());
        let code: u32 = status.and_then(|text| text.parse().ok()).unwrap_or(0);
        let via_upstream = headers.get(UPSTREAM_TIME).is_some();
        let auto = detail == Detail::Auto;
        let sends = matches!(ask.side, As::Client | As::Middle);
        let number = |path| host.property(path).map(|bytes| integer(&bytes));
        let ordinary = code != 0
            && (via_upstream || !sends)
            && (!auto || (200..300).contains(&code))
            && number("response\0flags") == Some(0)
            && (!auto || !sends || number(ATTEMPTS).is_none_or(|attempts| attempts <= 1));
        if !ordinary {
            return Self::read(host, expressions, ask);
        }
        let text =
            |wanted: bool, path| wanted.then(|| host.property(path)).flatten().unwrap_or_default();
        Self::Brief(Brief {
            code,
            via_upstream,
            peer: text(auto && matches!(ask.side, As::Server | As::Middle), DOWNSTREAM_PEER),
            upstream_peer: text(auto && sends, UPSTREAM_PEER),
            grpc_status: text(ask.grpc, GRPC_STATUS),
        })
    }

    /// The attributes in it, which was read for the same question.
    pub fn attributes(&self, ask: Ask) -> Attributes<'_> {
        let mut values: [&[u8]; MOST] = [&[]; MOST];
        match self {
            Self::List(list) => {
                let present = list.iter().map(|(e, _)| if e == MISSING { &[] } else { e });
                values.iter_mut().zip(present).for_each(|(v, e)| *v = e);
            }
            Self::Singles(list) => values.iter_mut().zip(list).for_each(|(v, e)| *v = e),
            Self::Brief(brief) => {
                let code_details = if brief.via_upstream { VIA_UPSTREAM } else { &[] };
                return Attributes {
                    code: brief.code,
                    code_details,
                    peer: &brief.peer,
                    upstream_peer: &brief.upstream_peer,
                    grpc_status: status(&brief.grpc_status),
                    ..Attributes::default()
                };
            }
        }
        let mut attributes = Attributes::default();
        for (attribute, value) in ask.attributes().zip(values) {
            attributes.take(attribute.field, value);
        }
        attributes
    }
}

fn status(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() { None } else { u32::try_from(integer(bytes)).ok() }
}

/// Attributes of a call; a missing one is 0 or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// SPIFFE id of the peer whose call came in, from mTLS.
    pub peer: &'a [u8],
    /// SPIFFE id of the peer that the call was sent to, from mTLS.
    pub upstream_peer: &'a [u8],
    /// gRPC status, where it was asked for.
    pub grpc_status: Option<u32>,
}

impl<'a> Attributes<'a> {
    fn take(&mut self, field: Field, value: &'a [u8]) {
        match field {
            Field::Start => self.start_ns = integer(value),
            Field::Duration => self.duration_ns = integer(value),
            Field::Code => self.code = integer(value) as u32,
            Field::Flags => self.flags = integer(value),
            Field::Details => self.code_details = value,
            Field::RequestBytes => self.request_bytes = integer(value),
            Field::ResponseBytes => self.response_bytes = integer(value),
            Field::Protocol => self.protocol = value,
            Field::Route => self.route = value,
            Field::Cluster => self.cluster = value,
            Field::Peer => self.peer = value,
            Field::UpstreamPeer => self.upstream_peer = value,
            Field::Attempts => self.attempts = integer(value) as u32,
            Field::Grpc => self.grpc_status = status(value),
        }
    }
}

/// An integer, time or duration: 8 bytes, little-endian; 0 for anything else.
pub fn integer(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// What a host answers to an expression of this module.
#[cfg(test)]
pub(crate) fn evaluate(text: &str, property: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let all = asks().flat_map(|ask| KINDS.map(|kind| (ask, kind)));
    let (ask, kind) = all.into_iter().find(|&(ask, kind)| text == ask.list(kind))?;
    let values = ask.attributes().map(|a| {
        let [quick, plain, sure] = a.cel;
        let guarded = match kind {
            Kind::Quick => false,
            Kind::Plain => plain.starts_with("has("),
            Kind::Sure => true,
        };
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

    const CLUSTER: &str = "xds\0cluster_name";

    /// What is asked, and where the peer that it has stands.
    fn questions() -> impl Iterator<Item = (Ask, Vec<&'static str>)> {
        asks().map(|ask| {
            let peers = match ask.side {
                As::Client => vec![UPSTREAM_PEER],
                As::Server => vec![DOWNSTREAM_PEER],
                As::Told => vec![],
                As::Middle => vec![UPSTREAM_PEER, DOWNSTREAM_PEER],
            };
            (ask, peers)
        })
    }

    fn host() -> TestHost {
        let host = TestHost::default();
        host.has_expressions.set(true);
        host.set_number("request\0time", 5);
        host.set_number("response\0code", 503);
        host.set_number("response\0flags", 0);
        host.set_text("response\0code_details", b"via_upstream");
        host.set_text("xds\0route_name", b"default");
        host.set_text(CLUSTER, b"inbound|9080||");
        host.set_text("request\0protocol", b"HTTP/2");
        host.set_number(ATTEMPTS, 1);
        host.set_number(GRPC_STATUS, 7);
        host.set_text(UPSTREAM_PEER, b"spiffe://up");
        host.set_text(DOWNSTREAM_PEER, b"spiffe://down");
        host
    }

    #[test]
    fn a_list_and_single_attributes_tell_the_same() {
        for (ask, peers) in questions() {
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
                let answer = Answer::read(&host, &mut expressions, ask);
                assert!(matches!(answer, Answer::List(_)));
                let singles = Answer::read(&host, &mut Expressions::default(), ask);
                assert!(matches!(singles, Answer::Singles(_)));
                let call = answer.attributes(ask);
                assert_eq!(call, singles.attributes(ask));
                assert_eq!((call.start_ns, call.code, call.route), (5, 503, &b""[..]));
                for (path, peer, value) in [
                    (UPSTREAM_PEER, call.upstream_peer, &b"spiffe://up"[..]),
                    (DOWNSTREAM_PEER, call.peer, b"spiffe://down"),
                ] {
                    let there = peers.contains(&path) && !missing.contains(&path);
                    assert_eq!(peer, if there { value } else { b"" });
                }
                assert_eq!(call.protocol.is_empty(), missing.contains(&"request\0protocol"));
                assert_eq!(call.cluster.is_empty(), missing.contains(&CLUSTER));
                assert_eq!(call.attempts, u32::from(peers.contains(&UPSTREAM_PEER)));
                assert_eq!(call.grpc_status, ask.grpc.then_some(7));
                let tokens = lists.iter().map(|&kind| 3 * ask.number() as u32 + kind as u32);
                assert_eq!(*host.evaluated.borrow(), tokens.collect::<Vec<_>>());
                assert_eq!(expressions.usual.get(ask.number()), Some(&next));
                host.properties.borrow_mut().extend(left);
            };
            asked(&[], &[Kind::Quick], Kind::Quick);
            asked(&["request\0protocol"], &[Kind::Quick, Kind::Sure], Kind::Sure);
            asked(&[], &[Kind::Sure], Kind::Quick);
            asked(&[CLUSTER], &[Kind::Quick, Kind::Sure], Kind::Sure);
            asked(&[], &[Kind::Sure], Kind::Quick);
            for &path in &peers {
                asked(&[CLUSTER, path], &[Kind::Quick, Kind::Sure], Kind::Sure);
                asked(&[path], &[Kind::Sure], Kind::Plain);
                asked(&[path], &[Kind::Plain], Kind::Plain);
                asked(&[CLUSTER, path], &[Kind::Plain, Kind::Sure], Kind::Sure);
                asked(&[], &[Kind::Sure], Kind::Quick);
                asked(&[path], &[Kind::Quick, Kind::Sure], Kind::Plain);
                let again = [Kind::Plain, Kind::Sure];
                let whole = ask.side != As::Server;
                asked(&[], if whole { &again[..1] } else { &again }, Kind::Quick);
            }
            asked(&[], &[Kind::Quick], Kind::Quick);
        }
    }

    #[test]
    fn expressions_are_those_that_follow_each_other() {
        let host = host();
        let from = |first| Expressions { first, ..Expressions::default() };
        let number = (3 * asks().count()) as u32;
        assert_eq!(Expressions::create(&host), from(Some(0)));
        assert_eq!(Expressions::create(&host), from(Some(number)));
        host.has_expressions.set(false);
        assert_eq!(Expressions::create(&host), from(None));
    }

    #[test]
    fn a_brief_answer_has_what_is_cheap_and_all_is_asked_for_where_a_call_is_not_ordinary() {
        let host = host();
        let mut expressions = Expressions::create(&host);
        let respond = |pairs: &[(&[u8], &[u8])]| {
            *host.response.borrow_mut() =
                pairs.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        };
        let mut brief = |side, detail| {
            let ask = Ask { side, grpc: false };
            let answer = Answer::read_brief(&host, &mut expressions, ask, detail);
            let call = answer.attributes(ask);
            let peers = [call.peer, call.upstream_peer].map(<[u8]>::len);
            (matches!(answer, Answer::Brief(_)), call.code, peers)
        };
        let (up, down) = (b"spiffe://up".len(), b"spiffe://down".len());
        respond(&[(b":status", b"204"), (UPSTREAM_TIME, b"3")]);
        for side in SIDES {
            assert_eq!(brief(side, Detail::Lean), (true, 204, [0, 0]));
            let peers = match side {
                As::Client => [0, up],
                As::Server => [down, 0],
                As::Told => [0, 0],
                As::Middle => [down, up],
            };
            assert_eq!(brief(side, Detail::Auto), (true, 204, peers));
        }
        respond(&[(b":status", b"404"), (UPSTREAM_TIME, b"3")]);
        assert!(brief(As::Server, Detail::Lean).0);
        assert!(!brief(As::Server, Detail::Auto).0, "an error");
        respond(&[(b":status", b"200")]);
        assert!(brief(As::Server, Detail::Auto).0);
        assert!(!brief(As::Client, Detail::Lean).0, "it answered itself");
        respond(&[(b":status", b"200"), (UPSTREAM_TIME, b"3")]);
        host.set_number(ATTEMPTS, 2);
        assert!(!brief(As::Client, Detail::Auto).0, "it was retried");
        assert!(brief(As::Server, Detail::Auto).0);
        host.set_number(ATTEMPTS, 1);
        host.set_number("response\0flags", 2);
        assert!(!brief(As::Server, Detail::Lean).0, "it has flags");
        host.set_number("response\0flags", 0);
        respond(&[]);
        assert!(!brief(As::Server, Detail::Lean).0, "no response");
    }
}
