"""Two sidecars, and the routes and filters that the situations of the matrix need.

    caller -> [client-0] ==mTLS==> [server-0] -> app
                   \\-> app, as an external service without a sidecar

Beside them, one Envoy each: `crowd-0` has three workers, `changing-0` gets new configurations, `bare-0`
has none at all. All post to the recorder, and through it to a real collector.
"""

import copy
from pathlib import Path

from lab.client import Client
from lab.collector import COLLECTOR, COLLECTOR_CLUSTER, FILTER, check_built
from lab.mesh import Mesh
from lab.procs import Processes, free_port, wait_http, wait_until
from lab.topology import Organisation, Pod, Service, Topology, WasmFilter
from phases.app import App
from phases.recorder import Recorder, Span

SERVER = Service("server", "shop", 9080, pods=("server-0",))
HOST = "server.shop:9080"
CONFIG = {"tick_ms": 20, "heartbeat_s": 1}
CROWD = 3  # workers of crowd-0
INBOUND_HEADERS_KB = 8  # what server-0 takes; client-0 takes Envoy's default, 60
TIMEOUT_S = 0.5  # of the routes that have one
DEADLINE_S = 15.0
EXTENSIONS = "type.googleapis.com/envoy.extensions.filters.http"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class Scene:
    """The running Envoys of one version; a context manager. `envoy`: its binary, None for the newest."""

    def __init__(self, directory: Path, envoy: Path | None = None):
        check_built()
        self.processes = Processes(directory / "logs")
        self.app = App()
        port = free_port()
        self.collector_url = f"http://127.0.0.1:{port}"
        self.collector = self.processes.start("collector", [
            COLLECTOR, "--data", directory / "data", "--listen", f"127.0.0.1:{port}"])
        self.recorder = Recorder(self.collector_url)
        self.mesh = Mesh(self._topology(envoy), directory / "mesh", self.processes)

    def __enter__(self) -> "Scene":
        try:
            wait_http(f"{self.collector_url}/healthz", DEADLINE_S, self.collector)
            self.mesh.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.processes.close()
        self.recorder.close()
        self.app.close()

    def client(self, pod: str = "client-0") -> Client:
        return self.mesh.client(pod, HOST)

    def port(self, pod: str = "client-0") -> int:
        return self.mesh.pods[pod].outbound_port

    def spans(self, request_id: bytes, client: int, server: int,
              deadline_s: float = DEADLINE_S) -> dict[str, list[Span]]:
        """The records of a call by side, once so many of each are there; more of them is an error."""
        found: dict[str, list[Span]] = {}

        def complete() -> bool:
            found.update(client=[], server=[])
            for span in self.recorder.spans(request_id):
                found[span.side].append(span)
            return len(found["client"]) >= client and len(found["server"]) >= server
        wait_until(complete, deadline_s, f"{client} + {server} records of {request_id!r}")
        assert (len(found["client"]), len(found["server"])) == (client, server)
        return found

    def _topology(self, envoy: Path | None) -> Topology:
        wasm = WasmFilter(FILTER, CONFIG)
        organisations = (Organisation("shop", "shop.example", "mesh", "east", wasm),
                         Organisation("bare", "bare.example", "mesh", "west", WasmFilter(FILTER, None)))

        def pod(workload: str, organisation: str = "shop", workers: int = 1, patch=lambda bootstrap: None) -> Pod:
            def patched(bootstrap: dict) -> None:
                bootstrap["static_resources"]["clusters"].append(_plain(COLLECTOR_CLUSTER, self.recorder.port))
                patch(bootstrap)
            return Pod(f"{workload}-0", workload, "shop", workload, organisation, app_port=self.app.port,
                       envoy=envoy, workers=workers, patch=patched)

        pods = (pod("client", patch=self._client), pod("server", patch=self._server),
                pod("crowd", workers=CROWD, patch=_balanced), pod("changing"), pod("bare", "bare"))
        return Topology(organisations, (SERVER,), pods)

    def _client(self, bootstrap: dict) -> None:
        clusters = bootstrap["static_resources"]["clusters"]
        clusters += [_plain("external", self.app.port), _plain("dead", free_port()), _plain("empty", None),
                     _over_http2(_named(clusters, SERVER.cluster_name), "server-http2")]
        manager = _manager(bootstrap, "OUTBOUND")
        manager["http_filters"][:0] = [_fault("/aborted"), _refuse("/forbidden")]
        manager["http_protocol_options"] = {"accept_http_10": True}
        host = next(h for h in manager["route_config"]["virtual_hosts"] if h["routes"][0]["name"] == "default")
        default = host["routes"][0]
        timeout = {"timeout": f"{TIMEOUT_S}s"}
        idle = {"idle_timeout": f"{TIMEOUT_S}s"}
        retry = {"retry_policy": {"retry_on": "5xx", "num_retries": 2,
                                  "retry_back_off": {"base_interval": "0.001s"}}}
        host["routes"][:0] = [
            _route(default, "/old/", prefix_rewrite="/new/"),
            _route(default, "/host-rewrite", host_rewrite_literal="rewritten.example"),
            _local("/moved", redirect={"path_redirect": "/there"}),
            _local("/direct", direct_response={"status": 418, "body": {"inline_string": "teapot"}}),
            _route(default, "/timed", **timeout),
            _route(default, "/idle", **idle),
            _route(default, "/lasting", max_stream_duration={"max_stream_duration": f"{TIMEOUT_S}s"}),
            _route(default, "/retried-external", cluster="external", **retry),
            _route(default, "/retried", **retry),
            _route(default, "/per-try", retry_policy={**retry["retry_policy"], "per_try_timeout": f"{TIMEOUT_S}s"}),
            _route(default, "/external", cluster="external"),
            _route(default, "/http2", cluster="server-http2"),
            _route(default, "/dead", cluster="dead"),
            _route(default, "/empty", cluster="empty"),
            _route(default, "/unknown-cluster", cluster="nowhere"),
        ]

    def _server(self, bootstrap: dict) -> None:
        clusters = bootstrap["static_resources"]["clusters"]
        inbound = _named(clusters, f"inbound|{SERVER.port}||")
        inbound["typed_extension_protocol_options"] = _http_options(http_protocol_options={"enable_trailers": True})
        clusters.append(_plain("dead", free_port()))
        manager = _manager(bootstrap, "INBOUND")
        manager["http_filters"][:0] = [_fault("/server-aborted"), _refuse("/server-forbidden")]
        manager["max_request_headers_kb"] = INBOUND_HEADERS_KB
        routes = manager["route_config"]["virtual_hosts"][0]["routes"]
        routes[:0] = [
            _local("/server-direct", direct_response={"status": 418, "body": {"inline_string": "teapot"}}),
            _route(routes[0], "/server-old/", prefix_rewrite="/server-new/"),
            _route(routes[0], "/server-dead", cluster="dead"),
            _route(routes[0], "/server-timed", timeout=f"{TIMEOUT_S}s"),
            _route(routes[0], "/server-idle", idle_timeout=f"{TIMEOUT_S}s"),
        ]


def _balanced(bootstrap: dict) -> None:
    """Spreads connections evenly over the workers."""
    for listener in bootstrap["static_resources"]["listeners"]:
        listener["connection_balance_config"] = {"exact_balance": {}}


def _manager(bootstrap: dict, direction: str) -> dict:
    """The HTTP connection manager of a direction's listener."""
    listener = next(li for li in bootstrap["static_resources"]["listeners"] if li["traffic_direction"] == direction)
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def _named(clusters: list[dict], name: str) -> dict:
    return next(c for c in clusters if c["name"] == name)


def _plain(name: str, port: int | None) -> dict:
    """A cluster of one endpoint in plain text, or of none."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}] if port else []
    return {"name": name, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


def _over_http2(cluster: dict, name: str) -> dict:
    """The same cluster over HTTP/2, as a DestinationRule's h2UpgradePolicy makes it."""
    made = copy.deepcopy(cluster)
    made["name"] = made["load_assignment"]["cluster_name"] = name
    made["transport_socket"]["typed_config"]["common_tls_context"]["alpn_protocols"] = ["h2"]
    made["typed_extension_protocol_options"] = _http_options(http2_protocol_options={})
    return made


def _http_options(**explicit) -> dict:
    return {HTTP_OPTIONS: {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", "explicit_http_config": explicit}}


def _route(default: dict, prefix: str, cluster: str | None = None, **action) -> dict:
    """The default route for one prefix, with other settings."""
    made = copy.deepcopy(default)
    made["name"], made["match"] = prefix.strip("/"), {"prefix": prefix}
    made["route"].update(action)
    if "timeout" in action:
        del made["route"]["max_stream_duration"]  # where it is, Envoy takes no heed of `timeout`
    if cluster:
        made["route"].pop("weighted_clusters", None)
        made["route"]["cluster"] = cluster
    return made


def _local(prefix: str, **action) -> dict:
    return {"name": prefix.strip("/"), "match": {"prefix": prefix}, **action}


def _fault(prefix: str) -> dict:
    """Answers 503 itself; stands before the filter."""
    paths = [{"name": ":path", "string_match": {"prefix": prefix}}]
    return {"name": "envoy.filters.http.fault", "typed_config": {
        "@type": f"{EXTENSIONS}.fault.v3.HTTPFault", "headers": paths,
        "abort": {"http_status": 503, "percentage": {"numerator": 100}}}}


def _refuse(prefix: str) -> dict:
    """Istio's AuthorizationPolicy DENY: answers 403 itself; stands before the filter."""
    path = {"url_path": {"path": {"prefix": prefix}}}
    policy = {"permissions": [path], "principals": [{"any": True}]}
    return {"name": "envoy.filters.http.rbac", "typed_config": {
        "@type": f"{EXTENSIONS}.rbac.v3.RBAC", "rules": {"action": "DENY", "policies": {"deny": policy}}}}
