"""Whether any call is lost at speed: as many requests as one worker serves, the filter as it is by default, and a
real collector on a real disk, which answers at once or late."""

import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from envoys import Running, Sinks, Variant
from lab.client import request
from lab.procs import Processes, wait_until
from lab.standin import StandIn, forward_to
from loads import start_collector
from report import number, show, table, write_json
from rounds import CONNECTIONS, Bench

SECONDS, REQUESTS = 30.0, 50_000  # of a row, and of one run of the load generator
SETTLE_S = 30.0
LATE_S = (0.0, 0.1, 1.0)


def run(binaries: Path, module: Path) -> None:
    rows = [_row(binaries, module, late_s) for late_s in LATE_S]
    head = ["the collector answers", "requests/s", "calls", "in the log", "dropped", "batches", "calls a batch"]
    lines = [[row["title"], number(row["per_s"]), number(row["calls"]), number(row["entries"]), number(row["dropped"]),
              number(row["batches"]), number(row["calls"] / row["batches"])] for row in rows]
    note = (f"{SECONDS:.0f} s each; one worker of Envoy that answers itself, {CONNECTIONS} keep-alive connections in a "
            "closed loop, the filter's default configuration, a collector on this disk; load generator and all on the "
            "same cores.")
    show("speed", "Filter: no call is lost at speed", table(head, lines), note)
    write_json("speed", {"seconds": SECONDS, "connections": CONNECTIONS, "rows": rows})


def _row(binaries: Path, module: Path, late_s: float) -> dict:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        processes = stack.enter_context(Processes(directory / "logs"))
        _, address = start_collector(processes, binaries, directory / "log")
        url, port = f"http://{address}", int(address.rpartition(":")[2])
        if late_s:
            forward = forward_to(url)
            port = stack.enter_context(StandIn(lambda post: replace(forward(post), after_s=late_s))).port
        variant = Variant("speed", "MeshChain, records (default)", module=module, config={}, local=True)
        envoy = Running(variant, Sinks(http=port, grpc=port, application=port), processes, directory)
        envoy.wait_ready()
        bench = Bench(binaries, [envoy])
        start = time.monotonic()
        while (passed := time.monotonic() - start) < SECONDS:
            bench.load(envoy, REQUESTS)
        calls = bench.sent[variant.key]

        def counted(counter: str) -> int:
            return envoy.counters().get(f"meshchain_{counter}", 0)

        def dropped() -> int:
            return sum(count for key, count in envoy.counters().items() if key.startswith("meshchain_dropped"))
        wait_until(lambda: counted("digests") + dropped() >= calls and counted("acked") == counted("batches"), SETTLE_S,
                   "all that was recorded is acknowledged")
        entries = request("GET", f"{url}/v1/log").json()["entries"]
        title = "at once" if not late_s else f"{late_s:g} s late"
        return {"title": title, "late_s": late_s, "per_s": calls / passed, "calls": calls, "entries": entries,
                "dropped": dropped(), "batches": counted("batches")}
