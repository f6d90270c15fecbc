"""Two organisations, each with a collector of its own, and what stands between a client and a server of theirs.

    west                      east
    client-0 -> egress-0  =>  ingress-0 -> server-0              gateways of both
                =>            ingress-0 -> waypoint-0 -> guarded-0   and a waypoint
                              inner-0   -> waypoint-0 -> guarded-0   a waypoint alone
    a user            ->      front-0   -> server-0              a gateway for users

Every arrow is mTLS, but that of the user, who is outside of any mesh.
"""

import contextlib
import itertools
from pathlib import Path

from lab import evidence
from lab.chain import Application, Tracing
from lab.collector import FILTER, Collector, check_built
from lab.bookinfo import collector_pod
from lab.mesh import Mesh
from lab.procs import wait_until
from lab.receipts import Receipt
from lab.topology import Organisation, Pod, Service, Topology, WasmFilter

WEST, EAST = "west", "east"
CLIENT, EGRESS, INGRESS, SERVER = "client-0", "egress-0", "ingress-0", "server-0"
INNER, WAYPOINT, GUARDED, FRONT = "inner-0", "waypoint-0", "guarded-0", "front-0"
NAMESPACE = "shop"
PORT = 9080
REFUSED = "/refused"  # the egress gateway answers such paths itself
DEADLINE_S = 20.0


class Scene:
    """All of it, running; a context manager. `direction`: of the gateways' listeners."""

    def __init__(self, directory: Path, tracing: Tracing = None, direction: str = "UNSPECIFIED",
                 config: dict | None = None):
        check_built()
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._trace_ids = itertools.count(1)
        self._app = self._stack.enter_context(Application())
        self._config = {"tick_ms": 50, **(config or {})}
        self.mesh = Mesh(self._topology(tracing, direction), directory / "mesh")

    def __enter__(self) -> "Scene":
        try:
            self._stack.enter_context(self.mesh)
        except BaseException:
            self._stack.close()
            raise
        self.collectors = [
            Collector(name, self._directory / name,
                      f"http://127.0.0.1:{self.mesh.pods[f'meshchain-collector-{name}-0'].app_port}")
            for name in (WEST, EAST)]
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def call(self, pod: str, service: str, path: str = "/", headers: dict[str, str] | None = None) -> str:
        """A call through a pod's outbound listener, in a trace of its own; the trace id."""
        trace_id = f"{next(self._trace_ids):032x}"
        b3 = {"x-b3-traceid": trace_id, "x-b3-spanid": "00000000000000aa", "x-b3-sampled": "1"}
        answer = self.mesh.client(pod, f"{service}:{PORT}").get(path, {**b3, **(headers or {})})
        assert answer.status == (403 if path.startswith(REFUSED) else 200), answer
        return trace_id

    def receipts(self, trace_id: str, count: int) -> list[Receipt]:
        """The receipts of a trace in both logs, once there are `count`; more are an error."""
        found: list[Receipt] = []

        def complete() -> bool:
            found[:] = evidence.fetch(trace_id, self.collectors, self.file(trace_id))
            return len(found) >= count
        wait_until(complete, DEADLINE_S, f"{count} receipts of trace {trace_id} are logged")
        assert len(found) == count, found
        return found

    def verify(self, trace_id: str) -> dict:
        """What the verifier says of the evidence that `receipts` has left of a trace."""
        return evidence.verify(self.file(trace_id), self.collectors)

    def file(self, trace_id: str) -> Path:
        return self._directory / f"{trace_id}.json"

    def _topology(self, tracing: Tracing, direction: str) -> Topology:
        wasm = WasmFilter(FILTER, self._config)
        organisations = tuple(Organisation(name, f"{name}.example", f"{name}-mesh", f"{name}-1", wasm, tracing)
                              for name in (WEST, EAST))

        def pod(name: str, organisation: str, **role) -> Pod:
            workload = name.removesuffix("-0")
            return Pod(name, workload, NAMESPACE, workload, organisation, gateway_direction=direction,
                       **(role or {"app_port": self._app.port}))

        pods = [pod(CLIENT, WEST), pod(EGRESS, WEST, relay="router", patch=_refuse),
                pod(INGRESS, EAST, relay="router"), pod(SERVER, EAST), pod(INNER, EAST),
                pod(WAYPOINT, EAST, relay="waypoint"), pod(GUARDED, EAST), pod(FRONT, EAST, gateway_to="server")]
        services = [Service("server", NAMESPACE, PORT, (SERVER,), through=(EGRESS, INGRESS)),
                    Service("guarded", NAMESPACE, PORT, (GUARDED,), through=(EGRESS, INGRESS, WAYPOINT))]
        for name in (WEST, EAST):
            collector = Collector(name, self._directory / name)
            collector.write_config()
            made = collector_pod(name, command=collector.argv)
            pods.append(made[0])
            services.append(made[1])
        return Topology(organisations, tuple(services), tuple(pods))


def _refuse(bootstrap: dict) -> None:
    """The gateway answers some paths of each host itself."""
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    route = {"name": "refused", "match": {"prefix": REFUSED}, "direct_response": {"status": 403}}
    for host in manager["route_config"]["virtual_hosts"]:
        host["routes"].insert(0, route)
