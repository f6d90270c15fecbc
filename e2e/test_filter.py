"""The filter in real Envoy sidecars, reporting to real collectors behind mTLS, across two organisations."""

import itertools
import json
import socket
from collections import defaultdict

import pytest

from lab.bookinfo import CLOUD, ENTERPRISE, INGRESS, bookinfo, collector_pod
from lab.collector import FILTER, Collector, check_built, meshchain
from lab.mesh import Mesh
from lab.procs import free_port, wait_until
from lab.topology import WasmFilter, Zipkin

DEADLINE_S = 20.0
CONFIG = {"tick_ms": 50, "heartbeat_s": 1}
_trace_ids = itertools.count(1)
USERS_SPAN = "00000000000000aa"
SPANS = 9  # of a page: two of each of the four hops between proxies, and the gateway's of the user's own


class Scene:
    """Bookinfo with the filter everywhere and a collector for each organisation."""

    def __init__(self, directory, config=None, tracing=None, weights=(0, 100, 0)):
        check_built()
        self.directory = directory
        made = []
        for name in (ENTERPRISE, CLOUD):
            collector = Collector(name, directory / name)
            collector.write_config()
            made.append(collector_pod(name, command=collector.argv))
        wasm = {name: WasmFilter(FILTER, {**CONFIG, **(config or {})}) for name in (ENTERPRISE, CLOUD)}
        pods, services = zip(*made)
        topology = bookinfo(wasm=wasm, tracing=tracing, more_pods=pods, more_services=services, review_weights=weights)
        self.mesh = Mesh(topology, directory / "mesh")

    def __enter__(self):
        self.mesh.start()
        self.collectors = {
            name: Collector(name, self.directory / name, f"http://127.0.0.1:{self.pod(name).app_port}")
            for name in (ENTERPRISE, CLOUD)}
        return self

    def __exit__(self, *_):
        self.mesh.close()

    def pod(self, organisation):
        return self.mesh.pods[f"meshchain-collector-{organisation}-0"]

    def call(self, headers=None):
        """One page through the gateway, in a trace of its own; the trace id."""
        trace_id = f"{next(_trace_ids):032x}"
        b3 = {"x-b3-traceid": trace_id, "x-b3-spanid": USERS_SPAN}
        answer = self.mesh.client(INGRESS).get("/api/v1/products/0", {**b3, **(headers or {})})
        return trace_id, answer

    def spans(self, trace_id, count):
        """The spans of a trace from both logs, once there are `count`, as `meshchain verify` reads them."""
        found = []

        def complete():
            found[:] = [span for c in self.collectors.values() for span in self._spans(c, trace_id)]
            return len(found) >= count
        wait_until(complete, DEADLINE_S, f"{count} spans of trace {trace_id} are logged")
        assert len(found) == count
        return found

    def _spans(self, collector, trace_id):
        file = self.directory / f"{trace_id}-{collector.organisation}.json"
        if meshchain("evidence", trace_id, "--collector", collector.url, "-o", file).code:
            return []
        run = meshchain("verify", file, "--json")
        assert run.code == 2, f"without a policy nothing is verified: {run.text}"
        return run.json()["spans"]

    def sessions(self):
        return [s for c in self.collectors.values() for s in c.get("/v1/sessions")]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    with Scene(tmp_path_factory.mktemp("filter")) as running:
        yield running


def hops(spans):
    """Spans by hop span id: {id: {"client" or "server", who sent or who received: span}}."""
    by_hop = defaultdict(dict)
    for span in spans:
        side = "client" if span["side"] in ("client", "gateway_out") else "server"
        assert side not in by_hop[span["span_id"]], "one record a side"
        by_hop[span["span_id"]][side] = span
    return dict(by_hop)


def between_proxies(spans):
    """The hops without that of the user, which the gateway alone has seen."""
    found = hops(spans)
    assert found.pop(USERS_SPAN)["server"]["side"] == "gateway_in"
    return found


def both_sides_agree(spans):
    found = between_proxies(spans)
    for hop_id, sides in found.items():
        assert set(sides) == {"client", "server"}, f"hop {hop_id} has only {set(sides)}"
        assert sides["client"]["hop_digest"] == sides["server"]["hop_digest"], hop_id
    return found


def test_every_call_has_a_receipt_of_both_sides_and_they_agree(scene):
    trace_id, answer = scene.call()
    assert answer.status == 200
    by_hop = both_sides_agree(scene.spans(trace_id, SPANS))
    assert len(by_hop) == 4, "gateway-productpage, productpage-details, productpage-reviews, reviews-ratings"
    paths = sorted(sides["client"]["call"]["path"] for sides in by_hop.values())
    assert paths == ["/api/v1/products/0", "/details/0", "/ratings/0", "/reviews/0"]


def test_an_application_that_passes_its_headers_on_blindly_still_gets_a_span_for_each_call(scene):
    trace_id, _ = scene.call()
    by_hop = between_proxies(scene.spans(trace_id, SPANS))
    assert len(by_hop) == 4
    gateway = next(s["client"] for s in by_hop.values() if s["client"]["call"]["path"] == "/api/v1/products/0")
    parents = {sides["client"]["own"]["parent_span_id"] for sides in by_hop.values()}
    assert gateway["own"]["parent_span_id"] == USERS_SPAN
    assert parents - {USERS_SPAN} <= set(by_hop), "each parent is a hop of the trace"


def test_a_failing_call_is_recorded_with_its_status_on_both_sides(scene):
    trace_id, answer = scene.call({"x-demo-fault": "details=500"})
    assert answer.status == 500
    by_hop = both_sides_agree(scene.spans(trace_id, SPANS))
    status = {sides["client"]["call"]["path"]: sides["client"]["call"]["status"] for sides in by_hop.values()}
    assert (status["/details/0"], status["/api/v1/products/0"], status["/reviews/0"]) == (500, 500, 200)


def test_the_peer_and_the_sender_are_those_that_mtls_proved(scene):
    trace_id, _ = scene.call()
    sides = next(s for s in between_proxies(scene.spans(trace_id, SPANS)).values()
                 if s["server"]["call"]["path"] == "/reviews/0")
    assert sides["server"]["own"]["peer_principal"] == scene.mesh.spiffe_id("productpage-v1-0")
    assert sides["client"]["own"]["peer_principal"] == scene.mesh.spiffe_id("reviews-v2-0")
    for session in scene.sessions():
        assert session["principal"] == scene.mesh.spiffe_id(session["source"]["pod"])


def test_each_sidecar_reports_without_gaps_and_silence_is_proved_by_heartbeats(scene):
    pods = {s["source"]["pod"] for s in scene.sessions()}
    assert pods == set(scene.mesh.pods)
    before = {s["session"]: s["batches"] for s in scene.sessions()}
    wait_until(lambda: all(s["batches"] > before.get(s["session"], 0) for s in scene.sessions()), DEADLINE_S,
               "every session beats")
    assert all(s["missing_batches"] == 0 and s["dropped"] == 0 for s in scene.sessions())


@pytest.mark.parametrize("headers", [
    [b"x-b3-traceid: \xff\xfe\xfd", b"x-b3-spanid: \xff"],
    [b"x-b3-traceid: " + b"a" * 5000, b"x-b3-spanid: 1"],
    [b"b3: " + b"-" * 3000],
    [b"traceparent: 00-" + b"\xe2\x82\xac" * 20],
    [b"x-b3-traceid: 0000000000000001", b"x-b3-traceid: 0000000000000002", b"x-b3-spanid: 00000000000000bb"],
    [b"x-request-id: \xff\xff"],
], ids=["not-utf8", "over-long", "dashes", "multibyte", "duplicated", "request-id"])
def test_hostile_trace_headers_never_fail_a_request_nor_trap_the_filter(scene, headers):
    gateway = scene.mesh.pods[INGRESS]
    before = gateway.sidecar.stats("wasmcustom")["wasmcustom.meshchain_records"]
    with socket.create_connection(("127.0.0.1", gateway.outbound_port), timeout=10) as connection:
        lines = [b"GET /api/v1/products/0 HTTP/1.1", b"host: bookinfo.example", b"connection: close", *headers]
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
    wait_until(lambda: gateway.sidecar.stats("wasmcustom")["wasmcustom.meshchain_records"] > before, DEADLINE_S,
               "the call is recorded")
    runtime = gateway.sidecar.stats("wasm.envoy.wasm.runtime.v8")
    assert runtime["wasm.envoy.wasm.runtime.v8.active"] >= 2, "the main thread's VM and the worker's"


def test_a_client_that_hangs_up_leaves_a_receipt_without_a_status(scene):
    trace_id = f"{next(_trace_ids):032x}"
    gateway = scene.mesh.pods[INGRESS]
    with socket.create_connection(("127.0.0.1", gateway.outbound_port), timeout=10) as connection:
        connection.sendall(b"GET /api/v1/products/0 HTTP/1.1\r\nhost: bookinfo.example\r\nx-b3-spanid: 00000000000000aa\r\n"
                           b"x-b3-traceid: %s\r\nx-demo-fault: details=slow:1.0\r\n\r\n" % trace_id.encode())
        details = scene.mesh.pods["details-v1-0"].sidecar
        wait_until(lambda: details.stats("http.inbound")["http.inbound.downstream_rq_active"] > 0, DEADLINE_S,
                   "the request is at its slow service")
    by_hop = hops(scene.spans(trace_id, SPANS))
    front = next(s for s in by_hop.values() if s.get("client", {}).get("side") == "gateway_out")
    assert front["client"]["call"]["status"] == by_hop[USERS_SPAN]["server"]["call"]["status"] == 0


def test_the_collector_is_away_and_nothing_is_lost(scene):
    collector = scene.pod(ENTERPRISE)
    assert collector.stop_app() == 0
    traces = [scene.call() for _ in range(20)]
    assert all(answer.status == 200 for _, answer in traces)
    page = scene.mesh.pods["productpage-v1-0"].sidecar
    wait_until(lambda: page.stats("wasmcustom")["wasmcustom.meshchain_queue_bytes"] > 0, DEADLINE_S, "batches wait")
    collector.start_app()
    collector.wait_app()
    for trace_id, _ in traces:
        both_sides_agree(scene.spans(trace_id, SPANS))
    assert page.stats("wasmcustom")["wasmcustom.meshchain_retried"] > 0
    assert all(s["missing_batches"] == 0 and s["dropped"] == 0 for s in scene.sessions())


def test_with_a_tracer_the_hop_is_the_tracers_span(tmp_path):
    with Scene(tmp_path, tracing=Zipkin(free_port())) as scene:
        for _ in range(3):  # the first call tells the filter that there is a tracer
            trace_id, answer = scene.call()
            assert answer.status == 200
            by_hop = both_sides_agree(scene.spans(trace_id, SPANS))
            assert len(by_hop) == 4


def test_payload_digest_keeps_records_in_the_proxy(tmp_path):
    with Scene(tmp_path, config={"payload": "digest"}) as scene:
        trace_id, _ = scene.call()
        spans = scene.spans(trace_id, SPANS)
        assert all(span.get("call") is None and span.get("own") is None for span in spans)
        both_sides_agree(spans)


@pytest.mark.parametrize("config, counter", [
    ({"tick_ms": "soon"}, "wasmcustom.meshchain_config_errors"),
    ({"collector_cluster": "outbound|1||nowhere"}, "wasmcustom.meshchain_queue_bytes"),
], ids=["bad-value", "missing-cluster"])
def test_a_bad_configuration_never_fails_a_request(tmp_path, config, counter):
    with Scene(tmp_path, config=config) as scene:
        assert scene.call()[1].status == 200
        sidecar = scene.mesh.pods["productpage-v1-0"].sidecar
        wait_until(lambda: sidecar.stats("wasmcustom").get(counter, 0) > 0, DEADLINE_S, f"{counter} tells")


def test_an_unknown_key_is_reported_in_the_heartbeat(tmp_path):
    with Scene(tmp_path, config={"tik_ms": 1}) as scene:
        assert scene.call()[1].status == 200
        wait_until(lambda: any("tik_ms" in json.dumps(s["notices"]) for s in scene.sessions()), DEADLINE_S,
                   "a heartbeat names the key")


def test_batches_on_their_way_to_a_collector_are_not_calls_of_the_mesh(scene):
    scene.call()
    for name in (ENTERPRISE, CLOUD):
        sidecar = scene.pod(name).sidecar
        wait_until(lambda s=sidecar: s.stats("wasmcustom")["wasmcustom.meshchain_skipped"] > 0, DEADLINE_S,
                   "the collector's sidecar skips them")
    own = [s for s in scene.sessions() if s["source"]["workload"] == "meshchain-collector"]
    assert own and all(s["entries"] == 0 for s in own)
