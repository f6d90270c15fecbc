"""What the demo prints. Colours only where a person reads."""

import os
import sys
import time
from collections import defaultdict

from lab.bookinfo import CLOUD, ENTERPRISE
from drill import Refuted
from receipts import Sides, spans_below
from scene import LABELS, Collector, Scene
from traffic import Asked

COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ
MARKS = {"agree": "agree", "one_sided": "one-sided"}  # others stand out


def paint(text: str, code: int) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURS else text


def green(text: str) -> str:
    return paint(text, 32)


def red(text: str) -> str:
    return paint(text, 31)


def head(text: str) -> None:
    print(f"\n{paint(text, 1)}")


class Progress:
    """Lines with the time since the start."""

    def __init__(self) -> None:
        self.begin = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    def __call__(self, text: str) -> None:
        print(paint(f"[{self.seconds:5.1f} s] {text}", 2), flush=True)


def table(header: tuple[str, ...], rows: list[tuple], align: str) -> None:
    """`align`: a letter per column, l or r. Whole numbers get separators; other cells are text."""
    cells = [header, *[tuple(f"{c:,}" if isinstance(c, int) else str(c) for c in row) for row in rows]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for n, row in enumerate(cells):
        padded = [c.ljust(w) if a == "l" else c.rjust(w) for c, w, a in zip(row, widths, align)]
        line = ("  " + "  ".join(padded)).rstrip()
        print(paint(line, 2) if n == 0 else line)


def requests(asked: list[Asked]) -> None:
    failed = sum(one.status >= 400 or "fail" in one.ask.kind for one in asked)
    slow = [one for one in asked if one.ask.kind == "slow"]
    crossed = sum(one.crossed for one in asked)
    hung_up = sum(one.ask.kind == "hang-up" for one in asked)
    print(f"  {len(asked)} requests: {crossed} crossed into {LABELS[CLOUD]}, {failed} with a failing call, "
          f"{len(slow)} slow ({max(one.took_s for one in slow):.1f} s), {hung_up} whose user hung up")


def trace_tree(report: dict) -> None:
    """One trace by its hops, as the verifier's report on both organisations' evidence has them.

    Every hop must have both its sides, but the user's own.
    """
    spans = {span["number"]: span for span in report["spans"]}
    logs = defaultdict(int)
    for span in spans.values():
        logs[_organisation(span)] += 1
    held = " and ".join(f"{count} in {name}'s log" for name, count in logs.items())
    head(f"One trace, {report['trace_id']}: {len(report['hops'])} hops, {len(spans)} spans, {held}")
    hops = [(hop, *(spans[hop[side][0]] if hop[side] else None for side in ("client", "server")))
            for hop in report["hops"]]
    rows = list(_walk(hops, None, ""))
    table(("client -> server", "request", "status", "time", "logged by", "the two sides"), rows, "llrrll")


def _walk(hops: list, parent: str | None, indent: str):
    """Rows of the hops below one; None: those that are below no hop of the trace."""
    known = {hop["span_id"] for hop, *_ in hops}

    def parent_of(client: dict | None) -> str | None:
        given = client and client["own"]["parent_span_id"]
        return given if given in known else None
    children = sorted((hop for hop in hops if parent_of(hop[1]) == parent), key=lambda hop: hop[2]["own"]["start_ns"])
    for n, (hop, client, server) in enumerate(children, start=1):
        lines = ("└─ ", "   ") if n == len(children) else ("├─ ", "│  ")
        branch, below = lines if parent else ("", "")
        call, mark = server["call"], MARKS.get(hop["agreement"], hop["agreement"].upper())
        caller = client["source"]["workload"] if client else "user"
        yield (f"{indent}{branch}{caller} -> {server['source']['workload']}",
               f"{call['method']} {call['path']}", call["status"],
               f"{(client or server)['own']['duration_ns'] / 1e6:.1f} ms",
               ", ".join(_organisation(side) for side in (client, server) if side),
               green(mark) if mark == "agree" else "the user's own" if client is None else red(mark))
        yield from _walk(hops, hop["span_id"], indent + below)


def _organisation(span: dict) -> str:
    return LABELS[span["source"]["mesh"].removesuffix("-mesh")]


def sources(scene: Scene) -> None:
    rows = []
    for collector in scene.collectors.values():
        pods = defaultdict(list)
        for session in collector.get("/v1/sessions"):
            pods[session["source"]["pod"]].append(session)
        for pod, sessions in sorted(pods.items(), key=lambda item: -sum(s["entries"] for s in item[1])):
            total = [sum(s[key] for s in sessions) for key in ("batches", "entries", "missing_batches", "dropped")]
            rows.append((collector.label, pod, len(sessions), *total))
    head("Sources: each sidecar's filter reports in sessions, one per Envoy thread; batches are numbered and chained")
    table(("organisation", "sidecar of", "sessions", "batches", "spans", "missing batches", "dropped"), rows, "llrrrrr")


def totals(asked: list[Asked], sides: Sides, scene: Scene) -> None:
    head("Counts")
    requests(asked)
    per_log = ", ".join(f"{sides.spans[name]:,} in {LABELS[name]}'s log" for name in (ENTERPRISE, CLOUD))
    print(f"  {sum(sides.spans.values()):,} spans ({per_log}): exactly those that these requests must leave")
    print(f"  {sides.client:,} by who sent, {sides.server:,} by who received, {sides.edge:,} of these from users outside "
          f"of any mesh; of {sides.hops:,} hops\n  between proxies the two sides agree on {sides.agree:,}, dispute "
          f"{sides.dispute}; {sides.one_sided} are one-sided")
    leaves = ", ".join(f"{c.get('/v1/log')['size']} in {c.label}'s log" for c in scene.collectors.values())
    print(f"  batches: {leaves}; gaps: none, no batch is missing and no span was dropped")


def anchors(scene: Scene) -> None:
    rows = []
    for collector in scene.collectors.values():
        finals = collector.final_anchors()
        below = [0, *spans_below(collector, [line["size"] for line in finals])]
        for line, before, now in zip(finals, below, below[1:]):
            new = now - before
            rows.append((collector.label, line["size"], new, str(line["block"]), line["tx"], line["gas_used"],
                         f"{line['gas_used'] / new:,.0f}" if new else "-"))
        gas = sum(line["gas_used"] for line in finals)
        rows.append((collector.label, "all", below[-1], "", "", gas, f"{gas / below[-1]:,.0f}"))
    head(f"Anchors: tree heads on the shared chain, contract {scene.contract}")
    table(("organisation", "tree size", "new spans", "block", "transaction", "gas", "gas per span"), rows, "lrrrlrr")


def refuted(lie: Refuted) -> None:
    print(f"  {lie.lie:<18} {lie.done}")
    print(f"  {'':<18} {green('refuted')} by {lie.by}, exit code {lie.code}: {lie.reason}", flush=True)


def urls(run: dict) -> None:
    head("Left running; `make demo-stop` ends it")
    rows = [("Bookinfo", f"{run['gateway']}/productpage"), ("chain", f"{run['chain']['rpc']} (JSON-RPC)")]
    rows += [(f"{c['organisation']}'s collector", c["url"]) for c in run["collectors"]]
    rows.append(("all of it", ".demo/run.json"))
    for name, url in rows:
        print(f"  {name:<26} {url}")
