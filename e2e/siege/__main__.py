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
from siege.attacks import ATTACKS, before, run
from siege.bounds import figures, late_or_failed, memory_mb, row, too_much_memory, unobtainable
from siege.honest import Asking, Health, Sender

END_S = 20.0
OPEN_FILES = 1024  # what service managers give a process that does not ask for more
BATCHES_PER_S, HEALTH_PER_S = 5, 50


def main() -> int:
    parser = argparse.ArgumentParser(prog="siege", description=__doc__)
    parser.add_argument("--attack", default=",".join(ATTACKS), help=f"any of {', '.join(ATTACKS)}, or none; default all")
    parser.add_argument("--seconds", type=float, default=30.0, help="default 30")
    parser.add_argument("--patience", type=float, default=1.0, help="so many times the bounds of time, where the machine is "
                        "busy with other things; default 1")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.attack.split(",") if name != "none"]
    if unknown := set(chosen) - set(ATTACKS):
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    check_built()
    with tempfile.TemporaryDirectory() as directory, Processes(Path(directory) / "logs") as processes:
        collector, process = behind_sidecar(DOMAIN.removesuffix(".example"), Path(directory), processes, OPEN_FILES)
        faults = besiege(collector, process, chosen, arguments.seconds, arguments.patience)
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


def besiege(collector: Collector, process: Process, chosen: list[str], seconds: float, patience: float) -> list[str]:
    """Attacks for that long; prints the figures, and returns what missed its bound."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda given: send(collector, *given), before()))
    spawn = multiprocessing.get_context("spawn")
    stop, results = spawn.Event(), spawn.Queue()
    senders = [Sender(collector.port, kept, 1 / BATCHES_PER_S, stop) for kept in (True, False)]
    if any(sender.ask() != 200 for sender in senders):  # its first call is in the log before anybody attacks
        return ["the first batch was refused, before any attack"]
    attackers = [spawn.Process(target=run, args=(name, collector.port, stop, results), daemon=True) for name in chosen]
    asking: dict[str, Asking] = {"healthz": Health(collector.url, 1 / HEALTH_PER_S, stop), "batches, kept connection": senders[0],
                                 "batches, new connections": senders[1]}
    for started in [*attackers, *asking.values()]:
        started.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.popen.wait(seconds)
    peak_mb = memory_mb(process) if process.alive() else None
    stop.set()
    done = collect(attackers, results)
    for thread in asking.values():
        thread.join(END_S)

    for name in chosen:
        print(f"{name:26} {figures(done.get(name))}")
    for name, asked in asking.items():
        print(row(name, asked.times))
    print(f"{'peak memory':26} {peak_mb or '?'} MB")
    faults = [fault for name, asked in asking.items() for fault in late_or_failed(name, asked, patience)]
    if peak_mb is None:
        return [*faults, f"the collector ended:\n{process.tail(5)}"]
    return [*faults, *too_much_memory(peak_mb), *unobtainable(collector, process, senders)]


def send(collector: Collector, namespace: str, body: bytes) -> None:
    answer = client.request("POST", f"{collector.url}/v1/batches", identity(namespace), body)
    if answer.status != 200:
        raise OSError(f"before any attack: {answer.status} {answer.text}")


def collect(attackers: list, results) -> dict:
    """What the attackers counted; those that do not end are ended."""
    done, end_s = {}, time.monotonic() + END_S
    with contextlib.suppress(queue.Empty):
        while len(done) < len(attackers):
            name, seen = results.get(timeout=max(0.1, end_s - time.monotonic()))
            done[name] = seen
    for attacker in attackers:
        attacker.join(max(0.1, end_s - time.monotonic()))
        attacker.kill()
    return done


if __name__ == "__main__":
    sys.exit(main())
