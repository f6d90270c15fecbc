"""An Envoy outside any mesh that answers its requests by itself, with the filter in front of its router.

Each of its listeners has a filter of its own configuration, so a VM and a session of its own on each
thread. All of them report, in plain text, to the one port that stands for the collector.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from lab.collector import COLLECTOR, COLLECTOR_CLUSTER, FILTER, Collector, check_built
from lab.envoy import HCM, _address, _cluster, _typed
from lab.procs import Processes, free_port, wait_http
from lab.sidecar import Envoy

START_S = 30.0
ROUTER = {"name": "envoy.filters.http.router", "typed_config": _typed("envoy.extensions.filters.http.router.v3.Router")}
# What an Istio sidecar shows of its metrics where nothing was configured (istio/istio, pkg/bootstrap/config.go).
SHOWN = ("reporter=", "cluster_manager", "listener_manager", "server", "cluster.xds-grpc", "wasm", "component", "istio")


@dataclass(frozen=True)
class Front:
    """A listener and the configuration of its filter."""

    name: str
    config: dict = field(default_factory=dict)


class Plain(Envoy):
    """Starts at once; `wait_ready` before using it. `ports`: by name of the front."""

    def __init__(self, name: str, fronts: list[Front], collector_port: int, processes: Processes, directory: Path,
                 workers: int):
        directory.mkdir(parents=True, exist_ok=True)
        self.ports = {front.name: free_port() for front in fronts}
        self._listeners = directory / "listeners.json"
        self.deliver(fronts)
        admin_port = free_port()
        bootstrap = {
            "node": {"id": f"sidecar~127.0.0.1~{name}.plain~plain.svc.cluster.local", "cluster": f"{name}.plain",
                     "metadata": {"NAME": name, "NAMESPACE": "plain", "WORKLOAD_NAME": name}},
            "admin": {"address": _address("127.0.0.1", admin_port)},
            "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [{"prefix": p} for p in SHOWN]}}},
            "dynamic_resources": {"lds_config": {"resource_api_version": "V3",
                                                 "path_config_source": {"path": str(self._listeners)}}},
            "static_resources": {"clusters": [_cluster(COLLECTOR_CLUSTER, [("127.0.0.1", collector_port)])]},
        }
        super().__init__(name, bootstrap, admin_port, processes, directory, workers)

    def deliver(self, fronts: list[Front]) -> None:
        """Writes the listeners' discovery response; a running Envoy takes it over. No names but those of the start."""
        resources = [self._listener(front) for front in fronts]
        fresh = self._listeners.with_suffix(".new")
        fresh.write_text(json.dumps({"resources": resources}, indent=1))
        os.replace(fresh, self._listeners)  # Envoy watches for the move

    def _listener(self, front: Front) -> dict:
        route = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "here\n"}}}
        hosts = [{"name": "all", "domains": ["*"], "routes": [route]}]
        manager = _typed(HCM, stat_prefix="plain", route_config={"name": "plain", "virtual_hosts": hosts},
                         http_filters=[self._filter(front), ROUTER], stream_idle_timeout="0s")
        return _typed("envoy.config.listener.v3.Listener", **{
            "name": front.name, "traffic_direction": "INBOUND",
            "address": _address("127.0.0.1", self.ports[front.name]), "enable_reuse_port": False,
            "connection_balance_config": {"exact_balance": {}},  # as many connections for each worker
            "filter_chains": [{"filters": [
                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]})

    @staticmethod
    def _filter(front: Front) -> dict:
        code = {"local": {"filename": str(FILTER)}}
        vm = {"vm_id": front.name, "runtime": "envoy.wasm.runtime.v8", "code": code}
        plugin = {"name": "meshchain", "root_id": "meshchain", "vm_config": vm, "failure_policy": "FAIL_OPEN",
                  "configuration": _typed("google.protobuf.StringValue", value=json.dumps(front.config))}
        wasm = _typed("envoy.extensions.filters.http.wasm.v3.Wasm", config=plugin)
        return {"name": "meshchain", "typed_config": wasm}


class Stage:
    """Runs such Envoys, and collectors without a sidecar; a context manager."""

    def __init__(self, directory: Path):
        check_built()
        self._directory = directory
        self._processes = Processes(directory / "logs")

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_) -> None:
        self._processes.close()

    def envoy(self, name: str, fronts: list[Front], collector_port: int, workers: int = 1) -> Plain:
        """Starts one; returns when it is ready."""
        envoy = Plain(name, fronts, collector_port, self._processes, self._directory / name, workers)
        envoy.wait_ready(START_S)
        return envoy

    def collector(self, organisation: str) -> Collector:
        """Starts one; returns when it is ready."""
        port = free_port()
        collector = Collector(organisation, self._directory / f"{organisation}-collector", f"http://127.0.0.1:{port}")
        process = self._processes.start(f"{organisation}-collector", [
            COLLECTOR, "--data", collector.data, "--origin", collector.origin, "--listen", f"127.0.0.1:{port}"])
        wait_http(f"{collector.url}/healthz", START_S, process)
        return collector
