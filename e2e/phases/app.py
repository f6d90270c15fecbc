"""An application on 127.0.0.1 that answers as the header `x-app` of each request asks."""

import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BIG = 1 << 20  # bytes
MESSAGE = b"\x00\x00\x00\x00\x05hello"  # a gRPC message of five bytes
STREAM_MESSAGES = 3
LEAVE_S = 10.0


class App:
    """Running from its creation until `close`; `port` is where."""

    def __init__(self):
        self.asked: Counter[str] = Counter()  # requests by x-request-id
        self.may_break: dict[str, threading.Event] = {}  # by x-request-id
        handler = type("Handler", (_Handler,), {"app": self})
        self._server = Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Server(ThreadingHTTPServer):
    """A thread for each connection; says nothing when a peer leaves."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    """One method for each value of `x-app`, with `_` for `-`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    app: App

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.id = headers.get("x-request-id", "")
        self.may_break = self.app.may_break.setdefault(self.id, threading.Event())
        self.app.asked[self.id] += 1
        self._read_body()
        getattr(self, headers.get("x-app", "hello").replace("-", "_"))()

    do_POST = do_HEAD = do_GET

    def hello(self) -> None:
        self._answer(200, b"hello")

    def big(self) -> None:
        self._answer(200, b"x" * BIG)

    def no_content(self) -> None:
        self.send_response(204)
        self.end_headers()

    def reset(self) -> None:
        """Resets the connection instead of an answer."""
        self._reset()

    def break_off(self) -> None:
        """Resets the connection in the middle of the answer, once it may."""
        self._begin()
        self._reset_when_it_may()

    def hang(self) -> None:
        """Answers nothing until the peer has left."""
        self._wait_for_the_peer_to_leave()

    def hang_later(self) -> None:
        """Answers half, then nothing until the peer has left."""
        self._begin()
        self._wait_for_the_peer_to_leave()

    def fail_twice(self) -> None:
        self._answer(200 if self.app.asked[self.id] > 2 else 503, b"")

    def fail(self) -> None:
        self._answer(503, b"")

    def grpc(self) -> None:
        self._grpc([MESSAGE], 0)

    def grpc_not_found(self) -> None:
        self._grpc([], 5)

    def grpc_stream(self) -> None:
        self._grpc([MESSAGE] * STREAM_MESSAGES, 0)

    def grpc_stream_aborted(self) -> None:
        """A stream that ends with an error after its first message."""
        self._grpc([MESSAGE], 10)

    def grpc_trailers_only(self) -> None:
        self._answer(200, b"", {"content-type": "application/grpc", "grpc-status": "12"})

    def grpc_hang_later(self) -> None:
        """A stream that hangs after its first message until the peer has left."""
        self._grpc([MESSAGE], None)
        self._wait_for_the_peer_to_leave()

    def grpc_break_off(self) -> None:
        """A stream whose connection is reset after its first message, once it may be."""
        self._grpc([MESSAGE], None)
        self._reset_when_it_may()

    def websocket(self) -> None:
        """Upgrades, echoes once, then closes the connection in order."""
        self._upgrade()
        self.connection.sendall(self.connection.recv(64))
        self.close_connection = True

    def websocket_open(self) -> None:
        """Upgrades, echoes once, then leaves the closing to the peer."""
        self._upgrade()
        self.connection.sendall(self.connection.recv(64))
        self._wait_for_the_peer_to_leave()

    def _upgrade(self) -> None:
        self.send_response(101)
        self.send_header("connection", "upgrade")
        self.send_header("upgrade", "websocket")
        self.end_headers()

    def _grpc(self, messages: list[bytes], status: int | None) -> None:
        """Messages in chunks, the status in trailers: Envoy turns them into HTTP/2's. None: no end yet."""
        self.send_response(200)
        self.send_header("content-type", "application/grpc")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for message in messages:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(message), message))
        if status is not None:
            self.wfile.write(b"0\r\ngrpc-status: %d\r\n\r\n" % status)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "100")
        self.end_headers()
        self.wfile.write(b"half")

    def _reset(self) -> None:
        """Closes with a TCP reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.wfile.close()
        self.connection.close()

    def _reset_when_it_may(self) -> None:
        self.may_break.wait(LEAVE_S)
        self._reset()

    def _wait_for_the_peer_to_leave(self) -> None:
        self.connection.settimeout(LEAVE_S)
        self.connection.recv(1)
        self.close_connection = True

    def _read_body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def log_message(self, *_) -> None:
        pass
