"""The attacks by name. All are of principals of their own; none needs more than to reach the collector's port."""

import itertools
import os
import random
from collections.abc import Iterator

from lab.batches import CLIENT, ENTRY, Session, call, sha256
from siege import identity
from siege.floods import Flood, Request
from siege.held import Held

SHARED_TRACE = sha256(b"siege", b"shared")[:16]  # that of the honest sender's first call
LONG_TRACE = sha256(b"siege", b"long")[:16]
LONG = "x" * 253  # the most that a name of a source may have
POST, BATCHES = "POST", "/v1/batches"
WIDE_BUNDLE = "/tile/entries/000"  # of leaves with long sources: `before` makes it
CALLS, CALLS_PER_BATCH = 100_000, 1_000


def _head(method: str, path: str, namespace: str, *more: str) -> bytes:
    headers = [f"{name}: {value}" for name, value in identity(namespace).items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: collector", *headers, *more, "", ""]).encode()


def fresh_session(name: bytes, namespace: str = "fresh") -> bytes:
    """The first heartbeat of a session that has all that a header may have."""
    return Session(name, mesh=LONG, cluster=LONG, namespace=namespace, workload=LONG, pod=LONG, revision=LONG).batch([])


def _fresh(number: int) -> Iterator[Request]:
    return (Request(POST, BATCHES, fresh_session(b"fresh %d %d" % (number, count))) for count in itertools.count())


def _malformed(number: int) -> Iterator[Request]:
    """Bytes of any kind, batches that are cut or changed, lengths that lie, a megabyte of empty records."""
    chance = random.Random(number)
    session = Session(b"malformed %d" % number, namespace="malformed", workload="m")
    one = call(b"malformed", LONG_TRACE)
    whole = session.batch([one.entry], [one.record])
    while True:
        at = chance.randrange(len(whole))
        yield from (Request(POST, BATCHES, body) for body in (
            b"", b"\xff", chance.randbytes(200), whole[:at], whole[:at] + b"\xff" + whole[at + 1:],
            b"\x22\xff\xff\xff\xff\x7f" + chance.randbytes(100), b"\x1f\x8b" + chance.randbytes(100)))
        if chance.random() < 0.02:
            yield Request(POST, BATCHES, b"\x2a\x00" * (1 << 19))


def _one_trace(_: int) -> Iterator[Request]:
    """10^5 calls under the trace id of somebody else's call."""
    session = Session(b"one trace", namespace="stranger", workload="s")
    for begin in range(0, CALLS, CALLS_PER_BATCH):
        digests = (sha256(b"stranger", begin.to_bytes(4, "big"), number.to_bytes(4, "big")) for number in range(CALLS_PER_BATCH))
        entries = [ENTRY.pack(1, CLIENT, SHARED_TRACE, digest[:8], digest, digest) for digest in digests]
        yield Request(POST, BATCHES, session.batch(entries))


def _read(*paths: str) -> Iterator[Request]:
    return (Request("GET", path) for path in itertools.cycle(paths))


EVIDENCE = [f"/v1/evidence/{LONG_TRACE.hex()}", f"/v1/evidence/{SHARED_TRACE.hex()}"]
ATTACKS = {
    "half_open": lambda: Held(2_000, _head(POST, BATCHES, "half")[:-2]),
    "slow_bodies": lambda: Held(200, _head(POST, BATCHES, "slow", "content-length: 16777216"), drip=b"\x2a"),
    "deaf_readers": lambda: Held(100, _head("GET", "/v1/sessions", "deaf") + _head("GET", EVIDENCE[0], "deaf"), reads=False),
    # Each holds an answer of megabytes, or as much of a head as it may.
    "deaf_to_tiles": lambda: Held(400, _head("GET", WIDE_BUNDLE, "tiles") * 8, reads=False),
    "long_heads": lambda: Held(1_000, _head(POST, BATCHES, "heads", "x-long: " + 31_000 * "x")[:-2]),
    "longer_heads": lambda: Held(20, _head(POST, BATCHES, "heads", "x-long: " + 380_000 * "x")[:-2]),
    "malformed": lambda: Flood(4, 100, identity("malformed"), _malformed),
    "one_trace": lambda: Flood(1, 10, identity("stranger"), _one_trace),
    "fresh_sessions": lambda: Flood(16, 20, identity("fresh"), _fresh),
    "session_readers": lambda: Flood(4, 50, identity("reader"), lambda _: _read("/v1/sessions")),
    "evidence_readers": lambda: Flood(4, 50, identity("reader"), lambda _: _read(*EVIDENCE)),
}


def before() -> Iterator[tuple[str, bytes]]:
    """What is in the log when the siege begins, by namespace: a long trace of a neighbour's, and sessions enough to list."""
    calls = [call(b"long %d" % number, LONG_TRACE) for number in range(4_000)]
    yield "neighbour", Session(b"long", namespace="neighbour", workload="n").batch(
        [one.entry for one in calls], [one.record for one in calls])
    for number in range(400):
        namespace = f"before-{number // 20}"
        yield namespace, fresh_session(b"before %d" % number, namespace)


def run(name: str, port: int, stop, results) -> None:
    """One attack, in a process of its own that gives way to the others of this machine."""
    os.nice(19)
    results.put((name, ATTACKS[name]().run(port, stop)))
