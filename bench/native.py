"""Collector, verifier and gas: each measured by a program of its own, put into tables here."""

import json
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from lab.tools import REPOSITORY
from loads import PROGRAM_S, Load, measure, run_program
from report import OUTPUT, number, show, table, write_json

# A commit takes one batch of each session, and begins 100 ms after the one before at the earliest: the
# sessions are so many that this is no bound, and no more than the collector lets wait.
FULL = Load("full: 256 sessions, 1,000 digests", 256, 16, 1000)
FULL_RECORDS = Load("full: 64 sessions, 1,000 records", 64, 16, 1000, records=True)
SMALL = Load("full: 4,000 sessions, 10 digests", 4000, 20, 10)
SMALL_RECORDS = Load("full: 4,000 sessions, 10 records", 4000, 10, 10, records=True)
PACED = Load("paced: 200 proxies, 10 records each 250 ms", 200, 32, 10, records=True, per_s=800)
# Together the sessions hold more than the collector lets wait (64 MiB).
TWICE = Load("twice the first: 1,024 sessions, 1,000 digests", 1024, 8, 1000)


def collector(binaries: Path) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    # Not below /tmp, which may be memory: what is measured is how fast things become durable.
    with tempfile.TemporaryDirectory(dir=OUTPUT) as name:
        machine = run_program([binaries / "bench-machine", name])
        loads = (FULL, FULL_RECORDS, SMALL, SMALL_RECORDS, PACED)
        measured = [measure(binaries, load, Path(name) / str(at)) for at, load in enumerate(loads)]
        twice = replace(TWICE, per_s=2 * measured[0]["published_per_s"] / TWICE.digests)
        measured.append(measure(binaries, twice, Path(name) / "twice"))
    head = ["load and batches", "published/s", "CPU us each", "checkpoints/s", "ack ms p50, p99",
            "checkpoint ms p50, p99", "pushed back", "disk B each", "peak RSS MB"]
    rows = [[m["title"], number(m["published_per_s"]), number(m["cpu_us_per_digest"], 2),
             number(m["checkpoints"] / m["seconds"], 1), _both(m["acknowledged"]), _both(m["published"]),
             number(m["pushed_back"]), number(m["disk_bytes_per_digest"]), number(m["peak_mb"])] for m in measured]
    show("collector", "Collector: digests published, time to the checkpoint", table(head, rows),
         f"{_memory_note(measured[-1])}\n\n{_machine_note(machine)}")
    write_json("collector", {"machine_rates": machine, "scenarios": measured})


def _memory_note(twice: dict) -> str:
    offered = number(twice["offered_per_s"])
    memory = ", ".join(number(mb) for mb in twice["rss_mb"])
    return (f"Twice the first row's rate is {offered} batches/s offered; RSS of the collector at the start, the "
            f"quarters and the end of that load: {memory} MB. From the moment that a batch was due at that rate, "
            f"its checkpoint took {_both(twice['published_from_due'])} ms (p50, p99).")


def _machine_note(machine: dict) -> str:
    hashing = machine["sha256_mb_per_s"]
    return (f"The same disk: {number(machine['write_mb_per_s'])} MB/s written and synced, one append of 4 KiB with "
            f"fdatasync {number(machine['fdatasync_us'] / 1e3, 2)} ms. One core: SHA-256 of entries "
            f"{number(hashing['91_bytes'])} MB/s ({number(hashing['91_bytes'] / 91, 1)} M entries/s), "
            f"of 16 KiB {number(hashing['16_kib'])} MB/s.")


def _both(spread: dict) -> str:
    return f"{spread['p50_us'] / 1e3:.0f}, {spread['p99_us'] / 1e3:.0f}"


def verify(binaries: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        measured = run_program([binaries / "bench-verify", binaries / "meshchain", name])
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
