//! Which context, parent and peer the record of a hop names.

use super::*;
use crate::headers::serialize;
use meshchain_core::TraceId;

/// A context of trace `trace` and span `span`, which names `parent` where that is not 0.
fn context(trace: u8, span: u8, parent: u8) -> TraceContext {
    TraceContext {
        trace_id: TraceId([trace; 16]),
        span_id: SpanId([span; 8]),
        parent_span_id: SpanId::new([parent; 8]),
        sampling: Sampling::Accepted,
    }
}

fn phase(role: Role, edge: Option<u8>) -> RequestPhase {
    RequestPhase {
        role,
        received: None,
        request: kept(b"", None),
        left: None,
        sent: None,
        edge: edge.map(|span| SpanId([span; 8])),
        start_ns: 0,
    }
}

fn kept(principal: &[u8], peer_session: Option<SessionId>) -> KeptRequest {
    let mut kept = KeptRequest::new(&Request::default(), &[], principal);
    kept.peer_session = peer_session;
    kept
}

#[test]
fn a_received_hop_is_of_the_context_that_came_or_of_the_trace_that_it_was_sent_on_in() {
    let (came, went) = (context(1, 2, 3), context(1, 4, 2));
    let begun = |span| TraceContext { parent_span_id: None, ..context(1, span, 0) };
    // What came, the edge's span where a phase made one, what was sent: the hop's context and parent.
    for (received, edge, sent, expected) in [
        (Some(came), None, None, Some(came)),
        (Some(came), None, Some(went), Some(came)),
        (Some(came), Some(Some(9)), Some(went), Some(came)),
        (Some(context(1, 2, 0)), Some(None), None, Some(context(1, 2, 0))),
        (None, None, None, None),
        (None, None, Some(went), None),
        (None, Some(None), Some(went), None),
        (None, Some(Some(9)), None, None),
        (None, Some(Some(9)), Some(went), Some(begun(9))),
    ] {
        for side in [Side::Server, Side::GatewayIn] {
            let phase = edge.map(|edge| phase(Role::Gateway, edge));
            let sent = Sent { shown: Shown::default(), context: sent };
            let (kept, call) = (kept(b"", None), Attributes::default());
            let hop = incoming(side, &kept, received, &sent, phase.as_ref(), &call);
            let what = format!("{received:?} {edge:?}");
            assert_eq!((hop.side, hop.context), (side, expected), "{what}");
            assert_eq!(hop.parent, expected.and_then(|context| context.parent_span_id), "{what}");
            assert_eq!(hop.received, received, "{what}");
        }
    }
}

#[test]
fn a_peers_session_counts_where_its_mesh_vouches_for_it() {
    let session = Some([7; 16]);
    for (side, told, from_mtls, peer, expected) in [
        (Side::Server, &b""[..], &b""[..], &b""[..], session),
        (Side::Server, b"", b"spiffe://a", b"spiffe://a", session),
        (Side::Server, b"spiffe://b", b"spiffe://a", b"spiffe://b", session),
        (Side::GatewayIn, b"", b"", b"", None),
        (Side::GatewayIn, b"", b"spiffe://a", b"spiffe://a", session),
        (Side::GatewayIn, b"spiffe://b", b"", b"spiffe://b", session),
    ] {
        let (kept, call) =
            (kept(told, session), Attributes { peer: from_mtls, ..Attributes::default() });
        let sent = Sent { shown: Shown::default(), context: None };
        let hop = incoming(side, &kept, None, &sent, None, &call);
        assert_eq!((hop.peer, hop.peer_session), (peer, expected), "{side:?} {told:?}");
    }
}

#[test]
fn a_sent_hop_names_its_parent_and_in_the_middle_the_hop_that_was_received() {
    let span = |span| Some(SpanId([span; 8]));
    // What came, the edge's span, what was sent: the parent at a client, and in the middle.
    for (received, edge, sent, client, middle) in [
        (None, None, None, None, None),
        (Some(context(1, 2, 0)), None, None, None, None),
        (None, None, Some(context(1, 4, 0)), None, None),
        (None, None, Some(context(1, 4, 3)), span(3), span(3)),
        (None, Some(9), Some(context(1, 4, 0)), span(9), span(9)),
        (None, Some(9), Some(context(1, 4, 3)), span(3), span(9)),
        (None, Some(9), None, None, None),
        (Some(context(1, 2, 0)), None, Some(context(1, 4, 0)), span(2), span(2)),
        (Some(context(1, 2, 0)), None, Some(context(1, 4, 3)), span(3), span(2)),
        (Some(context(1, 2, 0)), Some(9), Some(context(1, 4, 3)), span(3), span(2)),
        // Sent on as it came: no span is its own parent.
        (Some(context(1, 2, 8)), None, Some(context(1, 2, 8)), span(8), span(8)),
        (Some(context(1, 2, 0)), None, Some(context(1, 2, 0)), None, None),
        // In another trace nothing that came is a parent.
        (Some(context(1, 2, 0)), None, Some(context(5, 4, 0)), None, None),
        (Some(context(1, 2, 0)), None, Some(context(5, 4, 3)), span(3), span(3)),
    ] {
        for (role, side, parent) in
            [(Role::Client, Side::Client, client), (Role::Gateway, Side::GatewayOut, middle)]
        {
            let phase = phase(role, edge);
            let sending = Sent { shown: Shown::default(), context: sent };
            let call = Attributes { peer: b"in", upstream_peer: b"out", ..Attributes::default() };
            let hop = outgoing(role, received, &sending, Some(&phase), &call, Vec::new());
            let what = format!("{role:?} {received:?} {edge:?} {sent:?}");
            assert_eq!((hop.side, hop.context, hop.parent), (side, sent, parent), "{what}");
            assert_eq!((hop.peer, hop.peer_session), (&b"out"[..], None), "{what}");
            assert_eq!(hop.received, received, "{what}");
        }
    }
}

#[test]
fn a_context_is_received_where_the_trace_is_the_one_that_came() {
    let (one, other) = (context(1, 2, 0), context(3, 2, 0));
    for (received, used, expected) in [
        (None, None, ContextSource::None),
        (Some(one), None, ContextSource::None),
        (None, Some(one), ContextSource::Generated),
        (Some(one), Some(one), ContextSource::Received),
        (Some(one), Some(context(1, 4, 2)), ContextSource::Received),
        (Some(one), Some(other), ContextSource::Generated),
    ] {
        let found = context_source(received.as_ref(), used.as_ref());
        assert_eq!(found, expected, "{received:?} {used:?}");
    }
}

#[test]
fn what_was_sent_is_what_the_headers_say_at_the_end_save_of_a_followed_redirect() {
    let headers = serialize(&[(b":path", b"/next"), (b"x-request-id", b"end")]);
    let request = Request::read(&headers);
    let before = serialize(&[(b":path", b"/first"), (b"x-request-id", b"begin")]);
    let mut phase = phase(Role::Client, None);
    phase.request = KeptRequest::new(&Request::read(&before), &[], b"");
    phase.sent = Some(context(1, 2, 0));
    for (details, with_phase, target, context) in [
        (VIA_UPSTREAM, true, &b"/next"[..], None),
        (VIA_UPSTREAM, false, b"/next", None),
        (REDIRECTED, true, b"/first", phase.sent),
        (REDIRECTED, false, b"/next", None),
    ] {
        let sent = Sent::of(with_phase.then_some(&phase), &request, &via(details, 302, 0));
        assert_eq!((sent.shown.seen.target, sent.context), (target, context), "{with_phase}");
    }
}

#[test]
fn a_peer_is_asked_for_where_no_header_told_it() {
    let (told, untold) = (kept(b"spiffe://a", None), kept(b"", None));
    for (role, kept, expected) in [
        (Role::Client, Some(&told), As::Client),
        (Role::Client, None, As::Client),
        (Role::Gateway, Some(&told), As::Middle),
        (Role::Server, None, As::Server),
        (Role::Server, Some(&untold), As::Server),
        (Role::Server, Some(&told), As::Told),
    ] {
        assert_eq!(asked_as(role, kept), expected, "{role:?}");
    }
}
