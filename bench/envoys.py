"""One Envoy per variant: the same listener with another filter, or with a tracer.

The connection manager is set up as in Istio's sidecars, less access log and mTLS, and answers by
itself (`direct_response`), so that no upstream's cost or noise is in the numbers.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from lab.client import request
from lab.procs import Process, Processes, free_port, wait_http
from lab.tools import envoy_binary

COLLECTOR = "outbound|8080||meshchain-collector.meshchain.svc.cluster.local"
ZIPKIN = "outbound|9411||zipkin.istio-system.svc.cluster.local"
START_S = 30.0


@dataclass(frozen=True)
class Variant:
    """What is measured: nothing, a wasm filter (`module` with its `config`), or Envoy's own tracer."""

    key: str
    title: str
    direction: str = "INBOUND"
    module: Path | None = None
    config: dict | None = None
    tracer: bool = False


class Running:
    """A variant's Envoy, ready."""

    def __init__(self, variant: Variant, sink_port: int, processes: Processes, directory: Path):
        self.variant = variant
        self.port, admin = free_port(), free_port()
        self._admin = f"http://127.0.0.1:{admin}"
        config = directory / f"{variant.key}.json"
        config.write_text(json.dumps(_bootstrap(variant, self.port, admin, sink_port), indent=1))
        self.process: Process = processes.start(variant.key, [
            envoy_binary(), "-c", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"])

    def wait_ready(self) -> None:
        wait_http(f"{self._admin}/ready", START_S, self.process)

    def counters(self) -> dict[str, int]:
        """What filter and tracer say that they did."""
        text = request("GET", f"{self._admin}/stats?filter=meshchain_%7Ctracing.zipkin").text
        pairs = (line.rsplit(": ", 1) for line in text.splitlines())
        return {name.split(".")[-1]: int(value) for name, value in pairs if value.isdigit()}


def _bootstrap(variant: Variant, port: int, admin_port: int, sink_port: int) -> dict:
    return {
        "node": {
            "id": "sidecar~10.244.1.18~reviews-v1-0.bookinfo~bookinfo.svc.cluster.local",
            "cluster": "reviews-v1.bookinfo",
            "metadata": {"NAME": "reviews-v1-0", "NAMESPACE": "bookinfo", "WORKLOAD_NAME": "reviews-v1",
                         "CLUSTER_ID": "cloud", "MESH_ID": "mesh1"},
        },
        "admin": {"address": _address(admin_port)},
        "static_resources": {"listeners": [_listener(variant, port)],
                             "clusters": [_cluster(name, sink_port) for name in (COLLECTOR, ZIPKIN)]},
    }


def _listener(variant: Variant, port: int) -> dict:
    filters = [_wasm_filter(variant)] if variant.module else []
    filters.append({"name": "envoy.filters.http.router",
                    "typed_config": _typed("envoy.extensions.filters.http.router.v3.Router")})
    answer = {"status": 200, "body": {"inline_string": "{\"id\": \"0\", \"reviews\": []}\n"}}
    route = {"name": "default", "match": {"prefix": "/"}, "direct_response": answer,
             "decorator": {"operation": "reviews.bookinfo.svc.cluster.local:9080/*"}}
    manager = {
        "stat_prefix": "bench",
        "server_name": "istio-envoy",
        "route_config": {"name": "default", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": filters,
        "generate_request_id": True,
        "normalize_path": True,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "stream_idle_timeout": "0s",
    }
    if variant.tracer:
        manager["tracing"] = _tracing()
    typed = _typed("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", **manager)
    return {"name": "bench", "traffic_direction": variant.direction, "address": _address(port),
            "enable_reuse_port": False,
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager",
                                            "typed_config": typed}]}]}


def _wasm_filter(variant: Variant) -> dict:
    code = {"local": {"filename": str(variant.module)}}
    vm = {"vm_id": "meshchain", "runtime": "envoy.wasm.runtime.v8", "code": code}
    plugin = {"name": "meshchain", "root_id": "meshchain", "vm_config": vm, "failure_policy": "FAIL_OPEN",
              "configuration": _typed("google.protobuf.StringValue", value=json.dumps(variant.config or {}))}
    return {"name": "meshchain", "typed_config": _typed("envoy.extensions.filters.http.wasm.v3.Wasm", config=plugin)}


def _tracing() -> dict:
    """Istio's settings of its Zipkin provider, at 100 %.

    Envoy then POSTs every 5 spans, which is also its cheapest setting: it puts a POST together in a
    time that grows with the square of the number of spans.
    """
    provider = _typed("envoy.config.trace.v3.ZipkinConfig", collector_cluster=ZIPKIN,
                      collector_endpoint="/api/v2/spans", collector_endpoint_version="HTTP_JSON",
                      collector_hostname="zipkin.istio-system.svc.cluster.local",
                      trace_id_128bit=True, shared_span_context=False)
    return {"client_sampling": {"value": 100.0}, "random_sampling": {"value": 100.0},
            "overall_sampling": {"value": 100.0},
            "provider": {"name": "envoy.tracers.zipkin", "typed_config": provider}}


def _cluster(name: str, port: int) -> dict:
    endpoint = {"endpoint": {"address": _address(port)}}
    return {"name": name, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}}


def _address(port: int) -> dict:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _typed(message: str, **fields) -> dict:
    return {"@type": f"type.googleapis.com/{message}", **fields}
