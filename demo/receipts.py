"""Receipts: every entry of both logs, and evidence files as the `meshchain` program handles them."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import forge
from lab.collector import meshchain
from lab.procs import Failed
from scene import Collector

SERVER = 2  # of the sides in an entry: client 1, server 2, gateway 3


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
    client: int
    server: int
    agree: int
    dispute: int
    one_sided: int

    @property
    def hops(self) -> int:
        return self.agree + self.dispute + self.one_sided


def compare_sides(collectors: dict[str, Collector]) -> Sides:
    """Compares the hop digests of every hop, from the collectors' own files."""
    spans, sides = Counter(), Counter()
    hops: dict[bytes, tuple[set, set]] = defaultdict(lambda: (set(), set()))
    for name, collector in collectors.items():
        for entry in _entries(collector):
            spans[name] += 1
            side = entry[1] == SERVER
            sides[side] += 1
            hops[entry[2:26]][side].add(entry[26:58])
    both = [client & server for client, server in hops.values() if client and server]
    agree = sum(map(bool, both))
    return Sides(dict(spans), sides[False], sides[True], agree, len(both) - agree, len(hops) - len(both))


def _entries(collector: Collector):
    for pool in forge.pools(collector.data):
        for batch in forge.read_pool(pool):
            yield from batch.entries


def spans_below(collector: Collector, sizes: list[int]) -> list[int]:
    """How many spans the first so many leaves hold, for each size."""
    per_leaf = [len(batch.entries) for pool in forge.pools(collector.data) for batch in forge.read_pool(pool)]
    return [sum(per_leaf[:size]) for size in sizes]
