"""A log in an S3 bucket: restarts, collectors that fight for it, and a server that fails in every way.

The server is versitygw, as `e2e/s3/go.sum` pins it; without Go the scenarios are skipped. After each,
everything that any collector acknowledged must be in the log once, at the leaf that was told.
"""

import contextlib
import json
import os
import re
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pytest

from faults.load import Proxy
from lab.batches import leaf_hash, tree_root
from lab.client import request
from lab.collector import COLLECTOR, check_built, meshchain
from lab.procs import Processes, wait_until
from lab.s3 import DEADLINE_S, PREFIX, Lab, Life, Place, S3Server
from lab.s3_proxy import Answer, Delay, Fault, Lose, S3Proxy
from lab.tools import ToolMissing

pytestmark = pytest.mark.long

SESSIONS, RACERS = 6, 16
SAMPLES, WORKERS = 6, 4  # requests that are struck in turn, lives at a time
POST_S = 1.0  # a batch is sent again after that
RETRY_S = 0.02
OUTAGE_S = 5.0
LATE_S = 3.0  # far longer than POST_S and a start
LEAF = re.compile(rb"\x1a\x20(?:.{32})\x22\x20(.{32})\x2a\x20", re.S)  # prev, chain, entries root


# --- a log under load

@dataclass
class Sender:
    """A session that sends each batch until a collector acknowledges it."""

    proxy: Proxy
    acknowledged: list[tuple[bytes, bytes, int]] = field(default_factory=list)  # chain, body, leaf; by seq
    pending: tuple[bytes, bytes] | None = None  # chain, body
    attempts: int = 0

    def post(self, url: str, body: bytes) -> dict | None:
        """What the collector says; None where the batch must be sent again."""
        with contextlib.suppress(OSError):
            answer = request("POST", f"{url}/v1/batches", body=body, timeout_s=POST_S)
            assert answer.status in (200, 503), answer
            return answer.json() if answer.status == 200 else None
        return None

    def run(self, lives: list[Life], stop: threading.Event, heads: set[tuple[int, str]]) -> None:
        while not stop.is_set():
            if self.pending is None:
                body = self.proxy.batch()
                self.pending = self.proxy.session.prev, body
            life = lives[self.attempts % len(lives)]
            self.attempts += 1
            if told := self.post(life.url, self.pending[1]):
                self.acknowledged.append((*self.pending, told["leaf"]))
                self.pending = None
                with contextlib.suppress(OSError):
                    heads.add(life.head())
            else:
                stop.wait(RETRY_S)


class Traffic:
    """What was sent to a log, and what its collectors said."""

    def __init__(self):
        self.senders = [Sender(Proxy(number), attempts=number) for number in range(SESSIONS)]
        self.heads: set[tuple[int, str]] = set()  # size and root of the checkpoints that were seen
        self.workers: list[Future] = []

    @contextlib.contextmanager
    def flow(self, lives: list[Life]):
        """All sessions send while the block runs, to these collectors in turn; more may join the list."""
        stop = threading.Event()
        with ThreadPoolExecutor(SESSIONS) as pool:
            self.workers = [pool.submit(s.run, lives, stop, self.heads) for s in self.senders]
            try:
                yield
            finally:
                stop.set()
        for worker in self.workers:
            worker.result()

    def wait(self, more: int, *lives: Life) -> None:
        """Until each session has `more` batches acknowledged, or, if any are given, one of `lives` has ended."""
        goals = [len(s.acknowledged) + more for s in self.senders]

        def done() -> bool:
            for worker in filter(Future.done, self.workers):
                worker.result()  # raises what it met
            reached = all(len(s.acknowledged) >= goal for s, goal in zip(self.senders, goals))
            return reached or any(life.ended for life in lives)
        wait_until(done, DEADLINE_S, f"{more} more batches of each session are acknowledged")

    def resend(self, life: Life) -> None:
        """A batch that is acknowledged is acknowledged again, as what it is."""
        for sender in self.senders:
            for _, body, leaf in sender.acknowledged[-1:]:
                assert sender.post(life.url, body) == {"leaf": leaf, "replayed": True}

    def check(self, life: Life, others: list[Life]) -> None:
        """All that was acknowledged is in the log of `life`, once, at the leaf told, in order, and nothing unsent;
        every checkpoint that anybody saw or published is a prefix of it; the log is sound."""
        told = {chain: leaf for s in self.senders for chain, _, leaf in s.acknowledged}
        sent = set(told) | {s.pending[0] for s in self.senders if s.pending}
        wait_until(lambda: life.head()[0] > max(told.values()), DEADLINE_S, "all is published")
        described = json.loads(life.get("v1/log"))
        leaves = life.leaves(described["size"])
        chains = [LEAF.search(leaf)[1] for leaf in leaves]
        assert len(leaves) == described["size"] and len(set(chains)) == len(chains), "a batch is there twice"
        lost = {chain.hex(): leaf for chain, leaf in told.items() if chains[leaf:leaf + 1] != [chain]}
        assert not lost, f"acknowledged, but not there: {lost}"
        assert set(chains) <= sent, "the log has what nobody sent"
        assert all(sorted(s.acknowledged, key=lambda a: a[2]) == s.acknowledged for s in self.senders), "not in order"
        hashes = [leaf_hash(leaf) for leaf in leaves]
        for size, root in self.heads.union(*(each.published() for each in [life, *others])):
            assert size <= len(hashes) and tree_root(hashes[:size]).hex() == root, f"checkpoint of {size} leaves"
        run = meshchain("fsck", f"{life.url}/", "--vkey", described["vkey"])
        assert run.code == 0, run.text


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    check_built()
    directory = tmp_path_factory.mktemp("s3")
    with Processes(directory) as processes:
        try:
            server = S3Server(processes, directory / "server")
        except ToolMissing as missing:
            pytest.skip(str(missing))
        yield Lab(processes, server, directory)


# --- the server and the proxy are what the scenarios take them for

@pytest.mark.parametrize("condition", ["if-none-match", "if-match"])
def test_of_racing_conditional_puts_one_wins(lab, condition):
    bucket = lab.bucket()
    with ThreadPoolExecutor(RACERS) as pool:
        for head in (f"{PREFIX}/{turn}/head" for turn in range(8)):
            expected = "*" if condition == "if-none-match" else bucket.request("PUT", head).headers["etag"]
            puts = [pool.submit(bucket.request, "PUT", head, {condition: expected}, b"%d" % n) for n in range(RACERS)]
            won = [put.result().status for put in puts]
            assert sorted(won) == [200] + [412] * (RACERS - 1)
            assert bucket.read(head) == b"%d" % won.index(200)


def test_the_proxy_passes_requests_on_and_injects_each_fault(lab):
    bucket, key = lab.bucket(), f"{PREFIX}/head"
    with S3Proxy(lab.server.port) as proxy:
        def put(body: bytes, **headers: str) -> int | None:
            with contextlib.suppress(OSError):
                return bucket.request("PUT", key, headers, body, port=proxy.port).status

        second = proxy.inject(Fault(Answer(503), "PUT", "head$", nth=2))
        assert [put(b"1"), put(b"2"), put(b"3")] == [200, 503, 200] and bucket.read(key) == b"3"
        assert (second.matched, second.hits) == (3, 1)
        proxy.inject(Fault(Lose(), "PUT", "head$"))
        assert put(b"4") is None and bucket.read(key) == b"4"
        proxy.inject(Fault(Answer(412), "PUT", "head$", conditional=True))
        etag = bucket.request("HEAD", key, port=proxy.port).headers["etag"]
        assert [put(b"5"), put(b"6", **{"if-match": etag})] == [200, 412] and bucket.read(key) == b"5"
        proxy.inject(Fault(Answer(500), "LIST", "", for_s=DEADLINE_S))
        query = {"list-type": "2", "prefix": f"{PREFIX}/"}
        assert [bucket.request("GET", "", query=query, port=proxy.port).status for _ in range(3)] == [500] * 3
        proxy.clear()
        assert key in bucket.request("GET", "", query=query, port=proxy.port).text
        assert proxy.requests == {("PUT", "head"): 6, ("HEAD", "head"): 1, ("LIST", "other"): 4}
    assert bucket.keys() == [key]


# --- the scenarios

@pytest.mark.parametrize("kind", ["directory", "bucket"])
def test_a_log_outlives_its_collectors_however_they_end(lab, kind):
    place, traffic, lives, sizes = lab.place(kind), Traffic(), [], []
    for how in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        life = lab.life(place)
        assert life.up(), life.log
        traffic.resend(life)
        sizes.append(life.head()[0])
        with traffic.flow([life]):
            traffic.wait(3)
            assert life.stop(how) == (0 if how == signal.SIGTERM else -how), life.log
        lives.append(life)
    last = lab.life(place)
    assert last.up(), last.log
    traffic.check(last, lives)
    assert sizes == sorted(set(sizes)), "the checkpoint did not grow from start to start"


@pytest.mark.parametrize("meeting", ["under load", "idle", "at their start"])
def test_of_two_collectors_on_one_log_exactly_one_survives(lab, meeting):
    place, traffic = lab.place(), Traffic()
    lives = [lab.life(place)]
    if meeting != "at their start":
        assert lives[0].up(), lives[0].log
        with traffic.flow(lives):
            traffic.wait(3)
    with traffic.flow(lives) if meeting == "under load" else contextlib.nullcontext():
        lives.append(lab.life(place))
        wait_until(lambda: any(life.ended for life in lives), DEADLINE_S, "one of two collectors ends")
    with traffic.flow(lives):
        traffic.wait(3)
    settle(lab, place, traffic, lives)


@pytest.mark.parametrize("key", ["/pool/", "/head$", "/tile/", "/checkpoint$"], ids=lambda key: key.strip("/$"))
def test_a_write_that_arrives_after_the_log_was_taken_over_changes_nothing(lab, key):
    place, traffic = lab.place(), Traffic()
    with S3Proxy(lab.server.port) as proxy:
        lives = [lab.life(place.behind(proxy.port))]
        assert lives[0].up(), lives[0].log
        with traffic.flow(lives):
            traffic.wait(2)
            late = proxy.inject(Fault(Delay(LATE_S), "PUT", key))
            wait_until(lambda: late.hits, DEADLINE_S, f"a write is held back ({dict(proxy.requests)})")
            lives.append(lab.life(place))
            wait_until(lambda: lives[0].ended, DEADLINE_S, "the collector that lost the log ends", lives[1].process)
            traffic.wait(2)
    settle(lab, place, traffic, lives)


def settle(lab: Lab, place: Place, traffic: Traffic, lives: list[Life]) -> None:
    """One of the collectors knows that it lost; the other has everything, and so has the bucket."""
    losers, survivors = ([life for life in lives if life.ended is ended] for ended in (True, False))
    assert len(losers) == len(survivors) == 1, "\n".join(life.process.tail() for life in lives)
    assert losers[0].process.popen.returncode == 1 and "taken over" in losers[0].log, losers[0].log
    traffic.check(survivors[0], lives)
    assert survivors[0].stop(signal.SIGTERM) == 0, survivors[0].log
    last = lab.life(place)
    assert last.up(), last.log
    traffic.check(last, lives)


FAULTS = {
    "one 500": Fault(Answer(500)),
    "one 503": Fault(Answer(503)),
    "503 for a while": Fault(Answer(503), for_s=OUTAGE_S),
    "one failed condition": Fault(Answer(412), conditional=True),
    "one lost answer": Fault(Lose()),
    "no answer": Fault(Lose(after_s=OUTAGE_S)),
    "one late": Fault(Delay(1.0)),
}
UNNOTICED = {"one 500", "one 503", "503 for a while", "one lost answer", "one late"}
EACH = ["one 500", "one 503", "503 for a while", "one lost answer"]
# Method, key, and what happens to it: while batches come in, and at a start.
RUNNING = {
    ("PUT", "/head$"): [*EACH, "one failed condition", "no answer", "one late"],
    ("PUT", "/checkpoint$"): [*EACH, "one failed condition"],
    ("PUT", "/pool/"): EACH,
    ("PUT", "/tile/"): EACH,
}
STARTING = {
    ("LIST", ""): ["one 500", "503 for a while", "one lost answer"],
    ("GET", "/head$"): ["one 500", "503 for a while"],
    ("GET", "/(pool|segment)/"): ["one 500", "one lost answer"],
    ("PUT", "/head$"): ["one 500", "one failed condition", "one lost answer"],
}
# While what is a second old is sealed.
SEALING = {
    ("PUT", "/sealed$"): [*EACH, "one failed condition"],
    ("PUT", "/segment/"): ["503 for a while", "one lost answer"],
    ("POST", "/segment/"): ["one lost answer"],
}
CASES = [pytest.param(method, key, fault, when, id=f"{fault} to {method} {key.strip('/$')} {when}")
         for when, table in (("running", RUNNING), ("starting", STARTING), ("sealing", SEALING))
         for (method, key), faults in table.items() for fault in faults]


@pytest.mark.parametrize(("method", "key", "name", "when"), CASES)
def test_what_was_acknowledged_outlives_a_fault_of_the_server(lab, method, key, name, when):
    place, traffic, fault = lab.place(), Traffic(), replace(FAULTS[name], method=method, key=key)
    if when == "sealing":
        place = place.sealing()
    at_start = when == "starting"
    with S3Proxy(lab.server.port) as proxy:
        lives = [lab.life(place.behind(proxy.port))]
        assert lives[0].up(), lives[0].log
        with traffic.flow(lives):
            traffic.wait(2)
        if at_start:
            assert lives[0].stop(signal.SIGTERM) == 0, lives[0].log
        proxy.inject(fault)
        if at_start:
            lives.append(lab.life(place.behind(proxy.port)))
            lives[1].up()
        struck = lives[-1]
        with traffic.flow([struck]):
            wait_until(lambda: fault.hits, DEADLINE_S, f"the fault is done ({dict(proxy.requests)})")
            traffic.wait(2, struck)
        if struck.ended:
            assert name not in UNNOTICED and struck.process.popen.returncode == 1, struck.log
        struck.stop()
    lives.append(lab.life(place))
    assert lives[-1].up(), lives[-1].log
    with traffic.flow(lives[-1:]):
        traffic.wait(2)
    traffic.check(lives[-1], lives)


@pytest.mark.parametrize("name", ["one 500", "one 503", "one lost answer", "one failed condition"])
def test_what_was_acknowledged_outlives_a_fault_of_any_request(lab, name):
    """A life from its start over its first segment to its stop; by default a few of its requests are struck."""
    def one(nth: int) -> int:
        """The requests of a life of which the `nth` is struck."""
        place, traffic, fault = lab.place().sealing(), Traffic(), replace(FAULTS[name], nth=nth)
        lives = [lab.life(place)]
        assert lives[0].up(), lives[0].log
        with traffic.flow(lives):
            traffic.wait(1)
        lives[0].stop()
        with S3Proxy(lab.server.port) as proxy:
            proxy.inject(fault)
            lives.append(struck := lab.life(place.behind(proxy.port)))
            struck.up()
            with traffic.flow([struck]):
                wait_until(lambda: struck.ended or struck.sealed, DEADLINE_S, "it seals or ends")
                traffic.wait(1, struck)
            if struck.ended:
                assert name not in UNNOTICED and struck.process.popen.returncode == 1, struck.log
            struck.stop(signal.SIGTERM)
        assert fault.hits == (fault.matched >= nth)
        lives.append(lab.life(place))
        assert lives[-1].up(), lives[-1].log
        with traffic.flow(lives[-1:]):
            traffic.wait(1)
        traffic.check(lives[-1], lives)
        lives[-1].stop()
        return fault.matched

    planned = one(nth=1_000_000)
    requests = range(1, planned + 1)
    if os.environ.get("FAULTS") != "all":
        requests = requests[::planned // SAMPLES]
    with ThreadPoolExecutor(WORKERS) as pool:
        struck = sum(matched >= nth for nth, matched in zip(requests, pool.map(one, requests)))
    assert struck >= len(requests) // 2  # how many requests there are is a matter of milliseconds
    print(f"{name}: {struck} of {planned} requests")
