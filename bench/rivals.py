"""Beside others: the collector, Tessera's POSIX log and a Zipkin server, one after another on one machine.

Each is the authors' own program, unpatched, and loaded till it takes no more: Tessera by the load
generator of its authors (`hammer`), Zipkin by batches of the same spans as JSON. Their versions and
sums are pinned in rivals/go.mod, rivals/go.sum and here. Without Go or Java the rows say so.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cost import cpu_ns_with_ended, peak_mb
from lab.procs import Processes, free_port, wait_http, wait_until
from lab.tools import REPOSITORY
from loads import allow_files, disk_bytes, measure, run_program
from native import FULL, FULL_RECORDS
from report import OUTPUT, number, show, table, write_json

TOOLS = REPOSITORY / ".tools" / "rivals"
BUILD_S = 600

# The key pair in the documentation of golang.org/x/mod/sumdb/note: it protects nothing.
LOG_KEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
LOG_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TESSERA = "github.com/transparency-dev/tessera"
# Entries per second offered; from one to the next for as long as more is published.
OFFERED = (10_000, 16_000, 24_000, 32_000)
PER_WRITER = 6  # entries/s at most of a writer, which waits for its entry's integration
GROWS = 1.03  # less than this is no more
ENTRY_BYTES = 90
WARM_S, MEASURED_S = 2.0, 7.0  # a checkpoint comes once a second
SETTLE_S = 10.0

ZIPKIN = "io.zipkin:zipkin-server:3.5.1:jar:exec"
ZIPKIN_JAR = "zipkin-server-3.5.1-exec.jar"
ZIPKIN_SHA256 = "7ac633a6832647e71e50012a5e3e91fbc7054414955261724526030faf271d8d"
MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
ZIPKIN_CONNECTIONS = 16
ZIPKIN_BATCHES = (20, 30, 30)  # per connection; the first round warms the JVM up and does not count
TRACE_SPANS = 8  # of a Bookinfo request; a trace per span, as in our load, is dearer for Zipkin too


class Missing(Exception):
    """What a rival needs is not there; the text says what."""


def run(binaries: Path) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    # Not below /tmp, which may be memory.
    with tempfile.TemporaryDirectory(dir=OUTPUT) as name:
        scratch = Path(name)
        ours: dict[bool, list[dict]] = {False: [], True: []}
        _ours_once(binaries, scratch, ours)
        whole = ENTRY_BYTES + ours[True][0]["record_bytes"]
        others = {
            **_tried(f"Tessera POSIX, {ENTRY_BYTES} B entries", lambda: _tessera(scratch, ENTRY_BYTES, OFFERED)),
            **_tried(f"Tessera POSIX, {whole} B entries", lambda: _tessera(scratch, whole, OFFERED[1:3])),
            **_tried(f"Zipkin 3.5.1, traces of {TRACE_SPANS}", lambda: _zipkin(binaries, scratch, TRACE_SPANS)),
            **_tried("Zipkin 3.5.1, traces of 1", lambda: _zipkin(binaries, scratch, 1)),
        }
        _ours_once(binaries, scratch, ours)
    measured = {"MeshChain, digests": _best(ours[False]), "MeshChain, digests and records": _best(ours[True]), **others}
    head = ["what", "durable", "per second", "MeshChain, digests / it", "CPU us each", "peak RSS MB", "disk B each"]
    note = (f"The best round of each. MeshChain: one before and one after the others, {FULL.sessions} and "
            f"{FULL_RECORDS.sessions} connections, batches of 1,000, a trace per span; entry and record have {whole} "
            f"bytes. Tessera v1.0.4: its hammer, an entry a request. MeshChain and Tessera: in a published checkpoint, "
            f"everything synced. Zipkin: accepted, {ZIPKIN_CONNECTIONS} connections, batches of 1,000, in memory, its "
            f"defaults.")
    rows = [_row(title, m, measured["MeshChain, digests"]["per_s"]) for title, m in measured.items()]
    show("rivals", "Beside others: spans per second, what each costs", table(head, rows), note)
    write_json("rivals", {"measured": measured})


def _row(title: str, m: dict, ours: float) -> list[str]:
    if "missing" in m:
        return [title, f"not measured: {m['missing']}", "", "", "", "", ""]
    disk = number(m["disk_bytes_each"]) if m["durable"] else "0"
    return [title, "yes" if m["durable"] else "no", number(m["per_s"]), number(ours / m["per_s"], 1),
            number(m["cpu_us_each"], 1), number(m["peak_mb"]), disk]


def _tried(title: str, run: Callable[[], dict]) -> dict:
    print(f"  {title} ...", flush=True)
    try:
        return {title: run()}
    except Missing as missing:
        return {title: {"missing": str(missing)}}


def _ours_once(binaries: Path, scratch: Path, rounds: dict[bool, list[dict]]) -> None:
    for load in (FULL, FULL_RECORDS):
        data = scratch / "ours"
        m = measure(binaries, load, data)
        shutil.rmtree(data)
        rounds[load.records].append({
            "durable": True, "per_s": m["published_per_s"], "cpu_us_each": m["cpu_us_per_digest"],
            "peak_mb": m["peak_mb"], "disk_bytes_each": m["disk_bytes_per_digest"], "record_bytes": m["record_bytes"]})
        print(f"  MeshChain, {load.title}: {m['published_per_s']:,.0f} published", flush=True)


def _best(rounds: list[dict]) -> dict:
    best = max(rounds, key=lambda m: m["per_s"])
    return {**best, "rounds": [{k: m[k] for k in ("offered_per_s", "per_s", "cpu_us_each") if k in m} for m in rounds]}


# --- Tessera

def _tessera_programs() -> tuple[Path, Path]:
    """Builds log and load generator; their sources are those of rivals/go.sum."""
    go = shutil.which("go")
    if go is None:
        raise Missing("no Go")
    TOOLS.mkdir(parents=True, exist_ok=True)
    packages = [f"{TESSERA}/cmd/conformance/posix", f"{TESSERA}/internal/hammer"]
    for command in (["build", "-buildvcs=false", "-o", f"{TOOLS}/", *packages], ["mod", "verify"]):
        _tool([go, *command], Path(__file__).parent / "rivals")
    return TOOLS / "posix", TOOLS / "hammer"


def _tessera(scratch: Path, entry_bytes: int, offered: tuple[int, ...]) -> dict:
    programs = _tessera_programs()
    rounds: list[dict] = []
    for rate in offered:
        rounds.append(_tessera_round(programs, scratch, entry_bytes, rate))
        print(f"    {rate:,} entries/s offered: {rounds[-1]['per_s']:,.0f} published", flush=True)
        if len(rounds) > 1 and rounds[-1]["per_s"] < GROWS * rounds[-2]["per_s"]:
            break
    return _best(rounds)


def _tessera_round(programs: tuple[Path, Path], scratch: Path, entry_bytes: int, rate: int) -> dict:
    """An empty log under one offered rate, measured from one checkpoint to another."""
    server, hammer = programs
    data = scratch / f"tessera-{entry_bytes}-{rate}"
    writers = rate // PER_WRITER
    allow_files(2 * writers)
    with Processes(data.with_suffix(".logs")) as processes:
        address = f"127.0.0.1:{free_port()}"
        log = processes.start("tessera", [server, "--storage_dir", data, "--listen", address],
                              {"LOG_PRIVATE_KEY": LOG_KEY})
        wait_http(f"http://{address}/checkpoint", SETTLE_S, log)
        load = processes.start("hammer", [
            hammer, "--log_url", f"http://{address}", "--log_public_key", LOG_VKEY, "--show_ui=false",
            "--max_read_ops", 0, "--num_readers_random", 0, "--num_readers_full", 0, "--max_write_ops", rate,
            "--num_writers", writers, "--leaf_min_size", entry_bytes, "--dup_chance", 0,
            "--max_runtime", f"{WARM_S + MEASURED_S + 5:.0f}s"])
        time.sleep(WARM_S)
        seen = _checkpoints(data / "checkpoint", log.pid)
        peak = peak_mb(log.pid)
        processes.stop(load)
        size = wait_until(lambda: _at_rest(data / "checkpoint"), SETTLE_S, "the log is at rest", log)
    (begin, before, cpu_before), (end, after, cpu_after) = seen[0], seen[-1]
    disk = disk_bytes(data)
    shutil.rmtree(data)
    return {"durable": True, "offered_per_s": rate, "per_s": (after - before) / (end - begin),
            "cpu_us_each": (cpu_after - cpu_before) / (after - before) / 1e3, "peak_mb": peak,
            "disk_bytes_each": disk / size}


def _checkpoints(path: Path, pid: int) -> list[tuple[float, int, int]]:
    """(time, tree size, CPU time so far) when each new checkpoint came."""
    seen, last, end = [], _size(path), time.monotonic() + MEASURED_S
    while time.monotonic() < end:
        if (size := _size(path)) != last:
            seen.append((time.monotonic(), size, cpu_ns_with_ended(pid)))
            last = size
        time.sleep(0.005)
    if len(seen) < 2:
        raise SystemExit(f"Tessera published {len(seen)} checkpoints in {MEASURED_S} s")
    return seen


def _at_rest(path: Path) -> int:
    """The tree size, once no checkpoint came for more than its interval of a second."""
    before = _size(path)
    time.sleep(1.5)
    return before if _size(path) == before else 0


def _size(checkpoint: Path) -> int:
    return int(checkpoint.read_text().splitlines()[1])


# --- Zipkin

def _zipkin_jar() -> tuple[str, Path]:
    """Java, and the server as fetched by Maven, with the sum that is pinned here."""
    java, jar = shutil.which("java"), TOOLS / ZIPKIN_JAR
    if java is None:
        raise Missing("no Java")
    if not jar.exists():
        maven = shutil.which("mvn")
        if maven is None:
            raise Missing("no Maven to fetch it")
        TOOLS.mkdir(parents=True, exist_ok=True)
        _tool([maven, "-q", "-B", MAVEN_COPY, f"-Dartifact={ZIPKIN}", f"-DoutputDirectory={TOOLS}"], TOOLS)
    with jar.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != ZIPKIN_SHA256:
        raise SystemExit(f"{jar}: sha256 is {found}, not {ZIPKIN_SHA256}: remove it if it was cut off")
    return java, jar


def _zipkin(binaries: Path, scratch: Path, trace_spans: int) -> dict:
    java, jar = _zipkin_jar()
    rounds = []
    with Processes(scratch / f"zipkin-{trace_spans}.logs") as processes:
        address = f"127.0.0.1:{(port := free_port())}"
        server = processes.start("zipkin", [java, "-jar", jar], {"STORAGE_TYPE": "mem", "QUERY_PORT": str(port)})
        wait_http(f"http://{address}/health", 60.0, server)
        for seed, batches in enumerate(ZIPKIN_BATCHES, 1):
            before = cpu_ns_with_ended(server.pid)
            sent = run_program([binaries / "bench-zipkin", address, "--connections", ZIPKIN_CONNECTIONS,
                                "--batches", batches, "--per-trace", trace_spans, "--seed", seed])
            time.sleep(1)  # it stores after it has answered
            cpu = cpu_ns_with_ended(server.pid) - before
            rounds.append({"durable": False, "per_s": sent["accepted_per_s"], "cpu_us_each": cpu / sent["spans"] / 1e3,
                           "peak_mb": peak_mb(server.pid)})
            print(f"    {rounds[-1]['per_s']:,.0f} spans/s accepted", flush=True)
    return _best(rounds[1:])


def _tool(argv: list[str], directory: Path) -> None:
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, timeout=BUILD_S, env=dict(os.environ))
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv[:2])} failed\n{done.stdout}{done.stderr}")
