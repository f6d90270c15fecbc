"""What the filter learns of a tracer: not from routes that change trace headers, nor from headers that anybody can send.

An application that passes all its headers on blindly still has a span of its own for each call.
"""

import pytest

from lab.chain import TRACE_HEADERS, Chain
from lab.context import spans_arrived, tracing
from lab.forms import FORMS
from lab.procs import wait_until
from lab.receipts import CLIENT, SERVER, Inbox

DEADLINE_S = 15.0
NO_SPAN = "0" * 16
PLAIN, REMOVED, OVERWRITTEN = "blind", "removed", "overwritten"
ROUTES = {
    REMOVED: {"request_headers_to_remove": list(TRACE_HEADERS)},
    OVERWRITTEN: {"request_headers_to_add": [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in {"x-b3-traceid": "00000000000000000000000000000bad", "x-b3-spanid": "0000000000000bad"}.items()]},
}
SEQUENCE = [PLAIN, REMOVED, PLAIN, OVERWRITTEN, PLAIN, PLAIN, REMOVED, REMOVED, PLAIN, OVERWRITTEN, OVERWRITTEN, PLAIN]
SENT = {"nothing": {}, "multi": FORMS["multi"]("a" * 32, "b" * 16, "1"), "w3c": FORMS["w3c"]("a" * 32, "b" * 16, "1")}


@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("tracer", ["", "zipkin-100", "otel-100"])
def test_what_one_route_does_to_trace_headers_decides_nothing_about_another(tmp_path, tracer, sent):
    """All routes have one name, as those of a VirtualService have that does not name them."""
    with Inbox() as inbox, Chain(tmp_path, inbox, *[tracing(tracer, inbox.port)] * 2, routes=ROUTES) as chain:
        paths = [(kind, chain.call(kind, SENT[sent])) for kind in SEQUENCE]
        hops = [(kind, list(chain.hops(path).values())) for kind, path in paths]
        wait_until(lambda: spans_arrived(chain), DEADLINE_S, "all spans are reported")
        spans = {(span.trace_id, span.span_id) for span in inbox.spans if span.client}
    assert not inbox.faults
    for kind, three in hops:
        assert all(hop.client.hop_digest == hop.server.hop_digest for hop in three), (kind, three)
    plain = [hop for kind, three in hops for hop in three if kind == PLAIN]
    assert len({hop.client.span_id for hop in plain} - {NO_SPAN, "b" * 16}) == len(plain) == 3 * SEQUENCE.count(PLAIN)
    assert not tracer or {(hop.client.trace_id, hop.client.span_id) for hop in plain} <= spans


@pytest.mark.parametrize("headers", [
    {"x-request-id": "6b1d4e0f-3c5a-9f8e-9d27-1a2b3c4d5e6f"},
    {"x-envoy-decorator-operation": "somebody:80/*"},
    {"x-forwarded-client-cert": "By=spiffe://a/ns/b/sa/c;URI=spiffe://a/ns/b/sa/d"},
    {"x-meshchain-session": "0123456789abcdef0123456789abcdef;w3c;id=made-up"},
], ids=lambda headers: "".join(headers))
def test_what_an_application_sends_along_does_not_stop_the_filter_from_starting_spans(tmp_path, headers):
    with Inbox() as inbox, Chain(tmp_path, inbox) as chain:
        paths = [chain.call(PLAIN, more) for more in (headers, {}, {**headers, **SENT["multi"]}, {})]
        hops = [hop for path in paths for hop in chain.hops(path).values()]
    for hop in hops:
        assert (hop.client.side, hop.server.side) == (CLIENT, SERVER)
        assert hop.client.hop_digest == hop.server.hop_digest, hop
    # A first call that looks as if this very proxy traced it, and brings no trace, is left to show what a tracer does.
    told = hops[3:] if {"x-request-id", "x-envoy-decorator-operation"} & set(headers) else hops
    for hop in told:
        assert hop.server.own["peer_session"] == hop.client.session, hop
    assert len({hop.client.span_id for hop in told} - {NO_SPAN}) == len(told)


@pytest.mark.parametrize("tracer, context", [("", "never"), ("silent+zipkin-100", "auto")])
def test_a_session_that_an_application_hands_on_is_never_taken_for_its_own_proxys(tmp_path, tracer, context):
    """Also where the filter writes none of its own: the record would name a session that did not send the call."""
    with Inbox() as inbox, Chain(tmp_path, inbox, *[tracing(tracer, inbox.port)] * 2, {"context": context}) as chain:
        paths = [chain.call(PLAIN, more) for more in ({}, {"x-meshchain-session": "0123456789abcdef" * 2 + ";id=made-up"})]
        hops = [hop for path in paths for hop in chain.hops(path).values()]
    for hop in hops:
        assert "peer_session" not in hop.server.own, hop
        assert hop.client.hop_digest == hop.server.hop_digest, hop
        assert hop.client.hop["request_id"] != b"made-up", hop
