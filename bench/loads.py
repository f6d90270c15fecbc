"""A collector of our own under a load of `bench-collector`, and what it used meanwhile."""

import json
import re
import resource
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from cost import cpu_ns_with_ended, peak_mb
from lab.procs import Process, Processes, free_port, wait_http

PROGRAM_S = 120
START_S = 10.0
RSS_EVERY_S = 0.05
SPARE_FILES = 200  # what a process opens beside its connections


@dataclass(frozen=True)
class Load:
    """`per_s`: batches of all sessions together; None: each follows its predecessor's acknowledgement."""

    title: str
    sessions: int
    batches: int
    digests: int
    records: bool = False
    per_s: float | None = None
    seed: int = 1

    def argv(self, binaries: Path, address: str) -> list:
        argv = [binaries / "bench-collector", address, "--sessions", self.sessions, "--batches", self.batches,
                "--digests", self.digests, "--seed", self.seed]
        argv += ["--records"] if self.records else []
        return argv + (["--per-s", self.per_s] if self.per_s else [])


def start_collector(processes: Processes, binaries: Path, data: Path) -> tuple[Process, str]:
    """A collector on this data directory that answers, and its address."""
    address = f"127.0.0.1:{free_port()}"
    process = processes.start("collector", [binaries / "meshchain-collector", "--data", data, "--listen", address])
    wait_http(f"http://{address}/healthz", START_S, process)
    return process, address


def measure(binaries: Path, load: Load, data: Path) -> dict:
    """What `load` does to a collector with an empty log in the new directory `data`."""
    allow_files(load.sessions + SPARE_FILES)
    with Processes(data.with_suffix(".logs")) as processes:
        process, address = start_collector(processes, binaries, data)
        before = cpu_ns_with_ended(process.pid)
        with Memory(process.pid) as memory:
            measured = run_program(load.argv(binaries, address))
        cpu = cpu_ns_with_ended(process.pid) - before
        peak = peak_mb(process.pid)
    digests = measured["digests"]
    return {"title": load.title, **measured, "offered_per_s": load.per_s, "cpu_us_per_digest": cpu / digests / 1e3,
            "peak_mb": peak, "rss_mb": memory.last(measured["seconds"]),
            "disk_bytes_per_digest": disk_bytes(data) / digests}


def run_program(argv: list, timeout_s: float = PROGRAM_S) -> dict:
    """Runs one of our programs; what it printed."""
    run = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, text=True, check=True, timeout=timeout_s)
    return json.loads(run.stdout)


def disk_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def rss_mb(pid: int) -> float:
    """Resident memory now, in MB."""
    found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) / 1e3 if found else 0.0


class Memory:
    """Resident memory of a process over time; a context manager."""

    def __init__(self, pid: int):
        self._pid = pid
        self._seen: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()

    def last(self, seconds: float) -> list[float]:
        """MB at the start, the quarters and the end of the last `seconds`."""
        end = self._seen[-1][0]
        times = [end - seconds * left / 4 for left in (4, 3, 2, 1, 0)]
        return [min(self._seen, key=lambda seen: abs(seen[0] - at))[1] for at in times]

    def _watch(self) -> None:
        while not self._ended.is_set():
            self._seen.append((time.monotonic(), rss_mb(self._pid)))
            self._ended.wait(RSS_EVERY_S)


def allow_files(count: int) -> None:
    """Raises the limit of open files to what is allowed; what is started from now on inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise SystemExit(f"this load needs {count:,} open files, and the limit is {hard:,}: ulimit -Hn")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
