"""What a filter's calls into Envoy cost: the parts that designs of a filter are made of, and how far that
leaves the tracer.

The probe (bench/probe) has the filter's callbacks and makes the calls that its configuration names. The native
module (bench/native) is the filter itself, outside of the sandbox.
"""

import os
import subprocess
import tempfile
from pathlib import Path

from envoys import Variant
from lab.collector import BUILD
from lab.tools import REPOSITORY
from report import number, show, table, write_json
from rounds import Cores, Plan, middle_half, running

PLAN = Plan(rounds=21, requests=5_000)
SERVER = ["request.time", "request.duration", "response.code", "response.flags", "response.code_details",
          "request.total_size", "response.total_size", "request.protocol", "xds.route_name", "xds.cluster_name",
          "connection.mtls"]
GUARDED = [*SERVER[:9], "has(xds.cluster_name) ? xds.cluster_name : ''",
           "connection.mtls ? connection.uri_san_peer_certificate : ''"]
STATUS = "property response.flags"


def cel(*items: str) -> str:
    return f"cel [{', '.join(items)}]"


# Title, calls in the request phase, calls at the end.
CALLS = [
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
    ("CEL: list of 11", [], [cel(*SERVER)]),
    ("CEL: list of 11, 2 of them guarded", [], [cel(*GUARDED)]),
    ("clock, twice", ["clock"], ["clock"]),
    ("replace 3 headers", ["replace x-b3-spanid", "replace x-b3-parentspanid", "replace x-b3-sampled"], []),
]
FULL = {"request": ["map"], "log": [cel(*SERVER)]}
LEAN = {"request": ["map", "clock"], "log": ["response map", STATUS, "clock"]}
LEAN_LOGGER = {"log": ["map", "response map", STATUS, "property request.duration", "clock"]}


def build() -> Path:
    """The probe's module, finished as the filter is."""
    build = ["cargo", "build", "--locked", "--quiet", "-p", "meshchain-bench-probe", "--profile", "release-wasm",
             "--target", "wasm32-wasip1"]
    folder = BUILD / "wasm32-wasip1" / "release-wasm"
    module = folder / "probe.wasm"
    last_step = ["cargo", "build", "--locked", "--quiet", "--release", "--workspace", "--bin", "meshchain-filter-finish"]
    finish = [BUILD / "release" / "meshchain-filter-finish", folder / "deps" / "meshchain_bench_probe.wasm", module]
    for command in (build, last_step, finish):
        subprocess.run(command, cwd=REPOSITORY, check=True)
    return module


def build_native() -> Path:
    """The native module; its sums are unchecked, as the wasm module's are."""
    build = ["cargo", "build", "--locked", "--quiet", "--release", "-p", "meshchain-bench-native"]
    subprocess.run(build, cwd=REPOSITORY, check=True, env=os.environ | {"CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS": "false"})
    return BUILD / "release" / "libmeshchain_bench_native.so"


def run(binaries: Path) -> None:
    module = build()
    calls(binaries, module)
    floors(binaries, module, build_native())


def calls(binaries: Path, module: Path) -> None:
    variants = [Variant("none", "a filter without calls", base=None, module=module, config={})]
    variants += [Variant(f"calls-{at}", title, base="none", module=module, config={"request": request, "log": log})
                 for at, (title, request, log) in enumerate(CALLS)]
    rows = _measured(binaries, variants)
    lines = [[row["title"], number(row["added_us"], 1), middle_half(row)] for row in rows[1:]]
    note = (f"{PLAN.rounds} rounds of {PLAN.requests:,} requests, 21 headers; CPU of the whole Envoy process beside the "
            "same filter without calls; medians of differences within a round, and their middle half.")
    show("designs", "Filter: what calls into Envoy cost", table(["calls", "us/request", "middle half"], lines), note)
    write_json("designs", {"requests_per_round": PLAN.requests, "variants": rows})


def floors(binaries: Path, module: Path, native: Path) -> None:
    """Designs that do nothing with what Envoy tells them, which a filter's work comes on top of; and all of the
    filter, without the sandbox."""
    variants = [
        Variant("bare", "bare Envoy", base=None),
        Variant("none", "the callbacks: begin, request headers, end, done", module=module, config={}),
        Variant("full", "and the calls of a full record", module=module, config=FULL),
        Variant("lean", "and the calls of a lean one", module=module, config=LEAN),
        Variant("logger", "the calls of a lean one, by an access logger", module=module, config=LEAN_LOGGER,
                logger=True),
        Variant("native", "all of the filter as a native module, full records", native=native),
        Variant("zipkin", "Envoy's Zipkin tracer at 100 %", observer="zipkin"),
    ]
    rows = _measured(binaries, variants)
    tracer = rows[-1]["added_us"]
    lines = [[row["title"], number(row["added_us"], 1), middle_half(row), number(tracer / row["added_us"], 1)] for row in rows[1:]]
    whole = next(row["reported"] for row in rows if row["variant"] == "native")
    note = (f"{PLAN.rounds} rounds of {PLAN.requests:,} requests; beside bare Envoy. The native module reported "
            f"{whole:.1%} of its calls.")
    show("floors", "Filter: what designs cost at least", table(["what", "us/request", "middle half", "tracer / it"], lines),
         note)
    write_json("floors", {"requests_per_round": PLAN.requests, "variants": rows})


def _measured(binaries: Path, variants: list[Variant]) -> list[dict]:
    with tempfile.TemporaryDirectory() as name:
        with running(binaries, Path(name), variants, PLAN.requests, Cores.SHARED) as bench:
            return bench.rows(PLAN)
