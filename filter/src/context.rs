//! The trace context that goes out: a child span where no tracer makes one.
//!
//! An application that passes its headers on blindly gives all its calls one span id. So the
//! outbound side writes a span of its own for each call, unless a tracer does: a tracer overwrites
//! what stands there, which the end of the stream shows.

use crate::host::Host;
use meshchain_core::context::{Sampling, TraceHeaders};
use meshchain_core::{SpanId, TraceContext, TraceId};

/// Whether a tracer writes the outgoing context, as far as this VM has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tracer {
    /// No call has told yet.
    #[default]
    Unknown,
    /// The last call went out with another context than the filter left.
    Present,
    /// The last call went out as the filter left it.
    Absent,
}

impl Tracer {
    /// Learns from a call that reached its upstream: `left` is what the filter left on the request,
    /// `sent` what went out.
    pub fn learn(&mut self, left: Option<&TraceContext>, sent: Option<&TraceContext>) {
        let ids = |c: &TraceContext| (c.trace_id, c.span_id);
        *self = if left.map(ids) == sent.map(ids) { Self::Absent } else { Self::Present };
    }

    /// Whether the filter should write a child span.
    pub fn leaves_it_to_us(self) -> bool {
        self != Self::Present
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

/// Writes `child` to the request: always B3 multi, and B3 single and `traceparent` where they are
/// there and speak of the same trace.
pub fn write(host: &impl Host, received: &TraceHeaders<'_>, child: &TraceContext) {
    let (trace, span) = (hex::encode(child.trace_id.0), hex::encode(child.span_id.0));
    let same_trace = |id: Option<&[u8]>| id.and_then(TraceId::from_hex) == Some(child.trace_id);
    if !same_trace(received.b3_trace_id) {
        host.set_request_header("x-b3-traceid", trace.as_bytes());
    }
    host.set_request_header("x-b3-spanid", span.as_bytes());
    let parent = child.parent_span_id.map(|id| hex::encode(id.0));
    if let Some(parent) = &parent {
        host.set_request_header("x-b3-parentspanid", parent.as_bytes());
    }
    let sampled = match child.sampling {
        Sampling::Deferred => None,
        Sampling::Denied => Some("0"),
        Sampling::Accepted | Sampling::Debug => Some("1"),
    };
    if let (Some(sampled), None) = (sampled, received.b3_sampled.or(received.b3_flags)) {
        host.set_request_header("x-b3-sampled", sampled.as_bytes());
    }
    let single = received.b3.and_then(meshchain_core::context::b3_single);
    if single.is_some_and(|c| c.trace_id == child.trace_id) {
        let state = match child.sampling {
            Sampling::Deferred => "",
            Sampling::Denied => "-0",
            Sampling::Accepted => "-1",
            Sampling::Debug => "-d",
        };
        // The parent can stand only behind a sampling state.
        let tail = parent.filter(|_| !state.is_empty()).map_or(String::new(), |p| format!("-{p}"));
        host.set_request_header("b3", format!("{trace}-{span}{state}{tail}").as_bytes());
    }
    let w3c = received.traceparent.filter(|value| {
        meshchain_core::context::traceparent(value).is_some_and(|c| c.trace_id == child.trace_id)
    });
    if let Some((head, tail)) = w3c.and_then(|v| Some((v.get(..36)?, v.get(52..)?))) {
        host.set_request_header("traceparent", &[head, span.as_bytes(), tail].concat());
    }
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
        write(&host, &received, &child);
        let sent = Request::read(&host.request_headers()).trace.context().unwrap();
        assert_eq!((sent.trace_id, sent.span_id), (child.trace_id, child.span_id));
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
    fn a_tracer_shows_by_what_went_out() {
        let mut tracer = Tracer::default();
        let ours = child_of(None, &[7; 24]);
        let theirs = child_of(None, &[8; 24]);
        assert!(tracer.leaves_it_to_us());
        tracer.learn(ours.as_ref(), theirs.as_ref());
        assert!(!tracer.leaves_it_to_us());
        tracer.learn(None, None);
        assert!(tracer.leaves_it_to_us());
    }
}
