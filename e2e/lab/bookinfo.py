"""The Bookinfo application across two organisations, as a topology.

    Enterprise     ingress -> productpage -> details, reviews v1
    Public cloud   reviews v2 and v3 -> ratings; productpage's calls to them cross over

They cross over directly, or through Enterprise's egress gateway and Public cloud's ingress gateway.
"""

import sys
from collections.abc import Callable

from lab.tools import REPOSITORY
from lab.topology import Organisation, Pod, Service, Subset, Topology, WasmFilter, Zipkin

SERVICE = REPOSITORY / "demo" / "bookinfo" / "service.py"
NAMESPACE = "bookinfo"
PORT = 9080
INGRESS = "istio-ingressgateway-0"
BETWEEN = EGRESS, CLOUD_INGRESS = "istio-egressgateway-0", "cloud-ingressgateway-0"
ENTERPRISE = "enterprise"
CLOUD = "cloud"


def organisations(wasm: dict[str, WasmFilter] | None = None,
                  tracing: Zipkin | None = None) -> tuple[Organisation, Organisation]:
    """Both organisations; `wasm`: the filter of each, by organisation name."""
    enterprise, cloud = (
        Organisation(name, f"{name}.example", f"{name}-mesh", f"{name}-1", (wasm or {}).get(name), tracing)
        for name in (ENTERPRISE, CLOUD))
    return enterprise, cloud


def bookinfo(wasm: dict[str, WasmFilter] | None = None, tracing: Zipkin | None = None,
             more_pods: tuple[Pod, ...] = (), more_services: tuple[Service, ...] = (),
             review_weights: tuple[int, int, int] = (34, 33, 33), gateways: bool = False) -> Topology:
    """Bookinfo, and what the caller adds, such as collectors. Weights: percent for reviews v1, v2, v3.

    `gateways`: whether calls cross over through those of both organisations.
    """
    between = BETWEEN if gateways else ()
    reviews = tuple(Subset(f"v{n}", (f"reviews-v{n}-0",), weight, between if n > 1 else ())
                    for n, weight in enumerate(review_weights, start=1) if weight)
    relays = tuple(Pod(name, name.removesuffix("-0"), "istio-system", f"{name.removesuffix('-0')}-service-account",
                       organisation, relay="router") for name, organisation in zip(between, (ENTERPRISE, CLOUD)))
    pods = (
        Pod(INGRESS, "istio-ingressgateway", "istio-system", "istio-ingressgateway-service-account", ENTERPRISE,
            gateway_to="productpage"),
        _pod("productpage", "v1", ENTERPRISE), _pod("details", "v1", ENTERPRISE), _pod("reviews", "v1", ENTERPRISE),
        _pod("reviews", "v2", CLOUD), _pod("reviews", "v3", CLOUD), _pod("ratings", "v1", CLOUD))
    services = (
        *(Service(name, NAMESPACE, PORT, pods=(f"{name}-v1-0",)) for name in ("productpage", "details", "ratings")),
        Service("reviews", NAMESPACE, PORT, subsets=reviews))
    return Topology(organisations(wasm, tracing), (*services, *more_services), (*pods, *relays, *more_pods))


def collector_pod(organisation: str, command: Callable[[int], list[str]] | None = None, app_port: int | None = None,
                  port: int = 8080) -> tuple[Pod, Service]:
    """An organisation's collector, `meshchain-collector.meshchain` to its own sidecars only.

    Give `command` (from port to argv) or, for something that runs already, `app_port`.
    """
    name = f"meshchain-collector-{organisation}-0"
    pod = Pod(name, "meshchain-collector", "meshchain", "meshchain-collector", organisation, command=command,
              app_port=app_port, port=port, inbound_only=True)
    return pod, Service("meshchain-collector", "meshchain", port, pods=(name,), visible_to=organisation)


def _pod(service: str, version: str, organisation: str) -> Pod:
    workload = f"{service}-{version}"
    return Pod(f"{workload}-0", workload, NAMESPACE, f"bookinfo-{service}", organisation,
               command=lambda port: [sys.executable, str(SERVICE), workload, "--port", str(port)],
               port=PORT, labels={"app": service, "version": version})
