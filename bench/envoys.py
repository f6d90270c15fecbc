"""One Envoy per variant: the same listener with another filter, with a tracer or with an access log.

The connection manager is set up as in Istio's sidecars, less mTLS, and forwards to an application in
another process. The client's certificate that mTLS would put into the headers comes with the request;
inbound it stays, outbound it is taken out.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from lab.client import request
from lab.procs import Process, Processes, free_port, wait_http
from lab.tools import envoy_binary

COLLECTOR = "outbound|8080||meshchain-collector.meshchain.svc.cluster.local"
ZIPKIN = "outbound|9411||zipkin.istio-system.svc.cluster.local"
OTEL = "outbound|4318||otel.istio-system.svc.cluster.local"
APPLICATION = "inbound|9080||"
ACCESS_LOG = "outbound|9977||als.istio-system.svc.cluster.local"
START_S = 30.0


@dataclass(frozen=True)
class Variant:
    """What is measured: nothing, a wasm filter (`module` with its `config`), a module of machine code, or an
    observer of Envoy's own."""

    key: str
    title: str
    direction: str = "INBOUND"
    module: Path | None = None
    config: dict | None = None
    logger: bool = False  # the module is an access logger, not a filter
    native: Path | None = None  # a shared library, as both filter and access logger
    observer: str = ""  # zipkin, otel or als
    base: str | None = "bare"  # the variant that it is compared with
    workers: int = 1
    hops: int = 1  # entries that a call leaves
    body: int = 0  # bytes, of request and response; 0: only a short response
    local: bool = False  # Envoy answers itself, and there is no application


@dataclass(frozen=True)
class Sinks:
    """Ports of what takes receipts and spans, access logs, and of the application."""

    http: int
    grpc: int
    application: int


class Running:
    """A variant's Envoy, ready."""

    def __init__(self, variant: Variant, sinks: Sinks, processes: Processes, directory: Path):
        self.variant = variant
        self.port, admin = free_port(), free_port()
        self._admin = f"http://127.0.0.1:{admin}"
        config = directory / f"{variant.key}.json"
        config.write_text(json.dumps(_bootstrap(variant, self.port, admin, sinks), indent=1))
        self.process: Process = processes.start(variant.key, [
            envoy_binary(), "-c", config, "--concurrency", str(variant.workers), "--disable-hot-restart", "--log-level", "warning"])

    def wait_ready(self) -> None:
        wait_http(f"{self._admin}/ready", START_S, self.process)

    def counters(self) -> dict[str, int]:
        """What filter, tracer and access log say that they did."""
        text = request("GET", f"{self._admin}/stats?filter=meshchain_%7Ctracing%5C..*spans_sent%7Clogs_written").text
        pairs = (line.rsplit(": ", 1) for line in text.splitlines())
        return {name.split(".")[-1]: int(value) for name, value in pairs if value.isdigit()}


def _bootstrap(variant: Variant, port: int, admin_port: int, sinks: Sinks) -> dict:
    return {
        "node": {
            "id": "sidecar~10.244.1.18~reviews-v1-0.bookinfo~bookinfo.svc.cluster.local",
            "cluster": "reviews-v1.bookinfo",
            "metadata": {"NAME": "reviews-v1-0", "NAMESPACE": "bookinfo", "WORKLOAD_NAME": "reviews-v1",
                         "CLUSTER_ID": "cloud", "MESH_ID": "mesh1"},
        },
        "admin": {"address": _address(admin_port)},
        "static_resources": {"listeners": [_listener(variant, port)],
                             "clusters": [*(_cluster(name, sinks.http) for name in (COLLECTOR, ZIPKIN, OTEL)),
                                          _cluster(APPLICATION, sinks.application),
                                          _cluster(ACCESS_LOG, sinks.grpc, http2=True)]},
    }


def _listener(variant: Variant, port: int) -> dict:
    module = [_wasm(variant)] if variant.module else []
    filters = [] if variant.logger else module
    if variant.native:
        text = _typed("google.protobuf.StringValue", value=json.dumps(variant.config or {}))
        filters = [_native(variant, "filters.http.dynamic_modules.v3.DynamicModuleFilter", filter_name="meshchain",
                           filter_config=text)]
    filters.append({"name": "envoy.filters.http.router",
                    "typed_config": _typed("envoy.extensions.filters.http.router.v3.Router")})
    answer = ({"direct_response": {"status": 200, "body": {"inline_string": "ok"}}} if variant.local
              else {"route": {"cluster": APPLICATION}})
    route = {"name": "default", "match": {"prefix": "/"}, **answer,
             "decorator": {"operation": "reviews.bookinfo.svc.cluster.local:9080/*"}}
    manager = {
        "stat_prefix": "bench",
        "server_name": "istio-envoy",
        "forward_client_cert_details": "ALWAYS_FORWARD_ONLY" if variant.direction == "INBOUND" else "SANITIZE",
        "route_config": {"name": "default", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": filters,
        "generate_request_id": True,
        "normalize_path": True,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "stream_idle_timeout": "0s",
    }
    if variant.logger:
        manager["access_log"] = module
    elif variant.native:
        manager["access_log"] = [_native(variant, "access_loggers.dynamic_modules.v3.DynamicModuleAccessLog",
                                         logger_name="meshchain")]
    elif variant.observer == "als":
        manager["access_log"] = [_access_log()]
    elif variant.observer:
        manager["tracing"] = _tracing(_zipkin() if variant.observer == "zipkin" else _otel())
    typed = _typed("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", **manager)
    return {"name": "bench", "traffic_direction": variant.direction, "address": _address(port),
            "enable_reuse_port": False,
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager",
                                            "typed_config": typed}]}]}


def _wasm(variant: Variant) -> dict:
    code = {"local": {"filename": str(variant.module)}}
    vm = {"vm_id": "meshchain", "runtime": "envoy.wasm.runtime.v8", "code": code}
    plugin = {"name": "meshchain", "root_id": "meshchain", "vm_config": vm, "failure_policy": "FAIL_OPEN",
              "configuration": _typed("google.protobuf.StringValue", value=json.dumps(variant.config or {}))}
    message = "access_loggers.wasm.v3.WasmAccessLog" if variant.logger else "filters.http.wasm.v3.Wasm"
    return {"name": "meshchain", "typed_config": _typed(f"envoy.extensions.{message}", config=plugin)}


def _native(variant: Variant, message: str, **fields) -> dict:
    module = {"module": {"local": {"filename": str(variant.native)}}, "do_not_close": True}
    typed = _typed(f"envoy.extensions.{message}", dynamic_module_config=module, **fields)
    return {"name": "meshchain", "typed_config": typed}


def _tracing(provider: dict) -> dict:
    """Istio's settings around a provider, with the tags that it gives each span unless told otherwise."""
    everything = {"value": 100.0}
    literals = {"canonical_revision": "v1", "canonical_service": "reviews", "cluster_id": "cloud", "mesh_id": "mesh1",
                "namespace": "bookinfo"}
    dry_run = [("allow_policy.name", "allow_shadow_effective_policy_id"), ("allow_policy.result", "allow_shadow_engine_result"),
               ("deny_policy.name", "deny_shadow_effective_policy_id"), ("deny_policy.result", "deny_shadow_engine_result")]
    tags = [{"tag": f"istio.authorization.dry_run.{tag}", "metadata": {
        "kind": {"request": {}},
        "metadata_key": {"key": "envoy.filters.http.rbac", "path": [{"key": f"istio_dry_run_{key}"}]}}}
        for tag, key in dry_run]
    tags += [{"tag": f"istio.{tag}", "literal": {"value": value}} for tag, value in literals.items()]
    return {"client_sampling": everything, "random_sampling": everything, "overall_sampling": everything,
            "custom_tags": tags, "provider": provider}


def _otel() -> dict:
    """Istio's settings of an OpenTelemetry provider over HTTP."""
    uri = {"uri": "http://otel.istio-system.svc.cluster.local:4318/v1/traces", "cluster": OTEL, "timeout": "5s"}
    config = _typed("envoy.config.trace.v3.OpenTelemetryConfig", http_service={"http_uri": uri},
                    service_name="reviews.bookinfo")
    return {"name": "envoy.tracers.opentelemetry", "typed_config": config}


def _access_log() -> dict:
    """Istio's settings of its access log service."""
    service = {"envoy_grpc": {"cluster_name": ACCESS_LOG}}
    common = {"log_name": "http_envoy_accesslog", "grpc_service": service, "transport_api_version": "V3"}
    config = _typed("envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig", common_config=common)
    return {"name": "envoy.access_loggers.http_grpc", "typed_config": config}


def _zipkin() -> dict:
    """Istio's settings of its Zipkin provider.

    Envoy then POSTs every 5 spans, which is also its cheapest setting: it puts a POST together in a
    time that grows with the square of the number of spans.
    """
    config = _typed("envoy.config.trace.v3.ZipkinConfig", collector_cluster=ZIPKIN,
                      collector_endpoint="/api/v2/spans", collector_endpoint_version="HTTP_JSON",
                      collector_hostname="zipkin.istio-system.svc.cluster.local",
                      trace_id_128bit=True, shared_span_context=False)
    return {"name": "envoy.tracers.zipkin", "typed_config": config}


def _cluster(name: str, port: int, http2: bool = False) -> dict:
    endpoint = {"endpoint": {"address": _address(port)}}
    options = _typed("envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                     explicit_http_config={"http2_protocol_options": {}})
    protocol = {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}}
    return {"name": name, "type": "STATIC", "connect_timeout": "5s", **(protocol if http2 else {}),
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}}


def _address(port: int) -> dict:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _typed(message: str, **fields) -> dict:
    return {"@type": f"type.googleapis.com/{message}", **fields}
