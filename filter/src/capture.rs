//! One call: what the filter keeps of the request phase, and the record it makes at the end.

use crate::attributes::{Answer, As, Attributes, Expressions, integer};
use crate::config::{Config, PathPrivacy};
use crate::context::{Forms, Tracer, child_of, write};
use crate::headers::HeaderMap;
use crate::host::Host;
use crate::queue::Queue;
use crate::request::{KeptRequest, Request, included};
use meshchain_core::hop::{cut, split_target};
use meshchain_core::own::HeaderField;
use meshchain_core::{ContextSource, HopPart, OwnPart, Sampling, Side, TraceContext};

/// Envoy's response flags "downstream connection terminated" (DC) and "downstream remote reset" (DR).
const DOWNSTREAM_GONE: u64 = 1 << 14 | 1 << 28;
/// "Upstream request timeout" (UT), "stream idle timeout" (SI), "upstream max stream duration reached" (UMSDR)
/// and "duration timeout" (DT).
const OUT_OF_TIME: u64 = 1 << 2 | 1 << 16 | 1 << 19 | 1 << 22;
/// What Envoy answers where the time was up before a response began.
const TIMEOUTS: [u32; 2] = [408, 504];

/// What the request phase saw and did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RequestPhase {
    /// `None` where the end tells: it seems to be the server side.
    side: Option<Side>,
    received: Option<TraceContext>,
    /// Contexts that the filter left on the request; not on the server side, which learns nothing of tracers.
    left: Option<Forms>,
    /// Headers as received; kept unless this is known not to be the server side, whose hop they are.
    request: Option<KeptRequest>,
    /// When it was; only with `detail: lean`.
    start_ns: u64,
}

impl RequestPhase {
    /// Reads the request, and on its way out gives it a child span where no tracer does.
    ///
    /// To ask for the direction is dear. What has a client certificate in its headers came in, as far
    /// as a child span goes: Istio's sidecars put one into each request that came by mTLS, and take
    /// it out of those that go out. Which side the record is of, the end tells.
    pub fn run(
        host: &impl Host,
        config: &Config,
        gateway: bool,
        tracer: Tracer,
        random: impl FnOnce() -> [u8; 24],
    ) -> Self {
        let headers = host.request_headers();
        let request = Request::read(&headers);
        let received = request.trace.context();
        let ask = gateway || !request.client_cert;
        let side = ask.then(|| side_of(gateway, || direction(host)));
        let start_ns = if config.lean { host.now_ns() } else { 0 };
        let mut phase = Self { side, received, left: None, request: None, start_ns };
        match side {
            None | Some(Side::Server) => {
                let included = included(&headers, &config.include_headers);
                phase.request = Some(KeptRequest::new(&request, &included));
            }
            Some(_) => {
                let ours = config.child_spans && tracer.leaves_it_to_us(&request.trace);
                let child = || child_of(received.as_ref(), &random());
                phase.left = Some(match ours.then(child).flatten() {
                    Some(child) => write(host, &request.trace, &child),
                    None => Forms::of(&request.trace),
                });
            }
        }
        phase
    }
}

fn asked_as(side: Side) -> As {
    if side == Side::Server { As::Server } else { As::Client }
}

fn direction(host: &impl Host) -> u64 {
    host.property("xds\0listener_direction").map_or(0, |bytes| integer(&bytes))
}

/// A gateway's listeners have no direction, or are outbound.
fn side_of(gateway: bool, direction: impl FnOnce() -> u64) -> Side {
    if gateway {
        return Side::Gateway;
    }
    match direction() {
        1 => Side::Server,
        2 => Side::Client,
        _ => Side::Gateway,
    }
}

/// The request that a record is about.
struct Seen<'a> {
    request: Request<'a>,
    context: Option<TraceContext>,
    included: Vec<HeaderField<'a>>,
}

/// What came of a stream's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A call that began then, unix nanoseconds.
    Call(u64),
    /// On its way to the collector, or of a path that is left out.
    Skipped,
    /// The host had no headers, as for a malformed request.
    Unreadable,
}

/// What the end of a stream needs, and changes.
pub struct Ending<'a> {
    /// Configuration.
    pub config: &'a Config,
    /// Whether this proxy is a gateway.
    pub gateway: bool,
    /// How the attributes are asked for.
    pub expressions: &'a mut Expressions,
    /// Whether there is a tracer.
    pub tracer: &'a mut Tracer,
    /// Where the call goes.
    pub queue: &'a mut Queue,
    /// 16 fresh bytes.
    pub salt: [u8; 16],
}

impl Ending<'_> {
    /// Puts the stream's record into the queue, and learns whether there is a tracer.
    pub fn log(mut self, host: &impl Host, phase: Option<&RequestPhase>) -> Outcome {
        let known = phase.and_then(|phase| phase.side);
        // A brief answer does not tell the direction.
        let ask = phase.is_none() || self.config.lean;
        let known = known.or_else(|| ask.then(|| side_of(self.gateway, || direction(host))));
        let mut asked = known.map_or(As::Unknown, asked_as);
        let mut answer = self.ask(host, asked);
        let side = known.unwrap_or_else(|| side_of(false, || answer.attributes(asked).direction));
        if asked == As::Unknown && side != Side::Server {
            asked = asked_as(side);
            answer = self.ask(host, asked);
        }
        // What the server side saw is what it received; only the client side must look again.
        let kept = phase.and_then(|phase| Some((phase.request.as_ref()?, phase.received)));
        let kept = kept.filter(|_| side == Side::Server);
        let headers = if kept.is_none() { host.request_headers() } else { HeaderMap::default() };
        let seen = match kept {
            Some((kept, context)) => {
                Seen { request: kept.request(), context, included: kept.included() }
            }
            None => {
                let request = Request::read(&headers);
                let included = included(&headers, &self.config.include_headers);
                Seen { request, context: request.trace.context(), included }
            }
        };
        if !seen.request.readable {
            Outcome::Unreadable
        } else if is_skipped(&seen.request, self.config) {
            Outcome::Skipped
        } else {
            self.call(host, side, phase, seen, answer.attributes(asked))
        }
    }

    fn ask(&mut self, host: &impl Host, side: As) -> Answer {
        if self.config.lean {
            Answer::read_brief(host, self.expressions, side)
        } else {
            Answer::read(host, self.expressions, side)
        }
    }

    fn call(
        self,
        host: &impl Host,
        side: Side,
        phase: Option<&RequestPhase>,
        seen: Seen<'_>,
        mut call: Attributes<'_>,
    ) -> Outcome {
        let Seen { request, context: seen, included } = seen;
        let server = side == Side::Server;
        if call.start_ns == 0 {
            let now = host.now_ns();
            call.start_ns = phase.map_or(now, |phase| phase.start_ns);
            call.duration_ns = now.saturating_sub(call.start_ns);
        }
        // Where an earlier filter answered, the request phase never ran and nothing was sent on.
        let received = phase.map_or(seen, |phase| phase.received);
        let via_upstream = call.code_details == b"via_upstream";
        if let Some(left) = phase.and_then(|phase| phase.left.as_ref()).filter(|_| via_upstream) {
            self.tracer.learn(left, &Forms::of(&request.trace));
        }
        let crossed = response_crossed(server, via_upstream, &call);
        let mut room = [0; UUID];
        let hop = HopPart::capture(
            seen.map(|c| c.trace_id),
            seen.map(|c| c.span_id),
            stable_id(request.id, &mut room),
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
            grpc_status: request.grpc.then(|| grpc_status(host)).flatten(),
            peer_workload: if server { cut(request.peer) } else { &[] },
            attempts: if server { 0 } else { call.attempts },
            query: match self.config.path_privacy {
                PathPrivacy::Keep => cut(split_target(request.target).1),
                _ => &[],
            },
            salt: self.salt,
            headers: included,
            ..own_part(&call)
        };
        self.queue.push(&hop, &own, self.config);
        Outcome::Call(call.start_ns)
    }
}

/// What of the own part comes from the attributes as they are.
fn own_part<'a>(call: &Attributes<'a>) -> OwnPart<'a> {
    OwnPart {
        protocol: cut(call.protocol),
        response_flags: call.flags,
        code_details: cut(call.code_details),
        start_ns: call.start_ns,
        duration_ns: call.duration_ns,
        request_bytes: call.request_bytes,
        response_bytes: call.response_bytes,
        peer_principal: cut(call.peer),
        cluster: cut(call.cluster),
        route: cut(call.route),
        ..OwnPart::default()
    }
}

/// Batches on their way to a collector are no calls of the mesh: they would breed each other.
fn is_skipped(request: &Request<'_>, config: &Config) -> bool {
    let own = request.method == b"POST"
        && request.target == config.collector_path.as_bytes()
        && request.authority == config.collector_authority.as_bytes();
    own || config.skips(split_target(request.target).0)
}

/// Whether a complete response went over the wire between the sidecars.
///
/// The client side received one unless it answered itself or the upstream broke off; the server
/// side sent one, its own answers included, unless the downstream left, the upstream broke off, or the
/// time was up while it ran. A response of the upstream's that has the status of a timeout and runs out of
/// time passes for Envoy's own.
fn response_crossed(server: bool, via_upstream: bool, call: &Attributes<'_>) -> bool {
    let broken = call.code_details.starts_with(b"upstream_reset_after_response_started");
    let cut = call.flags & OUT_OF_TIME != 0 && !TIMEOUTS.contains(&call.code);
    (server || via_upstream) && call.flags & DOWNSTREAM_GONE == 0 && !broken && !cut
}

/// The status of a gRPC call; none where nobody answered.
fn grpc_status(host: &impl Host) -> Option<u32> {
    let bytes = host.property("response\0grpc_status")?;
    u32::try_from(integer(&bytes)).ok()
}

/// Characters of a UUID.
const UUID: usize = 36;
/// The one that tells a UUID's version. Envoy keeps in it why a request is traced, and a server side that
/// samples otherwise than its client overwrites it before any filter sees it.
const TRACE_REASON: usize = 14;

/// A request id as both sides know it, whatever each decides about tracing.
fn stable_id<'a>(id: &'a [u8], room: &'a mut [u8; UUID]) -> &'a [u8] {
    let Ok(uuid) = <&[u8; UUID]>::try_from(id) else {
        return id;
    };
    *room = *uuid;
    if let Some(character) = room.get_mut(TRACE_REASON) {
        *character = b'4';
    }
    room
}

fn context_source(received: Option<&TraceContext>, used: Option<&TraceContext>) -> ContextSource {
    match (received, used) {
        (_, None) => ContextSource::None,
        (Some(received), Some(used)) if received.trace_id == used.trace_id => {
            ContextSource::Received
        }
        (_, Some(_)) => ContextSource::Generated,
    }
}
