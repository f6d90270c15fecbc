"""Envoys with one difference each, measured side by side.

All variants run at the same time, idle but for their turn. Each round gives every one the same number
of requests, one after another, in an order that rotates; a variant is compared with its base *of the
same round*, and the median over the rounds counts. So a slow minute of the machine shifts both alike.

Processes are bound to cores, or differences of microseconds would drown in what the scheduler does. Where CPU is
measured, one core runs all of them: the other one's work would change how long an instruction takes. Where times
are measured, Envoy has a core for itself.
"""

import itertools
import json
import os
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from statistics import median

from cost import cpu_ns, peak_mb
from envoys import Running, Sinks, Variant
from lab.procs import Processes, free_port, wait_port

CONNECTIONS = 16
SETTLE_S = 1.0  # a few ticks of the filter: what it still had to send is acknowledged


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

    def order(self, turn: int) -> list[Running]:
        """All of them, each turn beginning with the next."""
        at = turn % len(self.envoys)
        return self.envoys[at:] + self.envoys[:at]

    def rows(self, plan: Plan) -> list[dict]:
        """What each variant costs, and adds to its base, in microseconds of CPU per request."""
        # From turn to turn: what is sent after the last answer belongs to the requests before it.
        used = {envoy.variant.key: cpu_ns(envoy.process.pid) for envoy in self.envoys}
        rounds = []
        for turn in range(plan.rounds + 1):
            costs = {}
            for envoy in self.order(turn):
                key = envoy.variant.key
                self.load(envoy, plan.requests)
                before, used[key] = used[key], cpu_ns(envoy.process.pid)
                costs[key] = (used[key] - before) / plan.requests / 1e3
            rounds.append(costs)
        time.sleep(SETTLE_S)
        return [self._row(envoy, rounds[1:]) for envoy in self.envoys]

    def _row(self, envoy: Running, rounds: list[dict[str, float]]) -> dict:
        variant = envoy.variant
        added = sorted(r[variant.key] - r[variant.base or variant.key] for r in rounds)
        counters = envoy.counters()
        return {
            "variant": variant.key, "title": variant.title, "base": variant.base,
            "cpu_us": median(r[variant.key] for r in rounds), "added_us": median(added),
            "added_low_us": added[len(added) // 4], "added_high_us": added[-1 - len(added) // 4], "peak_mb": peak_mb(envoy.process.pid),
            "counters": counters, "reported": reported(counters, self.sent[variant.key] * variant.hops),
            "rounds_cpu_us": [r[variant.key] for r in rounds],
        }


def middle_half(row: dict) -> str:
    """Where half of a row's differences lie."""
    return f"{row['added_low_us']:.1f} to {row['added_high_us']:.1f}"


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


class Cores(Enum):
    """What runs where."""

    ANY = "wherever the scheduler puts it"
    SHARED = "all on one core"
    APART = "Envoy on one core, load and sinks on another"


@contextmanager
def running(binaries: Path, directory: Path, variants: list[Variant], warm: int, cores: Cores = Cores.ANY):
    """All variants, ready, each after `warm` requests: V8 has compiled, Envoy's buffers have grown."""
    every = os.sched_getaffinity(0)
    for_envoy = every if cores == Cores.ANY else {max(every)}
    for_others = {min(every)} if cores == Cores.APART else for_envoy
    with Processes(directory) as processes, _on(for_others):
        sinks = Sinks(free_port(), free_port(), free_port())
        addresses = [f"127.0.0.1:{port}" for port in (sinks.http, sinks.grpc, sinks.application)]
        sink = processes.start("sink", [binaries / "bench-sink", *addresses])
        wait_port(("127.0.0.1", sinks.http), 5.0, sink)
        with _on(for_envoy):
            envoys = [Running(variant, sinks, processes, directory) for variant in variants]
        for envoy in envoys:
            envoy.wait_ready()
        bench = Bench(binaries, envoys)
        for envoy in envoys:
            bench.load(envoy, warm)
        time.sleep(SETTLE_S)
        yield bench


@contextmanager
def _on(cores: set[int]):
    """Inside, this process and all that it starts run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
