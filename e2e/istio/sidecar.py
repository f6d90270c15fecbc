"""What a Pod's Envoy and its agent say of themselves."""

import re
from collections.abc import Iterator
from urllib.parse import quote

from istio.pod import Pod

ADMIN, AGENT, ENVOY_METRICS = 15000, 15020, 15090  # ports
FILTER = "meshchain"  # in the name of each of our HTTP filters, and of our metrics


class Sidecar:
    """The sidecar of a running Pod."""

    def __init__(self, pod: Pod):
        self.pod = pod

    def stats(self, prefix: str) -> dict[str, int]:
        """Counters and gauges whose names begin with `prefix`."""
        text = self.pod.get(ADMIN, f"/stats?filter={quote('^' + re.escape(prefix))}").text
        pairs = (line.rsplit(": ", 1) for line in text.splitlines())
        return {name: int(value) for name, value in pairs if value.isdigit()}

    def prometheus(self, port: int) -> dict[str, float]:
        """Our counters and gauges, by name, as Prometheus scrapes them from the Pod; labels are dropped."""
        text = self.pod.get(port, "/stats/prometheus").text
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if FILTER in line and not line.startswith("#"))
        return {name.partition("{")[0]: float(value) for name, value in lines}

    def answered(self, cluster: str) -> int:
        """Requests that the endpoints of a cluster answered with success."""
        counts = rf"^{re.escape(cluster)}::[^:]+:\d+::rq_success::(\d+)$"
        return sum(map(int, re.findall(counts, self.pod.get(ADMIN, "/clusters").text, re.MULTILINE)))

    def config_dump(self) -> bytes:
        return self.pod.get(ADMIN, "/config_dump").body

    def connection_managers(self) -> Iterator[tuple[str, dict]]:
        """HTTP connection managers in use, each with its listener's name."""
        for part in self._parts():
            for each in part.get("dynamic_listeners", []):
                listener = each.get("active_state", {}).get("listener", {})
                chains = [*listener.get("filter_chains", []), listener.get("default_filter_chain", {})]
                for filter_ in (filter_ for chain in chains for filter_ in chain.get("filters", [])):
                    if "http_filters" in filter_.get("typed_config", {}):
                        yield listener["name"], filter_["typed_config"]

    def _parts(self) -> list[dict]:
        return self.pod.get(ADMIN, "/config_dump").json()["configs"]

    def http_filters(self) -> dict[str, list[str]]:
        """Names of the HTTP filters in order, by listener; the last chain's of each."""
        return {listener: [each["name"] for each in manager["http_filters"]]
                for listener, manager in self.connection_managers()}

    def sampling(self) -> set[float | None]:
        """Percentages of calls that tracers sample; None where a connection manager has no tracer."""
        found = [manager.get("tracing", {}) for _, manager in self.connection_managers()]
        return {tracing["random_sampling"].get("value", 0.0) if "provider" in tracing else None for tracing in found}

    def delivered(self) -> list[dict]:
        """Our filters' configurations as discovered, or what stands in for them: one per resource, so two."""
        found = [each["ecds_filter"] for part in self._parts() for each in part.get("ecds_filters", [])]
        return [each["typed_config"] for each in found if FILTER in each["name"]]

    def machines(self) -> int:
        """Wasm VMs that there are."""
        return self.stats("wasm.envoy.wasm.runtime.v8.active").get("wasm.envoy.wasm.runtime.v8.active", 0)

    def draining(self) -> int:
        """Old listeners and filter chains that still serve connections."""
        stats = self.stats("listener_manager.total_")
        return sum(count for name, count in stats.items() if name.endswith("draining"))
