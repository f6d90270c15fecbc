"""What a filter's calls into Envoy cost: the parts that designs of a filter are made of.

The probe (bench/probe) makes the calls that its configuration names. Each row is a set of calls, compared
with the same filter without any.
"""

import os
import subprocess
import tempfile
from pathlib import Path

from envoys import Variant
from lab.tools import REPOSITORY
from report import number, show, table, write_json
from rounds import Plan, running

PLAN = Plan(rounds=11, requests=8_000)
SERVER = ["request.time", "request.duration", "response.code", "response.flags", "response.code_details",
          "request.total_size", "response.total_size", "request.protocol", "xds.route_name"]
GUARDED = ["has(xds.cluster_name) ? xds.cluster_name : ''",
           "connection.mtls ? connection.uri_san_peer_certificate : ''"]
STATUS = "property response.flags"


def cel(*items: str) -> str:
    return f"cel [{', '.join(items)}]"


# Title, calls in the request phase, calls at the end.
DESIGNS = [
    ("request headers", ["map"], []),
    ("request headers, twice", ["map"], ["map"]),
    ("response headers", [], ["response map"]),
    ("one attribute", [], [STATUS]),
    ("three attributes", [], [STATUS, "property request.duration", "property response.total_size"]),
    ("six attributes", [], [STATUS, *(f"property {path}" for path in SERVER[4:9])]),
    ("CEL: one number", [], ["cel response.flags"]),
    ("CEL: two numbers in one", [], ["cel response.code + response.flags * 1024"]),
    ("CEL: three texts in one", [], ["cel xds.route_name + '|' + request.protocol + '|' + response.code_details"]),
    ("CEL: list of 4", [], [cel(*SERVER[3:7])]),
    ("CEL: list of 9", [], [cel(*SERVER)]),
    ("CEL: list of 9 and 2 guarded", [], [cel(*SERVER, *GUARDED)]),
    ("clock, twice", ["clock"], ["clock"]),
    ("replace 3 headers", ["replace x-b3-spanid", "replace x-b3-parentspanid", "replace x-b3-sampled"], []),
    ("lean: request headers, response headers, flags, clock twice", ["map", "clock"], ["response map", STATUS, "clock"]),
    ("full: request headers, CEL list of 9 and 2 guarded", ["map"], [cel(*SERVER, *GUARDED)]),
]


def build() -> Path:
    """The probe's module, with the exports that the filter has."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    build = ["cargo", "build", "--locked", "--quiet", "-p", "meshchain-bench-probe", "--profile", "release-wasm",
             "--target", "wasm32-wasip1"]
    folder = target / "wasm32-wasip1" / "release-wasm"
    module = folder / "probe.wasm"
    finish = ["cargo", "run", "--locked", "--quiet", "--release", "-p", "meshchain-filter-finish", "--",
              folder / "deps" / "meshchain_bench_probe.wasm", module]
    for command in (build, finish):
        subprocess.run(command, cwd=REPOSITORY, check=True)
    return module


def run(binaries: Path) -> None:
    module = build()
    variants = [Variant("none", "a filter of proxy-wasm without calls", base=None, module=module, config={})]
    variants += [Variant(f"design-{at}", title, base="none", module=module, config={"request": request, "log": log})
                 for at, (title, request, log) in enumerate(DESIGNS)]
    with tempfile.TemporaryDirectory() as name, running(binaries, Path(name), variants, PLAN.requests) as bench:
        rows = bench.rows(PLAN)
    lines = [[row["title"], number(row["added_us"], 1), f"{row['added_least_us']:.1f} to {row['added_most_us']:.1f}"]
             for row in rows[1:]]
    note = (f"{PLAN.rounds} rounds of {PLAN.requests:,} requests, 21 headers; CPU of the whole Envoy process beside the "
            "same filter without calls; medians of differences within a round.")
    show("designs", "Filter: what calls into Envoy cost", table(["calls", "us/request", "least to most"], lines), note)
    write_json("designs", {"requests_per_round": PLAN.requests, "variants": rows})
