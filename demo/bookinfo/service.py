"""The four services of Bookinfo, each a small HTTP/1.1 server; one process runs one of them.

    service.py NAME --port PORT      NAME: productpage-v1, details-v1, reviews-v1|v2|v3, ratings-v1

A service reaches the others only through its own sidecar: $OUTBOUND is the sidecar's outbound
listener, the Host header names the service. It hands the trace headers of a request on to the
requests that follow from it, as every application in a traced mesh must.

Every service also answers `GET /health`, and `GET /headers` with the request headers it got.
The header `x-demo-fault` makes services fail or slow down: `ratings=500`, `details=slow:0.8`
(seconds), several separated by commas.
"""

import argparse
import html
import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

PORT = 9080  # of the other services, in the Host header
TIMEOUT_S = 10.0
HANDED_ON = ("x-request-id", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags",
             "b3", "traceparent", "tracestate", "x-demo-fault")

BOOK = {"id": 0, "title": "The Comedy of Errors",
        "description": "Two pairs of twins, parted by a shipwreck, meet in one town on one day."}
DETAILS = {"id": 0, "author": "William Shakespeare", "year": 1594, "type": "play", "pages": 96, "language": "English"}
REVIEWS = [{"reviewer": "Reviewer1", "text": "Mistaken identity, twice over, and still easy to follow."},
           {"reviewer": "Reviewer2", "text": "Short and loud; the two Dromios carry it."}]
RATINGS = {"Reviewer1": 5, "Reviewer2": 4}
STAR_COLOURS = {"v2": "black", "v3": "red"}  # reviews v1 shows no ratings

_connections = threading.local()


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any  # str: HTML, else JSON


@dataclass(frozen=True)
class Request:
    path: str
    version: str  # of the service that answers
    headers: Mapping[str, str]

    def call(self, service: str, path: str) -> Reply:
        """GET from another service through the sidecar; 503 if the sidecar does not answer."""
        headers = {name: self.headers[name] for name in HANDED_ON if name in self.headers}
        headers["host"] = f"{service}:{PORT}"
        try:
            status, body = _get(path, headers)
            return Reply(status, json.loads(body))
        except ValueError:
            return Reply(status, {"error": body.decode(errors="replace")})
        except (OSError, http.client.HTTPException) as error:
            return Reply(503, {"error": f"no answer for {service}: {error!r}"})


def productpage(request: Request) -> Reply:
    if request.path == "/":
        return Reply(200, "<!doctype html><title>Bookinfo</title><a href=productpage>The book</a>")
    if request.path == "/api/v1/products":
        return Reply(200, [BOOK])
    if request.path in ("/productpage", "/api/v1/products/0"):
        parts = {"details": request.call("details", "/details/0"), "reviews": request.call("reviews", "/reviews/0")}
        if request.path == "/productpage":
            return Reply(200, page(**parts))
        status = max(200, *(p.status for p in parts.values()))
        return Reply(status, {**BOOK, **{name: p.body for name, p in parts.items()}})
    return not_found(request)


def details(request: Request) -> Reply:
    return Reply(200, DETAILS) if request.path == "/details/0" else not_found(request)


def reviews(request: Request) -> Reply:
    if request.path != "/reviews/0":
        return not_found(request)
    shown = [dict(review) for review in REVIEWS]
    if colour := STAR_COLOURS.get(request.version):
        ratings_reply = request.call("ratings", "/ratings/0")
        for review in shown:
            if ratings_reply.status == 200:
                review["rating"] = {"stars": ratings_reply.body["ratings"][review["reviewer"]], "colour": colour}
            else:  # the page lives without the stars
                review["rating"] = {"error": f"ratings answered {ratings_reply.status}"}
    return Reply(200, {"id": 0, "pod": os.environ.get("POD_NAME", ""), "version": request.version, "reviews": shown})


def ratings(request: Request) -> Reply:
    return Reply(200, {"id": 0, "ratings": RATINGS}) if request.path == "/ratings/0" else not_found(request)


SERVICES: dict[str, Callable[[Request], Reply]] = {
    "productpage": productpage, "details": details, "reviews": reviews, "ratings": ratings}


def not_found(request: Request) -> Reply:
    return Reply(404, {"error": f"no such path: {request.path}"})


def page(details: Reply, reviews: Reply) -> str:
    """The product page as HTML; a part that failed says so in its place."""
    text = html.escape
    if details.status == 200:
        facts = "".join(f"<dt>{text(k)}<dd>{text(str(v))}" for k, v in details.body.items())
    else:
        facts = f"<dd>Details are not available ({details.status})."
    if reviews.status == 200:
        opinions = "".join(f"<blockquote>{text(r['text'])}<footer>{text(r['reviewer'])}{stars(r)}</footer></blockquote>"
                           for r in reviews.body["reviews"])
        opinions += f"<p><small>by reviews {text(reviews.body['version'])}</small>"
    else:
        opinions = f"<p>Reviews are not available ({reviews.status})."
    return (f"<!doctype html><html lang=en><meta charset=utf-8><title>{text(BOOK['title'])}</title>"
            f"<h1>{text(BOOK['title'])}</h1><p>{text(BOOK['description'])}<h2>Details</h2><dl>{facts}</dl>"
            f"<h2>Reviews</h2>{opinions}</html>")


def stars(review: dict) -> str:
    rating = review.get("rating")
    if rating is None:
        return ""
    if "error" in rating:
        return " (ratings are not available)"
    return f" <span style='color:{rating['colour']}'>{'★' * rating['stars']}</span>"


def fault_of(service: str, wanted: str) -> Reply | None:
    """What `x-demo-fault` asks of this service: an error to answer with; or a delay, which it waits out."""
    for part in filter(None, wanted.split(",")):
        name, _, what = part.strip().partition("=")
        if name != service:
            continue
        if what.startswith("slow:"):
            time.sleep(min(float(what.removeprefix("slow:")), TIMEOUT_S))
        elif what.isdigit() and 400 <= int(what) < 600:
            return Reply(int(what), {"error": f"{service} fails as asked"})
    return None


def _get(path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """One request on this thread's connection; again on a new one if the sidecar had closed the kept one."""
    connection = getattr(_connections, "outbound", None)
    if connection is None:
        to = urlsplit(os.environ["OUTBOUND"])
        connection = _connections.outbound = http.client.HTTPConnection(to.hostname, to.port, timeout=TIMEOUT_S)
    kept = connection.sock is not None
    try:
        return _exchange(connection, path, headers)
    except ConnectionError:
        if not kept:
            raise
        return _exchange(connection, path, headers)


def _exchange(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except BaseException:
        connection.close()  # the next request opens it anew
        raise


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one segment
    disable_nagle_algorithm = True
    name: str
    version: str

    def do_GET(self) -> None:
        request = Request(urlsplit(self.path).path, self.version, {k.lower(): v for k, v in self.headers.items()})
        if request.path == "/health":
            reply = Reply(200, {"status": f"{self.name} is healthy"})
        elif request.path == "/headers":
            reply = Reply(200, dict(request.headers))
        else:
            reply = fault_of(self.name, request.headers.get("x-demo-fault", "")) or SERVICES[self.name](request)
        self.answer(reply)

    def answer(self, reply: Reply) -> None:
        is_html = isinstance(reply.body, str)
        body = (reply.body if is_html else json.dumps(reply.body)).encode()
        self.send_response(reply.status)
        self.send_header("content-type", "text/html; charset=utf-8" if is_html else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    parser = argparse.ArgumentParser(description="one Bookinfo service")
    parser.add_argument("workload", help="such as reviews-v2")
    parser.add_argument("--port", type=int, required=True, help="to listen on, at 127.0.0.1")
    arguments = parser.parse_args()
    Handler.name, _, Handler.version = arguments.workload.partition("-")
    if Handler.name not in SERVICES:
        parser.error(f"no such service: {Handler.name}")
    Server(("127.0.0.1", arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
