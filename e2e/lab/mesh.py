"""A topology, running: one application and one Envoy per pod, mTLS between all of them."""

import itertools
import time
from pathlib import Path

from lab.certs import Authority, spiffe_id, write_bundle
from lab.client import Client
from lab.envoy import Proxy, Upstream
from lab.procs import Process, Processes, free_port, wait_port
from lab.sidecar import Sidecar
from lab.topology import Organisation, Pod, Service, Topology

START_S = 30.0


class RunningPod:
    """A pod's addresses, application and sidecar."""

    def __init__(self, spec: Pod, ip: str, processes: Processes):
        self.spec = spec
        self.ip = ip
        self.app_port = spec.app_port or (free_port() if spec.command else None)
        self.inbound_port = None if spec.gateway_to else free_port()
        self.outbound_port = None if spec.inbound_only or spec.relay else free_port()
        self.admin_port = free_port()
        self.app: Process | None = None
        self.sidecar: Sidecar | None = None
        self._processes = processes

    @property
    def outbound_url(self) -> str:
        return f"http://127.0.0.1:{self.outbound_port}"

    def start_app(self) -> None:
        """Starts the application, if the pod has a command; `wait_app` before using it."""
        if not self.spec.command:
            return
        env = {"POD_NAME": self.spec.name, "POD_NAMESPACE": self.spec.namespace, **self.spec.env}
        if self.outbound_port:
            env["OUTBOUND"] = self.outbound_url
        self.app = self._processes.start(f"{self.spec.name}.app", self.spec.command(self.app_port), env)

    def wait_app(self, deadline_s: float = START_S) -> None:
        if self.app_port:
            wait_port(("127.0.0.1", self.app_port), deadline_s, *([self.app] if self.app else []))

    def stop_app(self, grace_s: float = 5.0) -> int:
        """Ends the application (at once if `grace_s` is 0), the sidecar stays. Returns the exit status."""
        return self._processes.stop(self.app, grace_s)


class Mesh:
    """Runs a topology; a context manager. All its files and logs are under `directory`.

    `processes`: to run in; without it the mesh has its own, which end with it.
    """

    def __init__(self, topology: Topology, directory: Path, processes: Processes | None = None):
        topology.check()
        self.topology = topology
        self.directory = Path(directory).resolve()
        self.processes = processes or Processes(self.directory / "logs")
        self._owns_processes = processes is None
        self.authorities = {o.name: Authority(o.trust_domain) for o in topology.organisations}
        self.trust_bundle = write_bundle(list(self.authorities.values()), self.directory / "certs" / "bundle.pem")
        ips = (f"127.1.{n // 250}.{n % 250 + 1}" for n in itertools.count())
        self.pods = {p.name: RunningPod(p, ip, self.processes) for p, ip in zip(topology.pods, ips)}
        self.started_in_s: float | None = None

    def __enter__(self) -> "Mesh":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def start(self) -> None:
        """Starts all pods side by side; returns when every application and sidecar is ready."""
        begin = time.monotonic()
        for pod in self.pods.values():
            pod.start_app()
            pod.sidecar = Sidecar(self._proxy(pod), self.processes, self._pod_directory(pod))
        for pod in self.pods.values():
            pod.wait_app()
            pod.sidecar.wait_ready(START_S)
        self.started_in_s = time.monotonic() - begin

    def close(self) -> None:
        """Ends every process of the mesh. Idempotent."""
        if self._owns_processes:
            self.processes.close()
            return
        for pod in self.pods.values():
            for process in (pod.sidecar and pod.sidecar.process, pod.app):
                if process and process.alive():
                    self.processes.stop(process)

    def client(self, pod: str, host: str = "bookinfo.example") -> Client:
        """Requests through a pod's outbound listener, as its application (or a gateway's user) makes them."""
        return Client(self.pods[pod].outbound_url, host)

    def certificate(self, pod: str) -> tuple[Path, Path]:
        """A pod's certificate chain and key, as PEM files."""
        issued = self.pods[pod].sidecar.proxy.certificate
        return issued.chain, issued.key

    def spiffe_id(self, pod: str) -> str:
        spec = self.pods[pod].spec
        return spiffe_id(self._organisation(spec).trust_domain, spec.namespace, spec.service_account)

    def _proxy(self, pod: RunningPod) -> Proxy:
        organisation = self._organisation(pod.spec)
        issue = self.authorities[organisation.name].issue
        directory = self._pod_directory(pod)
        return Proxy(
            pod=pod.spec, organisation=organisation, ip=pod.ip,
            certificate=issue(pod.spec.namespace, pod.spec.service_account, directory),
            trust_bundle=self.trust_bundle,
            trust_domains=tuple(o.trust_domain for o in self.topology.organisations),
            upstreams=tuple(u for s in self.topology.services if s.visible_to in (None, organisation.name)
                            for u in self._upstreams(s, pod.spec)),
            admin_port=pod.admin_port, app_port=pod.app_port, inbound_port=pod.inbound_port,
            outbound_port=pod.outbound_port,
            filter_file=directory / "filter.json" if organisation.wasm else None)

    def _upstreams(self, service: Service, caller: Pod) -> list[Upstream]:
        """What a caller sees of a service: the cluster of all pods, which Istio always makes, and one per subset.

        What relays calls to some subsets sees only these.
        """
        everybody = service.pods or tuple(p for s in service.subsets for p in s.pods)
        relayed = [s for s in service.subsets if caller.name in s.through]
        return [self._upstream(service, "", 0, self._next(caller, service.through, everybody)),
                *(self._upstream(service, s.name, s.weight, self._next(caller, s.through, s.pods))
                  for s in relayed or service.subsets)]

    def _next(self, caller: Pod, through: tuple[str, ...], pods: tuple[str, ...]) -> tuple[str, ...]:
        """The pods that a caller calls on the way through these to those."""
        if caller.name in through:
            ahead = through[through.index(caller.name) + 1:]
        elif caller.organisation == self.pods[pods[0]].spec.organisation:
            ahead = tuple(name for name in through if self.pods[name].spec.relay == "waypoint")
        else:
            ahead = through
        return ahead[:1] or pods

    def _upstream(self, service: Service, subset: str, weight: int, names: tuple[str, ...]) -> Upstream:
        pods = [self.pods[name] for name in names]
        return Upstream(service, subset, weight, tuple((p.ip, p.inbound_port) for p in pods),
                        tuple(sorted({self.spiffe_id(name) for name in names})))

    def _organisation(self, pod: Pod) -> Organisation:
        return next(o for o in self.topology.organisations if o.name == pod.organisation)

    def _pod_directory(self, pod: RunningPod) -> Path:
        directory = self.directory / "pods" / pod.spec.name
        directory.mkdir(parents=True, exist_ok=True)
        return directory
