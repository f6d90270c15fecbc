"""Calls of every kind, each on a connection of its own. Each returns what the caller saw of its end.

Over HTTP/1 that is the status, as text; over HTTP/2 how many header blocks (trailers count as one) and
how many bytes of body came, and `reset` where the stream was.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from lab.procs import wait_until
from phases import h2
from phases.scene import DEADLINE_S, HOST, Scene

TIMEOUT_S = 10.0
UPGRADE = [b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13",
           b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="]
GRPC = {"content-type": "application/grpc", "te": "trailers"}
MESSAGE = b"\x00\x00\x00\x00\x05hello"


def head(request_id: bytes, path: str, app: str, *more: bytes, method: str = "GET", version: str = "1.1") -> bytes:
    """The head of an HTTP/1 request, `more` being header lines."""
    lines = [f"{method} {path} HTTP/{version}".encode(), b"host: " + HOST.encode(), b"x-request-id: " + request_id,
             b"x-app: " + app.encode(), *more]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def plain(*more: bytes, method: str = "GET", version: str = "1.1", body: bytes = b""):
    """A request on a connection that ends with it."""
    def call(scene: Scene, id: bytes, path: str, app: str) -> str:
        lines = (b"connection: close", *([b"content-length: %d" % len(body)] if body else []), *more)
        with connected(scene, head(id, path, app, *lines, method=method, version=version) + body) as connection:
            return _status(_rest(connection))
    return call


def sized(scene: Scene, id: bytes, path: str, app: str) -> str:
    """A POST of 1 MiB, chunked, and its answer's size in bytes."""
    chunk = b"%x\r\n%s\r\n" % (1 << 18, b"x" * (1 << 18))
    request = head(id, path, app, b"connection: close", b"transfer-encoding: chunked", method="POST")
    with connected(scene, request + chunk * 4 + b"0\r\n\r\n") as connection:
        answer = _rest(connection)
    body = answer.partition(b"\r\n\r\n")[2]
    return f"{_status(answer)} {len(body)}"


def continued(scene: Scene, id: bytes, path: str, app: str) -> str:
    """Sends the body only when `100 Continue` has come."""
    request = head(id, path, app, b"connection: close", b"expect: 100-continue", b"content-length: 4", method="POST")
    with connected(scene, request) as connection:
        first = _status(until(connection, b"\r\n\r\n"))
        connection.sendall(b"body")
        return f"{first} {_status(_rest(connection))}"


def broken_off(scene: Scene, id: bytes, path: str, app: str) -> str:
    """Has half of the answer before the application breaks off."""
    with connected(scene, head(id, path, app)) as connection:
        status = _status(until(connection, b"half"))
        scene.app.may_break[id.decode()].set()
        _rest(connection)
        return status


def leaves_before_answer(scene: Scene, id: bytes, path: str, app: str) -> str:
    """Hangs up once the application has the request."""
    with connected(scene, head(id, path, app)):
        _asked(scene, id)
    return "left"


def leaves_during_request(scene: Scene, id: bytes, path: str, app: str) -> str:
    """Hangs up once the application has the request's head, in the middle of the body."""
    with connected(scene, head(id, path, app, b"content-length: 100", method="POST") + b"half"):
        _asked(scene, id)
    return "left"


def leaves_during_answer(scene: Scene, id: bytes, path: str, app: str) -> str:
    with connected(scene, head(id, path, app)) as connection:
        return _status(until(connection, b"half")) + " left"


def websocket(scene: Scene, id: bytes, path: str, app: str) -> str:
    """Upgrades, sends a message, gets it back, and closes unless the peer does."""
    with connected(scene, head(id, path, app, *UPGRADE)) as connection:
        upgraded = _status(until(connection, b"\r\n\r\n"))
        connection.sendall(b"message")
        until(connection, b"message")
        if app == "websocket":
            _rest(connection)
        return upgraded


def without_sidecar(*, version: str = "1.1", to: str = "server-0"):
    """Straight to a pod's sidecar, with the client's certificate."""
    def call(scene: Scene, id: bytes, path: str, app: str) -> str:
        context = ssl.create_default_context(cafile=scene.mesh.trust_bundle)
        context.check_hostname = False  # SPIFFE ids are no host names
        context.load_cert_chain(*scene.mesh.certificate("client-0"))
        pod = scene.mesh.pods[to]
        with socket.create_connection((pod.ip, pod.inbound_port), timeout=TIMEOUT_S) as tcp, \
                context.wrap_socket(tcp) as connection:
            connection.sendall(head(id, path, app, b"connection: close", version=version))
            return _status(_rest(connection))
    return call


def http2(headers: dict[str, str] | None = None, method: str = "GET", body: bytes | None = None):
    def call(scene: Scene, id: bytes, path: str, app: str) -> str:
        with _stream(scene, id, path, app, headers or {}, method, body) as stream:
            return _ended(stream.finish())
    return call


grpc = http2(GRPC, "POST", MESSAGE)


def grpc_cancelled_before_answer(scene: Scene, id: bytes, path: str, app: str) -> str:
    with _stream(scene, id, path, app, GRPC, "POST", MESSAGE) as stream:
        _asked(scene, id)
        stream.cancel()
    return "left"


def grpc_cancelled_during_answer(scene: Scene, id: bytes, path: str, app: str) -> str:
    with _stream(scene, id, path, app, GRPC, "POST", MESSAGE) as stream:
        stream.read_body()
        stream.cancel()
    return "left"


def grpc_broken_off(scene: Scene, id: bytes, path: str, app: str) -> str:
    """Has a message before the application breaks off."""
    with _stream(scene, id, path, app, GRPC, "POST", MESSAGE) as stream:
        stream.read_body()
        scene.app.may_break[id.decode()].set()
        return _ended(stream.finish())


@contextmanager
def connected(scene: Scene, request: bytes, pod: str = "client-0") -> Iterator[socket.socket]:
    """A connection to a sidecar's outbound listener, on which `request` was sent."""
    with socket.create_connection(("127.0.0.1", scene.port(pod)), timeout=TIMEOUT_S) as connection:
        connection.sendall(request)
        yield connection


def _stream(scene: Scene, id: bytes, path: str, app: str, headers: dict, method: str, body: bytes | None) -> h2.Stream:
    every = {":method": method, ":scheme": "http", ":authority": HOST, ":path": path, "x-request-id": id.decode(),
             "x-app": app, **headers}
    return h2.Stream(scene.port(), [(name.encode(), value.encode()) for name, value in every.items()], body)


def _ended(answer: h2.Answer) -> str:
    return f"{answer.header_blocks} {len(answer.body)}" + (" reset" if answer.reset else "")


def _asked(scene: Scene, id: bytes) -> None:
    wait_until(lambda: scene.app.asked[id.decode()], DEADLINE_S, "the application has the request")


def _status(answer: bytes) -> str:
    return answer.split(b" ", 2)[1].decode() if answer else "none"


def until(connection: socket.socket, mark: bytes) -> bytes:
    got = b""
    while mark not in got:
        piece = connection.recv(65536)
        if not piece:
            raise OSError(f"the connection ended before {mark!r}: {got[-200:]!r}")
        got += piece
    return got


def _rest(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))
