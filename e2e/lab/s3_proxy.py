"""An HTTP/1.1 proxy between a collector and its S3 server that injects faults.

Requests go on as they came, Host and signature included, so the server accepts them. A fault is of the
requests, not of the connection: it matches by method and object key, and counts what it did.
"""

import re
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

HOST = "127.0.0.1"
UPSTREAM_S = 20.0
CODES = {412: "PreconditionFailed", 500: "InternalError", 503: "SlowDown"}
CLASS = re.compile(r"(?:^|/)(head|checkpoint|sealed|pool|tile|segment)(?:/|$)")


# --- faults

@dataclass(frozen=True)
class Answer:
    """The server never sees the request; the client gets this status."""

    status: int


@dataclass(frozen=True)
class Lose:
    """The server does what it was asked; the client sees its connection end, `after_s` later."""

    after_s: float = 0.0


@dataclass(frozen=True)
class Delay:
    """The request goes on to the server `seconds` late."""

    seconds: float


@dataclass
class Fault:
    """What is done to which requests: to `times` of them from the `nth` on, or to all for `for_s` seconds."""

    action: Answer | Lose | Delay
    method: str = ""  # LIST for a GET that lists; empty: any
    key: str = ""  # a regular expression to be found in the object's key, or in a list's prefix
    conditional: bool = False  # only with If-Match or If-None-Match
    nth: int = 1
    times: int = 1
    for_s: float | None = None  # counted from the first that it is done to
    matched: int = 0
    hits: int = 0
    _end: float | None = None

    def takes(self, asked: "Request") -> bool:
        """Counts `asked`, and says whether it is done to it."""
        wanted = self.method in ("", asked.method) and re.search(self.key, asked.key)
        if not wanted or (self.conditional and not asked.conditional):
            return False
        self.matched += 1
        if self.matched < self.nth:
            return False
        if self.for_s is None:
            taken = self.hits < self.times
        else:
            self._end = self._end or time.monotonic() + self.for_s
            taken = time.monotonic() < self._end
        self.hits += taken
        return taken


# --- messages

@dataclass(frozen=True)
class Message:
    """Head and body, as received."""

    head: bytes
    body: bytes

    @property
    def first(self) -> list[str]:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")

    @property
    def closes(self) -> bool:
        return b"close" in (field(self.head, b"connection") or b"").lower()


@dataclass(frozen=True)
class Request:
    """What faults and counters look at."""

    method: str
    key: str
    conditional: bool

    @classmethod
    def of(cls, message: Message) -> "Request":
        method, target = message.first[:2]
        parts = urlsplit(target)
        _, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = parse_qs(parts.query)
        if method == "GET" and "list-type" in query:
            method, key = "LIST", query.get("prefix", [""])[0]
        return cls(method, key, bool(field(message.head, b"if-match") or field(message.head, b"if-none-match")))

    @property
    def key_class(self) -> str:
        found = CLASS.search(self.key)
        return found[1] if found else "other"


def field(head: bytes, name: bytes) -> bytes | None:
    """The value of a header field; of the first, where there are more."""
    found = re.search(rb"\r\n" + re.escape(name) + rb":[ \t]*(.*?)[ \t]*\r\n", head, re.I)
    return found[1] if found else None


def read_head(stream: BinaryIO) -> bytes | None:
    """Lines up to the empty one; None where the stream ends before."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return None
        head += line
    return head


def chunks(stream: BinaryIO) -> Iterator[bytes]:
    """A chunked body as it stands, framing and trailers included."""
    while True:
        size = stream.readline()
        yield size
        length = int(size.split(b";")[0], 16)
        if not length:
            break
        yield stream.read(length + 2)
    while (line := stream.readline()) not in (b"\r\n", b""):
        yield line
    yield b"\r\n"


def read_body(stream: BinaryIO, head: bytes, answer: bool = False) -> bytes:
    """The body that `head` announces; an answer without a length ends with its connection."""
    if b"chunked" in (field(head, b"transfer-encoding") or b"").lower():
        return b"".join(chunks(stream))
    length = field(head, b"content-length")
    if length is None:
        return stream.read() if answer else b""
    return stream.read(int(length))


def forward(port: int, asked: Message) -> Message:
    """The server's whole answer. A connection of its own each, so that none can have gone stale."""
    with socket.create_connection((HOST, port), timeout=UPSTREAM_S) as upstream, upstream.makefile("rb") as stream:
        upstream.sendall(asked.head + asked.body)
        status = 100
        while 100 <= status < 200:
            head = read_head(stream)
            if head is None:
                raise ConnectionError("the server hung up")
            status = int(head.split(b" ", 2)[1])
        bodiless = asked.first[0] == "HEAD" or status in (204, 304)
        return Message(head, b"" if bodiless else read_body(stream, head, answer=True))


def refusal(status: int) -> bytes:
    body = f"<Error><Code>{CODES[status]}</Code><Message>injected</Message></Error>".encode()
    head = f"HTTP/1.1 {status} {CODES[status]}\r\ncontent-type: application/xml\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


# --- the proxy

class S3Proxy(socketserver.ThreadingTCPServer):
    """The proxy, serving while its `with` block runs."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, upstream_port: int):
        super().__init__((HOST, 0), Connection)
        self.upstream_port = upstream_port
        self.port: int = self.server_address[1]
        self.requests: Counter[tuple[str, str]] = Counter()  # by method and key class
        self.ended = threading.Event()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def __enter__(self) -> "S3Proxy":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()

    def inject(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Ends all faults."""
        with self._lock:
            self._faults = []

    def action(self, asked: Request) -> Answer | Lose | Delay | None:
        """Counts a request, and says what to do to it: what the first fault says that takes it."""
        with self._lock:
            self.requests[asked.method, asked.key_class] += 1
            return next((fault.action for fault in self._faults if fault.takes(asked)), None)

    def handle_error(self, *_) -> None:
        pass  # a collector that is killed, or a server that is


class Connection(socketserver.StreamRequestHandler):
    """One client's connection, kept alive."""

    disable_nagle_algorithm = True
    server: S3Proxy

    def handle(self) -> None:
        while (head := read_head(self.rfile)) is not None:
            if (field(head, b"expect") or b"").lower() == b"100-continue":
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            asked = Message(head, read_body(self.rfile, head))
            if not self.serve(asked) or asked.closes:
                return

    def serve(self, asked: Message) -> bool:
        """Answers a request; whether the connection stays."""
        action = self.server.action(Request.of(asked))
        if isinstance(action, Answer):
            self.wfile.write(refusal(action.status))
            return True
        if isinstance(action, Delay) and self.server.ended.wait(action.seconds):
            return False
        answer = forward(self.server.upstream_port, asked)
        if isinstance(action, Lose):
            self.server.ended.wait(action.after_s)
            return False
        self.wfile.write(answer.head + answer.body)
        return not answer.closes
