//! What Envoy knows of a call at its end, read in one crossing.
//!
//! Each single attribute costs a host call; a CEL list costs little more than two of them
//! (docs/performance.md). A missing attribute fails the whole list: then a list is asked for in which each
//! that may be missing has a default, and so it is for the calls that follow as long as something is missing.
//! Where a host has no expressions, single attributes serve.

use crate::headers::HeaderMap;
use crate::host::Host;

/// Most attributes.
pub(crate) const MOST: usize = 14;

/// One attribute, as CEL in each [`Kind`] of list, and as the path of a property.
#[derive(Clone, Copy)]
pub(crate) struct Attribute {
    pub(crate) field: Field,
    cel: [&'static str; 3],
    pub(crate) path: &'static str,
}

/// Which of [`Attributes`] an attribute is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
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
    pub(crate) fn attributes(self) -> impl Iterator<Item = &'static Attribute> {
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
    pub(crate) fn list(&mut self, host: &impl Host, ask: Ask) -> Option<HeaderMap> {
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
pub(crate) const MISSING: &[u8] = &[0];

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
mod tests;
