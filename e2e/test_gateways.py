"""A call that passes proxies in the middle: each of them says what it received and what it sent.

Between a client and a server of two organisations stand a gateway of each, and perhaps a waypoint. Every hop on the
way has two sides, which agree; and the two entries that one proxy leaves of a call are tied by their spans.
"""

import pytest

from lab.gateways import (CLIENT, EGRESS, FRONT, GUARDED, INGRESS, INNER, REFUSED, SERVER, WAYPOINT, Scene)
from lab.receipts import GATEWAY_IN, GATEWAY_OUT, SENDING, Inbox
from lab.receipts import CLIENT as CLIENT_SIDE
from lab.receipts import SERVER as SERVER_SIDE
from lab.topology import Zipkin

WAYS = {  # the proxies that a call passes, the client's first
    "gateways": (CLIENT, EGRESS, INGRESS, SERVER),
    "gateways-and-waypoint": (CLIENT, EGRESS, INGRESS, WAYPOINT, GUARDED),
    "waypoint": (INNER, WAYPOINT, GUARDED),
}
CALLERS_SPAN = "00000000000000aa"
SETTINGS = {  # whether Envoy traces, and the direction of the gateways' listeners
    "untraced": (False, "UNSPECIFIED"), "zipkin": (True, "UNSPECIFIED"), "outbound": (False, "OUTBOUND"),
    "inbound": (False, "INBOUND")}


@pytest.fixture(scope="module", params=SETTINGS.values(), ids=SETTINGS.keys())
def scene(request, tmp_path_factory):
    traced, direction = request.param
    with Inbox() as inbox:
        tracing = Zipkin(inbox.port, report_at_once=True) if traced else None
        with Scene(tmp_path_factory.mktemp("gateways"), tracing, direction) as running:
            yield running


def hops_of(scene, way):
    """The trace id of a call on a way, and each of its hops: the receipt of who sent it and of who received it."""
    pods = WAYS[way]
    trace_id = scene.call(pods[0], pods[-1].removesuffix("-0"))
    receipts = scene.receipts(trace_id, 2 * (len(pods) - 1))
    found = {(receipt.pod, receipt.side in SENDING): receipt for receipt in receipts}
    return trace_id, [(found[sender, True], found[receiver, False]) for sender, receiver in zip(pods, pods[1:])]


ways = pytest.mark.parametrize("way", WAYS)


@ways
def test_both_sides_of_each_hop_agree(scene, way):
    _, hops = hops_of(scene, way)
    for sent, received in hops:
        assert sent.hop_digest == received.hop_digest, (sent, received)
        assert sent.hop["status"] == 200
    last = len(hops) - 1
    assert [(sent.side, received.side) for sent, received in hops] == [
        (GATEWAY_OUT if n else CLIENT_SIDE, GATEWAY_IN if n < last else SERVER_SIDE) for n in range(last + 1)]


@ways
def test_each_hop_has_a_span_of_its_own_below_the_one_before(scene, way):
    trace_id, hops = hops_of(scene, way)
    spans = [sent.span_id for sent, _ in hops]
    assert len(set(spans)) == len(hops) and CALLERS_SPAN not in spans
    assert {sent.trace_id for sent, _ in hops} == {trace_id}
    assert [sent.parent for sent, _ in hops] == [CALLERS_SPAN, *spans[:-1]]


@ways
def test_both_entries_of_a_proxy_in_the_middle_are_of_one_session_and_say_what_it_saw(scene, way):
    _, hops = hops_of(scene, way)
    for (_, received), (sent, _) in zip(hops, hops[1:]):
        assert (received.side, sent.side) == (GATEWAY_IN, GATEWAY_OUT)
        assert received.session == sent.session
        assert received.own["salt"] != sent.own["salt"]
        assert received.own["start_ns"] == sent.own["start_ns"]


@ways
def test_each_side_names_the_peer_that_mtls_proved_and_the_session_that_the_sender_named(scene, way):
    _, hops = hops_of(scene, way)
    for sent, received in hops:
        assert sent.own["peer_principal"].decode() == scene.mesh.spiffe_id(received.pod)
        assert received.own["peer_principal"].decode() == scene.mesh.spiffe_id(sent.pod)
        assert received.own["peer_session"] == sent.session
        assert "peer_session" not in sent.own


@ways
def test_the_verifier_says_that_both_sides_of_each_hop_agree(scene, way):
    trace_id, hops = hops_of(scene, way)
    report = scene.verify(trace_id)
    assert [hop["agreement"] for hop in report["hops"]] == ["agree"] * len(hops), report["hops"]


def test_a_call_that_a_gateway_answers_itself_has_no_hop_behind_it(scene):
    trace_id = scene.call(CLIENT, "server", f"{REFUSED}/x")
    sent, received = sorted(scene.receipts(trace_id, 2), key=lambda receipt: receipt.side)
    assert (sent.pod, received.pod, received.side) == (CLIENT, EGRESS, GATEWAY_IN)
    assert sent.hop_digest == received.hop_digest
    assert sent.hop["status"] == 403


def test_the_hop_of_a_user_outside_of_any_mesh_is_told_as_an_edge(scene):
    trace_id = scene.call(FRONT, "server")
    edge, sent, received = sorted(scene.receipts(trace_id, 3), key=lambda receipt: (receipt.pod, -receipt.side))
    assert (edge.pod, edge.side) == (FRONT, GATEWAY_IN)
    assert (sent.side, received.side) == (GATEWAY_OUT, SERVER_SIDE) and sent.hop_digest == received.hop_digest
    assert edge.span_id == sent.parent == CALLERS_SPAN
    assert not {"peer_principal", "peer_session"} & set(edge.own)
    told = {hop["span_id"]: (hop["agreement"], hop["why"]) for hop in scene.verify(trace_id)["hops"]}
    assert told == {edge.span_id: ("one_sided", ["edge"]), sent.span_id: ("agree", [])}
