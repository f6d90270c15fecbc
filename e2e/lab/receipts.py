"""What the filters send, taken down in place of a collector; and what tracers send, in place of their backends.

One HTTP server in this process accepts everything. Batches are read with docs/format.md's messages.
"""

import json
import struct
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from lab.batches import CLIENT, GATEWAY_IN, GATEWAY_OUT, SERVER, check_signed  # noqa: F401
from lab.messages import decode, fields
from lab.tools import REPOSITORY

sys.path.append(str(REPOSITORY / "tests"))
from check_vectors import ENTRY  # noqa: E402, F401
from context_rule import ACCEPTED, DENIED, context_of  # noqa: E402, F401
from target_rule import canonical_authority, canonical_path  # noqa: E402, F401
from trees import sha256  # noqa: E402, F401

SENDING = (CLIENT, GATEWAY_OUT)  # the sides that sent a hop; the others received it
OTLP_CLIENT = 3  # a span's kind
BATCHES_PATH, ZIPKIN_PATH, OTLP_PATH = "/v1/batches", "/api/v2/spans", "/v1/traces"


# --- receipts and spans

@dataclass(frozen=True)
class Receipt:
    """An entry with its record. Ids are lower-case hex, zeros where there are none."""

    pod: str
    session: bytes
    side: int  # CLIENT, SERVER, GATEWAY_OUT or GATEWAY_IN
    trace_id: str
    span_id: str
    hop_digest: bytes
    hop: dict  # the hop part, as bytes and numbers
    own: dict

    @property
    def path(self) -> str:
        return self.hop["path"].decode()

    @property
    def parent(self) -> str:
        """Id of the span above its own, "" where there is none."""
        return self.own.get("parent_span_id", b"").hex()


@dataclass(frozen=True)
class Span:
    """A span as a tracer reports it."""

    trace_id: str
    span_id: str
    client: bool


def check(entry: tuple, record: dict) -> None:
    """Fails where a record is not what its entry hashes. The hop part cannot be told where its path is withheld."""
    *_, hop_digest, span_digest = entry
    if not record.get("path_hash") and not record.get("path_dropped"):
        assert sha256(b"meshchain/hop/v1\0", record["hop"]) == hop_digest, "the record is not the entry's"
    assert sha256(b"meshchain/span/v1\0", hop_digest, record["own"]) == span_digest, "the record is not the entry's"


def receipts_of(body: bytes) -> list[Receipt]:
    """The calls of a signed batch, each record checked against its entry."""
    batch = decode("Batch", body)
    header = decode("BatchHeader", batch["header"])
    check_signed(batch, header)
    return [receipt(header, entry, decode("SpanRecord", record)) for entry, record in
            zip(ENTRY.iter_unpack(batch.get("entries", b"")), batch["records"], strict=True)]


def receipt(header: dict, entry: tuple, record: dict) -> Receipt:
    """An entry with its record, which must fit it, out of a batch with that header."""
    check(entry, record)
    _, side, trace_id, span_id, hop_digest, _ = entry
    own = decode("OwnPart", record["own"])
    assert own["side"] == side, "the record is of another side"
    return Receipt(header["source"]["pod"], header["session"], side, trace_id.hex(), span_id.hex(), hop_digest,
                   decode("HopPart", record["hop"]), own)


def zipkin_spans(body: bytes) -> list[Span]:
    return [Span(s["traceId"].zfill(32), s["id"], s.get("kind") == "CLIENT") for s in json.loads(body)]


def otlp_spans(body: bytes) -> list[Span]:
    def inside(data: bytes, tag: int) -> list:
        return [value for found, value in fields(data) if found == tag]
    spans = [span for resource in inside(body, 1) for scope in inside(resource, 2) for span in inside(scope, 2)]
    return [Span(inside(s, 1)[0].hex(), inside(s, 2)[0].hex(), inside(s, 6) == [OTLP_CLIENT]) for s in spans]


# --- the server

@dataclass
class Inbox:
    """What came in, in the order in which it came. A context manager: its server runs inside."""

    port: int = 0  # 0: any
    receipts: list[Receipt] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # what could not be read

    def __enter__(self) -> "Inbox":
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.inbox = self
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, body: bytes) -> None:
        try:
            if path == BATCHES_PATH:
                self.receipts += receipts_of(body)
            elif path == ZIPKIN_PATH:
                self.spans += zipkin_spans(body)
            elif path == OTLP_PATH:
                self.spans += otlp_spans(body)
            else:
                self.faults.append(f"POST {path}")
        except (AssertionError, LookupError, ValueError, struct.error) as fault:
            self.faults.append(f"POST {path}: {fault!r}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    inbox: Inbox


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: each answer ends its connection, so that a server that stopped leaves none open."""

    server: _Server

    def do_POST(self) -> None:
        self.server.inbox.take(self.path, self.body())
        self.send_response(202 if self.path == ZIPKIN_PATH else 200)  # any other status is a failure to the tracer
        self.send_header("content-length", "0")
        self.end_headers()

    def body(self) -> bytes:
        """The request's body: filters announce its length, tracers send chunks."""
        if "content-length" in self.headers:
            return self.rfile.read(int(self.headers["content-length"]))
        whole = b""
        while length := int(self.rfile.readline(), 16):
            whole += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def log_message(self, *_) -> None:
        pass
