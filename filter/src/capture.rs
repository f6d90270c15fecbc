//! The end of one call: the records that the filter makes of it.

use crate::answer::{Answer, Attributes, VIA_UPSTREAM};
use crate::attributes::{As, Ask, Expressions};
use crate::config::{Config, Detail, PathPrivacy, Role};
use crate::context::{Forms, Tracer};
use crate::headers::HeaderMap;
use crate::host::Host;
use crate::node::Node;
use crate::phase::{RequestPhase, role_of};
use crate::queue::Queue;
use crate::request::{KeptRequest, Request, Shown, included};
use meshchain_core::hop::{Room, cut};
use meshchain_core::own::HeaderField;
use meshchain_core::target::canonical_path;
use meshchain_core::{
    ContextSource, HopPart, OwnPart, Sampling, SessionId, Side, SpanId, TraceContext,
};

/// Envoy's response flags "downstream connection terminated" (DC) and "downstream remote reset" (DR).
const DOWNSTREAM_GONE: u64 = 1 << 14 | 1 << 28;
/// "Upstream request timeout" (UT), "stream idle timeout" (SI), "upstream max stream duration reached" (UMSDR)
/// and "duration timeout" (DT).
const OUT_OF_TIME: u64 = 1 << 2 | 1 << 16 | 1 << 19 | 1 << 22;
/// What Envoy answers where the time was up before a response began.
const TIMEOUTS: [u32; 2] = [408, 504];
/// Envoy followed a redirect itself: the response came, and a leg of its own follows.
const REDIRECTED: &[u8] = b"internal_redirect";

/// What came of a stream's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A call that began then, unix nanoseconds.
    Call(u64),
    /// On its way to the collector, or of a path that is left out.
    Skipped,
    /// The filter has recorded it already, as it stands twice in the chain.
    Duplicate,
    /// The host had no headers, as for a malformed request.
    Unreadable,
}

/// What the end of a stream needs, and changes.
pub struct Ending<'a> {
    /// Configuration of the place.
    pub config: &'a Config,
    /// How the attributes are asked for.
    pub expressions: &'a mut Expressions,
    /// What is known of a tracer.
    pub tracer: &'a mut Tracer,
    /// Where the call goes.
    pub queue: &'a mut Queue,
    /// Memory for canonical values.
    pub room: &'a mut Room,
    /// 16 fresh bytes for each record.
    pub salts: [[u8; 16]; 2],
    /// Whether records go along.
    pub records: bool,
    /// Whether this one is asked about in full, whatever `detail` says.
    pub in_full: bool,
    /// Bytes that may wait at most.
    pub queue_bytes: usize,
    /// Start of the call that the stream before this one was, where that one had no request phase.
    pub twin_start_ns: Option<u64>,
}

/// The request of one hop, as it was on the wire.
struct Hop<'a> {
    side: Side,
    shown: Shown<'a>,
    context: Option<TraceContext>,
    parent: Option<SpanId>,
    received: Option<TraceContext>,
    included: Vec<HeaderField<'a>>,
    peer: &'a [u8],
    peer_session: Option<SessionId>,
}

impl Ending<'_> {
    /// Puts the stream's records into the queue, and learns whether there is a tracer.
    pub fn log(mut self, host: &impl Host, phase: Option<&RequestPhase>) -> Outcome {
        let middle = self.queue.node().middle;
        let role = phase.map_or_else(|| role_of(host, self.config, middle), |phase| phase.role);
        // What the server side received was kept; only a side that sends must look at what went out.
        let headers = match phase {
            Some(_) if role == Role::Server => HeaderMap::default(),
            _ => host.request_headers(),
        };
        let request = Request::read(&headers);
        let kept = phase.map(|phase| &phase.request);
        if !kept.map_or(request.readable, |kept| kept.readable) {
            return Outcome::Unreadable;
        }
        let grpc = kept.map_or(request.grpc, |kept| kept.grpc);
        let ask = Ask { side: asked_as(role, kept), grpc };
        let (answer, now_ns) = self.ask(host, ask, phase);
        let mut call = answer.attributes(ask);
        if call.start_ns == 0 {
            let now_ns = now_ns.unwrap_or_else(|| host.now_ns());
            call.start_ns = phase.map_or(now_ns, |phase| phase.start_ns);
            call.duration_ns = now_ns.saturating_sub(call.start_ns);
        }
        if phase.is_none() && self.twin_start_ns == Some(call.start_ns) {
            return Outcome::Duplicate;
        }
        let number = |text: Vec<u8>| std::str::from_utf8(&text).ok()?.parse().ok();
        if grpc && call.grpc_status.is_none() && call.code != 0 {
            // Envoy knows the statuses that gRPC defines, and an application may send any.
            call.grpc_status = host.response_trailer("grpc-status").and_then(number);
        }
        let answered_earlier;
        let received = match kept {
            Some(kept) => kept,
            None => {
                let included = included(&headers, &self.config.include_headers);
                answered_earlier = KeptRequest::new(&request, &included, &[]);
                &answered_earlier
            }
        };
        if is_skipped(role, &received.shown(), self.queue.node(), self.config) {
            return Outcome::Skipped;
        }
        if let Some(phase) = phase {
            self.learn(phase, &request, &call);
        }
        let start_ns = call.start_ns;
        let arrived = phase.map_or(request.trace.context(), |phase| phase.received);
        let sent = Sent::of(phase, &request, &call);
        if role != Role::Client {
            let side = if role == Role::Server { Side::Server } else { Side::GatewayIn };
            self.push(&call, incoming(side, received, arrived, &sent, phase, &call));
        }
        if role == Role::Client || role == Role::Gateway && was_sent_on(&call) {
            let included = match role {
                Role::Client => received.included(),
                _ => Vec::new(), // they stand in the record of the hop that was received
            };
            self.push(&call, outgoing(role, arrived, &sent, phase, &call, included));
        }
        Outcome::Call(start_ns)
    }

    /// The attributes, in full or of an ordinary call; with the time where it was looked at.
    fn ask(
        &mut self,
        host: &impl Host,
        ask: Ask,
        phase: Option<&RequestPhase>,
    ) -> (Answer, Option<u64>) {
        let detail = self.config.detail;
        let in_full = detail == Detail::Full || detail == Detail::Auto && self.in_full;
        let Some(phase) = phase.filter(|_| !in_full) else {
            return (Answer::read(host, self.expressions, ask), None);
        };
        let now_ns = host.now_ns();
        let slow_ns = self.config.slow_ms.saturating_mul(1_000_000);
        let slow = now_ns.saturating_sub(phase.start_ns) >= slow_ns;
        if slow && detail == Detail::Auto {
            return (Answer::read(host, self.expressions, ask), Some(now_ns));
        }
        (Answer::read_brief(host, self.expressions, ask, detail), Some(now_ns))
    }

    fn learn(&mut self, phase: &RequestPhase, request: &Request<'_>, call: &Attributes<'_>) {
        let left = phase.left.filter(|_| call.code_details == VIA_UPSTREAM);
        if let Some(left) = left.filter(|_| self.config.child_spans) {
            self.tracer.learn(&left, &Forms::of(&request.trace));
        }
    }

    fn push(&mut self, call: &Attributes<'_>, hop: Hop<'_>) {
        let Hop { side, shown, context, parent, received, included, peer, peer_session } = hop;
        let crossed = response_crossed(side, call);
        let status = if crossed { call.code } else { 0 };
        let (trace_id, span_id) = (context.map(|c| c.trace_id), context.map(|c| c.span_id));
        let Shown { seen, query, cut: whole } = shown;
        let part = match whole {
            Some(whole) => whole.part(trace_id, span_id, status),
            None => HopPart::capture(trace_id, span_id, &seen, status, self.room),
        };
        let shows_path =
            matches!(self.config.path_privacy, PathPrivacy::StripQuery | PathPrivacy::Keep);
        let unless_same = |raw, canonical: &[u8]| if raw == canonical { &[][..] } else { raw };
        let [salt, other] = self.salts;
        self.salts = [other, salt];
        let own = OwnPart {
            side,
            parent_span_id: parent,
            sampling: received.map_or(Sampling::Deferred, |c| c.sampling),
            context: context_source(received.as_ref(), context.as_ref()),
            protocol: cut(call.protocol),
            grpc_status: call.grpc_status,
            response_flags: call.flags,
            code_details: cut(call.code_details),
            start_ns: call.start_ns,
            duration_ns: call.duration_ns,
            request_bytes: call.request_bytes,
            response_bytes: call.response_bytes,
            peer_principal: cut(peer),
            cluster: cut(call.cluster),
            route: cut(call.route),
            attempts: if side.sends() { call.attempts } else { 0 },
            query: if self.config.path_privacy == PathPrivacy::Keep { cut(query) } else { &[] },
            salt,
            headers: included,
            raw_path: if shows_path { unless_same(cut(seen.target), part.path) } else { &[] },
            raw_authority: unless_same(cut(seen.authority), part.authority),
            peer_session,
        };
        let privacy = self.config.path_privacy;
        self.queue.push(&part, &own, privacy, self.records, self.queue_bytes);
    }
}

fn asked_as(role: Role, kept: Option<&KeptRequest>) -> As {
    match role {
        Role::Client => As::Client,
        Role::Gateway => As::Middle,
        Role::Server if kept.is_some_and(|kept| !kept.principal().is_empty()) => As::Told,
        Role::Server => As::Server,
    }
}

/// What a side that sends put on the wire.
struct Sent<'a> {
    shown: Shown<'a>,
    context: Option<TraceContext>,
}

impl<'a> Sent<'a> {
    /// Usually what the request's headers say at the end. A leg whose response was a redirect that Envoy
    /// followed has the headers of the next leg by then: it went out as the request phase left it.
    fn of(phase: Option<&'a RequestPhase>, request: &Request<'a>, call: &Attributes<'_>) -> Self {
        match phase.filter(|_| call.code_details == REDIRECTED) {
            Some(phase) => Self { shown: phase.request.left(), context: phase.sent },
            None => Self { shown: Shown::of(request), context: request.trace.context() },
        }
    }
}

/// The hop that a server, or a proxy in the middle, received.
fn incoming<'a>(
    side: Side,
    kept: &'a KeptRequest,
    received: Option<TraceContext>,
    sent: &Sent<'_>,
    phase: Option<&RequestPhase>,
    call: &Attributes<'a>,
) -> Hop<'a> {
    // In the middle a call that came without a context begins a trace: that which it was sent on in.
    let edge = || {
        let span_id = phase?.edge?;
        sent.context.map(|sent| TraceContext { span_id, parent_span_id: None, ..sent })
    };
    let peer = if kept.principal().is_empty() { call.peer } else { kept.principal() };
    // Nobody vouches for what comes from outside of any mesh.
    let attested = side == Side::Server || !peer.is_empty();
    let context = received.or_else(edge);
    Hop {
        side,
        shown: kept.shown(),
        context,
        parent: context.and_then(|context| context.parent_span_id),
        received,
        included: kept.included(),
        peer,
        peer_session: kept.peer_session.filter(|_| attested),
    }
}

/// The hop that a client, or a proxy in the middle, sent on.
fn outgoing<'a>(
    role: Role,
    received: Option<TraceContext>,
    sent: &Sent<'a>,
    phase: Option<&RequestPhase>,
    call: &Attributes<'a>,
    included: Vec<HeaderField<'a>>,
) -> Hop<'a> {
    let context = sent.context;
    let before = received.map(|c| c.span_id).or_else(|| phase.and_then(|phase| phase.edge));
    let same_trace = match (received, context) {
        (Some(received), Some(sent)) => received.trace_id == sent.trace_id,
        _ => true,
    };
    let before =
        before.filter(|&before| same_trace && context.is_some_and(|c| c.span_id != before));
    let named = context.and_then(|context| context.parent_span_id);
    let middle = role == Role::Gateway;
    Hop {
        side: if middle { Side::GatewayOut } else { Side::Client },
        shown: sent.shown,
        context,
        // In the middle it ties the two hops, whatever spans a tracer puts between them.
        parent: if middle { before.or(named) } else { named.or(before) },
        received,
        included,
        peer: call.upstream_peer,
        peer_session: None,
    }
}

/// Whether a call got as far as an upstream, or may have: an answer of the proxy's own has no attempt.
fn was_sent_on(call: &Attributes<'_>) -> bool {
    call.attempts > 0 || call.code_details == VIA_UPSTREAM || call.code_details == REDIRECTED
}

/// What is of MeshChain's own traffic, or of a path that is left out. Batches that reach the collector's own
/// proxy are no calls of the mesh: they would breed each other. Only there; elsewhere anybody could hide a
/// call by its path.
fn is_skipped(role: Role, shown: &Shown<'_>, node: &Node, config: &Config) -> bool {
    let Shown { seen, query, .. } = shown;
    let own = role == Role::Server
        && seen.method == b"POST"
        && seen.target == config.collector_path.as_bytes()
        && query.is_empty()
        && is_collector(node, &config.collector_authority);
    let path = seen.target;
    // As it came, and as any other proxy may read it.
    own || config.skips(path) && config.skips(canonical_path(path, &mut Vec::new()))
}

/// Whether this proxy is the collector's: its workload and namespace are those of the service.
fn is_collector(node: &Node, authority: &str) -> bool {
    let mut labels = authority.split(['.', ':']);
    labels.next() == Some(&node.workload) && labels.next() == Some(&node.namespace)
}

/// Whether a complete response went over the wire between the sidecars.
///
/// The sending side received one unless it answered itself or the upstream broke off; the receiving
/// side sent one, its own answers included, unless the downstream left, the upstream broke off, the time was up
/// while it ran, or Envoy followed it as a redirect. A response of the upstream's that has the status of a timeout and runs out of
/// time passes for Envoy's own.
fn response_crossed(side: Side, call: &Attributes<'_>) -> bool {
    let redirected = call.code_details == REDIRECTED;
    let came = match side.sends() {
        true => redirected || call.code_details == VIA_UPSTREAM,
        false => !redirected,
    };
    let broken = call.code_details.starts_with(b"upstream_reset_after_response_started");
    let cut = call.flags & OUT_OF_TIME != 0 && !TIMEOUTS.contains(&call.code);
    came && call.flags & DOWNSTREAM_GONE == 0 && !broken && !cut
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
