"""The matrix of trace contexts: settings of the mesh, forms of what a caller sends, and what comes of both."""

import functools
from dataclasses import dataclass
from pathlib import Path

from lab.chain import BACK, CALLER, KINDS, MIDDLE, Chain, Hop, Tracing
from lab.forms import FEW, FORMS
from lab.procs import wait_until
from lab.receipts import Inbox, Receipt, context_of
from lab.topology import OpenTelemetry, Zipkin

DEADLINE_S = 15.0
TRACERS = {"zipkin": Zipkin, "zipkin+w3c": functools.partial(Zipkin, w3c=True), "otel": OpenTelemetry,
           "silent+zipkin": functools.partial(Zipkin, silent=True),
           "silent+otel": functools.partial(OpenTelemetry, silent=True)}


# --- the settings

@dataclass(frozen=True)
class Setting:
    """`caller` and `services`: tracers by name and percent, "" for none. `context`: of the filter's configuration.

    `sampled`: what the caller's context says.
    """

    caller: str
    services: str
    context: str = "auto"
    sampled: bool = True

    def __str__(self) -> str:
        tracing = "-to-".join(dict.fromkeys((self.caller or "untraced", self.services or "untraced")))
        return f"{tracing}-{self.context}" + ("" if self.sampled else "-denied")

    @property
    def tracer(self) -> str:
        """The services' tracer."""
        return self.services.partition("-")[0]

    @property
    def writes(self) -> bool:
        """Whether a filter may write to a request that its services send."""
        return self.context == "auto" and not self.tracer.startswith("silent")

    @property
    def forms(self) -> list[str]:
        return list(FORMS) if self.caller == self.services else FEW


def tracing(name: str, port: int) -> Tracing:
    tracer, _, percent = name.partition("-")
    return TRACERS[tracer](port, sampling_percent=float(percent), report_at_once=True) if tracer else None


UNIFORM = [Setting(tracer, tracer, context, sampled=not tracer.endswith("-0"))
           for tracer in ("zipkin-100", "zipkin-0", "otel-100", "otel-0", "") for context in ("auto", "never")]
UNIFORM += [Setting("", "", sampled=False), *(Setting(tracer, tracer) for tracer in (
    "zipkin-50", "zipkin+w3c-100", "silent+zipkin-100", "silent+otel-100"))]
MIXED = [Setting("silent+zipkin-100", ""), Setting("", "silent+zipkin-100"), Setting("silent+otel-100", "zipkin-100"),
         Setting("", "zipkin-100"), Setting("zipkin-0", "zipkin-100"), Setting("zipkin-100", "zipkin-0"),
         Setting("zipkin-100", ""), Setting("otel-100", "zipkin-100"), Setting("", "otel-100")]


# --- what is seen

@dataclass(frozen=True)
class Cell:
    """One call: what the caller sent, and its three hops, the first one first."""

    sent: dict[str, str]
    hops: tuple[Hop, ...]

    @property
    def given(self) -> dict | None:
        """The caller's context as both sides must read it, or None."""
        return context_of(self.sent)


@dataclass(frozen=True)
class Seen:
    """All calls of a setting: {(form, kind): Cell}, and what came to the servers."""

    cells: dict[tuple[str, str], Cell]
    receipts: list[Receipt]
    spans: set[tuple[str, str]]  # trace id and span id of the tracers' client spans
    records: dict[str, int]  # by pod: how many records its filter says it made
    faults: list[str]


def run(setting: Setting, directory: Path, first: str | None = None) -> Seen:
    """What happens in a setting. `first`: the only form, and nothing was called before."""
    with Inbox() as inbox:
        tracers = (tracing(name, inbox.port) for name in (setting.caller, setting.services))
        with Chain(directory, inbox, *tracers, {"context": setting.context}) as chain:
            cells = call_all(chain, setting, [first] if first else setting.forms)
            wait_until(lambda: spans_arrived(chain), DEADLINE_S, "all spans are reported")
            wait_until(lambda: sum(records_of(chain).values()) >= len(inbox.receipts), DEADLINE_S, "all is counted")
            spans = {(span.trace_id, span.span_id) for span in inbox.spans if span.client}
            return Seen(cells, inbox.receipts, spans, records_of(chain), inbox.faults)


def call_all(chain: Chain, setting: Setting, forms: list[str]) -> dict[tuple[str, str], Cell]:
    """{(form, kind): Cell}. The first form, which is none where there are several, is all that teaches the filters
    whether there is a tracer."""
    flag = "1" if setting.sampled else "0"
    calls = {}
    for number, (form, kind) in enumerate(((form, kind) for form in forms for kind in KINDS), start=1):
        headers = FORMS[form](f"{0xabc:016x}{0xe000 + number:016x}", f"{0xf0000000 + number:016x}", flag)
        calls[form, kind] = headers, chain.call(kind, headers)
    return {cell: Cell(headers, tuple(chain.hops(path).values())) for cell, (headers, path) in calls.items()}


def records_of(chain: Chain) -> dict[str, int]:
    return {pod: chain.mesh.pods[pod].sidecar.stats("wasmcustom")["wasmcustom.meshchain_records"]
            for pod in (CALLER, MIDDLE, BACK)}


def spans_arrived(chain: Chain) -> bool:
    """Whether all spans that the tracers have sent are here."""
    sent = sum(count for pod in (CALLER, MIDDLE, BACK) for name, count in
               chain.mesh.pods[pod].sidecar.stats("tracing.").items() if name.endswith(".spans_sent"))
    return len(chain.inbox.spans) >= sent
