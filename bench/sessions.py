"""10^6 sessions that came and went, with the longest names and as many drop counters as a header takes.

One collector, a session after the other on many connections; then it is stopped and started again, and batches of
random sessions come once more.
"""

import tempfile
import time
from pathlib import Path

from cost import peak_mb
from lab.procs import Processes
from loads import allow_files, disk_bytes, rss_mb, run_program, start_collector
from report import OUTPUT, number, show, table, write_json
from scale import restart

SESSIONS = 1_000_000
CONNECTIONS = 500
AGAIN = 200
LOAD_S = 1800.0
SETTLE_S = 10.0  # what is being sealed ends


def run(binaries: Path) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    allow_files(CONNECTIONS + 200)
    # Not below /tmp, which may be memory.
    with tempfile.TemporaryDirectory(dir=OUTPUT) as name, Processes(Path(name) / "logs") as processes:
        data = Path(name) / "data"
        process, address = start_collector(processes, binaries, data)
        argv = [binaries / "bench-sessions", address, "--sessions", SESSIONS]
        measured = run_program([*argv, "--connections", CONNECTIONS], LOAD_S)
        time.sleep(SETTLE_S)
        measured |= {"rss_mb": rss_mb(process.pid), "peak_mb": peak_mb(process.pid)}
        measured |= {"sealed_bytes": (data / "sealed").stat().st_size, "tables_bytes": disk_bytes(data / "sessions"),
                     "tables": len(list((data / "sessions").iterdir())), "disk_bytes": disk_bytes(data)}
        process, address, times = restart(processes, process, binaries, data)
        measured |= times | {"rss_mb_restarted": rss_mb(process.pid)}
        argv[1] = address
        measured |= run_program([*argv, "--again", AGAIN])
    head = ["sessions", "header B", "sessions/s", "RSS MB, at most", "sealed KB", "tables", "their B each",
            "disk B each", "restart s", "RSS MB then", "late batch ms p50, p99"]
    show("sessions", "Sessions that came and went", table(head, [_row(measured)]),
         f"Each session is one batch that closes it, with the longest names and 16 drop counters; {CONNECTIONS} "
         f"connections. Restart: from exec to the first answer of /healthz. Late batch: {AGAIN} batches of random "
         f"sessions once more, one after another, each found and acknowledged as logged already, with the next commit.")
    write_json("sessions", measured)


def _row(m: dict) -> list[str]:
    count, again = m["sessions"], m["again"]
    return [f"{count:,}", number(m["header_bytes"]), number(count / m["seconds"]),
            f"{m['rss_mb']:,.0f}, {m['peak_mb']:,.0f}", number(m["sealed_bytes"] / 1e3), number(m["tables"]),
            number(m["tables_bytes"] / count), number(m["disk_bytes"] / count), number(m["restart_s"], 2),
            number(m["rss_mb_restarted"]), f"{again['p50_us'] / 1e3:,.0f}, {again['p99_us'] / 1e3:,.0f}"]
