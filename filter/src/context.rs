//! The trace context that goes out: a child span where no tracer makes one.
//!
//! An application that passes its headers on blindly gives all its calls one span id. So the
//! outbound side writes a span of its own for each call, unless a tracer does: a tracer overwrites
//! what stands there, which the end of the stream shows.

use crate::host::Host;
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

/// Whether a tracer writes the outgoing context, as far as this VM has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tracer {
    /// No call has told yet.
    #[default]
    Unknown,
    /// The last call went out with another context in B3 than the filter left, as of Zipkin's.
    B3,
    /// The last call went out with another `traceparent` than the filter left, as of OpenTelemetry's.
    W3c,
    /// The last call went out as the filter left it.
    Absent,
}

impl Tracer {
    /// Learns from a call that reached its upstream: `left` is what the filter left on the request,
    /// `sent` what went out.
    pub fn learn(&mut self, left: &Forms, sent: &Forms) {
        *self = if left.b3 != sent.b3 {
            Self::B3
        } else if left.w3c != sent.w3c {
            Self::W3c
        } else {
            Self::Absent
        };
    }

    /// Whether the filter should write a child span. Beside a tracer that leaves B3 alone it does so where
    /// B3 came along: B3 would count and be stale.
    pub fn leaves_it_to_us(self, received: &TraceHeaders<'_>) -> bool {
        match self {
            Self::Unknown | Self::Absent => true,
            Self::W3c => received.b3().is_some(),
            Self::B3 => false,
        }
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

/// Writes `child` to the request: in B3 single where that came alone, because a Zipkin tracer then writes
/// no other and what B3 multi states would outlast it; else in B3 multi and in each other form that came
/// along and speaks of the same trace. Tells what the request states now.
pub fn write(host: &impl Host, received: &TraceHeaders<'_>, child: &TraceContext) -> Forms {
    let same =
        |context: Option<TraceContext>| context.is_some_and(|c| c.trace_id == child.trace_id);
    let (multi, single) = (same(received.b3_multi()), same(received.b3_single()));
    let w3c = same(received.w3c());
    let mut forms = Forms::of(received);
    let trace = hex::encode(child.trace_id.0);
    let span = hex::encode(child.span_id.0);
    let parent = child.parent_span_id.map(|id| hex::encode(id.0));
    if multi || !single {
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
        forms.b3 = Some(ids(*child));
    }
    if let Some(value) = received.b3.filter(|_| single) {
        let trace = value.split(|&byte| byte == b'-').next().unwrap_or_default();
        let state: &[u8] = match child.sampling {
            Sampling::Deferred => b"",
            Sampling::Denied => b"-0",
            Sampling::Accepted => b"-1",
            Sampling::Debug => b"-d",
        };
        // The parent can stand only behind a sampling state.
        let parent = parent.filter(|_| !state.is_empty()).map(|parent| format!("-{parent}"));
        let parent = parent.unwrap_or_default();
        let parts = [trace, b"-", span.as_bytes(), state, parent.as_bytes()];
        host.set_request_header("b3", &parts.concat());
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
        let left = write(&host, &received, &child);
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

    #[test]
    fn a_tracer_shows_by_what_went_out() {
        let forms = |b3: u8, w3c: u8| {
            let form = |byte| Some((TraceId::new([byte; 16])?, SpanId::new([byte; 8])?));
            Forms { b3: form(b3), w3c: form(w3c) }
        };
        let mut tracer = Tracer::default();
        let mut after = |left, sent| {
            tracer.learn(&left, &sent);
            let (with_b3, without) = (
                TraceHeaders {
                    b3_trace_id: Some(TRACE),
                    b3_span_id: Some(SPAN),
                    ..Default::default()
                },
                TraceHeaders::default(),
            );
            (tracer.leaves_it_to_us(&with_b3), tracer.leaves_it_to_us(&without))
        };
        assert_eq!(after(forms(1, 0), forms(2, 0)), (false, false), "Zipkin's");
        assert_eq!(after(forms(1, 1), forms(2, 2)), (false, false), "one that writes both");
        assert_eq!(after(forms(1, 0), forms(1, 2)), (true, false), "OpenTelemetry's");
        assert_eq!(after(forms(0, 0), forms(0, 0)), (true, true), "none");
    }
}
