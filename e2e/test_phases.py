"""The phase matrix: what becomes of a call in Envoy, and the record that the filter must make of it.

The rows are in e2e/phases/rows.py; they run against the newest Envoy and against the oldest that a
supported Istio ships. Rows of the matrix that other tests have:

    in test_filter.py                                         situation
    test_a_bad_configuration_never_fails_a_request            bad configuration, missing collector cluster
    test_an_unknown_key_is_reported_in_the_heartbeat          unknown configuration key
    test_a_client_that_hangs_up_leaves_a_receipt_...          a caller of a gateway leaves
    test_with_a_tracer_the_hop_is_the_tracers_span            a tracer in Envoy
    test_hostile_trace_headers_never_fail_a_request_...       hostile trace headers at a gateway
    test_the_peer_and_the_sender_are_those_that_mtls_proved   mTLS across organisations, who delivers the batches
    test_the_collector_is_away_and_nothing_is_lost            no collector
    test_payload_digest_keeps_records_in_the_proxy            digests without records
"""

import itertools
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest

from lab import client
from lab.collector import meshchain
from lab.procs import wait_until
from lab.receipts import canonical_authority, canonical_path
from lab.tools import OLDEST_ENVOY, ToolMissing, envoy_of
from phases import caller
from phases.app import BIG
from phases.rows import ROWS, Row
from phases.scene import CONFIG, CROWD, DEADLINE_S, Scene

AT_ONCE = 8  # rows; most of them wait for a timer
NO_CONTEXT, RECEIVED, GENERATED = 0, 1, 2
UNREADABLE, UNCONFIGURED = 3, 4  # reasons of dropped calls
SOON_S = 8.0  # more than the 5 s after which Envoy gives up on a batch


@dataclass(frozen=True)
class Matrix:
    """The scene, and what the caller saw of each row; all rows have run side by side."""

    scene: Scene
    ends: dict
    began_ns: int

    def spans(self, row: Row):
        return self.scene.spans(row.request_id or row.id, int(row.client is not None), len(row.server))


@pytest.fixture(scope="module", params=["newest", "oldest"])
def matrix(request, tmp_path_factory):
    try:
        envoy = envoy_of(OLDEST_ENVOY) if request.param == "oldest" else None
    except ToolMissing as missing:
        pytest.skip(str(missing))
    began_ns = time.time_ns()
    with Scene(tmp_path_factory.mktemp(request.param), envoy) as scene, ThreadPoolExecutor(AT_ONCE) as pool:
        yield Matrix(scene, {row: pool.submit(row.call, scene, row.id, row.path, row.app) for row in ROWS}, began_ns)


@pytest.fixture
def scene(matrix):
    return matrix.scene


def rows(test):
    """The test for each row."""
    return pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])(test)


def pairs(row: Row, spans):
    """What is expected of each record, and the record."""
    return zip((*filter(None, [row.client]), *row.server), (*spans["client"], *spans["server"]), strict=True)


@rows
def test_each_side_tells_what_it_saw_in_one_record_for_each_attempt(matrix, row):
    assert matrix.ends[row].result() == row.ends
    for seen, span in pairs(row, matrix.spans(row)):
        assert (span.flags, span.own["attempts"], span.own["protocol"].decode()) == (
            seen.flags, seen.attempts, seen.protocol)
        assert span.details.startswith(seen.details)
        assert (span.authority, span.path) == (row.authority, seen.path or row.path)
        assert span.hop["authority"] == canonical_authority(span.authority.encode())
        assert span.hop["path"] == canonical_path(span.path.encode())
        end_ns = span.own["start_ns"] + span.own["duration_ns"]
        assert matrix.began_ns <= span.own["start_ns"] < end_ns <= time.time_ns()


@rows
def test_the_status_is_that_of_a_response_that_crossed_completely_and_both_sides_agree(matrix, row):
    spans = matrix.spans(row)
    assert [span.status for _, span in pairs(row, spans)] == [seen.status for seen, _ in pairs(row, spans)]
    digests = {side[-1].hop_digest for side in spans.values() if side}
    assert len(digests) == 1, "of several attempts, the client side's hop is the last one"


@rows
def test_a_grpc_status_is_recorded_for_grpc_and_only_where_there_is_one(matrix, row):
    for seen, span in pairs(row, matrix.spans(row)):
        assert span.grpc_status == seen.grpc


@rows
def test_each_side_names_the_peer_that_mtls_proved(matrix, row):
    spans = matrix.spans(row)
    ours, theirs = (matrix.scene.mesh.spiffe_id(pod).encode() for pod in ("client-0", "server-0"))
    assert all(span.own["peer_principal"] == ours for span in spans["server"])
    met = bool(row.server) or row.name == "head-too-large-for-the-server"
    assert all(span.own["peer_principal"] == (theirs if met else b"") for span in spans["client"])


@pytest.mark.parametrize("name, context", [
    ("refused-before-the-filter", NO_CONTEXT), ("aborted-before-the-filter", NO_CONTEXT),
    ("direct-response", GENERATED), ("http1", GENERATED), ("duplicates", RECEIVED)])
def test_a_span_begins_only_where_the_request_came_to_the_filter(matrix, name, context):
    client = matrix.spans(named(name))["client"][0]
    assert client.own["context"] == context
    assert bool(client.hop["trace_id"]) == bool(client.hop["span_id"]) == (context != NO_CONTEXT)


@pytest.mark.parametrize("name", ["big-bodies", "big-bodies-http2"])
def test_sizes_are_those_of_the_whole_messages(matrix, name):
    for _, span in pairs(row := named(name), matrix.spans(row)):
        assert BIG < span.own["request_bytes"] < BIG + 2048
        assert BIG < span.own["response_bytes"] < BIG + 2048


def test_of_duplicated_ids_the_first_counts_on_both_sides(matrix):
    spans = matrix.spans(named("duplicates"))
    client, server = spans["client"][0], spans["server"][0]
    assert client.hop["trace_id"] == server.hop["trace_id"] == bytes(15) + b"\1"
    assert client.own["parent_span_id"] == server.own["parent_span_id"] == bytes(7) + b"\xbb"
    assert client.hop["span_id"] == server.hop["span_id"] not in (b"", bytes(7) + b"\xbb")


def test_all_attempts_of_a_call_are_one_span(matrix):
    spans = matrix.spans(named("third-attempt-succeeds"))
    assert len({(s.hop["trace_id"], s.hop["span_id"]) for s in (*spans["client"], *spans["server"])}) == 1
    assert len({s.hop_digest for s in spans["server"]}) == 2, "two failures are alike, the success differs"


@pytest.mark.parametrize("pod, status, call, path", [
    ("client-0", "431", caller.plain(b"x-pad: " + b"y" * 70_000), "/plain"),
    ("client-0", "400", caller.plain(b"no colon"), "/plain"),
    ("client-0", "400", caller.plain(), "/caf\xe9"),
    ("server-0", "426", caller.without_sidecar(version="1.0"), "/plain"),
], ids=["head-too-large", "no-header", "path-not-ascii", "http10"])
def test_a_request_that_envoy_refuses_while_reading_it_is_counted_as_unreadable(matrix, pod, status, call, path):
    for end in matrix.ends.values():
        end.result()
    wait_until(lambda: unreadable(matrix.scene, "server-0") > 0, DEADLINE_S, "the row of the large head is counted")
    before = unreadable(matrix.scene, pod)
    id = f"unreadable {path} {status}".encode()
    assert call(matrix.scene, id, path, "hello") == status
    wait_until(lambda: unreadable(matrix.scene, pod) > before, DEADLINE_S, "a header counts it")
    assert unreadable(matrix.scene, pod) == before + 1
    assert not matrix.scene.recorder.spans(id)


def named(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def unreadable(scene: Scene, pod: str) -> int:
    """Calls that the sessions of a pod have counted as unreadable so far."""
    dropped = [d for header in scene.recorder.sessions(pod).values() for d in header["dropped"]]
    return sum(d["count"] for d in dropped if d["reason"] == UNREADABLE)


def test_the_oldest_envoy_is_the_one_that_it_should_be(scene, request):
    bootstrap = scene.mesh.pods["server-0"].sidecar.config_dump()["configs"][0]["bootstrap"]
    version = bootstrap["node"]["user_agent_build_version"]["version"]
    found = f"{version['major_number']}.{version['minor_number']}.{version.get('patch', 0)}"
    assert (found == OLDEST_ENVOY) == (request.node.callspec.params["matrix"] == "oldest")


def test_with_several_workers_each_call_is_recorded_once_and_each_vm_has_a_session(scene):
    """Connections are spread evenly; beside the workers' VMs there is one on the main thread, which only beats."""
    def calls(connection: int) -> None:
        with caller.connected(scene, b"", "crowd-0") as socket:
            together.wait(DEADLINE_S)
            for n in range(5):
                socket.sendall(caller.head(b"crowd-%d-%d" % (connection, n), "/plain", "hello"))
                assert caller.until(socket, b"hello").startswith(b"HTTP/1.1 200")
    connections = 2 * CROWD
    together = threading.Barrier(connections)
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(calls, range(connections)))
    sessions = set()
    for connection, n in itertools.product(range(connections), range(5)):
        spans = scene.spans(b"crowd-%d-%d" % (connection, n), 1, 1)
        assert spans["client"][0].hop_digest == spans["server"][0].hop_digest
        sessions.add(spans["client"][0].session)
    assert len(sessions) == CROWD
    wait_until(lambda: len(scene.recorder.sessions("crowd-0")) == CROWD + 1, DEADLINE_S, "the main thread's VM beats")


def test_both_directions_of_a_sidecar_share_a_session(scene):
    assert caller.plain()(scene, b"outwards", "/plain", "hello") == "200"
    assert caller.without_sidecar(to="client-0")(scene, b"inwards", "/plain", "hello") == "200"
    outwards, inwards = scene.spans(b"outwards", 1, 1)["client"][0], scene.spans(b"inwards", 0, 1)["server"][0]
    assert (outwards.pod, outwards.session) == (inwards.pod, inwards.session)


def configure(scene: Scene, config: dict) -> None:
    """Delivers a configuration to changing-0; returns when its Envoy has loaded it."""
    sidecar = scene.mesh.pods["changing-0"].sidecar
    count = "extension_config_discovery.http_filter.istio-system.meshchain.config_reload"
    before = sidecar.stats(count)[count]
    sidecar.deliver_filter(replace(sidecar.proxy.organisation.wasm, plugin_config=config))
    wait_until(lambda: sidecar.stats(count)[count] > before, DEADLINE_S, "the configuration is loaded")


def changing(scene: Scene, id: str) -> bytes:
    assert scene.client("changing-0").get("/plain?q=1", {"x-request-id": id}).status == 200
    return id.encode()


def test_a_new_configuration_takes_effect_and_a_bad_one_stops_records_but_not_calls(scene):
    """The session goes on. Each is delivered while no batch is on its way: the next test has the other case."""
    def quiet() -> None:
        before = {session: h["seq"] for session, h in scene.recorder.sessions("changing-0").items()}
        wait_until(lambda: all(h["seq"] > before.get(session, -1) for session, h in
                               scene.recorder.sessions("changing-0").items()), DEADLINE_S, "every VM has just beaten")
    first = scene.spans(changing(scene, "changing-first"), 1, 1)["client"][0]
    quiet()
    configure(scene, {**CONFIG, "path_privacy": "keep"})
    keep = scene.spans(changing(scene, "changing-keep"), 1, 1)["client"][0]
    quiet()
    configure(scene, {"tick_ms": "soon"})
    off = changing(scene, "changing-off")
    scene.spans(off, 0, 1)
    configure(scene, CONFIG)
    last = scene.spans(changing(scene, "changing-last"), 1, 1)["client"][0]
    assert [span.own["query"] for span in (first, keep, last)] == [b"", b"q=1", b""]
    assert first.session == keep.session == last.session
    scene.spans(off, 0, 1)
    lost = wait_until(lambda: scene.recorder.sessions("changing-0")[last.session]["dropped"], DEADLINE_S,
                      "a header counts the call that has no record")
    assert [(drop["reason"], drop["count"]) for drop in lost] == [(UNCONFIGURED, 1)]


def test_a_new_configuration_while_a_batch_is_on_its_way_does_not_stop_records(scene):
    recorder = scene.recorder
    recorder.waiting.clear()
    recorder.may_answer.clear()
    try:
        ids = [changing(scene, "busy-first")]
        wait_until(lambda: recorder.waiting.count("changing-0") == 2, DEADLINE_S, "both VMs have a batch on its way")
        configure(scene, CONFIG | {"heartbeat_s": 2})
        ids += [changing(scene, f"busy-{n}") for n in range(10)]
    finally:
        recorder.may_answer.set()
    for id in ids:
        scene.spans(id, 1, 1, deadline_s=SOON_S)


def test_without_a_configuration_the_defaults_serve(scene):
    assert scene.client("bare-0").get("/plain?q=1", {"x-request-id": "bare"}).status == 200
    spans = scene.spans(b"bare", 1, 1)
    assert spans["client"][0].hop_digest == spans["server"][0].hop_digest
    assert spans["server"][0].own["peer_principal"] == b"spiffe://bare.example/ns/shop/sa/bare"
    assert spans["client"][0].own["query"] == b""
    assert not any(header["notices"] for header in scene.recorder.sessions("bare-0").values())


def test_the_collector_took_every_batch_and_has_evidence_of_both_sides(matrix, tmp_path):
    scene, row = matrix.scene, named("http1")
    trace_id = matrix.spans(row)["client"][0].hop["trace_id"].hex()
    fence(scene)
    assert scene.recorder.refused == []
    sessions = client.request("GET", f"{scene.collector_url}/v1/sessions").json()
    assert all(s["missing_batches"] == 0 for s in sessions)
    assert sum(s["entries"] for s in sessions) >= len(scene.recorder.spans()) > len(ROWS)

    def evidence():
        return meshchain("evidence", trace_id, "--collector", scene.collector_url, "-o", tmp_path / "e.json").code == 0
    wait_until(evidence, DEADLINE_S, "the collector has evidence of the trace")
    spans = meshchain("verify", tmp_path / "e.json", "--json").json()["spans"]
    assert {span["side"]: span["call"]["path"] for span in spans} == {"client": "/plain", "server": "/plain"}
    assert len({span["hop_digest"] for span in spans}) == 1


def test_nothing_was_recorded_twice_and_no_vm_failed(matrix):
    scene = matrix.scene
    for row in ROWS:
        matrix.ends[row].result()
    fence(scene)
    for row in ROWS:
        matrix.spans(row)
    for pod in scene.mesh.pods.values():
        log = pod.sidecar.process.log_text()
        assert not re.search(r"\[(error|critical)\]\[wasm\]", log), pod.sidecar.process.tail()


def fence(scene: Scene) -> None:
    """One more call, whose records come after all that its VMs recorded before."""
    id = f"fence-{time.time_ns()}"
    assert scene.client().get("/plain", {"x-request-id": id}).status == 200
    scene.spans(id.encode(), 1, 1)
