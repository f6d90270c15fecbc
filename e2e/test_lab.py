"""The lab proves itself: what the scenarios take for granted about the mesh holds without our filter."""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lab.bookinfo import CLOUD, ENTERPRISE, INGRESS, SERVICE, bookinfo, collector_pod
from lab.certs import Authority
from lab.client import request
from lab.mesh import Mesh
from lab.procs import Failed, Processes, free_port, wait_http, wait_until
from lab.topology import WasmFilter, Zipkin
from probe_module import write_probe

PRODUCTPAGE = "productpage-v1-0"
REVIEWS_V2 = "reviews-v2-0"
COLLECTOR = f"meshchain-collector-{ENTERPRISE}-0"


def details_app(port: int) -> list[str]:
    return [sys.executable, str(SERVICE), "details-v1", "--port", str(port)]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    pod, service = collector_pod(ENTERPRISE, details_app)
    topology = bookinfo(more_pods=(pod,), more_services=(service,))
    with Mesh(topology, tmp_path_factory.mktemp("mesh")) as running:
        yield running


# --- requests find their way

def test_ingress_reaches_every_service_and_every_version_of_reviews(mesh):
    ratings_by_version = {}
    for _ in range(200):
        answer = mesh.client(INGRESS).get("/api/v1/products/0")
        assert answer.status == 200, answer
        product = answer.json()
        assert product["details"]["author"] == "William Shakespeare"
        reviews = product["reviews"]
        assert reviews["pod"] == f"reviews-{reviews['version']}-0"
        ratings_by_version[reviews["version"]] = reviews["reviews"][0].get("rating", {}).get("stars")
        if len(ratings_by_version) == 3:
            break
    assert ratings_by_version == {"v1": None, "v2": 5, "v3": 5}


def test_page_is_html_and_says_when_a_part_is_missing(mesh):
    page = mesh.client(INGRESS).get("/productpage", {"x-demo-fault": "details=500"})
    assert page.status == 200 and "text/html" in page.headers["content-type"]
    assert "Details are not available (500)" in page.text


def test_faults_fail_and_slow_down_as_asked(mesh):
    assert mesh.client(INGRESS).get("/api/v1/products/0", {"x-demo-fault": "details=500"}).status == 500
    begin = time.monotonic()
    assert mesh.client(INGRESS).get("/api/v1/products/0", {"x-demo-fault": "details=slow:0.3"}).status == 200
    assert time.monotonic() - begin >= 0.3


def test_reviews_lives_without_ratings(mesh):
    for _ in range(200):
        answer = mesh.client(INGRESS).get("/api/v1/products/0", {"x-demo-fault": "ratings=500"})
        assert answer.status == 200
        if answer.json()["reviews"]["version"] == "v3":
            assert answer.json()["reviews"]["reviews"][0]["rating"] == {"error": "ratings answered 500"}
            return
    pytest.fail("reviews v3 was never chosen")


def test_unknown_service_is_refused_by_the_sidecar(mesh):
    assert mesh.client(PRODUCTPAGE, "nobody:9080").get("/").status == 502


def test_application_that_ended_is_a_503_until_it_is_back(mesh):
    details = mesh.pods["details-v1-0"]
    details.stop_app()
    assert mesh.client(PRODUCTPAGE, "details:9080").get("/details/0").status == 503
    details.start_app()
    details.wait_app()
    assert mesh.client(PRODUCTPAGE, "details:9080").get("/details/0").status == 200


# --- identities

def xfcc(mesh, client_pod: str, host: str, server_pod: str) -> dict[str, str]:
    """The last element of x-forwarded-client-cert, once `server_pod` was the one that answered."""
    for _ in range(200):
        headers = mesh.client(client_pod, host).get("/headers").json()
        element = dict(pair.split("=", 1) for pair in headers["x-forwarded-client-cert"].split(",")[-1].split(";"))
        if element["By"] == mesh.spiffe_id(server_pod):
            return element
    pytest.fail(f"{server_pod} never answered")


@pytest.mark.parametrize("client_pod, host, server_pod", [
    (PRODUCTPAGE, "details:9080", "details-v1-0"),  # inside one organisation
    (PRODUCTPAGE, "reviews:9080", REVIEWS_V2),  # across organisations
    (REVIEWS_V2, "ratings.bookinfo.svc.cluster.local:9080", "ratings-v1-0"),
])
def test_server_sees_the_clients_spiffe_id(mesh, client_pod, host, server_pod):
    assert xfcc(mesh, client_pod, host, server_pod)["URI"] == mesh.spiffe_id(client_pod)


def test_spiffe_ids_name_the_organisation(mesh):
    assert mesh.spiffe_id(PRODUCTPAGE) == "spiffe://enterprise.example/ns/bookinfo/sa/bookinfo-productpage"
    assert mesh.spiffe_id(REVIEWS_V2) == "spiffe://cloud.example/ns/bookinfo/sa/bookinfo-reviews"


def tls_request(mesh, chain: Path | None, key: Path | None) -> bytes:
    """GET /details/0 straight to the inbound listener of details, with a certificate or none."""
    context = ssl.create_default_context(cafile=str(mesh.trust_bundle))
    context.check_hostname = False
    if chain:
        context.load_cert_chain(chain, key)
    details = mesh.pods["details-v1-0"]
    with socket.create_connection((details.ip, details.inbound_port), timeout=5) as plain:
        with context.wrap_socket(plain) as tls:
            tls.sendall(b"GET /details/0 HTTP/1.1\r\nhost: details\r\nconnection: close\r\n\r\n")
            return tls.recv(65536)


def tls_failures(mesh, reason: str) -> int:
    """How many handshakes the inbound listener of details refused for `reason`."""
    details = mesh.pods["details-v1-0"]
    name = f"listener.{details.ip}_{details.inbound_port}.ssl.fail_verify_{reason}"
    return details.sidecar.stats(name)[name]


def test_inbound_listener_takes_a_certificate_of_the_mesh(mesh):
    assert tls_request(mesh, *mesh.certificate(REVIEWS_V2)).startswith(b"HTTP/1.1 200")


def test_inbound_listener_refuses_a_client_without_certificate(mesh):
    before = tls_failures(mesh, "no_cert")
    with pytest.raises(ssl.SSLError):
        tls_request(mesh, None, None)
    assert tls_failures(mesh, "no_cert") == before + 1


@pytest.mark.parametrize("trust_domain", ["mallory.example", "enterprise.example"])
def test_inbound_listener_refuses_a_foreign_root(mesh, tmp_path, trust_domain):
    forged = Authority(trust_domain).issue("bookinfo", "bookinfo-productpage", tmp_path)
    before = tls_failures(mesh, "error")
    with pytest.raises(OSError):
        tls_request(mesh, forged.chain, forged.key)
    assert tls_failures(mesh, "error") == before + 1


def test_inbound_listener_refuses_an_unknown_trust_domain_under_a_known_root(mesh, tmp_path, monkeypatch):
    authority = mesh.authorities[ENTERPRISE]
    monkeypatch.setattr(authority, "trust_domain", "mallory.example")
    forged = authority.issue("bookinfo", "bookinfo-productpage", tmp_path)
    before = tls_failures(mesh, "san")
    with pytest.raises(OSError):
        tls_request(mesh, forged.chain, forged.key)
    assert tls_failures(mesh, "san") == before + 1


def test_inbound_listener_refuses_plain_text(mesh):
    details = mesh.pods["details-v1-0"]
    with pytest.raises(OSError):
        request("GET", f"http://{details.ip}:{details.inbound_port}/details/0")


def test_collector_is_reached_by_its_own_organisation_only(mesh):
    host = "meshchain-collector.meshchain.svc.cluster.local:8080"
    assert xfcc(mesh, PRODUCTPAGE, host, COLLECTOR)["URI"] == mesh.spiffe_id(PRODUCTPAGE)
    assert mesh.client(REVIEWS_V2, host).get("/headers").status == 502


# --- trace context

def test_request_id_is_equal_on_both_sides_of_a_hop(mesh):
    for given in ({}, {"x-request-id": "0d5c3a5e-made-by-the-application"}):
        seen = mesh.client(PRODUCTPAGE, "details:9080").get("/headers", given).json()["x-request-id"]
        assert seen == given.get("x-request-id", seen)
        for pod in (PRODUCTPAGE, "details-v1-0"):
            sidecar = mesh.pods[pod].sidecar.process
            wait_until(lambda: f'"{seen}"' in sidecar.log_text(), 5, f"{pod} logs request {seen}", sidecar)


def test_nobody_makes_a_trace_context_without_a_tracer(mesh):
    headers = mesh.client(PRODUCTPAGE, "details:9080").get("/headers").json()
    assert not [name for name in headers if "b3" in name or name == "traceparent"]


def test_tracer_with_a_dead_collector_still_propagates_b3(tmp_path):
    with Mesh(bookinfo(tracing=Zipkin(port=free_port())), tmp_path) as mesh:
        headers = mesh.client(PRODUCTPAGE, "details:9080").get("/headers").json()
        assert re.fullmatch("[0-9a-f]{32}", headers["x-b3-traceid"])
        assert re.fullmatch("[0-9a-f]{16}", headers["x-b3-spanid"])
        assert headers["x-b3-sampled"] == "1"
        given = {"x-b3-traceid": "463ac35c9f6413ad48485a3953bb6124", "x-b3-spanid": "a2fb4a1d1a96d312",
                 "x-b3-sampled": "1"}
        joined = mesh.client(PRODUCTPAGE, "details:9080").get("/headers", given).json()
        assert joined["x-b3-traceid"] == given["x-b3-traceid"]
        assert joined["x-b3-spanid"] != given["x-b3-spanid"]
        assert mesh.client(INGRESS).get("/productpage").status == 200


# --- the filter's way in

def vms(sidecar) -> int:
    return sidecar.stats("wasm.envoy.wasm.runtime.v8.active")["wasm.envoy.wasm.runtime.v8.active"]


def test_module_runs_in_both_directions_and_can_be_replaced(tmp_path):
    first = WasmFilter(write_probe(tmp_path / "first.wasm", "probe one"), {"mode": "quiet"})
    second = replace(first, module=write_probe(tmp_path / "second.wasm", "probe two"))
    with Mesh(bookinfo(wasm={ENTERPRISE: first}), tmp_path / "mesh") as mesh:
        assert mesh.client(PRODUCTPAGE, "details:9080").get("/details/0").status == 200
        outbound, inbound = (mesh.pods[p].sidecar for p in (PRODUCTPAGE, "details-v1-0"))
        for sidecar in (outbound, inbound):
            wait_until(lambda: "probe one" in sidecar.process.log_text(), 5, "the probe logs", sidecar.process)
        assert vms(outbound) == vms(mesh.pods[INGRESS].sidecar)  # a gateway has one direction only

        outbound.deliver_filter(second)

        def replaced() -> bool:
            assert mesh.client(PRODUCTPAGE, "details:9080").get("/details/0").status == 200
            return "probe two" in outbound.process.log_text()
        wait_until(replaced, 10, "the second probe logs", outbound.process)
        assert "probe two" not in inbound.process.log_text()
        assert mesh.pods[REVIEWS_V2].sidecar.stats("wasm.") == {}


# --- ports

PORT_SCRIPT = """
import random, sys
from lab.procs import free_port
random.seed(7)
print(free_port(), flush=True)
sys.stdin.read()
"""


def test_a_port_is_handed_out_to_one_process_until_that_ends():
    def process():
        return subprocess.Popen([sys.executable, "-c", PORT_SCRIPT], text=True, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, cwd=Path(__file__).parent)
    with process() as first:
        port = int(first.stdout.readline())
        with process() as other:
            assert int(other.stdout.readline()) != port, "both would choose the same one"
    with process() as later:
        assert int(later.stdout.readline()) == port


# --- nothing is left

def living(pgid: int) -> list[str]:
    """The processes of a group, by their /proc stat lines; zombies do not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            line = stat.read_text()
        except OSError:
            continue  # it ended meanwhile
        state, _parent, group = line.rpartition(")")[2].split()[:3]
        if int(group) == pgid and state != "Z":
            found.append(line)
    return found


def test_sidecar_quits_gracefully_is_killed_and_restarts(tmp_path):
    with Mesh(bookinfo(), tmp_path) as mesh:
        sidecar = mesh.pods["details-v1-0"].sidecar
        assert sidecar.quit() == 0
        assert not sidecar.ready()
        sidecar.restart()
        assert sidecar.ready()
        sidecar.kill()
        assert mesh.client(PRODUCTPAGE, "details:9080").get("/details/0").status == 503
        sidecar.restart()
        assert mesh.client(PRODUCTPAGE, "details:9080").get("/details/0").status == 200


def test_mesh_leaves_no_process(tmp_path):
    with Mesh(bookinfo(), tmp_path) as mesh:
        groups = [process.pid for pod in mesh.pods.values() for process in (pod.app, pod.sidecar.process) if process]
        assert len(groups) == 13 and all(living(g) for g in groups)
    assert not [line for g in groups for line in living(g)]


FORKING_SCRIPT = """
import sys
from pathlib import Path
from lab.procs import Processes
processes = Processes(Path(sys.argv[1]))
print(processes.start("forking", ["sh", "-c", "sleep 600 & sleep 600"]).pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_lab_leaves_no_process(tmp_path, end):
    lab = subprocess.Popen([sys.executable, "-c", FORKING_SCRIPT, str(tmp_path)], text=True, stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parent)
    with lab:
        group = int(lab.stdout.readline())
        wait_until(lambda: len(living(group)) == 3, 5, "the shell has started both sleeps")
        os.kill(lab.pid, end)
    wait_until(lambda: not living(group), 5, "the process group has ended")


def test_nothing_starts_after_close(tmp_path):
    processes = Processes(tmp_path)
    processes.close()
    with pytest.raises(ValueError):
        processes.start("late", ["sleep", "600"])
    processes.close()


def test_process_that_ignores_sigterm_is_killed(tmp_path):
    with Processes(tmp_path) as processes:
        stubborn = processes.start("stubborn", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"])
        wait_until(lambda: "ready" in stubborn.log_text(), 5, "the trap is set", stubborn)
        for _ in range(2):
            assert processes.stop(stubborn, grace_s=0.1) == -signal.SIGKILL
        wait_until(lambda: not living(stubborn.pid), 5, "its children are gone too")


def test_waiting_for_a_process_that_ended_shows_its_log(tmp_path):
    with Processes(tmp_path) as processes:
        broken = processes.start("broken", ["sh", "-c", "echo no such config; exit 3"])
        with pytest.raises(Failed, match=r"(?s)broken ended.*ended with 3.*no such config"):
            wait_http(f"http://127.0.0.1:{free_port()}/", 10, broken)
