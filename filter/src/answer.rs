//! What the host answered about a call, and the attributes in it.

use crate::attributes::{
    ATTEMPTS, As, Ask, Attribute, DOWNSTREAM_PEER, Expressions, Field, GRPC_STATUS, MISSING, MOST,
    UPSTREAM_PEER,
};
use crate::config::Detail;
use crate::headers::HeaderMap;
use crate::host::Host;

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
pub(crate) const UPSTREAM_TIME: &[u8] = b"x-envoy-upstream-service-time";

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
