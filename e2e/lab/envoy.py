"""The bootstrap of a sidecar or a gateway, with the names and settings that Istio gives them.

Left out, because stock Envoy lacks them or the filter does not see them: Istio's own filters
(metadata exchange, stats, ALPN), outlier detection, the TCP and passthrough listeners.
Instead of iptables, an application is told the address of its sidecar's outbound listener.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from lab.certs import WorkloadCertificate
from lab.topology import OpenTelemetry, Organisation, Pod, Service, WasmFilter, Zipkin

ZIPKIN_HOST = "zipkin.istio-system.svc.cluster.local"
ZIPKIN_CLUSTER = f"outbound|9411||{ZIPKIN_HOST}"
OTLP_HOST = "opentelemetry-collector.observability.svc.cluster.local"
OTLP_CLUSTER = f"outbound|4318||{OTLP_HOST}"
INBOUND_SOURCE = "127.0.0.6"  # Istio's: an application can tell its sidecar's connections by it
FILTER_NAMESPACE = "istio-system"
HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ACCESS_LOG_FORMAT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% '
    '%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %DURATION% "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" '
    '"%UPSTREAM_HOST%" %UPSTREAM_CLUSTER%\n')


@dataclass(frozen=True)
class Upstream:
    """A service, or one subset of it (`subset`, else ""), as a sidecar sees it."""

    service: Service
    subset: str
    weight: int  # percent of the service's requests; of the cluster of all pods: 0
    endpoints: tuple[tuple[str, int], ...]  # pod ip, port of the inbound listener
    spiffe_ids: tuple[str, ...]  # whom the TLS handshake may present

    @property
    def cluster_name(self) -> str:
        return f"outbound|{self.service.port}|{self.subset}|{self.service.host}"


@dataclass(frozen=True)
class Proxy:
    """Everything that the bootstrap of one Envoy depends on. Ports are TCP ports of this machine."""

    pod: Pod
    organisation: Organisation
    ip: str
    certificate: WorkloadCertificate
    trust_bundle: Path  # roots of all federated organisations
    trust_domains: tuple[str, ...]
    upstreams: tuple[Upstream, ...]
    admin_port: int
    app_port: int | None  # the application, on 127.0.0.1
    inbound_port: int | None  # on the pod's ip
    outbound_port: int | None  # on 127.0.0.1
    filter_file: Path | None  # where the filter's discovery response is

    @property
    def node_id(self) -> str:
        role = self.pod.relay or ("router" if self.pod.gateway_to else "sidecar")
        namespace = self.pod.namespace
        return f"{role}~{self.ip}~{self.pod.name}.{namespace}~{namespace}.svc.cluster.local"


def bootstrap(proxy: Proxy) -> dict:
    """The whole configuration; `json.dumps` of it is what `envoy -c` reads."""
    pod, organisation = proxy.pod, proxy.organisation
    clusters = [_outbound_cluster(proxy, upstream) for upstream in proxy.upstreams]
    if organisation.tracing:
        clusters.append(_tracing_cluster(organisation.tracing))
    listeners = []
    if pod.relay:
        listeners.append(_relay_listener(proxy))
    elif proxy.inbound_port:
        clusters.append(_inbound_cluster(proxy))
        listeners.append(_inbound_listener(proxy))
    if proxy.outbound_port:
        listeners.append(_outbound_listener(proxy))
    config = {
        "node": {
            "id": proxy.node_id,
            "cluster": f"{pod.workload}.{pod.namespace}",
            "metadata": {
                "NAME": pod.name, "NAMESPACE": pod.namespace, "WORKLOAD_NAME": pod.workload,
                "SERVICE_ACCOUNT": pod.service_account, "CLUSTER_ID": organisation.cluster_id,
                "MESH_ID": organisation.mesh_id, "LABELS": {"app": pod.workload, **pod.labels}},
        },
        "admin": {"address": _address("127.0.0.1", proxy.admin_port)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }
    if organisation.tracing and organisation.tracing.report_at_once:
        layer = {f"tracing.{tracer}.min_flush_spans": 1 for tracer in ("zipkin", "opentelemetry")}
        config["layered_runtime"] = {"layers": [{"name": "lab", "static_layer": layer}]}
    return config


def filter_discovery(wasm: WasmFilter) -> dict:
    """The ECDS resource that both listeners' filter chains refer to, as a DiscoveryResponse."""
    code = {"local": {"filename": str(wasm.module)}}
    vm_config = {"vm_id": wasm.vm_id, "runtime": "envoy.wasm.runtime.v8", "code": code,
                 "environment_variables": {"key_values": wasm.env}}
    plugin = {"name": wasm.name, "root_id": wasm.root_id, "vm_config": vm_config,
              "failure_policy": wasm.failure_policy}
    if wasm.plugin_config is not None:
        plugin["configuration"] = _typed("google.protobuf.StringValue", value=json.dumps(wasm.plugin_config))
    resource = _typed("envoy.config.core.v3.TypedExtensionConfig", name=_filter_name(wasm),
                      typed_config=_typed("envoy.extensions.filters.http.wasm.v3.Wasm", config=plugin))
    return {"resources": [resource]}


def _outbound_listener(proxy: Proxy) -> dict:
    if proxy.pod.gateway_to:
        target = next(u for u in proxy.upstreams if u.service.name == proxy.pod.gateway_to)
        hosts = [_virtual_host("*:80", ["*"], target.service, proxy.upstreams)]
        own = _GATEWAY
    else:
        hosts = _hosts(proxy)
        own = {"use_remote_address": False}
    connections = _connection_manager(proxy, "outbound", {"name": "outbound", "virtual_hosts": hosts}, own)
    return {
        "name": f"127.0.0.1_{proxy.outbound_port}",
        "traffic_direction": proxy.pod.gateway_direction if proxy.pod.gateway_to else "OUTBOUND",
        "address": _address("127.0.0.1", proxy.outbound_port),
        "enable_reuse_port": False,  # a port taken twice must fail, not share the connections
        "filter_chains": [{"filters": [connections]}],
    }


_GATEWAY = {"use_remote_address": True, "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"subject": True, "cert": True, "dns": True, "uri": True}}


def _hosts(proxy: Proxy) -> list[dict]:
    """Virtual hosts of all services that a proxy knows; calls to others are refused.

    A relay knows short names too, as a gateway does that lists the hosts of its callers.
    """
    services = sorted({u.service for u in proxy.upstreams}, key=lambda s: s.host)
    block = {"name": "block_all", "match": {"prefix": "/"}, "direct_response": {"status": 502}}
    return [*(_virtual_host(f"{s.host}:{s.port}", _domains(s, s.namespace if proxy.pod.relay else proxy.pod.namespace),
                            s, proxy.upstreams) for s in services),
            {"name": "block_all", "domains": ["*"], "routes": [block]}]


def _relay_listener(proxy: Proxy) -> dict:
    """What a gateway between meshes or a waypoint takes, it sends on by its host."""
    own = _GATEWAY if proxy.pod.relay == "router" else _INBOUND
    connections = _connection_manager(proxy, "relayed", {"name": "relayed", "virtual_hosts": _hosts(proxy)}, own)
    return _mtls_listener(proxy, "relay", proxy.pod.gateway_direction, connections)


_INBOUND = {"use_remote_address": False, "forward_client_cert_details": "APPEND_FORWARD",
            "set_current_client_cert_details": {"subject": True, "dns": True, "uri": True}}


def _inbound_listener(proxy: Proxy) -> dict:
    cluster = f"inbound|{proxy.pod.port}||"
    route = {"name": "default", "match": {"prefix": "/"}, "decorator": {"operation": f"{proxy.pod.workload}/*"},
             "route": {"cluster": cluster, "timeout": "0s", "max_stream_duration": _NO_STREAM_LIMIT}}
    hosts = [{"name": f"inbound|http|{proxy.pod.port}", "domains": ["*"], "routes": [route]}]
    connections = _connection_manager(proxy, "inbound", {"name": cluster, "virtual_hosts": hosts}, _INBOUND)
    return _mtls_listener(proxy, "virtualInbound", "INBOUND", connections)


def _mtls_listener(proxy: Proxy, name: str, direction: str, connections: dict) -> dict:
    """Strict mTLS: the one filter chain matches TLS only, so that plain text finds none."""
    peers = [{"san_type": "URI", "matcher": {"prefix": f"spiffe://{d}/"}} for d in proxy.trust_domains]
    tls = _typed("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                 require_client_certificate=True,
                 common_tls_context=_tls(proxy, peers, ["istio-peer-exchange", "h2", "http/1.1"]))
    inspector = {"name": "envoy.filters.listener.tls_inspector", "typed_config":
                 _typed("envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector")}
    return {
        "name": name,
        "traffic_direction": direction,
        "address": _address(proxy.ip, proxy.inbound_port),
        "enable_reuse_port": False,
        "listener_filters": [inspector],
        "filter_chains": [{
            "filter_chain_match": {"transport_protocol": "tls"},
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
            "filters": [connections]}],
    }


def _connection_manager(proxy: Proxy, stat_prefix: str, route_config: dict, own: dict) -> dict:
    filters = []
    if proxy.organisation.wasm:
        filters.append({"name": _filter_name(proxy.organisation.wasm), "config_discovery": {
            "config_source": {"path_config_source": {"path": str(proxy.filter_file)}, "resource_api_version": "V3"},
            "type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"]}})
    filters.append({"name": "envoy.filters.http.router",
                    "typed_config": _typed("envoy.extensions.filters.http.router.v3.Router")})
    logged = "".join(f" {name}=%REQ({name.upper()})%" for name in proxy.organisation.logged_headers)
    log_format = ACCESS_LOG_FORMAT.replace("\n", f"{logged}\n")
    log = _typed("envoy.extensions.access_loggers.file.v3.FileAccessLog", path="/dev/stdout",
                 log_format={"text_format_source": {"inline_string": log_format}})
    settings = {
        "stat_prefix": stat_prefix,
        "server_name": "istio-envoy",
        "route_config": {**route_config, "validate_clusters": False},
        "http_filters": filters,
        "access_log": [{"name": "envoy.access_loggers.file", "typed_config": log}],
        "generate_request_id": True,
        "normalize_path": True,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        **own,
    }
    if proxy.organisation.tracing:
        settings["tracing"] = _tracing(proxy.organisation.tracing)
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": _typed(HCM, **settings)}


_NO_STREAM_LIMIT = {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"}


def _virtual_host(name: str, domains: list[str], service: Service, upstreams: tuple[Upstream, ...]) -> dict:
    weighted = [u for u in upstreams if u.service == service and u.weight]
    if weighted:
        target = {"weighted_clusters": {"clusters": [{"name": u.cluster_name, "weight": u.weight} for u in weighted]}}
    else:
        target = {"cluster": service.cluster_name}
    previous = {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config":
                _typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")}
    retry = {"retry_on": "connect-failure,refused-stream,unavailable,cancelled", "num_retries": 2,
             "retry_host_predicate": [previous], "host_selection_retry_max_attempts": "5"}
    route = {"name": "default", "match": {"prefix": "/"},
             "decorator": {"operation": f"{service.host}:{service.port}/*"},
             "route": {**target, "timeout": "0s", "retry_policy": retry, "max_stream_duration": _NO_STREAM_LIMIT}}
    return {"name": name, "domains": domains, "routes": [route], "include_request_attempt_count": True}


def _domains(service: Service, namespace: str) -> list[str]:
    """Every name a pod in `namespace` may call the service by, with and without its port."""
    names = [service.host, f"{service.name}.{service.namespace}.svc", f"{service.name}.{service.namespace}"]
    if service.namespace == namespace:
        names.append(service.name)
    return [form for name in names for form in (name, f"{name}:{service.port}")]


def _outbound_cluster(proxy: Proxy, upstream: Upstream) -> dict:
    service = upstream.service
    peers = [{"san_type": "URI", "matcher": {"exact": s}} for s in upstream.spiffe_ids]
    tls = _typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                 sni=f"outbound_.{service.port}_.{upstream.subset}_.{service.host}",
                 common_tls_context=_tls(proxy, peers, ["istio-peer-exchange", "istio"]))
    cluster = _cluster(upstream.cluster_name, upstream.endpoints, bind=proxy.ip)
    cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return cluster


def _inbound_cluster(proxy: Proxy) -> dict:
    return _cluster(f"inbound|{proxy.pod.port}||", [("127.0.0.1", proxy.app_port)], bind=INBOUND_SOURCE)


def _tracing_cluster(tracing: Zipkin | OpenTelemetry) -> dict:
    name = ZIPKIN_CLUSTER if isinstance(tracing, Zipkin) else OTLP_CLUSTER
    return _cluster(name, [(tracing.address, tracing.port)])


def _cluster(name: str, endpoints, bind: str | None = None) -> dict:
    members = [{"endpoint": {"address": _address(*endpoint)}} for endpoint in endpoints]
    cluster = {"name": name, "type": "STATIC", "connect_timeout": "10s", "lb_policy": "LEAST_REQUEST",
               "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": members}]}}
    if bind:
        cluster["upstream_bind_config"] = {"source_address": {"address": bind, "port_value": 0}}
    return cluster


def _tls(proxy: Proxy, peers: list[dict], alpn: list[str]) -> dict:
    pair = {"certificate_chain": {"filename": str(proxy.certificate.chain)},
            "private_key": {"filename": str(proxy.certificate.key)}}
    trust = {"trusted_ca": {"filename": str(proxy.trust_bundle)}, "match_typed_subject_alt_names": peers}
    return {"tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [pair], "validation_context": trust, "alpn_protocols": alpn}


def _tracing(tracing: Zipkin | OpenTelemetry) -> dict:
    provider = _zipkin_provider(tracing) if isinstance(tracing, Zipkin) else _opentelemetry_provider()
    return {"client_sampling": {"value": 100.0}, "overall_sampling": {"value": 100.0},
            "random_sampling": {"value": tracing.sampling_percent}, "provider": provider,
            "no_context_propagation": tracing.silent}


def _zipkin_provider(zipkin: Zipkin) -> dict:
    config = _typed("envoy.config.trace.v3.ZipkinConfig", collector_cluster=ZIPKIN_CLUSTER,
                    collector_endpoint="/api/v2/spans", collector_endpoint_version="HTTP_JSON",
                    collector_hostname=ZIPKIN_HOST, trace_id_128bit=True, shared_span_context=False,
                    **({"trace_context_option": "USE_B3_WITH_W3C_PROPAGATION"} if zipkin.w3c else {}))
    return {"name": "envoy.tracers.zipkin", "typed_config": config}


def _opentelemetry_provider() -> dict:
    uri = {"uri": f"http://{OTLP_HOST}:4318/v1/traces", "cluster": OTLP_CLUSTER, "timeout": "10s"}
    config = _typed("envoy.config.trace.v3.OpenTelemetryConfig", http_service={"http_uri": uri})
    return {"name": "envoy.tracers.opentelemetry", "typed_config": config}


def _filter_name(wasm: WasmFilter) -> str:
    return f"{FILTER_NAMESPACE}.{wasm.name}"


def _address(ip: str, port: int) -> dict:
    return {"socket_address": {"address": ip, "port_value": port}}


def _typed(message: str, **fields) -> dict:
    return {"@type": f"type.googleapis.com/{message}", **fields}
