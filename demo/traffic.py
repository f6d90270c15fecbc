"""The users: what they ask for, and how many spans that must leave behind.

Each call between two proxies leaves one span at each of them, and the user's own call one at the gateway.
Which calls follow from a request is known from what it asks for, and from which version of reviews
answered.
"""

import re
import secrets
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from lab.bookinfo import CLOUD, ENTERPRISE
from lab.client import Client, NoAnswer, Response

REQUESTS = 320
PER_SECOND = 40
HANG_UP_AFTER_S = 0.5
API, PAGE = "/api/v1/products/0", "/productpage"
VERSION = re.compile(r'by reviews (v\d)|"version": "(v\d)"')


@dataclass(frozen=True)
class Ask:
    """One request. With a trace id the user brings the trace's context along."""

    kind: str
    path: str = PAGE
    fault: str = ""
    status: int = 200  # expected; 0: the user hangs up
    trace_id: str = ""

    def headers(self) -> dict[str, str]:
        headers = {"x-demo-fault": self.fault} if self.fault else {}
        if self.trace_id:
            headers |= {"x-b3-traceid": self.trace_id, "x-b3-spanid": secrets.token_hex(8), "x-b3-sampled": "0"}
        return headers


@dataclass(frozen=True)
class Asked:
    """A request and its answer: status, version of reviews that answered, seconds."""

    ask: Ask
    status: int
    version: str
    took_s: float

    @property
    def crossed(self) -> bool:
        return self.version in ("v2", "v3")

    @property
    def hops(self) -> list[tuple[str, str]]:
        """Organisation of the client and of the server of each call between proxies that the request led to."""
        here = (ENTERPRISE, ENTERPRISE)
        if not self.version:
            return [here]  # gateway to productpage, which called nobody
        if not self.crossed:
            return [here, here, here]  # and details, reviews v1
        # and details; the egress gateway, Public cloud's ingress gateway, reviews; ratings
        return [here, here, here, (ENTERPRISE, CLOUD), (CLOUD, CLOUD), (CLOUD, CLOUD)]


def plan() -> list[Ask]:
    """The requests, in order: mostly good ones."""
    every = {
        23: lambda: Ask("ratings fail", API, "ratings=500", trace_id=secrets.token_hex(16)),
        37: lambda: Ask("details fail", API, "details=500", status=500),
        61: lambda: Ask("no such page", "/nowhere", status=404),
        79: lambda: Ask("slow", API, "details=slow:0.6"),
    }
    asks = []
    for n in range(REQUESTS):
        special = next((make for period, make in every.items() if n % period == period // 2), None)
        asks.append(special() if special else Ask("good", API if n % 2 else PAGE))
    # It sleeps, so that the user is gone before there is an answer, and then calls nobody.
    asks[REQUESTS // 3] = Ask("hang-up", API, "productpage=slow:1.5,productpage=500", status=0)
    return asks


def send(gateway: Client, asks: list[Ask], say) -> list[Asked]:
    """Sends them at a steady pace and waits for all answers."""
    begin = time.monotonic()
    with ThreadPoolExecutor(max_workers=8) as pool:
        futures = []
        for n, ask in enumerate(asks):
            time.sleep(max(0.0, begin + n / PER_SECOND - time.monotonic()))
            futures.append(pool.submit(_send, gateway, ask))
            if n and n % 100 == 0:
                say(f"{n} requests sent")
        return [future.result() for future in futures]


def _send(gateway: Client, ask: Ask) -> Asked:
    begin = time.monotonic()
    answer = _hang_up(gateway, ask) if ask.status == 0 else gateway.get(ask.path, ask.headers())
    took_s = time.monotonic() - begin
    if answer is None:
        return Asked(ask, 0, "", took_s)
    found = VERSION.search(answer.text)
    return Asked(ask, answer.status, (found[1] or found[2]) if found else "", took_s)


def _hang_up(gateway: Client, ask: Ask) -> Response | None:
    to = urlsplit(gateway.base_url)
    lines = [f"GET {ask.path} HTTP/1.1", f"host: {gateway.host}", *(f"{k}: {v}" for k, v in ask.headers().items())]
    with socket.create_connection((to.hostname, to.port)) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        connection.settimeout(HANG_UP_AFTER_S)
        try:
            if connection.recv(1):
                raise NoAnswer("the answer came before the user hung up")
        except TimeoutError:
            pass
    return None


def expected_spans(asked: list[Asked]) -> Counter:
    """Spans per organisation; one of each request is of the user's own call."""
    return Counter(side for one in asked for side in (ENTERPRISE, *(side for hop in one.hops for side in hop)))


def unexpected(asked: list[Asked]) -> list[Asked]:
    """Answers with another status than their request was to get."""
    return [one for one in asked if one.status != one.ask.status]


def failing_trace(asked: list[Asked]) -> str:
    """A trace that crossed over and in which a call failed, from early on."""
    return next(one.ask.trace_id for one in asked if one.ask.trace_id and one.crossed)
