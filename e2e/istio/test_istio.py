"""The filter under a real istiod: delivered by each manifest of envoyfilter/, reporting to the real collector.

    make istio

builds what this needs and runs it; without that the tests are skipped, and say why.
"""

import subprocess

import pytest

from istio.checks import CLIENT, CLUSTER, COLLECTOR, SERVER, agreed
from istio.manifests import DELIVERIES, PARTS
from istio.programs import ISTIOCTL
from istio.scene import DEADLINE_S, INBOUND, OUTBOUND
from istio.sidecar import AGENT, ENVOY_METRICS, FILTER
from lab.procs import wait_until

PRINCIPALS = {"client-0": CLIENT, "server-0": SERVER, "meshchain-collector-0": COLLECTOR}
CALLS = 5
ISTIOCTL_S = 60.0


@pytest.fixture(scope="module", params=DELIVERIES)
def delivered(scene, request):
    with scene.filter(request.param):
        yield


def test_each_side_has_its_own_filter_and_the_servers_is_first(scene, delivered):
    server, client = PARTS
    for sidecar in scene.sidecars.values():
        chains = sidecar.http_filters()
        [inbound], [outbound] = ([name for name in chains[each] if FILTER in name] for each in (INBOUND, OUTBOUND))
        assert server in inbound and client in outbound
        assert chains[INBOUND][0] == inbound, "Istio's metadata exchange, which would stand before it, is off here"


def test_the_application_is_behind_mtls(scene):
    certificate = scene.call().headers["x-forwarded-client-cert"]
    assert f"By={SERVER};" in certificate and f"URI={CLIENT}" in certificate


def test_with_a_tracer_that_samples_every_call_the_hop_is_the_tracers_span(scene, delivered):
    scene.trace(100)
    calls = [scene.call(f"/traced/{n}") for n in range(CALLS)]
    for call in calls:
        assert call.headers["x-b3-sampled"] == "1"
        client, _ = agreed(scene, call)
        reported = wait_until(lambda c=call: len(spans := scene.zipkin.spans(c.trace_id)) == 2 and spans, DEADLINE_S,
                              "both sidecars' tracers have reported the call")
        ids = {span["kind"]: (span["id"], span.get("parentId")) for span in reported}
        assert client["span_id"] == ids["CLIENT"][0] == ids["SERVER"][1]


def test_with_a_tracer_that_samples_one_call_in_a_hundred_every_call_has_its_receipts(scene, delivered):
    scene.trace(1)
    calls = [scene.call(f"/seldom/{n}") for n in range(CALLS)]
    assert "0" in {call.headers["x-b3-sampled"] for call in calls}
    for call in calls:
        agreed(scene, call)


def test_without_a_tracer_the_filter_gives_each_call_a_span(scene, delivered):
    scene.trace(None)
    calls = [scene.call(f"/untraced/{n}") for n in range(CALLS)]
    hops = {agreed(scene, call)[0]["span_id"] for call in calls}
    assert len(hops) == len({call.trace_id for call in calls}) == len(calls)


def test_batches_go_to_the_collector_by_its_istio_cluster_and_are_logged_with_their_sender(scene, delivered):
    agreed(scene, scene.call())
    for name, sidecar in scene.sidecars.items():
        wait_until(lambda s=sidecar: s.answered(CLUSTER) > 0, DEADLINE_S, f"{name} has delivered a batch")
    sessions = scene.ask_collector("/v1/sessions")
    assert {s["source"]["pod"]: s["principal"] for s in sessions if s["source"]["pod"] in PRINCIPALS} == PRINCIPALS
    assert all(session["missing_batches"] == 0 and session["dropped"] == 0 for session in sessions)


def test_istioctl_finds_the_cluster_as_the_readme_says(scene, tmp_path):
    dump = tmp_path / "config_dump.json"
    dump.write_bytes(scene.sidecars["client-0"].config_dump())
    listed = subprocess.run([ISTIOCTL.path, "proxy-config", "cluster", f"--file={dump}"], capture_output=True,
                            text=True, timeout=ISTIOCTL_S)
    assert any(line.split()[:2] == ["meshchain-collector.meshchain.svc.cluster.local", "8080"]
               for line in listed.stdout.splitlines()), listed


def test_the_counters_are_where_prometheus_scrapes_by_default(scene, delivered):
    agreed(scene, scene.call())
    for sidecar in (scene.sidecars["client-0"], scene.sidecars["server-0"]):
        for port in (AGENT, ENVOY_METRICS):
            metrics = sidecar.prometheus(port)
            assert metrics["meshchain_records"] > 0, metrics
