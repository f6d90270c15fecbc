"""Envoys with one difference each, measured side by side.

All variants run at the same time, idle but for their turn. Each round gives every one the same number
of requests, one after another, in an order that rotates; a variant is compared with its base *of the
same round*, and the median over the rounds counts. So a slow minute of the machine shifts both alike.
"""

import itertools
import json
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from cost import cpu_ns, peak_mb
from envoys import Running, Sinks, Variant
from lab.procs import Processes, free_port, wait_port

CONNECTIONS = 16
SETTLE_S = 0.6  # two ticks of the filter: what it still has to send belongs to its requests


@dataclass(frozen=True)
class Plan:
    """How often and how long."""

    rounds: int
    requests: int  # per round and variant


class Bench:
    """Running variants, and the requests that each got so far."""

    def __init__(self, binaries: Path, envoys: list[Running]):
        self.binaries = binaries
        self.envoys = envoys
        self.seeds = itertools.count(1)
        self.sent = {envoy.variant.key: 0 for envoy in envoys}

    def load(self, envoy: Running, requests: int, *options: str) -> dict:
        """Sends requests; what the load generator says."""
        variant = envoy.variant
        argv = [self.binaries / "bench-load", f"127.0.0.1:{envoy.port}", "--connections", str(CONNECTIONS),
                "--requests", str(requests), "--within", "100", "--seed", str(next(self.seeds)),
                "--body", str(variant.body), *options]
        self.sent[variant.key] += requests
        return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=110).stdout)

    def cpu_us(self, envoy: Running, requests: int) -> float:
        """CPU time per request, microseconds."""
        before = cpu_ns(envoy.process.pid)
        self.load(envoy, requests)
        time.sleep(SETTLE_S)
        return (cpu_ns(envoy.process.pid) - before) / requests / 1e3

    def rows(self, plan: Plan) -> list[dict]:
        """What each variant costs, and adds to its base."""
        rounds = []
        for turn in range(plan.rounds):
            at = turn % len(self.envoys)
            order = self.envoys[at:] + self.envoys[:at]
            rounds.append({envoy.variant.key: self.cpu_us(envoy, plan.requests) for envoy in order})
        return [self._row(envoy, rounds) for envoy in self.envoys]

    def _row(self, envoy: Running, rounds: list[dict[str, float]]) -> dict:
        variant = envoy.variant
        added = sorted(r[variant.key] - r[variant.base or variant.key] for r in rounds)
        counters = envoy.counters()
        return {
            "variant": variant.key, "title": variant.title, "base": variant.base,
            "cpu_us": median(r[variant.key] for r in rounds), "added_us": median(added),
            "added_least_us": added[0], "added_most_us": added[-1], "peak_mb": peak_mb(envoy.process.pid),
            "counters": counters, "reported": reported(counters, self.sent[variant.key]),
            "rounds_cpu_us": [r[variant.key] for r in rounds],
        }


def reported(counters: dict[str, int], sent: int) -> float | None:
    """Share of all requests that reached the sink, by the variant's own counters; None for what has none."""
    if "meshchain_digests" in counters:
        lost = sum(count for name, count in counters.items() if name.startswith("meshchain_dropped"))
        acknowledged = counters["meshchain_acked"] / max(1, counters["meshchain_batches"])
        return (counters["meshchain_digests"] - lost) * acknowledged / sent
    for name in ("spans_sent", "logs_written"):
        if name in counters:
            return counters[name] / sent
    return None


@contextmanager
def running(binaries: Path, directory: Path, variants: list[Variant], warm: int):
    """All variants, ready, each after `warm` requests: V8 has compiled, Envoy's buffers have grown."""
    with Processes(directory) as processes:
        sinks = Sinks(free_port(), free_port(), free_port())
        addresses = [f"127.0.0.1:{port}" for port in (sinks.http, sinks.grpc, sinks.application)]
        sink = processes.start("sink", [binaries / "bench-sink", *addresses])
        wait_port(("127.0.0.1", sinks.http), 5.0, sink)
        envoys = [Running(variant, sinks, processes, directory) for variant in variants]
        for envoy in envoys:
            envoy.wait_ready()
        bench = Bench(binaries, envoys)
        for envoy in envoys:
            bench.load(envoy, warm)
        time.sleep(1.0)
        yield bench
