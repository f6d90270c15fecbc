"""Three services in a row, with the filter in each sidecar: a caller, which is the test, calls `middle`, whose
application calls `back` twice.

    caller -> middle -> back   path /KIND/N/1
                     -> back   path /KIND/N/2

KIND says what middle's application hands on: `tracing` the trace headers only, any other all it got. The applications
and the collector are servers of this process; batches come to the collector in plain text.
"""

import contextlib
import itertools
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lab.client import request
from lab.collector import COLLECTOR_CLUSTER, FILTER, check_built
from lab.envoy import _cluster
from lab.mesh import Mesh
from lab.procs import wait_until
from lab.receipts import Inbox, Receipt, context_of
from lab.topology import OpenTelemetry, Organisation, Pod, Service, Topology, WasmFilter, Zipkin

CALLER, MIDDLE, BACK = "caller-0", "middle-0", "back-0"
TRACE_HEADERS = ("x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags", "b3",
                 "traceparent", "tracestate")
SESSION = "x-meshchain-session"
KINDS = ("tracing", "blind")
HOP_BY_HOP = ("host", "connection", "content-length", "transfer-encoding")
NAMESPACE = "chain"
PORT = 9080
DEADLINE_S = 15.0

Tracing = Zipkin | OpenTelemetry | None


@dataclass(frozen=True)
class Hop:
    """One call between two sidecars: what both sides said, and the trace headers that the client's sidecar sent.

    `session`: what it sent in `x-meshchain-session`, "" where nothing.
    """

    client: Receipt
    server: Receipt
    sent: dict[str, str]
    session: str

    @property
    def wire(self) -> dict | None:
        """The context on the wire, as both sides must read it."""
        return context_of({**self.sent, SESSION: self.session})


@dataclass
class Chain:
    """The services, running; a context manager. `caller` is of an organisation of its own, with its own tracing."""

    directory: Path
    inbox: Inbox
    caller_tracing: Tracing = None
    tracing: Tracing = None
    config: dict = field(default_factory=dict)  # of the filter
    routes: dict[str, dict] = field(default_factory=dict)  # by KIND: what sidecars do with it on its way out
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __enter__(self) -> "Chain":
        check_built()
        with contextlib.ExitStack() as stack:
            middle, back = (stack.enter_context(Application()) for _ in range(2))
            self.mesh = stack.enter_context(Mesh(self._topology(middle.port, back.port), self.directory))
            middle.outbound = self.mesh.pods[MIDDLE].outbound_url
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def call(self, kind: str, headers: dict[str, str]) -> str:
        """One call through the chain, which must succeed. Returns its path, which no other call has."""
        path = f"/{kind}/{next(self.numbers)}"
        answer = self.mesh.client(CALLER, f"middle:{PORT}").get(path, headers)
        assert answer.status == 200, (path, answer)
        return path

    def hops(self, path: str) -> dict[str, Hop]:
        """The hops of a call by their own paths, once all of them are reported."""
        paths = (path, f"{path}/1", f"{path}/2")

        def reported() -> bool:
            return len(self.receipts(*paths)) >= 2 * len(paths) and all(self.sent(p) for p in paths)
        wait_until(reported, DEADLINE_S, f"both sides report each hop of {path}")
        found = {}
        for one in paths:
            client, server = sorted(self.receipts(one), key=lambda receipt: receipt.side)
            (sent,) = self.sent(one)
            session = sent.pop(SESSION, "")
            found[one] = Hop(client, server, sent, session)
        return found

    def receipts(self, *paths: str) -> list[Receipt]:
        return [receipt for receipt in self.inbox.receipts if receipt.path in paths]

    def sent(self, path: str) -> list[dict[str, str]]:
        """The trace headers of the requests for `path` as they left the client's sidecar, tracer included."""
        client = MIDDLE if path.count("/") > 2 else CALLER
        lines = self.mesh.pods[client].sidecar.process.log_text().splitlines()
        return [dict(pair for pair in re.findall(r" ([a-z0-9-]+)=(\S+)", line) if pair[1] != "-")
                for line in lines if f'"GET {path} ' in line and " outbound|" in line]

    def _topology(self, middle_port: int, back_port: int) -> Topology:
        wasm = WasmFilter(FILTER, {"tick_ms": 50, **self.config})
        organisations = tuple(
            Organisation(name, f"{name}.example", f"{name}-mesh", f"{name}-1", wasm, tracing, (*TRACE_HEADERS, SESSION))
            for name, tracing in (("caller", self.caller_tracing), ("services", self.tracing)))
        ports = {CALLER: self.inbox.port, MIDDLE: middle_port, BACK: back_port}
        pods = tuple(
            Pod(name, name.removesuffix("-0"), NAMESPACE, name.removesuffix("-0"),
                "caller" if name == CALLER else "services", app_port=port,
                patch=self._patch)
            for name, port in ports.items())
        services = (
            Service("middle", NAMESPACE, PORT, pods=(MIDDLE,)), Service("back", NAMESPACE, PORT, pods=(BACK,)))
        return Topology(organisations, services, pods)


    def _patch(self, bootstrap: dict) -> None:
        bootstrap["static_resources"]["clusters"].append(_cluster(COLLECTOR_CLUSTER, [("127.0.0.1", self.inbox.port)]))
        for listener in bootstrap["static_resources"]["listeners"]:
            manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
            for host in manager["route_config"]["virtual_hosts"] if listener["traffic_direction"] == "OUTBOUND" else ():
                ours = [{**host["routes"][0], "match": {"prefix": f"/{kind}/"}, **more}
                        for kind, more in self.routes.items()]
                host["routes"][:0] = ours


class Application(ThreadingHTTPServer):
    """An application: `outbound` is its sidecar's outbound listener, "" for the one that calls nobody."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = self.server_port
        self.outbound = ""

    def __enter__(self) -> "Application":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Application

    def do_GET(self) -> None:
        calls = (1, 2) if self.server.outbound else ()
        statuses = [self.call_back(f"{self.path}/{number}") for number in calls]
        self.send_response(max(statuses, default=200))
        self.send_header("content-length", "0")
        self.end_headers()

    def call_back(self, path: str) -> int:
        received = {name.lower(): value for name, value in self.headers.items()}
        if self.path.startswith("/tracing/"):
            headers = {name: value for name, value in received.items() if name in TRACE_HEADERS}
        else:
            headers = {name: value for name, value in received.items() if name not in HOP_BY_HOP}
        return request("GET", self.server.outbound + path, {**headers, "host": f"back:{PORT}"}).status

    def log_message(self, *_) -> None:
        pass
