"""Collector, verifier and gas: each measured by a program of its own, put into tables here."""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cost import cpu_ns_with_ended, peak_mb
from lab.procs import Processes, free_port, wait_http
from lab.tools import REPOSITORY
from report import OUTPUT, number, show, table, write_json

PROGRAM_S = 120


@dataclass(frozen=True)
class Scenario:
    """Load on an empty collector. `every_ms`: pace of each session; None: as fast as it acknowledges."""

    title: str
    sessions: int
    batches: int
    digests: int
    records: bool = False
    every_ms: int | None = None


# One batch of a session goes into each commit, so the load is in the number of sessions.
SCENARIOS = [
    Scenario("full: 256 sessions, 1,000 digests", 256, 16, 1000),
    Scenario("full: 64 sessions, 1,000 records", 64, 16, 1000, records=True),
    Scenario("full: 1,024 sessions, 10 digests", 1024, 50, 10),
    Scenario("paced: 200 proxies, 10 records each 250 ms", 200, 32, 10, records=True, every_ms=250),
]


def collector(binaries: Path) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    # Not below /tmp, which may be memory: what is measured is how fast things become durable.
    with tempfile.TemporaryDirectory(dir=OUTPUT) as name:
        machine = _run([binaries / "bench-machine", name])
        measured = [_scenario(binaries, scenario, Path(name) / str(at)) for at, scenario in enumerate(SCENARIOS)]
    head = ["load and batches", "published/s", "CPU us each", "checkpoints/s", "ack ms p50, p99",
            "checkpoint ms p50, p99", "disk B each", "peak RSS MB"]
    rows = [[m["title"], number(m["published_per_s"]), number(m["cpu_us_per_digest"], 2),
             number(m["checkpoints"] / m["seconds"], 1), _both(m["acknowledged"]), _both(m["published"]),
             number(m["disk_bytes_per_digest"]), number(m["peak_mb"])] for m in measured]
    hashing = machine["sha256_mb_per_s"]
    note = (f"The same disk: {number(machine['write_mb_per_s'])} MB/s written and synced, one append of 4 KiB with "
            f"fdatasync {number(machine['fdatasync_us'] / 1e3, 2)} ms. One core: SHA-256 of entries "
            f"{number(hashing['91_bytes'])} MB/s ({number(hashing['91_bytes'] / 91, 1)} M entries/s), "
            f"of 16 KiB {number(hashing['16_kib'])} MB/s.")
    show("collector", "Collector: digests published, time to the checkpoint", table(head, rows), note)
    write_json("collector", {"machine_rates": machine, "scenarios": measured})


def _scenario(binaries: Path, scenario: Scenario, data: Path) -> dict:
    with Processes(data.with_suffix(".logs")) as processes:
        address = f"127.0.0.1:{free_port()}"
        process = processes.start("collector", [binaries / "meshchain-collector", "--data", data, "--listen", address])
        wait_http(f"http://{address}/healthz", 10.0, process)
        argv = [binaries / "bench-collector", address, "--sessions", scenario.sessions, "--batches", scenario.batches,
                "--digests", scenario.digests]
        argv += ["--records"] if scenario.records else []
        argv += ["--every-ms", scenario.every_ms] if scenario.every_ms else []
        before = cpu_ns_with_ended(process.pid)
        measured = _run(argv)
        cpu = cpu_ns_with_ended(process.pid) - before
        memory = peak_mb(process.pid)
    digests = measured["digests"]
    disk = sum(file.stat().st_size for file in data.rglob("*") if file.is_file())
    return {"title": scenario.title, **measured, "cpu_us_per_digest": cpu / digests / 1e3,
            "peak_mb": memory, "disk_bytes_per_digest": disk / digests}


def _both(spread: dict) -> str:
    return f"{spread['p50_us'] / 1e3:.0f}, {spread['p99_us'] / 1e3:.0f}"


def verify(binaries: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        measured = _run([binaries / "bench-verify", binaries / "meshchain", name])
    head = ["evidence file", "bytes", "read us", "verify us", "program ms"]
    rows = []
    for file in measured["files"]:
        spans = "1 span" if file["spans"] == 1 else f"{file['spans']} spans"
        rows.append([f"{spans}, {'anchored' if file['anchored'] else 'no anchor'}", number(file["bytes"]),
                     number(file["parse"]["p50_us"]), number(file["verify"]["p50_us"]),
                     number(file["process"]["p50_us"] / 1e3, 1)])
    log = measured["log"]
    note = (f"A log of {log['leaves']:,} leaves, batches of {log['calls_per_batch']} calls, the anchor in a block of "
            f"{log['transactions']} transactions, every span in a batch of its own, both parts disclosed; medians.")
    show("verify", "Verify: time per evidence file, and its size", table(head, rows), note)
    write_json("verify", measured)


def gas(_binaries: Path) -> None:
    subprocess.run(["node", "--test", "--test-reporter=spec", "test/gas.test.mjs"], check=True, capture_output=True,
                   cwd=REPOSITORY / "contracts", env={**os.environ, "BENCH": "1"}, timeout=PROGRAM_S)
    measured = json.loads((OUTPUT / "gas.json").read_text())
    names = {"first_anchor_gas": "first anchor of a log, gas", "steady_anchor_gas": "every further anchor, gas",
             "inclusion_path_20_gas": "inclusion check on chain, path of 20, gas",
             "anchor_code_bytes": "code of the anchor contract, bytes",
             "proofs_code_bytes": "code of the proofs contract, bytes"}
    rows = [[names.get(key, key), number(value)] for key, value in measured.items() if key != "machine"]
    show("gas", "Gas", table(["what", "measured"], rows))
    write_json("gas", measured)


def _run(argv: list) -> dict:
    """Runs one of our programs; what it printed."""
    run = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, text=True, check=True, timeout=PROGRAM_S)
    return json.loads(run.stdout)
