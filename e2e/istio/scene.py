"""Two Pods with sidecars, and a collector, in a mesh of a real API server, istiod and injector.

    client-0 --mTLS--> server-0
        |                 |           batches, over mTLS
        +--------+--------+---------> meshchain-collector-0

The tests are the client's application: they send from its namespace.
"""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from istio import istiod, manifests, workloads
from istio.kube import Kube
from istio.net import NODE_IP, Node
from istio.node_servers import Files, NodeServer, Zipkin
from istio.pod import Pod
from istio.programs import AGENT, BOOTSTRAP, ISTIOD, envoy_program
from istio.sidecar import FILTER, Sidecar
from lab.collector import COLLECTOR, VERIFIER, check_built, meshchain
from lab.collector import FILTER as MODULE
from lab.procs import Failed, Processes, wait_until

DEADLINE_S = 30.0
FILES_PORT, ZIPKIN_PORT = 8000, 19411  # on the node
MODULE_PATH = "/plugin.wasm"
ORIGIN = "scene.example/meshchain"
ISTIOD_POD, COLLECTOR_POD = "istiod-0", "meshchain-collector-0"
IPS = {ISTIOD_POD: "10.99.0.10", COLLECTOR_POD: "10.99.0.11", "server-0": "10.99.0.12", "client-0": "10.99.0.13"}
COLLECTOR_PORT = 8080
WORKERS = 2  # of each Envoy: the injector gives istio-proxy two CPUs
MACHINES = WORKERS + 2  # wasm VMs: the one that others are cloned from, the main thread's, each worker's; for both parts
INBOUND, OUTBOUND = "virtualInbound", f"0.0.0.0_{workloads.PORT}"  # listeners
PAUSE_S = 0.02  # between the requests of steady traffic


@dataclass(frozen=True)
class Call:
    """An answer of the server's application; to a call that arrived, the headers that it arrived with."""

    status: int
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        return json.loads(self.body)

    @property
    def trace_id(self) -> str:
        return self.headers["x-b3-traceid"].rjust(32, "0")


class Scene:
    """A context manager: inside, everything runs, and no filter is delivered yet."""

    def __init__(self, directory: Path):
        check_built()
        self.directory = directory
        self.module = MODULE.read_bytes()
        self.sha256 = hashlib.sha256(self.module).hexdigest()
        self.pods: dict[str, Pod] = {}
        self.kube: Kube | None = None
        self._servers: list[NodeServer] = []
        self._began = time.monotonic()

    def __enter__(self) -> "Scene":
        self._processes = Processes(self.directory)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process; namespaces, bridge and rules go with the last one in them."""
        if istiod_pod := self.pods.get(ISTIOD_POD):
            istiod_pod.kill()
        if self.kube:
            self.kube.kill()
        self._processes.close()
        for server in self._servers:  # an open port, too, would keep the node's namespace
            server.close()
        self.say("ended")

    def say(self, what: str) -> None:
        print(f"[{time.monotonic() - self._began:5.1f} s] {what}", flush=True)

    def _start(self) -> None:
        self.say(f"starting etcd and the API server; logs of all processes are in {self.directory}")
        self.node = Node(self._processes)
        self.files = Files(self.node, FILES_PORT, {MODULE_PATH: self.module})
        self.zipkin = Zipkin(self.node, ZIPKIN_PORT)
        self._servers = [self.files, self.zipkin]
        self.kube = Kube(self.node, self.directory / "kube")
        self.say("installing Istio, starting istiod")
        self._run_pod(istiod.install(self.kube, self.directory))
        istiod.wait_webhooks(self.kube)
        self.say("applying the mesh's objects and envoyfilter/collector.yaml")
        self.kube.apply(*workloads.objects())
        self.kube.add_endpoint(workloads.zipkin(), NODE_IP, {istiod.ZIPKIN_PORT: ZIPKIN_PORT})
        collector = manifests.collector(ORIGIN)
        self.apply(collector)
        stateful_set = next(each for each in yaml.safe_load_all(collector) if each["kind"] == "StatefulSet")
        self.say("starting the Pods")
        made = [istiod.pod_of(stateful_set, COLLECTOR_POD), *workloads.pods()]
        with ThreadPoolExecutor(len(made)) as threads:
            list(threads.map(self._run_pod, made))
        self._server_ip = self.address("server", workloads.NAMESPACE)
        self.client, self.server, self.collector = (self.pods[n] for n in ("client-0", "server-0", COLLECTOR_POD))
        self.sidecars = {pod.name: Sidecar(pod) for pod in (self.client, self.server, self.collector)}
        wait_until(lambda: self.call().status == 200, DEADLINE_S, "the server answers the client")
        self.say("the scene is up")

    def _run_pod(self, manifest: dict) -> None:
        name = manifest["metadata"]["name"]
        image = {"/usr/local/bin/pilot-agent": AGENT.path, "/usr/local/bin/envoy": envoy_program(),
                 "/usr/local/bin/pilot-discovery": ISTIOD.path, "/usr/local/bin/meshchain-collector": COLLECTOR,
                 "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json": BOOTSTRAP}
        hosts = {f"istiod.{istiod.ROOT_NAMESPACE}.svc": IPS[ISTIOD_POD]}  # nobody serves Services' own addresses
        pod = self.pods[name] = Pod(self.kube, self.node, self._processes, manifest, IPS[name], image, hosts)
        pod.start()
        self.say(f"{name} is ready")

    def apply(self, manifest: str) -> str:
        return self.kube.run("apply", "--filename=-", input=manifest.encode())

    def delete(self, manifest: str) -> None:
        self.kube.run("delete", "--filename=-", input=manifest.encode())

    # --- calls, and what the log has of them

    def call(self, path: str = "/", headers: dict[str, str] | None = None) -> Call:
        """A call of the client's application to the server, by the Service's name and address."""
        authority = f"server.{workloads.NAMESPACE}:{workloads.PORT}"
        url = f"http://{self._server_ip}:{workloads.PORT}{path}"
        answer = self.client.send("GET", url, {"host": authority, **(headers or {})})
        return Call(answer.status, answer.body)

    def address(self, service: str, namespace: str) -> str:
        """A Service's own address: in a Pod with a sidecar it works, and nowhere else here."""
        return self.kube.get("service", service, namespace)["spec"]["clusterIP"]

    @contextmanager
    def traffic(self) -> Iterator[Counter]:
        """Steady calls from another thread; counts their statuses, and the errors that gave none, until it ends."""
        seen: Counter = Counter()
        end = threading.Event()

        def send() -> None:
            while not end.wait(PAUSE_S):
                try:
                    seen[self.call("/steady").status] += 1
                except OSError as error:
                    seen[repr(error)] += 1
        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield seen
        finally:
            end.set()
            sender.join()

    def spans(self, trace_id: str, count: int) -> list[dict]:
        """The spans of a trace, once `count` are logged, as `meshchain verify` reads them."""
        found = wait_until(lambda: len(spans := self.spans_so_far(trace_id)) >= count and spans, DEADLINE_S,
                           f"{count} spans of trace {trace_id} are logged")
        assert len(found) == count
        return found

    def spans_so_far(self, trace_id: str) -> list[dict]:
        """The spans that are logged of a trace, by way of the port-forward that the README tells of."""
        file = self.directory / f"{trace_id}.json"
        try:
            self.collector.net.run(VERIFIER, "evidence", trace_id,
                                   "--collector", f"http://127.0.0.1:{COLLECTOR_PORT}", "-o", file)
        except Failed:
            return []
        run = meshchain("verify", file, "--json")
        assert run.code == 2, f"without a policy nothing is verified: {run.text}"
        return run.json()["spans"]

    def ask_collector(self, path: str) -> Any:
        answer = self.collector.get(COLLECTOR_PORT, path)
        assert answer.status == 200, answer.text
        return answer.json()

    # --- what is delivered to the sidecars

    @contextmanager
    def filter(self, delivery: str) -> Iterator[None]:
        """The filter in all sidecars, by one of the manifests; outside, in none."""
        manifest = self.manifest(delivery)
        self.apply(manifest)
        try:
            self.wait_filter()
            self.say(f"{delivery} is delivered")
            yield
        finally:
            self.delete(manifest)
            self.wait_no_filter()
            self.say(f"{delivery} is gone")

    def manifest(self, delivery: str, path: str = MODULE_PATH, sha256: str | None = None) -> str:
        return manifests.delivery(delivery, self.files.url + path, sha256 or self.sha256)

    def wait_filter(self) -> None:
        self._wait_sidecars("the filter runs", lambda s: s.machines() == MACHINES and self._in_place(s))

    def wait_configured(self, text: str) -> None:
        """Waits until the filter runs with a configuration that has `text` in it, and the VMs before it are gone."""
        def configured(sidecar: Sidecar) -> bool:
            found = [each["config"]["configuration"]["value"] for each in sidecar.delivered()]
            everywhere = len(found) == len(manifests.PARTS) and all(text in each for each in found)
            return everywhere and sidecar.machines() == MACHINES
        self._wait_sidecars(f"the filter runs with {text}", configured)

    def wait_no_filter(self) -> None:
        """Also the VMs are gone: nothing can report any more."""
        self._wait_sidecars("the filter is gone", lambda s: s.machines() == 0 and not s.draining() and not any(
            FILTER in name for names in s.http_filters().values() for name in names))

    def wait_drained(self) -> None:
        """Waits until no old listener or filter chain serves anybody."""
        self._wait_sidecars("old listeners are gone", lambda s: not s.draining())

    @staticmethod
    def _in_place(sidecar: Sidecar) -> bool:
        lists = sidecar.http_filters()
        wanted = zip((INBOUND, OUTBOUND), manifests.PARTS)
        return not sidecar.draining() and all(any(p in n for n in lists.get(listener, [])) for listener, p in wanted)

    def trace(self, sampling_percent: float | None) -> None:
        """Traces that share of all calls; None: no tracer."""
        if sampling_percent is None:
            self.kube.run("delete", "telemetry", "tracing", f"--namespace={istiod.ROOT_NAMESPACE}",
                          "--ignore-not-found")
        else:
            self.kube.apply(workloads.telemetry(sampling_percent))
        self._wait_sidecars(f"sampling is {sampling_percent} %",
                            lambda sidecar: sidecar.sampling() == {sampling_percent} and not sidecar.draining())

    def _wait_sidecars(self, what: str, condition: Callable[[Sidecar], bool]) -> None:
        for name, sidecar in self.sidecars.items():
            wait_until(lambda s=sidecar: condition(s), DEADLINE_S, f"{name}: {what}")
