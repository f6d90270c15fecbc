//! The trace context that goes out: a child span where no tracer makes one.
//!
//! An application that passes its headers on blindly gives all its calls one span id. So the
//! outbound side writes a span of its own for each call. A tracer of Envoy's writes after the filter, over
//! what stands there, so nothing is lost where it writes B3; where it writes W3C the filter must learn of it,
//! or there would be a second trace beside the tracer's.

use crate::host::Host;
use crate::request::Request;
use meshchain_core::context::{Sampling, TraceHeaders};
use meshchain_core::{SpanId, TraceContext, TraceId};

type Ids = (TraceId, SpanId);

fn ids(context: TraceContext) -> Ids {
    (context.trace_id, context.span_id)
}

/// The ids that each form of trace headers states.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forms {
    b3: Option<Ids>,
    w3c: Option<Ids>,
}

impl Forms {
    /// The ids in a request's headers.
    pub fn of(headers: &TraceHeaders<'_>) -> Self {
        Self { b3: headers.b3().map(ids), w3c: headers.w3c().map(ids) }
    }
}

/// What the request phase does about the context that goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing of ours leaves.
    Nothing,
    /// The filter starts a span.
    Ours,
    /// A tracer's `traceparent` will be the context.
    W3c,
}

/// Which tracer writes the outgoing context in one place of the configuration, as far as its calls have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracer {
    /// So many calls, one after the other, showed that a proxy traces them, and no tracer wrote anything. That is
    /// what one does that may not (`no_context_propagation`); but peers and applications can send such calls too,
    /// so the first one that shows nothing ends it.
    Quiet(u8),
    /// None: a call went out as the filter left it.
    Absent,
    /// One that writes B3, as Zipkin's, and be it both forms.
    B3,
    /// One that writes `traceparent` and leaves B3 alone, as OpenTelemetry's.
    W3c,
    /// A `traceparent` with this span id came where the filter had left none: a tracer's, if the next one is
    /// another; a route can add a header too.
    Suspected(SpanId),
}

impl Default for Tracer {
    /// No call has told yet.
    fn default() -> Self {
        Self::Quiet(0)
    }
}

/// Quiet calls after which a tracer is taken for one that may not write: from then on nothing of ours leaves with a
/// call that is traced, whatever it brings.
const SILENT: u8 = 4;

/// What a request phase left, for [`Tracer::learn`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// What was done.
    pub plan: Plan,
    /// The ids that stood on the request then.
    pub forms: Forms,
    /// Whether the request showed that a proxy traces it.
    pub traced: bool,
    /// Whether it had ids that cannot be read, in whatever form: a tracer leaves such a request alone, so it shows
    /// nothing.
    pub unreadable: bool,
}

impl Tracer {
    /// What to do about a request.
    pub fn plan(self, request: &Request<'_>) -> Plan {
        match self {
            Self::W3c => Plan::W3c,
            // Such a call is left alone, and shows what the tracer does.
            Self::Quiet(calls) if request.is_traced() => {
                let alone = calls >= SILENT || request.trace.b3().is_none();
                if alone { Plan::Nothing } else { Plan::Ours }
            }
            Self::Suspected(_) if request.is_traced() && request.trace.b3().is_none() => {
                Plan::Nothing
            }
            _ => Plan::Ours,
        }
    }

    /// Whether to tell the other side that `traceparent` counts before B3, where the filter leaves `sent`, with
    /// `child` in it if it started a span: where a tracer writes it, or may be about to; and where the child stands
    /// there and not in B3.
    pub fn w3c_counts(self, sent: &Forms, child: Option<&TraceContext>) -> bool {
        let child = child.copied().map(ids);
        let stands_there = child.is_some() && sent.w3c == child && sent.b3 != child;
        let stands_there = stands_there && self != Self::B3; // which writes B3, and that counts
        let may_come = matches!(self, Self::Quiet(_) | Self::Suspected(_)) && sent.w3c.is_none();
        self == Self::W3c || stands_there || may_come
    }

    /// Learns from a call that reached its upstream; `sent` is what went out. Only an id that was written
    /// over what was left shows a tracer: headers may be gone because a route took them out.
    pub fn learn(&mut self, left: &Left, sent: &Forms) {
        let was = left.forms;
        let held_off = left.plan == Plan::Nothing;
        let b3 = match (was.b3, sent.b3) {
            (Some(left), Some(sent)) => left != sent,
            (None, Some(_)) => held_off,
            _ => false,
        };
        // A tracer goes on in the trace that it finds; a route's fixed header does not.
        let w3c = match (was.w3c, sent.w3c) {
            (Some(left), Some(sent)) => left != sent && (left.0 == sent.0 || *self == Self::W3c),
            (None, sent) => sent.is_some(),
            _ => false,
        };
        let both = w3c && sent.b3 == sent.w3c;
        let gone = |was: Option<Ids>, sent: Option<Ids>| was.is_some() && sent.is_none();
        *self = if let Some((_, span)) =
            sent.w3c.filter(|_| w3c && !both && (!b3 || *self == Self::W3c))
        {
            match *self {
                Self::Suspected(other) if other != span => Self::W3c,
                _ if left.traced || *self == Self::W3c || was.w3c.is_some() => Self::W3c,
                _ => Self::Suspected(span),
            }
        } else if b3 || both {
            Self::B3
        } else if gone(was.b3, sent.b3) || gone(was.w3c, sent.w3c) {
            *self
        } else if let (true, true, Self::Quiet(calls)) = (held_off, left.traced, *self) {
            Self::Quiet(calls.saturating_add(1))
        } else if held_off || left.unreadable {
            *self
        } else {
            Self::Absent
        };
    }
}

/// The child of `parent`, or a trace of its own; `random` are 24 fresh bytes.
pub fn child_of(parent: Option<&TraceContext>, random: &[u8; 24]) -> Option<TraceContext> {
    let (trace, span) = random.split_first_chunk::<16>()?;
    let span_id = SpanId::new(span.try_into().ok()?)?;
    Some(match parent {
        Some(parent) => TraceContext { span_id, parent_span_id: Some(parent.span_id), ..*parent },
        None => TraceContext {
            trace_id: TraceId::new(*trace)?,
            span_id,
            parent_span_id: None,
            sampling: Sampling::Deferred,
        },
    })
}

/// Writes `child` to the request: in the form that counts and, where no tracer of B3 does it, in each other one
/// that came along and speaks of the same trace. Where B3 single came, and be it with a sampling state alone,
/// B3 multi is not begun: a Zipkin tracer then writes single only, and multi would outlast it. B3 that cannot be
/// read is somebody's trace, and stays as it is. Tells what the request states now.
pub fn write(
    host: &impl Host,
    received: &TraceHeaders<'_>,
    child: &TraceContext,
    tracer: Tracer,
) -> Forms {
    let alone = tracer == Tracer::B3;
    let same =
        |context: Option<TraceContext>| context.is_some_and(|c| c.trace_id == child.trace_id);
    let lone = received.lone_state().is_some() && received.b3().is_none();
    let single = same(received.b3_single()) || lone && !received.has_unreadable_b3();
    let multi = same(received.b3_multi()) && !(single && alone);
    let w3c = same(received.w3c()) && (!alone || received.has_unreadable_b3());
    let begin = !single && received.b3().is_none() && !received.has_unreadable_b3();
    let mut forms = Forms::of(received);
    let trace = hex::encode(child.trace_id.0);
    let span = hex::encode(child.span_id.0);
    let parent = child.parent_span_id.map(|id| hex::encode(id.0));
    if multi || begin {
        if !multi {
            host.set_request_header("x-b3-traceid", trace.as_bytes());
        }
        host.set_request_header("x-b3-spanid", span.as_bytes());
        if let Some(parent) = &parent {
            host.set_request_header("x-b3-parentspanid", parent.as_bytes());
        }
        let sampled: Option<&[u8]> = match child.sampling {
            Sampling::Deferred => None,
            Sampling::Denied => Some(b"0"),
            Sampling::Accepted | Sampling::Debug => Some(b"1"),
        };
        if let (Some(sampled), None) = (sampled, received.b3_sampled.or(received.b3_flags)) {
            host.set_request_header("x-b3-sampled", sampled);
        }
        if received.b3_single().is_none() {
            forms.b3 = Some(ids(*child)); // else single counts before it
        }
    }
    if let Some(value) = received.b3.filter(|_| single) {
        let spelt = value.split(|&byte| byte == b'-').next().filter(|_| !lone);
        let state: &[u8] = match received.lone_state().unwrap_or(child.sampling) {
            Sampling::Deferred => b"",
            Sampling::Denied => b"-0",
            Sampling::Accepted => b"-1",
            Sampling::Debug => b"-d",
        };
        // The parent can stand only behind a sampling state.
        let parent = parent.filter(|_| !state.is_empty()).map(|parent| format!("-{parent}"));
        let parent = parent.unwrap_or_default();
        let trace = spelt.unwrap_or(trace.as_bytes());
        host.set_request_header(
            "b3",
            &[trace, b"-", span.as_bytes(), state, parent.as_bytes()].concat(),
        );
        forms.b3 = Some(ids(*child));
    }
    let ends = |value: &'_ [u8]| Some((value.get(..36)?.to_vec(), value.get(52..)?.to_vec()));
    if let Some((head, tail)) = received.traceparent.filter(|_| w3c).and_then(ends) {
        host.set_request_header("traceparent", &[&head, span.as_bytes(), &tail].concat());
        forms.w3c = Some(ids(*child));
    }
    forms
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::headers::serialize;
    use crate::request::Request;
    use crate::test_host::TestHost;

    const TRACE: &[u8] = b"80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &[u8] = b"e457b5a2e4d86bd1";

    fn written(headers: &[(&[u8], &[u8])]) -> (TraceContext, TestHost) {
        let map = serialize(headers);
        let received = Request::read(&map).trace;
        let child = child_of(received.context().as_ref(), &[7; 24]).unwrap();
        let host = TestHost::with_headers(headers);
        let left = write(&host, &received, &child, Tracer::default());
        let map = host.request_headers();
        let sent = Request::read(&map).trace;
        assert_eq!(left, Forms::of(&sent));
        assert_eq!(sent.context().map(ids), Some(ids(child)));
        (child, host)
    }

    #[test]
    fn a_request_without_context_gets_a_trace_of_its_own() {
        let (child, _) = written(&[(b":path", b"/")]);
        assert_eq!(child.parent_span_id, None);
        assert_eq!(child.trace_id.0, [7; 16]);
    }

    #[test]
    fn a_received_context_becomes_the_parent_in_every_form_that_is_there() {
        let single = [TRACE, b"-", SPAN, b"-1"].concat();
        let w3c = [b"00-", TRACE, b"-", SPAN, b"-01"].concat();
        let (child, host) = written(&[
            (b"x-b3-traceid", TRACE),
            (b"x-b3-spanid", SPAN),
            (b"x-b3-sampled", b"0"),
            (b"b3", &single),
            (b"traceparent", &w3c),
        ]);
        assert_eq!(child.parent_span_id, SpanId::from_hex(SPAN));
        let map = host.request_headers();
        assert_eq!(map.get(b"x-b3-sampled"), Some(&b"0"[..]));
        for form in [
            meshchain_core::context::b3_single(map.get(b"b3").unwrap()),
            meshchain_core::context::traceparent(map.get(b"traceparent").unwrap()),
        ] {
            assert_eq!(form.unwrap().span_id, child.span_id);
        }
    }

    #[test]
    fn a_64_bit_trace_id_stays_as_it_was_spelt() {
        let (_, host) = written(&[(b"x-b3-traceid", b"463ac35c9f6413ad"), (b"x-b3-spanid", SPAN)]);
        assert_eq!(host.request_headers().get(b"x-b3-traceid"), Some(&b"463ac35c9f6413ad"[..]));
    }

    #[test]
    fn a_traceparent_of_another_trace_is_left_alone() {
        let w3c = b"00-00000000000000000000000000000001-00000000000000b1-01";
        let (_, host) =
            written(&[(b"x-b3-traceid", TRACE), (b"x-b3-spanid", SPAN), (b"traceparent", w3c)]);
        assert_eq!(host.request_headers().get(b"traceparent"), Some(&w3c[..]));
    }

    #[test]
    fn b3_single_is_answered_in_b3_single_alone() {
        let single = [&b"463ac35c9f6413ad-"[..], SPAN, b"-1"].concat();
        let (child, host) = written(&[(b"b3", &single)]);
        let span = hex::encode(child.span_id.0);
        let expected = [b"463ac35c9f6413ad-", span.as_bytes(), b"-1-", SPAN].concat();
        let map = host.request_headers();
        assert_eq!(map.get(b"b3"), Some(&expected[..]), "all else as it was spelt");
        assert_eq!(map.count(), 1, "no other form");
    }

    #[test]
    fn traceparent_alone_is_answered_in_b3_too() {
        let w3c = [b"00-", TRACE, b"-", SPAN, b"-01"].concat();
        let (child, host) = written(&[(b"traceparent", &w3c)]);
        let map = host.request_headers();
        let sent = Request::read(&map).trace;
        assert_eq!((sent.b3().map(ids), sent.w3c().map(ids)), (Some(ids(child)), Some(ids(child))));
        assert_eq!(sent.b3().unwrap().sampling, Sampling::Accepted);
    }

    fn forms(b3: u8, w3c: u8) -> Forms {
        let form = |byte| Some((TraceId::new([9; 16])?, SpanId::new([byte; 8])?));
        Forms { b3: form(b3), w3c: form(w3c) }
    }

    fn learnt(before: Tracer, left: Left, sent: Forms) -> Tracer {
        let mut tracer = before;
        tracer.learn(&left, &sent);
        tracer
    }

    #[test]
    fn a_tracer_shows_by_what_it_wrote_over_and_by_nothing_else() {
        let ours = |b3, w3c| Left {
            plan: Plan::Ours,
            forms: forms(b3, w3c),
            traced: false,
            unreadable: false,
        };
        let held = |b3, w3c| Left {
            plan: Plan::Nothing,
            forms: forms(b3, w3c),
            traced: true,
            unreadable: false,
        };
        let first = |left, sent| learnt(Tracer::default(), left, sent);
        assert_eq!(first(ours(1, 0), forms(2, 0)), Tracer::B3, "Zipkin's");
        assert_eq!(first(ours(1, 1), forms(2, 2)), Tracer::B3, "one that writes both");
        assert_eq!(first(ours(0, 1), forms(2, 2)), Tracer::B3, "also where B3 could not be read");
        assert_eq!(first(ours(1, 1), forms(1, 2)), Tracer::W3c, "OpenTelemetry's");
        assert_eq!(first(ours(1, 0), forms(1, 0)), Tracer::Absent);
        assert_eq!(first(held(0, 0), forms(2, 0)), Tracer::B3);
        assert_eq!(first(held(0, 0), forms(0, 2)), Tracer::W3c);
        assert_eq!(first(held(0, 1), forms(0, 2)), Tracer::W3c);
        assert_eq!(learnt(Tracer::W3c, ours(1, 1), forms(5, 2)), Tracer::W3c, "a route wrote B3");
        for before in [Tracer::default(), Tracer::Absent, Tracer::B3, Tracer::W3c] {
            let unreadable = Left { unreadable: true, ..ours(0, 1) };
            assert_eq!(learnt(before, unreadable, forms(0, 1)), before, "it is left alone");
            assert_eq!(learnt(before, ours(1, 1), forms(0, 0)), before, "a route removed them");
            assert_eq!(learnt(before, ours(1, 1), forms(1, 0)), before, "it removed one");
        }
    }

    #[test]
    fn traceparent_counts_where_a_tracer_writes_it_or_may_be_about_to_or_the_child_is_there_alone()
    {
        let child = TraceContext {
            trace_id: TraceId([9; 16]),
            span_id: SpanId([1; 8]),
            parent_span_id: None,
            sampling: Sampling::Deferred,
        };
        for (tracer, may_come) in [
            (Tracer::default(), true),
            (Tracer::Suspected(SpanId([2; 8])), true),
            (Tracer::B3, false),
            (Tracer::Absent, false),
        ] {
            assert_eq!(tracer.w3c_counts(&forms(1, 0), Some(&child)), may_come, "{tracer:?}");
            assert!(!tracer.w3c_counts(&forms(1, 1), Some(&child)));
            assert!(!tracer.w3c_counts(&forms(1, 2), Some(&child)));
            let stands_there = tracer.w3c_counts(&forms(2, 1), Some(&child));
            assert_eq!(stands_there, tracer != Tracer::B3);
            assert!(!tracer.w3c_counts(&forms(2, 1), None));
            assert!(Tracer::W3c.w3c_counts(&forms(2, 1), None));
        }
    }

    #[test]
    fn a_traceparent_from_nowhere_is_a_tracers_once_it_changes() {
        let left = Left { plan: Plan::Ours, forms: forms(1, 0), traced: false, unreadable: false };
        let suspected = learnt(Tracer::Absent, left, forms(1, 2));
        assert_eq!(suspected, Tracer::Suspected(SpanId([2; 8])));
        assert_eq!(learnt(suspected, left, forms(1, 2)), suspected, "a route's fixed header");
        assert_eq!(learnt(suspected, left, forms(1, 3)), Tracer::W3c);
    }

    #[test]
    fn beside_a_tracer_that_may_not_write_nothing_leaves_and_an_untraced_call_ends_that() {
        let traced = serialize(&[(b"x-request-id", b"6b1d4e0f-3c5a-9f8e-9d27-1a2b3c4d5e6f")]);
        let decorated = serialize(&[(b"x-envoy-decorator-operation", b"a")]);
        let plain = serialize(&[(b"x-request-id", b"6b1d4e0f-3c5a-4f8e-9d27-1a2b3c4d5e6f")]);
        let with_b3 = serialize(&[
            (b"x-envoy-decorator-operation", b"a"),
            (b"x-b3-traceid", TRACE),
            (b"x-b3-spanid", SPAN),
        ]);
        let plan = |tracer: Tracer, map| tracer.plan(&Request::read(map));
        let held =
            Left { plan: Plan::Nothing, forms: forms(0, 0), traced: true, unreadable: false };
        let mut tracer = Tracer::default();
        for _ in 0..SILENT {
            assert_eq!(plan(tracer, &traced), Plan::Nothing);
            assert_eq!(plan(tracer, &decorated), Plan::Nothing);
            assert_eq!(plan(tracer, &plain), Plan::Ours);
            assert_eq!(plan(tracer, &with_b3), Plan::Ours);
            tracer.learn(&held, &forms(0, 0));
        }
        for map in [&traced, &decorated, &with_b3] {
            assert_eq!(plan(tracer, map), Plan::Nothing);
        }
        assert_eq!(plan(tracer, &plain), Plan::Ours);
        let ours = Left { plan: Plan::Ours, forms: forms(1, 0), traced: false, unreadable: false };
        tracer.learn(&ours, &forms(1, 0));
        assert_eq!(tracer, Tracer::Absent, "what a peer can send does not last");
        for (tracer, expected) in
            [(Tracer::Absent, Plan::Ours), (Tracer::B3, Plan::Ours), (Tracer::W3c, Plan::W3c)]
        {
            for map in [&traced, &decorated, &plain, &with_b3] {
                assert_eq!(plan(tracer, map), expected);
            }
        }
    }

    #[test]
    fn where_a_tracer_writes_b3_the_other_forms_stay_as_they_came() {
        let w3c = [b"00-", TRACE, b"-", SPAN, b"-01"].concat();
        let single = [TRACE, b"-", SPAN, b"-1"].concat();
        let headers: &[(&[u8], &[u8])] = &[
            (b"b3", &single),
            (b"x-b3-traceid", TRACE),
            (b"x-b3-spanid", SPAN),
            (b"traceparent", &w3c),
        ];
        let host = TestHost::with_headers(headers);
        let map = host.request_headers();
        let received = Request::read(&map).trace;
        let child = child_of(received.context().as_ref(), &[7; 24]).unwrap();
        write(&host, &received, &child, Tracer::B3);
        let map = host.request_headers();
        let sent = Request::read(&map).trace;
        assert_eq!(sent.b3_single().map(ids), Some(ids(child)));
        assert_eq!((sent.b3_span_id, sent.traceparent), (Some(SPAN), Some(&w3c[..])));
    }

    #[test]
    fn a_sampling_state_alone_is_answered_in_b3_single() {
        let map = serialize(&[(b"b3", b"0")]);
        let host = TestHost::with_headers(&[(b"b3", b"0")]);
        let child = child_of(None, &[7; 24]).unwrap();
        write(&host, &Request::read(&map).trace, &child, Tracer::default());
        let sent = host.request_headers();
        let sent = Request::read(&sent).trace;
        assert_eq!(sent.b3_multi(), None);
        let single = sent.b3_single().unwrap();
        assert_eq!((ids(single), single.sampling), (ids(child), Sampling::Denied));
    }

    #[test]
    fn what_cannot_be_read_stays_as_it_is() {
        let unreadable: [&[(&[u8], &[u8])]; 4] = [
            &[(b"x-b3-traceid", TRACE)],
            &[(b"x-b3-traceid", b"1,2"), (b"x-b3-spanid", SPAN)],
            &[(b"b3", b"what")],
            &[(b"b3", b"0"), (b"x-b3-traceid", b"what")],
        ];
        for headers in unreadable {
            let host = TestHost::with_headers(headers);
            let map = host.request_headers();
            let child = child_of(None, &[7; 24]).unwrap();
            write(&host, &Request::read(&map).trace, &child, Tracer::default());
            assert_eq!(host.request_headers(), map);
        }
    }
}
