"""What a request costs Envoy: bare, with an empty wasm filter, with ours, with its own tracers and access log;
with more workers and with bodies; and what that does to its times."""

import json
import subprocess
import tempfile
from pathlib import Path
from statistics import median

import designs
from cost import peak_mb
from empty_module import write_empty
from envoys import Variant
from report import number, show, table, write_json
from rounds import CONNECTIONS, Cores, Plan, middle_half, running

COST = Plan(rounds=25, requests=5_000)
SHAPE = Plan(rounds=15, requests=5_000)
PER_S, TIMED, TIMED_ROUNDS = 1000, 2_000, 25
# As the manifests deliver it.
SERVER, CLIENT = {"side": "server", "principal_from_xfcc": True}, {"side": "client"}
DIGEST, AUTO, LEAN = {"payload": "digest"}, {"detail": "auto"}, {"detail": "lean"}
KIB = 1 << 10


def run(binaries: Path, module: Path) -> None:
    cost(binaries, module)
    shapes(binaries, module)
    times(binaries, module)


# --- CPU

def cost(binaries: Path, module: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        variants = _variants(module, write_empty(directory / "empty.wasm"))
        variants += [
            Variant("asked", "MeshChain, records, side not configured", module=module, config={}),
            *(Variant(f"client{key}", f"MeshChain, {title}, client side", "OUTBOUND", module=module,
                      config={**CLIENT, **config}) for key, title, config in
              (("", "records", {}), ("_auto", "auto", AUTO), ("_lean", "lean", LEAN))),
            Variant("client_asked", "MeshChain, records, client side not configured", "OUTBOUND", module=module, config={}),
            Variant("gateway", "MeshChain, records, gateway", "OUTBOUND", module=module, config={"side": "gateway"}, hops=2),
        ]
        with running(binaries, directory, variants, COST.requests, Cores.SHARED) as bench:
            rows = bench.rows(COST)
    tracer = next(row["added_us"] for row in rows if row["variant"] == "zipkin")
    head = ["variant", "CPU us/request", "added us", "middle half", "tracer / it", "peak RSS MB", "reported"]
    note = (f"{COST.rounds} rounds of {COST.requests:,} requests per variant, {CONNECTIONS} keep-alive connections, "
            "21 headers, a short answer from an application in another process, one worker; CPU of the whole Envoy "
            "process; medians of differences within a round, and their middle half.")
    sealing = seal_us()
    note += (f" To seal and sign a batch of one call takes {number(sealing['seal_us'])} us in V8, of 512 calls"
             f" {number(sealing['full_us'])} us, off the requests' path.")
    show("filter", "Filter: CPU per request", table(head, [_line(row, tracer) for row in rows]), note)
    write_json("filter", {"requests_per_round": COST.requests, "connections": CONNECTIONS, "variants": rows,
                          "sealing": sealing})


def seal_us() -> dict:
    """Microseconds that the built module takes to seal a batch, in node."""
    run = subprocess.run(["node", Path(__file__).with_name("seal.mjs")], check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


def _variants(module: Path, empty: Path, **shape) -> list[Variant]:
    """What is compared in each shape of request, all inbound."""
    return [
        Variant("bare", "bare Envoy", base=None, **shape),
        Variant("empty", "empty wasm filter, on_log only", module=empty, **shape),
        Variant("digest", "MeshChain, digests", module=module, config={**SERVER, **DIGEST}, **shape),
        Variant("record", "MeshChain, records (default)", module=module, config=SERVER, **shape),
        Variant("auto", "MeshChain, auto", module=module, config={**SERVER, **AUTO}, **shape),
        Variant("lean", "MeshChain, lean", module=module, config={**SERVER, **LEAN}, **shape),
        Variant("zipkin", "Envoy's Zipkin tracer at 100 %", observer="zipkin", **shape),
        Variant("otel", "Envoy's OpenTelemetry tracer at 100 %", observer="otel", **shape),
        Variant("als", "Envoy's gRPC access log", observer="als", **shape),
    ]


def _line(row: dict, tracer: float) -> list[str]:
    added, base = row["added_us"], row["base"] is None
    ratio = tracer / added if added > 0 else 0
    return [
        row["title"], number(row["cpu_us"], 1), "" if base else number(added, 1),
        "" if base else middle_half(row),
        "" if base or not ratio else number(ratio, 1 if ratio < 10 else 0), number(row["peak_mb"]),
        "" if row["reported"] is None else f"{row['reported']:.1%}"]


# --- workers, bodies, answers of the proxy's own

SHAPES = {"2 workers": {"workers": 2}, "bodies of 1 KB": {"body": KIB}, "bodies of 64 KB": {"body": 64 * KIB},
          "answers of Envoy's own": {"local": True}}


def shapes(binaries: Path, module: Path) -> None:
    measured, lines = {}, []
    for title, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            variants = _variants(module, write_empty(directory / "empty.wasm"), **shape)
            with running(binaries, directory, variants, SHAPE.requests, Cores.SHARED) as bench:
                measured[title] = bench.rows(SHAPE)
        bare, *others = measured[title]
        added = {row["variant"]: row["added_us"] for row in others}
        lines.append([title, number(bare["cpu_us"], 1), *(number(us, 1) for us in added.values()),
                      *(number(added["zipkin"] / added[ours], 1) for ours in ("record", "auto"))])
    head = ["shape", "bare us/request", "empty adds", "digests", "records", "auto", "lean", "Zipkin", "OpenTelemetry",
            "gRPC log", "tracer / records", "tracer / auto"]
    peaks = memory(binaries, module)
    workers = sorted(peaks["record"])
    further = [(peaks["record"][n] - peaks["record"][1] - peaks["bare"][n] + peaks["bare"][1]) / (n - 1)
               for n in workers[1:]]
    note = (f"{SHAPE.rounds} rounds of {SHAPE.requests:,} requests; the variants of the table above, by what they add. "
            "Bodies: of the request and of the response. "
            f"Peak RSS of an Envoy with the filter and {', '.join(map(str, workers))} workers: "
            f"{', '.join(number(peaks['record'][n]) for n in workers)} MB, without it "
            f"{', '.join(number(peaks['bare'][n]) for n in workers)} MB: the filter takes "
            f"{median(further):.1f} MB per further worker.")
    show("filter-shapes", "Filter: workers, bodies, answers of the proxy's own", table(head, lines), note)
    write_json("filter-shapes", {"shapes": measured, "peak_mb_by_workers": peaks})


def memory(binaries: Path, module: Path) -> dict[str, dict[int, float]]:
    """Peak RSS after the same load, by number of workers."""
    peaks: dict[str, dict[int, float]] = {"bare": {}, "record": {}}
    for workers in (1, 2, 4):
        variants = [Variant("bare", "bare Envoy", base=None, workers=workers),
                    Variant("record", "MeshChain, records", module=module, config=SERVER, workers=workers)]
        with tempfile.TemporaryDirectory() as name:
            with running(binaries, Path(name), variants, 3 * SHAPE.requests) as bench:
                for envoy in bench.envoys:
                    peaks[envoy.variant.key][workers] = peak_mb(envoy.process.pid)
    return peaks


# --- times

def times(binaries: Path, module: Path) -> None:
    variants = [
        Variant("bare", "bare Envoy", base=None),
        Variant("record", "MeshChain, records", module=module, config=SERVER),
        Variant("auto", "MeshChain, auto", module=module, config={**SERVER, **AUTO}),
        Variant("calls", "the calls of a full record alone", module=designs.build(), config=designs.FULL),
        Variant("native", "all of the filter as a native module", native=designs.build_native()),
        Variant("zipkin", "Envoy's Zipkin tracer at 100 %", observer="zipkin"),
    ]
    rounds: list[dict[str, dict]] = []
    with tempfile.TemporaryDirectory() as name:
        with running(binaries, Path(name), variants, SHAPE.requests, Cores.APART) as bench:
            for turn in range(TIMED_ROUNDS):
                rounds.append({envoy.variant.key: bench.load(envoy, TIMED, "--per-s", str(PER_S))["times"]
                               for envoy in bench.order(turn)})
    rows = [{"variant": v.key, "title": v.title,
             **{part: median(r[v.key][part] for r in rounds) for part in ("p50_us", "p99_us")},
             **{f"{part}_added_us": median(r[v.key][f"{part}_us"] - r["bare"][f"{part}_us"] for r in rounds)
                for part in ("p50", "p99")}} for v in variants]
    lines = [[row["title"], number(row["p50_us"]), number(row["p99_us"]),
              *(["", ""] if row["variant"] == "bare" else [number(row["p50_added_us"]), number(row["p99_added_us"])])]
             for row in rows]
    note = (f"{PER_S:,} requests/s in even steps over {CONNECTIONS} connections, {TIMED_ROUNDS} rounds of "
            f"{TIMED / PER_S:.0f} s each; to the end of the answer, for a request that had to wait from when it was due; medians over the rounds.")
    show("filter-times", "Filter: response times", table(["variant", "p50 us", "p99 us", "added at p50", "added at p99"], lines),
         note)
    write_json("filter-times", {"per_s": PER_S, "variants": rows, "rounds": rounds})
