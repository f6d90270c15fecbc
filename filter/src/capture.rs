//! One call: what the filter keeps of the request phase, and the record it makes at the end.

use crate::attributes::{self, Answer, Expressions};
use crate::config::{Config, PathPrivacy};
use crate::context::{Tracer, child_of, trace_headers, write};
use crate::headers::HeaderMap;
use crate::host::Host;
use meshchain_core::hop::{cut, hop_digest, path_hash, split_target};
use meshchain_core::own::span_digest;
use meshchain_core::record::ShownPath;
use meshchain_core::{
    Canonical, ContextSource, ENTRY_LEN, Entry, HopPart, OwnPart, Sampling, Side, SpanRecord,
    TraceContext,
};

/// Envoy's response flag "downstream connection terminated".
const DOWNSTREAM_GONE: u64 = 1 << 15;

/// What the request phase saw and did.
#[derive(Debug)]
pub struct RequestPhase {
    side: Side,
    received: Option<TraceContext>,
    /// Context that the filter left on the request.
    left: Option<TraceContext>,
    /// Headers as received; kept on the server side only, whose hop they are.
    headers: HeaderMap,
}

impl RequestPhase {
    /// Reads the request, and on its way out gives it a child span where no tracer does.
    pub fn run(
        host: &impl Host,
        gateway: bool,
        write_span: bool,
        random: impl FnOnce() -> [u8; 24],
    ) -> Self {
        let headers = host.request_headers();
        let side = side_of(host, gateway);
        let received_headers = trace_headers(&headers);
        let received = received_headers.context();
        if side == Side::Server {
            return Self { side, received, left: received, headers };
        }
        let mut left = received;
        if write_span && let Some(child) = child_of(received.as_ref(), &random()) {
            write(host, &received_headers, &child);
            left = Some(child);
        }
        Self { side, received, left, headers: HeaderMap::default() }
    }
}

/// Side of the current stream. A gateway's listeners have no direction, or are outbound.
fn side_of(host: &impl Host, gateway: bool) -> Side {
    match integer(host, "xds\0listener_direction") {
        _ if gateway => Side::Gateway,
        1 => Side::Server,
        2 => Side::Client,
        _ => Side::Gateway,
    }
}

/// A call made into what the queue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// The 90-byte entry.
    pub entry: [u8; ENTRY_LEN],
    /// Canonical span record; empty in payload mode `digest`.
    pub record: Vec<u8>,
    /// Start of the call, unix nanoseconds.
    pub start_ns: u64,
}

/// What came of a stream's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A call.
    Call(Captured),
    /// The collector's own traffic.
    Skipped,
    /// The host had no headers, as for a malformed request.
    Unreadable,
}

/// Makes the record at the end of a stream, and learns whether there is a tracer.
pub fn log(
    host: &impl Host,
    expressions: &Expressions,
    config: &Config,
    phase: Option<RequestPhase>,
    gateway: bool,
    tracer: &mut Tracer,
    salt: [u8; 16],
) -> Outcome {
    // What the server side saw is what it received; only the client side must look again.
    let received = phase.as_ref().filter(|p| p.side == Side::Server).map(|p| &p.headers);
    let at_end = received.is_none().then(|| host.request_headers());
    let Some(wire) = at_end.as_ref().or(received).filter(|headers| !headers.is_empty()) else {
        return Outcome::Unreadable;
    };
    let seen = trace_headers(wire).context();
    // Where an earlier filter answered, the request phase never ran and nothing was sent on.
    let (side, received, left) = match &phase {
        Some(phase) => (phase.side, phase.received, phase.left),
        None => (side_of(host, gateway), seen, seen),
    };
    let request = Request::read(wire);
    if is_own_traffic(&request, config) {
        return Outcome::Skipped;
    }
    let server = side == Side::Server;
    let answer = Answer::read(host, expressions, server);
    let call = answer.attributes();
    let via_upstream = call.code_details == b"via_upstream";
    if !server && via_upstream {
        tracer.learn(left.as_ref(), seen.as_ref());
    }
    let crossed = response_crossed(server, via_upstream, call.code_details, call.flags);
    let hop = HopPart::capture(
        seen.map(|c| c.trace_id),
        seen.map(|c| c.span_id),
        request.id,
        request.method,
        request.authority,
        request.target,
        if crossed { call.code } else { 0 },
    );
    let own = OwnPart {
        side,
        parent_span_id: seen.and_then(|c| c.parent_span_id),
        sampling: received.map_or(Sampling::Deferred, |c| c.sampling),
        context: context_source(received.as_ref(), seen.as_ref()),
        protocol: cut(call.protocol),
        grpc_status: request.grpc.then(|| integer(host, "response\0grpc_status") as u32),
        response_flags: call.flags,
        code_details: cut(call.code_details),
        start_ns: call.start_ns,
        duration_ns: call.duration_ns,
        request_bytes: call.request_bytes,
        response_bytes: call.response_bytes,
        peer_principal: cut(call.peer),
        peer_workload: if server { cut(request.peer) } else { &[] },
        cluster: cut(call.cluster),
        route: cut(call.route),
        attempts: if server { 0 } else { call.attempts },
        query: match config.path_privacy {
            PathPrivacy::Keep => cut(split_target(request.target).1),
            _ => &[],
        },
        salt,
        headers: Vec::new(),
    };
    Outcome::Call(encode(&hop, &own, config))
}

/// The digests, the entry, and the record as far as the configuration shows it.
fn encode(hop: &HopPart<'_>, own: &OwnPart<'_>, config: &Config) -> Captured {
    let (hop_bytes, own_bytes) = (hop.encode(), own.encode());
    let hop_digest = hop_digest(&hop_bytes);
    let span_digest = span_digest(&hop_digest, &own_bytes);
    let entry = Entry::new(own.side, hop.trace_id, hop.span_id, hop_digest, span_digest);
    let record =
        if config.records { record(hop, &hop_bytes, &own_bytes, config) } else { Vec::new() };
    Captured { entry: entry.to_bytes(), record, start_ns: own.start_ns }
}

fn record(hop: &HopPart<'_>, hop_bytes: &[u8], own_bytes: &[u8], config: &Config) -> Vec<u8> {
    let path: ShownPath = match config.path_privacy {
        PathPrivacy::StripQuery | PathPrivacy::Keep => ShownPath::Whole,
        PathPrivacy::Hash => ShownPath::Hashed(path_hash(hop.path)),
        PathPrivacy::Drop => ShownPath::Dropped,
    };
    if path == ShownPath::Whole {
        return SpanRecord { hop: hop_bytes, own: own_bytes, path }.encode();
    }
    let hop = HopPart { path: &[], ..*hop }.encode();
    SpanRecord { hop: &hop, own: own_bytes, path }.encode()
}

/// The request's part of a hop, and what else its headers tell.
#[derive(Default)]
struct Request<'a> {
    id: &'a [u8],
    method: &'a [u8],
    authority: &'a [u8],
    target: &'a [u8],
    peer: &'a [u8],
    grpc: bool,
}

impl<'a> Request<'a> {
    fn read(map: &'a HeaderMap) -> Self {
        let mut request = Self::default();
        for (name, value) in map.iter() {
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
                _ => continue,
            };
            if slot.is_empty() {
                *slot = value;
            }
        }
        request
    }
}

/// Batches on their way to a collector are no calls of the mesh: they would breed each other.
fn is_own_traffic(request: &Request<'_>, config: &Config) -> bool {
    request.method == b"POST"
        && request.target == config.collector_path.as_bytes()
        && request.authority == config.collector_authority.as_bytes()
}

/// Whether a complete response went over the wire between the sidecars.
///
/// The client side received one unless it answered itself or the upstream broke off; the server
/// side sent one, its own answers included, unless the downstream left or the upstream broke off.
fn response_crossed(server: bool, via_upstream: bool, details: &[u8], flags: u64) -> bool {
    if flags & DOWNSTREAM_GONE != 0 || details.starts_with(b"upstream_reset_after_response_started")
    {
        return false;
    }
    server || via_upstream
}

fn context_source(received: Option<&TraceContext>, used: Option<&TraceContext>) -> ContextSource {
    match (received, used) {
        (_, None) => ContextSource::None,
        (Some(_), Some(_)) => ContextSource::Received,
        (None, Some(_)) => ContextSource::Generated,
    }
}

/// A single attribute that is an integer; 0 where absent.
fn integer(host: &impl Host, path: &str) -> u64 {
    host.property(path).map_or(0, |bytes| attributes::integer(&bytes))
}
