"""A stand-in for the collector that answers as it is told, down to the byte, and keeps every POST."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lab.batches import check_signed
from lab.client import request
from lab.messages import decode
from lab.posts import Post
from lab.procs import free_port

FORWARD_S = 10.0
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() sends a reset


@dataclass(frozen=True)
class Answer:
    """Bytes to send `after_s`, and how the connection ends then: not at all, by `close`, or by `reset`."""

    raw: bytes
    after_s: float = 0.0
    end: str = "keep"


def answer(status: int, *headers: str, body: bytes = b"{}", version: str = "1.1") -> bytes:
    """A complete response."""
    lines = [f"HTTP/{version} {status} Status", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


TAKEN = Answer(answer(200))
BAD = Answer(answer(400))


class StandIn:
    """Listens on `port` while it is not away. `behave` says the answer to each POST, and may be replaced.

    A batch that is not signed by its session's key is answered 400, and fails the `with` block.
    """

    def __init__(self, behave: Callable[[Post], Answer] = lambda _: TAKEN):
        self.port = free_port()
        self.behave = behave
        self.posts: list[Post] = []
        self.faults: list[str] = []
        self._attempts: dict[tuple[bytes, int], int] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()

    def __enter__(self) -> "StandIn":
        self.come()
        return self

    def __exit__(self, failed: type | None, *_) -> None:
        self._closing.set()
        self.leave()
        assert failed or not self.faults, self.faults

    def come(self) -> None:
        """Begins to accept connections."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def leave(self) -> None:
        """Ends all connections and refuses new ones."""
        with self._lock:
            listener, self._listener = self._listener, None
            for connection in (*self._connections, *([listener] if listener else [])):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            if listener:
                listener.close()

    def seen(self, path: str | None = None) -> list[Post]:
        """The POSTs so far, of one path or of all."""
        with self._lock:
            return [post for post in self.posts if path in (None, post.path)]

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it left
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._serve, args=(listener, connection), daemon=True).start()

    def _serve(self, listener: socket.socket, connection: socket.socket) -> None:
        with self._lock:
            if self._listener is not listener:
                return connection.close()
            self._connections.add(connection)
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            try:
                for path, body in _requests(stream):
                    given = self._judge(path, body)
                    self._closing.wait(given.after_s)
                    connection.sendall(given.raw)
                    if given.end == "reset":
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    if given.end != "keep":
                        break
            finally:
                with self._lock:
                    self._connections.discard(connection)

    def _judge(self, path: str, body: bytes) -> Answer:
        try:
            batch = decode("Batch", body)
            header = decode("BatchHeader", batch["header"])
            check_signed(batch, header)
        except (AssertionError, LookupError, ValueError) as fault:
            self.faults.append(f"POST {path}: {fault!r}")
            return BAD
        return self.behave(self._keep(path, body, batch, header))

    def _keep(self, path: str, body: bytes, batch: dict, header: dict) -> Post:
        place = header["session"], header.get("seq", 0)
        with self._lock:
            attempt = self._attempts[place] = self._attempts.get(place, -1) + 1
            post = Post(time.monotonic(), path, body, attempt, batch, header)
            self.posts.append(post)
        return post


def late(after_s: float) -> Callable[[Post], Answer]:
    """The behaviour of a collector that takes everything, and says so after that time."""
    return lambda _: Answer(answer(200), after_s=after_s)


def once(status: int) -> Callable[[Post], Answer]:
    """The behaviour of a collector that answers the first batch with calls with `status`, and takes all others."""
    struck: list[Post] = []

    def behave(post: Post) -> Answer:
        if post.has_calls and not struck:
            struck.append(post)
            return Answer(answer(status))
        return TAKEN
    return behave


def forward_to(url: str) -> Callable[[Post], Answer]:
    """The behaviour of the collector at `url`: it gets each POST, and its answer is the stand-in's."""
    def behave(post: Post) -> Answer:
        given = request("POST", url + post.path, body=post.body, timeout_s=FORWARD_S)
        return Answer(answer(given.status, body=given.body))
    return behave


def _requests(stream) -> Iterator[tuple[str, bytes]]:
    """Path and body of each request on a connection; they must state their length, as Envoy's callouts do."""
    while line := stream.readline():
        length = 0
        while (header := stream.readline().strip().lower()):
            if header.startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        yield line.split()[1].decode(), stream.read(length)
