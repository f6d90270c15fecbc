"""What the honest may expect while a siege lasts, and what missed it."""

from collections import Counter
from pathlib import Path

from lab import client
from lab.collector import Collector
from lab.procs import Failed, Process, wait_until
from siege.attacks import SHARED_TRACE
from siege.honest import Health, Sender, Times

SENT_S, HEALTH_S = 1.0, 0.05  # by 99 of a hundred requests
EVIDENCE_S = 10.0
MEMORY_MB = 1024  # of envoyfilter/collector.yaml


def figures(seen: Counter | None) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(seen.items())) if seen else "none"


def row(name: str, times: Times) -> str:
    took = "  ".join(f"{label} {times.at(share) * 1000:.0f}" for label, share in (("p50", .5), ("p99", .99), ("most", 1)))
    return f"{name:26} {len(times.took_s)} answered, ms: {took}; failed: {figures(times.failed)}"


def late_or_failed(name: str, asked: Health | Sender, patience: float) -> list[str]:
    times, bound_s = asked.times, patience * (HEALTH_S if isinstance(asked, Health) else SENT_S)
    faults = [f"{name}: {figures(times.failed)}"] if times.failed else []
    if times.at(.99) > bound_s:
        faults.append(f"{name}: p99 is {times.at(.99) * 1000:.0f} ms, more than {bound_s * 1000:.0f}")
    return faults


def memory_mb(process: Process) -> int:
    """The most that a running process ever had in memory."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def too_much_memory(peak_mb: int) -> list[str]:
    return [f"the collector took {peak_mb} MB, more than {MEMORY_MB}"] if peak_mb > MEMORY_MB else []


def unobtainable(collector: Collector, process: Process, senders: list[Sender]) -> list[str]:
    """Whose evidence is not to be had: of the last batch that was taken, which is published a little later, and of the
    first, under whose trace id a stranger sent."""
    traces = [*(sender.traces[-1] for sender in senders), SHARED_TRACE]
    return [fault for trace_id in traces if (fault := _missing(f"/v1/evidence/{trace_id.hex()}", collector, process))]


def _missing(path: str, collector: Collector, process: Process) -> str | None:
    last = "no answer"

    def found() -> bool:
        nonlocal last
        answer = client.request("GET", collector.url + path, timeout_s=EVIDENCE_S)
        last = "" if answer.status == 200 else f"{answer.status} {answer.text[:100]}"
        return answer.status in (200, 422)
    try:
        wait_until(found, EVIDENCE_S, path, process)
    except Failed:
        return f"{path}: not within {EVIDENCE_S:.0f} s: {last}"
    return f"{path}: {last}" if last else None
