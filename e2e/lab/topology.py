"""What a mesh consists of: organisations, services and pods. Declarations only; mesh.py runs them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class WasmFilter:
    """A proxy-wasm module for both directions of every sidecar, as a WasmPlugin delivers it."""

    module: Path
    plugin_config: dict | None = field(default_factory=dict)  # reaches the plugin as a JSON string; None: none at all
    name: str = "meshchain"
    root_id: str = "meshchain"
    vm_id: str = "meshchain"
    failure_policy: str = "FAIL_OPEN"  # or FAIL_CLOSED, FAIL_RELOAD
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Zipkin:
    """Istio's Zipkin tracing provider, reached in plain text.

    `w3c`: it reads and writes traceparent besides B3 (trace_context_option). `silent`: it sends no context on
    (no_context_propagation). `report_at_once`: a report for each span; else as Envoy does it, for 5 spans or
    after 5 s.
    """

    port: int
    address: str = "127.0.0.1"
    sampling_percent: float = 100.0
    w3c: bool = False
    silent: bool = False
    report_at_once: bool = False


@dataclass(frozen=True)
class OpenTelemetry:
    """Istio's OpenTelemetry tracing provider with its HTTP exporter, reached in plain text."""

    port: int
    address: str = "127.0.0.1"
    sampling_percent: float = 100.0
    silent: bool = False  # as Zipkin's
    report_at_once: bool = False  # as Zipkin's


@dataclass(frozen=True)
class Organisation:
    """One mesh of its own: its trust domain (root CA), filter and tracing.

    `logged_headers`: request headers that the access logs show besides, as they stand at the request's end.
    """

    name: str
    trust_domain: str
    mesh_id: str
    cluster_id: str
    wasm: WasmFilter | None = None
    tracing: Zipkin | OpenTelemetry | None = None
    logged_headers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subset:
    """The pods of a service that a DestinationRule calls by one name; the weights of a service sum to 100.

    `through`: as a Service's.
    """

    name: str
    pods: tuple[str, ...]
    weight: int
    through: tuple[str, ...] = ()


@dataclass(frozen=True)
class Service:
    """A Kubernetes Service; give either `pods` or `subsets`.

    `visible_to`: the one organisation whose sidecars know it (exportTo); None: all of them. So two
    organisations can each have a service of the same name. `through`: pods that relay calls to `pods`, in
    order; a caller of the same organisation passes only the waypoints among them.
    """

    name: str
    namespace: str
    port: int
    pods: tuple[str, ...] = ()
    subsets: tuple[Subset, ...] = ()
    visible_to: str | None = None
    through: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        return f"{self.name}.{self.namespace}.svc.cluster.local"

    @property
    def cluster_name(self) -> str:
        """The cluster of all its pods, as Istio names it."""
        return f"outbound|{self.port}||{self.host}"


@dataclass(frozen=True)
class Pod:
    """One workload instance: an application and its sidecar, or a gateway, or a waypoint.

    `command` makes the application's argv from the port it must listen on (127.0.0.1); with
    `app_port` instead, something that already listens there is the application. A pod with neither
    has no application. `gateway_to`: it is a gateway for users, in plain text, and names the service that
    all their requests go to. `relay`: it is what its node id says, "router" (a gateway between meshes) or
    "waypoint", and sends calls that come by mTLS on by their host.
    `inbound_only`: the sidecar has no outbound listener (a collector's pod).
    `patch` changes the sidecar's bootstrap in place, as an EnvoyFilter changes what Istio made.
    """

    name: str
    workload: str
    namespace: str
    service_account: str
    organisation: str
    command: Callable[[int], list[str]] | None = None
    app_port: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    port: int = 9080  # the service port it serves, as in `inbound|9080||`
    labels: dict[str, str] = field(default_factory=dict)
    gateway_to: str | None = None
    relay: str | None = None
    gateway_direction: str = "UNSPECIFIED"  # traffic_direction of the listener of a gateway or waypoint
    inbound_only: bool = False
    patch: Callable[[dict], None] | None = None
    envoy: Path | None = None  # its binary; None: the one of `envoy_binary`
    workers: int = 1  # threads of its Envoy


@dataclass(frozen=True)
class Topology:
    organisations: tuple[Organisation, ...]
    services: tuple[Service, ...]
    pods: tuple[Pod, ...]

    def check(self) -> None:
        """Raises ValueError if a name is used twice or refers to nothing."""
        pods, organisations = {p.name for p in self.pods}, {o.name for o in self.organisations}
        if len(pods) != len(self.pods) or len(organisations) != len(self.organisations):
            raise ValueError("two pods or two organisations have the same name")
        for service in self.services:
            for pod in [*service.pods, *service.through, *(p for s in service.subsets for p in (*s.pods, *s.through))]:
                if pod not in pods:
                    raise ValueError(f"service {service.name} names pod {pod}, which does not exist")
            if bool(service.pods) == bool(service.subsets):
                raise ValueError(f"service {service.name} needs either pods or subsets")
            if service.subsets and sum(s.weight for s in service.subsets) != 100:
                raise ValueError(f"the weights of service {service.name} do not sum to 100")
        for pod in self.pods:
            if pod.organisation not in organisations:
                raise ValueError(f"pod {pod.name} is of organisation {pod.organisation}, which does not exist")
            if [pod.command, pod.app_port, pod.gateway_to, pod.relay].count(None) != 3:
                raise ValueError(f"pod {pod.name} needs one of command, app_port, gateway_to and relay")
            if pod.gateway_to and pod.gateway_to not in {s.name for s in self.services}:
                raise ValueError(f"gateway {pod.name} leads to {pod.gateway_to}, which does not exist")
