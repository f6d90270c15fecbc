"""Lays siege to a collector: every attack at once, or those of `--attack`. Ends with 1 where the honest sender noticed."""

import argparse
import contextlib
import multiprocessing
import queue
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import client
from lab.collector import Collector, behind_sidecar, check_built
from lab.procs import Process, Processes
from siege import DOMAIN, identity
from siege.attacks import ATTACKS, SHARED_TRACE, before, run
from siege.honest import Health, Sender

END_S = 20.0
OPEN_FILES = 1024  # what service managers give a process that does not ask for more
BATCHES_PER_S, HEALTH_PER_S = 5, 10
SENT_S, HEALTH_S, EVIDENCE_S = 1.0, 0.05, 10.0  # what the honest may wait, at the 99th of a hundred
MEMORY_MB = 1024  # of envoyfilter/collector.yaml


def main() -> int:
    parser = argparse.ArgumentParser(prog="siege", description=__doc__)
    parser.add_argument("--attack", default=",".join(ATTACKS), help=f"any of {', '.join(ATTACKS)}, or none; default all")
    parser.add_argument("--seconds", type=float, default=30.0, help="default 30")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.attack.split(",") if name not in ("", "none")]
    if unknown := set(chosen) - set(ATTACKS):
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    check_built()
    with tempfile.TemporaryDirectory() as directory, Processes(Path(directory) / "logs") as processes:
        collector, process = behind_sidecar(DOMAIN.removesuffix(".example"), Path(directory), processes, OPEN_FILES)
        faults = besiege(collector, process, chosen, arguments.seconds)
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


def besiege(collector: Collector, process: Process, chosen: list[str], seconds: float) -> list[str]:
    """Attacks for that long; prints the figures, and returns what missed its bound."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda given: send(collector, *given), before()))
    spawn = multiprocessing.get_context("spawn")
    stop, results = spawn.Event(), spawn.Queue()
    senders = {kind: Sender(collector.port, kind == "kept", 1 / BATCHES_PER_S, stop) for kind in ("kept", "fresh")}
    for sender in senders.values():
        assert sender.ask() == 200  # its first call is in the log before anybody attacks
    attackers = [spawn.Process(target=run, args=(name, collector.port, stop, results), daemon=True) for name in chosen]
    asking = {"healthz": Health(collector.url, 1 / HEALTH_PER_S, stop),
              **{f"batches, {kind} connection": sender for kind, sender in senders.items()}}
    for thread in [*attackers, *asking.values()]:
        thread.start()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.popen.wait(seconds)
        faults = [] if process.alive() else [f"the collector ended: {process.tail(5)}"]
        peak_mb = memory_mb(process.pid)
    finally:
        stop.set()
        done = collect(attackers, results)
        for thread in asking.values():
            thread.join(END_S)
    for name in chosen:
        print(f"{name:18} {figures(done.get(name))}")
    for name, asked in asking.items():
        times, bound_s = asked.times, HEALTH_S if name == "healthz" else SENT_S
        took = " ".join(f"{label} {times.at(share) * 1000:.0f}" for label, share in (("p50", .5), ("p99", .99), ("most", 1)))
        print(f"{name:26} {len(times.took_s)} answered; ms: {took}; failed: {figures(times.failed)}")
        if times.failed:
            faults.append(f"{name}: {figures(times.failed)}")
        if times.at(.99) > bound_s:
            faults.append(f"{name}: p99 is {times.at(.99) * 1000:.0f} ms, more than {bound_s * 1000:.0f}")
    print(f"{'peak memory':26} {peak_mb} MB")
    if peak_mb > MEMORY_MB:
        faults.append(f"the collector took {peak_mb} MB, more than {MEMORY_MB}")
    return faults + (unobtainable(collector, senders.values()) if process.alive() else [])


def send(collector: Collector, namespace: str, body: bytes) -> None:
    answer = client.request("POST", f"{collector.url}/v1/batches", identity(namespace), body)
    assert answer.status == 200, answer.text


def collect(attackers: list, results) -> dict:
    """What the attackers counted; those that do not end are ended."""
    done, end_s = {}, time.monotonic() + END_S
    while len(done) < len(attackers) and time.monotonic() < end_s:
        try:
            name, seen = results.get(timeout=max(0.1, end_s - time.monotonic()))
            done[name] = seen
        except queue.Empty:
            break
    for attacker in attackers:
        attacker.join(max(0.1, end_s - time.monotonic()))
        attacker.kill()
    return done


def unobtainable(collector: Collector, senders) -> list[str]:
    """Whose evidence is not to be had: of the last batch that was taken, and of the first, under whose trace id a stranger sent."""
    faults = []
    last = [sender.traces[-1] for sender in senders]
    for trace_id in [*last, SHARED_TRACE]:
        begun_s = time.monotonic()
        try:
            answer = client.request("GET", f"{collector.url}/v1/evidence/{trace_id.hex()}", timeout_s=EVIDENCE_S)
            if answer.status != 200:
                faults.append(f"evidence of {trace_id.hex()}: {answer.status} {answer.text[:100]}")
        except OSError as error:
            faults.append(f"evidence of {trace_id.hex()}: {error!r} after {time.monotonic() - begun_s:.1f} s")
    return faults


def memory_mb(pid: int) -> int:
    """The most that a process ever had in memory."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


def figures(seen) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(seen.items())) if seen else "none"


if __name__ == "__main__":
    sys.exit(main())
