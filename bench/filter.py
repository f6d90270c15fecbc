"""CPU that a request costs Envoy: bare, with an empty wasm filter, with ours, with its own tracer.

All variants run side by side. Each round gives every variant the same number of requests, one
variant after another, in an order that rotates; a variant is compared with bare Envoy *of the same
round*, and the median over the rounds counts. So a slow minute of the machine shifts both alike.
"""

import itertools
import json
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from cost import cpu_ns, peak_mb
from empty_module import write_empty
from envoys import Running, Variant
from lab.procs import Processes, free_port, wait_port
from report import number, show, table, write_json

ROUNDS = 20
REQUESTS = 12_000  # per round and variant
CONNECTIONS = 16
SETTLE_S = 0.6  # two ticks of the filter: what it still has to send belongs to its requests
BARE, TRACER = "bare", "zipkin"


def variants(module: Path, directory: Path) -> list[Variant]:
    empty = write_empty(directory / "empty.wasm")
    digest, record = {"payload": "digest"}, {"payload": "record"}
    return [
        Variant(BARE, "bare Envoy"),
        Variant("empty", "empty wasm filter, on_log only", module=empty),
        Variant("digest", "MeshChain, digests", module=module, config=digest),
        Variant("record", "MeshChain, records (default)", module=module, config=record),
        Variant("client", "MeshChain, records, client side", "OUTBOUND", module=module, config=record),
        Variant(TRACER, "Envoy's Zipkin tracer at 100 %", tracer=True),
    ]


def run(binaries: Path, module: Path) -> None:
    with tempfile.TemporaryDirectory() as name, Processes(Path(name)) as processes:
        directory = Path(name)
        sink_port = free_port()
        sink = processes.start("sink", [binaries / "bench-sink", f"127.0.0.1:{sink_port}"])
        wait_port(("127.0.0.1", sink_port), 5.0, sink)
        envoys = [Running(v, sink_port, processes, directory) for v in variants(module, directory)]
        for envoy in envoys:
            envoy.wait_ready()
        seeds = itertools.count(1)
        for envoy in envoys:
            _load(binaries, envoy, next(seeds))  # V8 compiles, Envoy's buffers grow
        time.sleep(1.0)
        rounds = []
        for turn in range(ROUNDS):
            at = turn % len(envoys)
            rounds.append({e.variant.key: _cost_us(binaries, e, next(seeds)) for e in envoys[at:] + envoys[:at]})
        rows = [_row(envoy, rounds) for envoy in envoys]
    _report(rows, rounds)


def _load(binaries: Path, envoy: Running, seed: int) -> dict:
    argv = [binaries / "bench-load", f"127.0.0.1:{envoy.port}", "--connections", str(CONNECTIONS),
            "--requests", str(REQUESTS), "--within", "60", "--seed", str(seed)]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=70).stdout)


def _cost_us(binaries: Path, envoy: Running, seed: int) -> float:
    """CPU time per request, microseconds."""
    before = cpu_ns(envoy.process.pid)
    answers = _load(binaries, envoy, seed)["answers"]
    time.sleep(SETTLE_S)
    return (cpu_ns(envoy.process.pid) - before) / answers / 1e3


def _row(envoy: Running, rounds: list[dict[str, float]]) -> dict:
    key = envoy.variant.key
    added = sorted(r[key] - r[BARE] for r in rounds)
    counters = envoy.counters()
    return {
        "variant": key, "title": envoy.variant.title,
        "cpu_us": median(r[key] for r in rounds), "added_us": median(added),
        "added_least_us": added[0], "added_most_us": added[-1],
        "peak_mb": peak_mb(envoy.process.pid),
        "counters": counters, "reported": _reported(counters),
    }


def _reported(counters: dict[str, int]) -> float | None:
    """Share of all requests that reached the sink, by the variant's own counters; None for what has none."""
    sent = (ROUNDS + 1) * REQUESTS
    if "meshchain_records" in counters:
        lost = sum(count for name, count in counters.items() if name.startswith("meshchain_dropped"))
        acknowledged = counters["meshchain_acked"] / max(1, counters["meshchain_batches"])
        return (counters["meshchain_records"] - lost) * acknowledged / sent
    if "spans_sent" in counters:
        return counters["spans_sent"] / sent
    return None


def _ratio(value: float) -> str:
    return number(value, 1 if value < 10 else 0)


def _report(rows: list[dict], rounds: list[dict[str, float]]) -> None:
    tracer = next(row["added_us"] for row in rows if row["variant"] == TRACER)
    lines = []
    for row in rows:
        bare = row["variant"] == BARE
        added = row["added_us"]
        lines.append([
            row["title"], number(row["cpu_us"], 1), "" if bare else number(added, 1),
            "" if bare else f"{row['added_least_us']:.1f} to {row['added_most_us']:.1f}",
            "" if bare or added <= 0 else _ratio(tracer / added),
            number(row["peak_mb"]),
            "" if row["reported"] is None else f"{row['reported']:.1%}"])
    head = ["variant", "CPU us/request", "added us", "least to most", "tracer / it", "peak RSS MB", "reported"]
    note = (f"{ROUNDS} rounds of {REQUESTS:,} requests per variant, {CONNECTIONS} keep-alive connections, 20 headers, "
            "direct response, one worker; CPU of the whole Envoy process; medians of differences within a round.")
    show("filter", "Filter: CPU per request", table(head, lines), note)
    write_json("filter", {"requests_per_round": REQUESTS, "connections": CONNECTIONS,
                          "variants": rows, "rounds_cpu_us": rounds})
