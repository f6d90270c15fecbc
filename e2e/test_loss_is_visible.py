"""Every thread of every proxy is heard of; what a proxy takes along when it ends, and what its metrics say."""

import re
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from lab.batches import CLOSE, HEARTBEAT
from lab.client import request
from lab.load import Load
from lab.plain import Front, Plain, Stage
from lab.posts import Post, arrived, by_session, check_chain, of_workers
from lab.procs import wait_until
from lab.standin import TAKEN, Answer, StandIn, answer, forward_to

DEADLINE_S = 20.0
SLACK_S = 1.5
POST_S = 5.0  # a POST without an answer is given up
RETRY_S = 0.5  # most after a first failure
BEAT_S = 1
CONFIG = {"tick_ms": 50, "heartbeat_s": BEAT_S}
WORKERS = 2


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with Stage(tmp_path_factory.mktemp("loss")) as running:
        yield running


# --- heartbeats

def test_every_thread_beats_while_it_is_idle_and_only_then(stage):
    with StandIn() as stand_in:
        envoy = stage.envoy("beats", [Front("front", CONFIG)], stand_in.port, WORKERS)

        def sessions(least: int) -> list[list[Post]]:
            found = list(by_session(stand_in.seen()).values())
            beats = [[post for post in posts if post.header["kind"] == HEARTBEAT] for posts in found]
            return len(found) == WORKERS + 1 and min(map(len, beats)) >= least and beats
        for beats in wait_until(lambda: sessions(3), DEADLINE_S, "the workers and the main thread beat"):
            pauses = [later.at_s - earlier.at_s for earlier, later in zip(beats, beats[1:])]
            assert all(BEAT_S - 0.1 <= pause_s <= BEAT_S + SLACK_S for pause_s in pauses), pauses
        with Load(envoy.ports["front"], pause_s=0.01) as load:
            wait_until(lambda: of_workers(stand_in.seen()), DEADLINE_S, "a worker has calls")
            begun_s = max(post.at_s for post in of_workers(stand_in.seen()))
            wait_until(lambda: len([p for p in stand_in.seen() if p.header["kind"] == HEARTBEAT and p.at_s > begun_s])
                       >= 2 * WORKERS, DEADLINE_S, "the other threads go on beating")
        (busy,) = by_session(of_workers(stand_in.seen())).values()
        during = [post for post in busy if begun_s < post.at_s < load.calls[-1].ended_s]
        assert during and all(post.has_calls for post in during)
        assert len(by_session(stand_in.seen())) == WORKERS + 1


# --- a proxy that ends

def test_a_killed_proxy_takes_along_only_the_newest_calls_of_each_worker(stage):
    tick_ms, connections, held = 250, 4, 20
    taken: list[Post] = []
    collector = stage.collector("killed")
    forward = forward_to(collector.url)

    def behave(post: Post) -> Answer:
        given = forward(post)
        taken.append(post)
        return given
    with ExitStack() as stack:
        stand_in = stack.enter_context(StandIn(behave))
        envoy = stage.envoy("killed", [Front("front", {**CONFIG, "tick_ms": tick_ms})], stand_in.port, WORKERS)
        loads = [stack.enter_context(Load(envoy.ports["front"], number, pause_s=0.004))
                 for number in range(1, connections + 1)]

        def many() -> bool:
            last_s = max((post.at_s for post in of_workers(stand_in.seen())), default=None)
            return last_s and len(stand_in.seen()) >= 12 and \
                all(sum(call.ended_s > last_s for call in load.calls) >= held // connections for load in loads)
        wait_until(many, DEADLINE_S, "some calls wait for the tick")
        assert all(call.status == 200 for load in loads for call in load.calls)
        envoy.process.signal(signal.SIGKILL)
        wait_until(lambda: all(load.calls[-1].status == 0 for load in loads), DEADLINE_S, "it is dead")
        wait_until(lambda: len(taken) == len(stand_in.seen()), DEADLINE_S, "its last POST is answered")
    killed_s = min(load.calls[-1].ended_s for load in loads)
    there = set(arrived(taken))
    for load in loads:
        kept = [call.trace_id in there for call in load.calls]
        assert kept == sorted(kept, reverse=True), "those of one connection, so of one worker, are a prefix"
    missing = [call for load in loads for call in load.calls if call.status == 200 and call.trace_id not in there]
    assert len(missing) >= held
    oldest_s = killed_s - min(call.ended_s for call in missing)
    assert oldest_s < tick_ms / 1000 + 0.25
    known = {session["session"]: session for session in collector.get("/v1/sessions")}
    for session, posts in by_session(taken).items():
        check_chain(posts)
        assert all(post.header["kind"] != CLOSE for post in posts)
        assert known[session.hex()]["entries"] == len(arrived(posts))
        assert (known[session.hex()]["closed"], known[session.hex()]["missing_batches"]) == (False, 0)
    assert collector.audit("session_closed") == [], "that comes after 120 s of silence"


def _posted(how: Callable[[Plain], None], stage: Stage, name: str, ends: bool) -> tuple[list[bytes], list[Post]]:
    """Trace ids of the calls that were made, and what was posted of them when `how` was done while calls waited."""
    with StandIn() as stand_in:
        envoy = stage.envoy(name, [Front("front", {**CONFIG, "tick_ms": 500})], stand_in.port)
        with Load(envoy.ports["front"], pause_s=0.005) as load:
            def waiting() -> bool:
                posts = of_workers(stand_in.seen())
                return posts and sum(call.ended_s > posts[-1].at_s for call in load.calls) >= 10
            wait_until(waiting, DEADLINE_S, "calls wait for the tick")
        how(envoy)
        if ends:
            wait_until(lambda: not envoy.process.alive(), DEADLINE_S, "it ends")
        else:
            wait_until(lambda: set(load.trace_ids) <= set(arrived(stand_in.seen())), DEADLINE_S, "the calls are posted",
                       envoy.process)
        return load.trace_ids, stand_in.seen()


@pytest.mark.parametrize("how", [
    lambda envoy: envoy.process.signal(signal.SIGTERM),
    lambda envoy: envoy.quit(),
], ids=["SIGTERM", "drain and quit"])
def test_an_envoy_that_is_told_to_end_sends_what_it_has_and_closes_its_sessions(stage, how, request):
    """Where the collector is quick and its connection is kept: Envoy waits for no answer and no connection."""
    calls, posts = _posted(how, stage, request.node.callspec.id, ends=True)
    assert arrived(posts) == calls
    check_chain(of_workers(posts))
    assert [post.header["kind"] for post in of_workers(posts)][-1] == CLOSE


@pytest.mark.parametrize("how", [
    lambda envoy: envoy.drain(),
    lambda envoy: envoy.deliver([]),
    lambda envoy: envoy.deliver([Front("front", {**CONFIG, "context": "never"})]),
], ids=["drain", "no listener", "another configuration"])
def test_an_envoy_that_drains_ticks_on_and_loses_nothing(stage, how, request):
    calls, posts = _posted(how, stage, request.node.callspec.id, ends=False)
    assert arrived(of_workers(posts)) == calls
    check_chain(of_workers(posts))


def test_another_configuration_while_a_post_is_under_way_holds_nothing_up(stage):
    held: list[Post] = []

    def behave(post: Post) -> Answer:
        if post.has_calls and not held:
            held.append(post)
            return Answer(answer(200), after_s=60.0)
        return TAKEN
    with StandIn(behave) as stand_in:
        envoy = stage.envoy("changed", [Front("front", CONFIG)], stand_in.port)
        with Load(envoy.ports["front"], pause_s=0.05):
            wait_until(lambda: held, DEADLINE_S, "a POST is under way")
        envoy.deliver([Front("front", {**CONFIG, "context": "never"})])
        wait_until(lambda: any(post.session == held[0].session and post.attempt for post in stand_in.seen()),
                   POST_S + RETRY_S + SLACK_S, "it is sent again")


# --- metrics

def _samples(text: str) -> dict[str, tuple[str, int]]:
    """Kind and value by name, of Prometheus' text format."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    return {name: (kinds[name], int(value)) for name, value in re.findall(r"^(meshchain_\w+)\{\} (\d+)$", text, re.M)}


def test_the_metrics_tell_what_happened_and_istio_shows_them_unasked(stage):
    given: dict[tuple[bytes, int], int] = {}  # the last status by session and seq
    first = {"status": 503}  # for a batch with calls; whatever is sent again is taken

    def behave(post: Post) -> Answer:
        status = first["status"] if post.has_calls and not post.attempt else 200
        given[post.session, post.seq] = status
        return Answer(answer(status))
    with StandIn(behave) as stand_in:
        envoy = stage.envoy("metrics", [Front("front", {**CONFIG, "skip_paths": ["/healthz"]})], stand_in.port)
        url = f"http://127.0.0.1:{envoy.ports['front']}"
        calls = 0
        for first["status"], number in ((503, 10), (400, 5), (200, 3)):
            calls += number
            assert all(request("GET", url).status == 200 for _ in range(number))
            wait_until(lambda: len(arrived(stand_in.seen())) == calls and 503 not in given.values(), DEADLINE_S,
                       "all calls are posted and judged")
        assert request("GET", url + "/healthz").status == 200
        with socket.create_connection(("127.0.0.1", envoy.ports["front"]), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: here\r\n: no name\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 400")

        def expected() -> dict[str, int]:
            return {"digests": calls, "records": calls, "batches": len(given), "acked": list(given.values()).count(200),
                    "retried": sum(post.attempt > 0 for post in stand_in.seen()), "skipped": 1, "config_errors": 0,
                    "config_ignored": 0, "dropped_queue_full": 0, "dropped_refused": 5, "dropped_unreadable": 1, "dropped_unconfigured": 0,
                    "queue_bytes": 0}

        def stats() -> dict[str, int]:
            prefix = "wasmcustom.meshchain_"
            return {name.removeprefix(prefix): value for name, value in envoy.stats(prefix).items()}
        try:
            wait_until(lambda: expected().items() <= stats().items(), 5.0, "the stats are as expected")
        except AssertionError:
            assert stats() == expected()
            raise
        assert expected()["retried"] >= 1
        shown = _samples(envoy.prometheus())
        assert set(shown) >= {f"meshchain_{name}" for name in expected()}
        for name, (kind, _) in shown.items():
            assert kind == ("gauge" if name == "meshchain_queue_bytes" else "counter")
        assert shown["meshchain_records"][1] == calls
        assert not envoy.stats("http.plain"), "Istio's matcher hides what it does not name"
