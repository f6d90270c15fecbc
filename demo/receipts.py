"""Receipts: every entry of both logs, and evidence files as the `meshchain` program handles them."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import forge
from lab.collector import meshchain
from lab.procs import Failed
from lab.receipts import ENTRY, GATEWAY_IN, SENDING
from scene import Collector

NO_SPAN = bytes(8)


def fetch(trace_id: str, collector: Collector, output: Path) -> dict:
    """Gets the evidence of a trace into a file; the file's content."""
    output.parent.mkdir(exist_ok=True)
    run = meshchain("evidence", trace_id, "--collector", collector.url, "-o", output)
    if run.code:
        raise Failed(f"no evidence of trace {trace_id} from {collector.label}: {run.text}")
    return json.loads(output.read_text())


def write(path: Path, evidence: dict) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(evidence, indent=2) + "\n")
    return path


def merge(first: dict, second: dict) -> dict:
    """One evidence file of what two logs hold of a trace."""
    return {**first, "spans": first["spans"] + second["spans"], "anchors": first["anchors"] + second["anchors"]}


@dataclass(frozen=True)
class Sides:
    """All hops of all logs, by what their two sides said."""

    spans: dict[str, int]  # per organisation
    client: int  # sent by a sidecar or a gateway
    server: int  # received by one
    agree: int
    dispute: int
    edge: int  # what a gateway received of somebody who sent no span along, or of whom nobody has a span
    one_sided: int

    @property
    def hops(self) -> int:
        return self.agree + self.dispute + self.one_sided


def compare_sides(collectors: dict[str, Collector]) -> Sides:
    """Compares the hop digests of every hop, from the collectors' own files."""
    spans, sides, edge = Counter(), Counter(), 0
    hops: dict[tuple, dict[int, bytes]] = defaultdict(dict)
    for name, collector in collectors.items():
        for _, side, trace_id, span_id, digest, _ in _entries(collector):
            spans[name] += 1
            sides[side in SENDING] += 1
            if span_id == NO_SPAN and side == GATEWAY_IN:
                edge += 1
            else:
                hops[trace_id, span_id][side] = digest
    edges = [hop for hop in hops.values() if set(hop) == {GATEWAY_IN}]
    both = [set(hop.values()) for hop in hops.values() if len(hop) == 2]
    agree = sum(len(digests) == 1 for digests in both)
    return Sides(dict(spans), sides[True], sides[False], agree, len(both) - agree, edge + len(edges),
                 len(hops) - len(both) - len(edges))


def _entries(collector: Collector):
    for pool in forge.pools(collector.data):
        for batch in forge.read_pool(pool):
            yield from map(ENTRY.unpack, batch.entries)


def spans_below(collector: Collector, sizes: list[int]) -> list[int]:
    """How many spans the first so many leaves hold, for each size."""
    per_leaf = [len(batch.entries) for pool in forge.pools(collector.data) for batch in forge.read_pool(pool)]
    return [sum(per_leaf[:size]) for size in sizes]
