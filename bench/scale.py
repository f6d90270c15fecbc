"""A log that grows to 10^6, 10^7 and, with --full, 10^8 digests: what stays as it was, and what does not.

One collector, batches of 1,000 digests without records, every digest with a trace id of its own. At
each mark, while nothing is sent: memory, disk, and the evidence of random traces looked up and verified.
Then the collector is stopped and started again.
"""

import http.client
import tempfile
import time
from pathlib import Path

from cost import cpu_ns_with_ended
from lab.procs import Process, Processes, free_port
from loads import Load, allow_files, disk_bytes, rss_mb, run_program, start_collector
from report import OUTPUT, number, show, table, write_json

# A step is a load with a seed of its own, so that a lookup can name each of its traces.
STEP = Load("scale", sessions=250, batches=4, digests=1000)
DIGESTS = STEP.sessions * STEP.batches * STEP.digests
MARKS, FULL_MARKS = (1, 10), (1, 10, 100)  # in steps
RESTARTED = 10  # marks from this one on are followed by a stop and a start
LOOKUPS = 1000
SETTLE_S = 1.0
POLL_S = 0.002
STOP_S = 60.0
RESTART_S = 300.0
LOOKUP_S = 600.0


def run(binaries: Path, full: bool) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    allow_files(STEP.sessions + 200)
    marks = FULL_MARKS if full else MARKS
    measured, begun = [], time.monotonic()
    # Not below /tmp, which may be memory.
    with tempfile.TemporaryDirectory(dir=OUTPUT) as name, Processes(Path(name) / "logs") as processes:
        data = Path(name) / "data"
        process, address = start_collector(processes, binaries, data)
        for step in range(1, marks[-1] + 1):
            before = cpu_ns_with_ended(process.pid)
            sent = run_program(_load(step).argv(binaries, address))
            cpu = cpu_ns_with_ended(process.pid) - before
            print(f"  {time.monotonic() - begun:5.1f} s: {step * DIGESTS:,} digests, the last {DIGESTS:,} at "
                  f"{sent['published_per_s']:,.0f}/s, CPU {cpu / DIGESTS / 1e3:.2f} us each, "
                  f"RSS {rss_mb(process.pid):,.0f} MB", flush=True)
            if step not in marks:
                continue
            mark = _mark(binaries, process.pid, address, step, data)
            mark |= {"append_per_s": sent["published_per_s"], "cpu_us_per_digest": cpu / DIGESTS / 1e3}
            if step >= RESTARTED:
                process, address, times = restart(processes, process, binaries, data)
                mark |= times | {"rss_mb_restarted": rss_mb(process.pid)}
                mark["restarted"] = _looked_up(binaries, address, step)  # it still knows every trace
            measured.append(mark)
    head = ["digests", "append/s", "CPU us each", "RSS MB", "lookup us p50, p99", "verify us p50", "proof B",
            "evidence B", "disk B each", "stop s", "restart s", "RSS MB then"]
    show("scale", "Scale: one growing log", table(head, [_row(mark) for mark in measured]),
         f"Append: the last {DIGESTS:,} digests before the mark, published. Lookup: {LOOKUPS:,} random traces, one "
         f"after another, nothing else sent. Proof: hashes from the entry to the checkpoint. Restart: from exec to the "
         f"first answer of /healthz.")
    write_json("scale", {"marks": measured})


def _load(step: int) -> Load:
    return Load(STEP.title, STEP.sessions, STEP.batches, STEP.digests, seed=step)


def _mark(binaries: Path, pid: int, address: str, steps: int, data: Path) -> dict:
    """What a collector with that many steps in its log is like, when nothing is sent to it."""
    time.sleep(SETTLE_S)
    memory = rss_mb(pid)
    found = _looked_up(binaries, address, steps)
    return {"digests": steps * DIGESTS, "rss_mb": memory, "rss_mb_after_lookups": rss_mb(pid), **found,
            "disk_bytes_per_digest": disk_bytes(data) / (steps * DIGESTS)}


def _looked_up(binaries: Path, address: str, steps: int) -> dict:
    argv = [binaries / "bench-lookup", address, "--loads", steps, "--digests", DIGESTS, "--count", LOOKUPS]
    return run_program(argv, LOOKUP_S)


def restart(processes: Processes, process: Process, binaries: Path, data: Path) -> tuple[Process, str, dict]:
    """Stops the collector and starts it again on the same data; the new one, its address, times of both."""
    begun = time.monotonic()
    if (code := processes.stop(process, grace_s=STOP_S)) != 0:
        raise SystemExit(f"the collector ended with {code} when it was asked to stop\n{process.tail()}")
    stopped = time.monotonic()
    port = free_port()
    address = f"127.0.0.1:{port}"
    started = time.monotonic()
    process = processes.start("collector", [binaries / "meshchain-collector", "--data", data, "--listen", address])
    while not _healthy(port):
        if not process.alive() or time.monotonic() > started + RESTART_S:
            raise SystemExit(f"the collector did not start again\n{process.tail()}")
        time.sleep(POLL_S)
    return process, address, {"stop_s": stopped - begun, "restart_s": time.monotonic() - started}


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=RESTART_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _row(m: dict) -> list[str]:
    restart = [number(m[key], 2) if key in m else "" for key in ("stop_s", "restart_s")]
    lookup, verify = m["lookup"], m["verify"]
    return [f"{m['digests']:,}", number(m["append_per_s"]), number(m["cpu_us_per_digest"], 2), number(m["rss_mb"]),
            f"{lookup['p50_us']:,.0f}, {lookup['p99_us']:,.0f}", number(verify["p50_us"]), number(m["proof_bytes"]),
            number(m["evidence_bytes"]), number(m["disk_bytes_per_digest"]), *restart,
            number(m["rss_mb_restarted"]) if "rss_mb_restarted" in m else ""]
