"""Where a fully loaded collector spends its CPU time, by area, beside what disk and hashing cost at least.

Sampled with `perf record -g`. A sample in the kernel counts for the system call that led there, one in
user space for the function that it hit: frames further up are not to be had without frame pointers.
"""

import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from cost import cpu_ns_with_ended
from lab.procs import Process, Processes
from loads import SPARE_FILES, allow_files, run_program, start_collector
from native import FULL
from report import OUTPUT, number, show, table, write_json

FREQUENCY_HZ = 499
AREAS = 12
SCRIPT_S = 60
SYNCS = ("fsync", "fdatasync", "syncfs", "sync_file_range")

# First match counts. Of the kernel, in any frame:
KERNEL = [
    ("page faults", r"exc_page_fault"),
    ("network", r"\b(tcp_|sock_|inet_|__sys_(send|recv)|net_rx|napi|softirq)"),
    ("sync of files", r"sys_(fsync|fdatasync|syncfs|sync_file_range)|vfs_fsync"),
    ("write to files", r"vfs_write|ksys_write|sys_p?writev?"),
    ("read of files", r"vfs_read|ksys_read|sys_p?read"),
    ("open, rename, remove files", r"sys_(open|rename|unlink|mkdir|(new)?f?stat|link|close|getdents)"),
    ("memory mapping", r"sys_(mmap|munmap|mprotect|madvise|brk|mremap)"),
    ("waiting and waking", r"sys_(futex|epoll|poll|sched_yield|nanosleep)|schedule"),
]
# Of user space, in the function itself:
USER = [
    ("SHA-256 and its framing", r"sha2|sha256|digest_blocks|compress256|hash::tagged|block_buffer"),
    ("copying memory", r"mem(cpy|move|set|cmp)"),
    ("allocation", r"malloc|calloc|realloc|\bc?free\b|_int_free|unlink_chunk|mi_|je_|__rust_"),
    ("signature", r"ed25519|curve25519|sha512"),
    ("HTTP", r"hyper|httparse|\bhttp::|axum|tower|http_body|HeaderMap"),
    ("parse and check batches", r"prost|meshchain_wire|collector::batch|core::(entry|batch|leaf|record|header)"),
    ("Parquet", r"parquet|zstd|ZSTD|segment::(entries|records|columns)"),
    ("index of trace ids", r"log::catalog|segment::(build|index)|hashbrown|twox|siphash|BuildHasher|sort"),
    ("Merkle tree and tiles", r"collector::log::tree|merkle|tile"),
    ("log writer", r"collector::log|collector::session|collector::store|object_store"),
    ("the rest of the collector", r"meshchain"),
    ("tokio", r"tokio|mio::|parking_lot|futures"),
    ("JSON, text", r"serde|fmt|itoa|core::str|hex"),
]


def run(binaries: Path) -> None:
    if reason := _no_perf():
        show("profile", "Profile of the collector", f"Not measured: {reason}.")
        return
    OUTPUT.mkdir(parents=True, exist_ok=True)
    # Not below /tmp, which may be memory.
    with tempfile.TemporaryDirectory(dir=OUTPUT) as name:
        scratch = Path(name)
        measured, samples = _sampled(binaries, scratch)
        areas, hits = _by_area(samples)
        limits = _limits(binaries, scratch, measured)
    total, cpu = sum(areas.values()), measured["cpu_us_per_digest"]
    rows = [[area, f"{100 * count / total:.1f}%", number(cpu * count / total, 3), _top(hits[area])]
            for area, count in areas.most_common(AREAS)]
    rest = total - sum(count for _, count in areas.most_common(AREAS))
    rows.append(["all others", f"{100 * rest / total:.1f}%", number(cpu * rest / total, 3), ""])
    rows.append(["all", "100.0%", number(cpu, 3), ""])
    profile = table(["area", "share of CPU", "us per digest", "most of it"], rows)
    floor = table(["limit", "us per digest"], [[what, number(us, 3)] for what, us in limits.items()])
    show("profile", "Profile of the collector, and its limits", f"{profile}\n\n{floor}", _note(measured, total))
    write_json("profile", {**measured, "samples": total, "areas": dict(areas), "limits_us_per_digest": limits,
                           "functions": {area: dict(found.most_common(10)) for area, found in hits.items()}})


def _no_perf() -> str | None:
    """Why nothing can be sampled here; None where it can."""
    if shutil.which("perf") is None:
        return "no perf"
    tried = subprocess.run(["perf", "record", "-g", "-o", "/dev/null", "true"], capture_output=True, text=True)
    lines = [line for line in tried.stderr.splitlines() if line.strip()]
    return None if tried.returncode == 0 else f"perf record: {lines[0] if lines else 'failed'}"


def _sampled(binaries: Path, scratch: Path) -> tuple[dict, str]:
    """The full load of 1,000 digests a batch; what it cost, and the samples as text."""
    allow_files(FULL.sessions + SPARE_FILES)
    data, raw, counts = (scratch / name for name in ("data", "perf.data", "counts"))
    with Processes(scratch / "logs") as processes:
        process, address = start_collector(processes, binaries, data)
        perf = processes.start("perf", ["perf", "record", "-q", "-g", "-F", FREQUENCY_HZ, "-o", raw, "-p", process.pid])
        events = ",".join(f"syscalls:sys_enter_{name}" for name in SYNCS)
        counter = processes.start("stat", ["perf", "stat", "-x", ",", "-e", events, "-o", counts, "-p", process.pid])
        before, io = cpu_ns_with_ended(process.pid), _written(process.pid)
        sent = run_program(FULL.argv(binaries, address))
        cpu, written = cpu_ns_with_ended(process.pid) - before, _written(process.pid) - io
        for one in (perf, counter):
            _interrupt(one)
    text = subprocess.run(["perf", "script", "-i", raw, "-F", "comm,event,ip,sym,dso", "--no-inline"], check=True,
                          capture_output=True, text=True, errors="replace", timeout=SCRIPT_S).stdout
    return {**sent, "cpu_us_per_digest": cpu / sent["digests"] / 1e3, "written_bytes": written,
            "syncs": _syncs(counts)}, text


def _interrupt(perf: Process) -> None:
    """perf finishes its file on SIGINT."""
    perf.signal(signal.SIGINT)
    perf.popen.wait(30)


def _written(pid: int) -> int:
    """Bytes that the process has caused to be written to a disk."""
    return int(re.search(r"^write_bytes: (\d+)", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)[1])


def _syncs(counts: Path) -> int | None:
    """Syncs of files that `perf stat` counted; None where the kernel has no such events."""
    lines = counts.read_text().splitlines() if counts.exists() else []
    found = [int(line.split(",")[0]) for line in lines if re.match(r"\d+,.*sys_enter_", line)]
    return sum(found) or None


def _by_area(text: str) -> tuple[Counter, dict[str, Counter]]:
    """Samples per area, and per area the functions that were hit."""
    areas, hits = Counter(), {}
    for sample in text.split("\n\n"):
        frames = [line.strip() for line in sample.splitlines()[1:] if line.strip()]
        if not frames:
            continue
        if frames[0].endswith("([kernel.kallsyms])") or "[kernel" in frames[0] or "[unknown])" in frames[0]:
            area = "kernel: " + _match(KERNEL, "\n".join(frames), "other")
        else:
            area = _match(USER, frames[0], "other")
        areas[area] += 1
        hits.setdefault(area, Counter())[_function(frames[0])] += 1
    if not areas:
        raise SystemExit("perf took no samples of the collector")
    return areas, hits


def _match(table_: list[tuple[str, str]], text: str, otherwise: str) -> str:
    return next((area for area, pattern in table_ if re.search(pattern, text)), otherwise)


def _function(frame: str) -> str:
    """Name of a function without address, crate hash, generics and program."""
    name = re.sub(r"^[0-9a-f]+ ", "", frame).rsplit(" (", 1)[0]
    while (shorter := re.sub(r"<[^<>]*>", "", name)) != name:
        name = shorter
    parts = [part for part in re.sub(r"::h[0-9a-f]{16}$", "", name).split("::") if part]
    return "::".join(parts[-2:]) or frame


def _top(hits: Counter) -> str:
    return ", ".join(name for name, _ in hits.most_common(2))


def _limits(binaries: Path, scratch: Path, measured: dict) -> dict[str, float]:
    """What each digest takes at least on this machine, and what it took, in microseconds."""
    machine = run_program([binaries / "bench-machine", scratch])
    digests, hashing = measured["digests"], machine["sha256_mb_per_s"]
    # A leaf and an inner node of the tree are two blocks each, as are 91 bytes; the chain runs over the entries.
    sha = 2 * 91 / hashing["91_bytes"] + 90 / hashing["16_kib"]
    limits = {"SHA-256 of leaf, inner node and chain, one core": sha}
    syncs = measured["syncs"]
    argv = [binaries / "bench-machine", scratch, "--bytes", measured["written_bytes"], "--syncs", syncs or 1]
    disk = run_program(argv)["seconds"] * 1e6 / digests
    limits["the same bytes written in a row with " + (f"{syncs:,} syncs" if syncs else "one sync")] = disk
    limits["floor: the larger of both, side by side"] = max(sha, disk)
    limits["collector: CPU"] = measured["cpu_us_per_digest"]
    limits["collector: time, load generator on the same cores"] = 1e6 / measured["published_per_s"]
    return limits


def _note(measured: dict, samples: int) -> str:
    written = measured["written_bytes"] / measured["digests"]
    return (f"{FULL.title}: {number(measured['published_per_s'])} digests/s published while sampled, {samples:,} "
            f"samples at {FREQUENCY_HZ} Hz of CPU time, {written:.0f} bytes written per digest. Kernel time counts for "
            f"the system call that it was spent in.")
