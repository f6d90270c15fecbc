"""What a process has used: CPU time and memory, from /proc."""

import os
import re
from pathlib import Path


def cpu_ns(pid: int) -> int:
    """CPU time of all its threads so far, user and system, in nanoseconds, to the nanosecond.

    A thread that has ended is missing: for Envoy, whose threads live as long as it does.
    """
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def cpu_ns_with_ended(pid: int) -> int:
    """The same in steps of 10 ms, with the threads that have ended: for whoever comes and goes."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    user, system = int(fields[11]), int(fields[12])
    return (user + system) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """Resident memory at its highest, in MB."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) / 1e3 if found else 0.0
