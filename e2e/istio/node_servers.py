"""What the mesh reaches on the node, served by the tests themselves: the module, and a Zipkin."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from istio.net import NODE_IP, Node


class NodeServer:
    """An HTTP server whose port is open in the node's namespace only."""

    def __init__(self, node: Node, port: int):
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                status, reply = answer(self.path, b"".join(chunks(self)))
                self.send_response(status)
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            do_GET = do_POST = handle_one

            def log_message(self, *_) -> None:
                pass

        self.url = f"http://{NODE_IP}:{port}"
        self._server = node.call(lambda: ThreadingHTTPServer((NODE_IP, port), Handler))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of an answer."""
        raise NotImplementedError

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def chunks(request: BaseHTTPRequestHandler) -> Iterator[bytes]:
    """The body of a request; Envoy sends its tracer's in chunks."""
    if request.headers.get("transfer-encoding") != "chunked":
        yield request.rfile.read(int(request.headers.get("content-length", 0)))
        return
    while size := int(request.rfile.readline(), 16):
        yield request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()


class Files(NodeServer):
    """Serves files by path; others are 404."""

    def __init__(self, node: Node, port: int, files: dict[str, bytes]):
        self.files = files
        super().__init__(node, port)

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        found = self.files.get(path)
        return (404, b"") if found is None else (200, found)


class Zipkin(NodeServer):
    """Keeps the spans that sidecars post to it."""

    def __init__(self, node: Node, port: int):
        self._spans: list[dict] = []
        super().__init__(node, port)

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        if path != "/api/v2/spans":
            return 404, b""
        self._spans += json.loads(body)
        return 202, b""

    def spans(self, trace_id: str) -> list[dict]:
        return [span for span in list(self._spans) if span["traceId"] == trace_id]
