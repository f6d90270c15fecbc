"""The filter taken away, misdelivered, or left without its collector under a real istiod: never an outage."""

import contextlib
import json
import secrets

import pytest

from istio.checks import CLIENT, agreed, both_sides
from istio.manifests import DELIVERIES, PARTS
from istio.scene import COLLECTOR_PORT, DEADLINE_S
from lab.batches import Session
from lab.client import request
from lab.procs import wait_until

CALLS = 5
TORN = 2  # calls in the one or two drains of a test
STAND_IN = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
REFUSES = "http://10.99.0.1:1"  # a port of the node that nobody listens on: the agent tries for 7 s
FAULTS = [*((delivery, "wrong sha256") for delivery in DELIVERIES),
          ("wasmplugin", "not found"), ("envoyfilter", "not wasm"), ("trafficextension", "unreachable")]


def faulty(scene, delivery, fault):
    """A manifest whose module cannot be had."""
    match fault:
        case "wrong sha256":
            return scene.manifest(delivery, sha256="1" * 64)
        case "not found":
            return scene.manifest(delivery, path="/nothing")
        case "not wasm":
            scene.files.files["/text"] = b"not a module"
            return scene.manifest(delivery, path="/text")
        case "unreachable":
            return scene.manifest(delivery).replace(scene.files.url, REFUSES)
    raise ValueError(fault)


def batches(scene):
    return {session["session"]: session["batches"] for session in scene.ask_collector("/v1/sessions")}


def no_outage(seen):
    """Whether traffic went on. Envoy ends what is still on a filter chain when its drain is over, here after 1 s
    and not 45 (`filter_chain_is_being_removed` in its access log): that can tear a call in flight."""
    return seen[200] > CALLS and seen.total() - seen[200] <= TORN


def trace(trace_id):
    """The headers of a caller in a trace."""
    return {"x-b3-traceid": trace_id, "x-b3-spanid": "00000000000000aa"}


def post(scene, batch, headers=None):
    """A batch of the client's application's own making."""
    address = scene.address("meshchain-collector", "meshchain")
    return scene.client.send("POST", f"http://{address}:{COLLECTOR_PORT}/v1/batches", headers, batch)


def entries(scene):
    return sum(session["entries"] for session in scene.ask_collector("/v1/sessions"))


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_taken_away_the_filter_leaves_the_mesh_working_and_sends_no_more_batches(scene, delivery):
    with scene.traffic() as seen:
        with scene.filter(delivery):
            agreed(scene, scene.call())
        # Acknowledged is committed, and so is what came before it.
        assert post(scene, Session(delivery.encode(), namespace="shop", pod="marker-0").batch([])).status == 200
        before = batches(scene)
        dark = [secrets.token_hex(16) for _ in range(CALLS)]
        assert {scene.call("/dark", trace(trace_id)).status for trace_id in dark} == {200}
        with scene.filter(delivery):
            agreed(scene, scene.call())  # what was sent before it has arrived by now
        assert before.items() <= batches(scene).items()
        assert [scene.spans_so_far(trace_id) for trace_id in dark] == [[]] * CALLS
    assert no_outage(seen), seen


@pytest.mark.parametrize("delivery, fault", FAULTS)
def test_a_module_that_cannot_be_had_is_no_outage_and_the_right_one_works_at_once(scene, delivery, fault):
    with scene.traffic() as seen:
        scene.apply(faulty(scene, delivery, fault))
        try:
            for name, sidecar in scene.sidecars.items():
                wait_until(lambda s=sidecar: [each["@type"] for each in s.delivered()] == [STAND_IN] * len(PARTS),
                           DEADLINE_S, f"{name}: the agent stands in for the module, on either side")
            scene.wait_drained()
            assert {scene.call().status for _ in range(2 * CALLS)} == {200}
            scene.apply(scene.manifest(delivery))
            scene.wait_filter()
            agreed(scene, scene.call())
        finally:
            scene.delete(scene.manifest(delivery))
        scene.wait_no_filter()
    assert no_outage(seen), seen


def test_a_change_of_its_configuration_under_traffic_loses_no_call(scene):
    manifest = scene.manifest("wasmplugin")
    changed = manifest.replace("path_privacy: strip-query", "path_privacy: keep")
    with scene.filter("wasmplugin"):
        before = entries(scene)
        with scene.traffic() as seen:
            wait_until(lambda: seen.total() > CALLS, DEADLINE_S, "calls with the old configuration")
            scene.apply(changed)
            scene.wait_configured('"path_privacy":"keep"')
            by_then = seen.total()
            wait_until(lambda: seen.total() > by_then + CALLS, DEADLINE_S, "calls with the new configuration")
        assert set(seen) == {200}, seen
        for span in agreed(scene, scene.call("/kept?query=1")):
            assert "query=1" in json.dumps(span)
        due = before + 2 * (seen.total() + 1)
        wait_until(lambda: entries(scene) >= due, DEADLINE_S, "both sides' entries of each call")
        assert entries(scene) == due


def test_of_a_server_that_is_down_both_sides_say_the_same(scene):
    trace_id = secrets.token_hex(16)
    with scene.filter("wasmplugin"):
        scene.server.stop_container("app")
        assert scene.call("/down", trace(trace_id)).status == 503
        both_sides(scene, trace_id, 503)
        scene.server.start_container("app")
        wait_until(lambda: scene.call().status == 200, DEADLINE_S, "the server is back")


@contextlib.contextmanager
def no_process(scene):
    """Its sidecar is there and has nobody to hand batches to."""
    assert scene.collector.stop_container("collector") == 0
    yield
    scene.collector.start_container("collector")
    scene.collector.wait_ready("collector")


@contextlib.contextmanager
def no_endpoint(scene):
    """As while its Pod is moved: the Service has nobody behind it."""
    scene.collector.remove_endpoints()
    yield
    scene.collector.add_endpoints()


@contextlib.contextmanager
def no_service(scene):
    """The cluster that the filter names is unknown to Envoy."""
    service = scene.kube.get("service", "meshchain-collector", "meshchain")
    scene.kube.run("delete", "service", "meshchain-collector", "--namespace=meshchain")
    yield
    scene.kube.apply({key: service[key] for key in ("apiVersion", "kind", "spec")}
                     | {"metadata": {key: service["metadata"][key] for key in ("name", "namespace")}})


@pytest.mark.parametrize("absence", [no_process, no_endpoint, no_service])
def test_an_absent_collector_is_no_outage_and_nothing_is_lost(scene, absence):
    with scene.filter(DELIVERIES[0]), scene.traffic() as seen:
        agreed(scene, scene.call())
        with absence(scene):
            calls = [scene.call(f"/absent/{n}") for n in range(CALLS)]
            for pod in ("client-0", "server-0"):
                wait_until(lambda s=scene.sidecars[pod]: s.stats("wasmcustom")["wasmcustom.meshchain_queue_bytes"] > 0,
                           DEADLINE_S, f"batches wait in {pod}")
        for call in calls:
            agreed(scene, call)
    assert set(seen) == {200}, seen


# --- the collector's own manifest

def test_only_those_whom_the_manifest_names_may_read_the_log(scene):
    address = scene.address("meshchain-collector", "meshchain")
    answer = scene.client.send("GET", f"http://{address}:{COLLECTOR_PORT}/checkpoint")
    assert (answer.status, answer.text) == (403, "RBAC: access denied")


def test_without_mtls_nobody_reaches_the_collector(scene):
    with pytest.raises(OSError):
        scene.node.call(lambda: request("GET", f"http://{scene.collector.ip}:{COLLECTOR_PORT}/healthz"))


def test_a_sender_is_whom_mtls_proves_not_whom_it_says(scene):
    teller = {"x-forwarded-client-cert": "By=spiffe://x;Hash=00;URI=spiffe://cluster.local/ns/bank/sa/teller"}
    forged = post(scene, Session(b"forged", namespace="bank", pod="teller-0").batch([]), teller)
    assert (forged.status, forged.json()["reason"]) == (403, "wrong_principal") and CLIENT in forged.text
    honest = post(scene, Session(b"honest", namespace="shop", pod="other-0").batch([]), teller)
    assert honest.status == 200, honest.text
    logged = {each["source"]["pod"]: each["principal"] for each in scene.ask_collector("/v1/sessions")}
    assert logged["other-0"] == CLIENT and "teller-0" not in logged
