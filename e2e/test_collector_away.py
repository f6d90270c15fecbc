"""The collector is away or slow: no request notices, the oldest calls are kept, the others are counted."""

import itertools
import json
import struct
import time
from dataclasses import dataclass, field, replace

import pytest

from lab.load import Done, Load, never_in_the_way
from lab.plain import Front, Plain, Stage
from lab.posts import QUEUE_FULL, Post, arrived, check_chain, first_attempts, of_workers
from lab.procs import wait_until
from lab.standin import Answer, StandIn, answer, forward_to

TICK_MS = 20
STATS = "wasmcustom.meshchain_"
CONFIG = {"tick_ms": TICK_MS, "heartbeat_s": 1}
DEADLINE_S = 30.0
PAUSE_S = (0.25, 0.5)  # least and most after a first failure; doubled with each further one
EARLY_S, SLACK_S = 0.05, 1.5  # what the stand-in sees later than it was sent, the first of two or the second
QUEUE_BYTES = 64 << 10
AFTERWARDS = 20  # calls when the collector is back
LATER = struct.pack(">QQ", 2, 1)  # trace id of the first of them
LONG = "outage-" + "x" * 190  # the workload's name, and the pod's: each batch has both in its header


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with Stage(tmp_path_factory.mktemp("away")) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def impatient(stage):
    """Two Envoys whose batches are never taken: they back off while the other tests run."""
    with StandIn(lambda _: Answer(answer(503))) as stand_in:
        for name in ("one", "other"):
            stage.envoy(name, [Front("front", {**CONFIG, "collector_path": f"/{name}"})], stand_in.port)
        yield stand_in


@dataclass
class Outage:
    """A collector that nobody could reach until more calls were made than the queue holds."""

    calls: list[Done]
    gauges: list[int] = field(default_factory=list)  # meshchain_queue_bytes, when no more calls came
    waiting: dict[str, int] = field(default_factory=dict)  # the filter's stats then
    stats: dict[str, int] = field(default_factory=dict)  # and at the end
    posts: list[Post] = field(default_factory=list)
    told: list[tuple[Post, dict]] = field(default_factory=list)  # what the collector said to each
    sessions: list[dict] = field(default_factory=list)  # as the collector knows them
    audit: dict[str, list] = field(default_factory=dict)


def counted(envoy: Plain) -> dict[str, int]:
    """The filter's stats, without their prefix; none before its first tick."""
    return {name.removeprefix(STATS): value for name, value in envoy.stats(STATS).items()}


def held_bytes(posts: list[Post], calls: set[bytes]) -> int:
    """Bodies of a session's batches up to the last with one of these calls."""
    last = max(post.seq for post in posts if calls & set(post.trace_ids))
    return sum(len(post.body) for post in first_attempts(posts) if post.seq <= last)


@pytest.fixture(scope="module")
def outage(stage):
    collector = stage.collector("away")
    forward = forward_to(collector.url)
    told: list[tuple[Post, dict]] = []

    def behave(post: Post) -> Answer:
        """Forwards; of the first call after the outage the collector's answer is lost."""
        given = forward(post)
        said = json.loads(given.raw.split(b"\r\n\r\n", 1)[1])
        told.append((post, said))
        lost = LATER in post.trace_ids and not post.attempt
        return replace(given, raw=given.raw[:20], end="reset") if lost else given
    stand_in = StandIn(behave)
    config = {**CONFIG, "queue_bytes": QUEUE_BYTES, "batch_spans": 10}
    envoy = stage.envoy(LONG, [Front("front", config)], stand_in.port)

    with Load(envoy.ports["front"]) as load:
        wait_until(lambda: counted(envoy).get("dropped_queue_full", 0) >= 100, DEADLINE_S, "calls are dropped")
    made = Outage(load.calls, told=told)
    made.waiting = wait_until(
        lambda: (s := counted(envoy))["records"] + s["dropped_queue_full"] == len(load.calls) and s,
        DEADLINE_S, "all calls are counted")
    end = time.monotonic() + 0.5
    made.gauges = [counted(envoy)["queue_bytes"] for _ in iter(lambda: time.monotonic() > end, True)]
    with stand_in:
        wait_until(lambda: {session["dropped"] for session in collector.get("/v1/sessions")} - {0}, DEADLINE_S,
                   "the collector knows what was lost")
        with Load(envoy.ports["front"], number=2, pause_s=0.02) as more:
            wait_until(lambda: len(more.calls) >= AFTERWARDS, DEADLINE_S, "calls go on")
        made.calls += more.calls[:AFTERWARDS]
        wait_until(lambda: set(more.trace_ids) <= set(arrived(stand_in.seen())), DEADLINE_S, "and are posted")
        wait_until(lambda: (s := counted(envoy))["acked"] == s["batches"], DEADLINE_S, "all are taken")
        made.stats = counted(envoy)
        made.sessions = collector.get("/v1/sessions")
        made.audit = {event: collector.audit(event) for event in ("gap", "refusal", "refusals_suppressed")}
    made.posts = of_workers(stand_in.seen())
    return made


def test_no_request_waits_or_fails_while_the_collector_is_away_and_the_queue_overflows(outage):
    assert never_in_the_way(outage.calls)


def test_a_full_queue_keeps_the_oldest_calls_and_drops_the_newest(outage):
    kept = [call.trace_id in set(arrived(outage.posts)) for call in outage.calls]
    full = kept.index(False)
    during = {call.trace_id for call in outage.calls[:-AFTERWARDS]}
    assert 0.9 * QUEUE_BYTES < held_bytes(outage.posts, during) < 1.1 * QUEUE_BYTES
    # A call with a smaller record may still fit after the first that did not.
    assert sum(kept[full:-AFTERWARDS]) <= 3
    assert all(kept[-AFTERWARDS:]), "when the queue has emptied, all are kept again"


def test_what_was_dropped_is_counted_in_the_stat_and_in_the_next_header(outage):
    lost = len(outage.calls) - len(arrived(outage.posts))
    assert lost >= 100
    assert outage.waiting["dropped_queue_full"] == outage.stats["dropped_queue_full"] == lost
    assert outage.posts[-1].dropped == {QUEUE_FULL: lost}
    counts = [post.dropped.get(QUEUE_FULL, 0) for post in first_attempts(outage.posts)]
    assert counts == sorted(counts) and counts[0] == 0


def test_what_was_kept_arrives_in_order_and_the_collector_finds_no_fault(outage):
    check_chain(outage.posts)
    order = [call.trace_id for call in outage.calls]
    assert arrived(outage.posts) == [t for t in order if t in set(arrived(outage.posts))]
    assert outage.audit == {"gap": [], "refusal": [], "refusals_suppressed": []}
    (session,) = [s for s in outage.sessions if s["session"] == outage.posts[0].session.hex()]
    assert session["missing_batches"] == 0
    assert session["entries"] == outage.stats["records"] == len(arrived(outage.posts))
    assert session["dropped"] == outage.stats["dropped_queue_full"]


def test_a_batch_whose_answer_was_lost_is_sent_again_and_logged_once(outage):
    (first, second) = [(post, said) for post, said in outage.told if LATER in post.trace_ids]
    assert second[0].body == first[0].body
    assert first[1] == {"leaf": second[1]["leaf"], "replayed": False} and second[1]["replayed"]
    assert [post for post, said in outage.told if said.get("replayed")] == [second[0]]


def test_the_queue_is_never_above_its_bound(stage):
    stand_in = StandIn()
    config = {"tick_ms": 1000, "batch_spans": 10_000, "queue_bytes": QUEUE_BYTES}
    envoy = stage.envoy(f"bound-{LONG}", [Front("front", config)], stand_in.port)
    with Load(envoy.ports["front"]) as load:
        wait_until(lambda: counted(envoy).get("dropped_queue_full"), DEADLINE_S, "the queue is full")
    with stand_in:
        wait_until(lambda: counted(envoy)["acked"] == counted(envoy)["batches"], DEADLINE_S, "all is taken")
        held = held_bytes(of_workers(stand_in.seen()), set(load.trace_ids))
    assert 0.9 * QUEUE_BYTES < held <= QUEUE_BYTES


def test_the_gauge_of_waiting_bytes_speaks_of_all_threads(outage):
    assert min(outage.gauges) > 0.9 * QUEUE_BYTES, sorted(set(outage.gauges))


def test_a_collector_that_answers_slower_than_the_tick_still_gets_all_calls(stage):
    with StandIn(lambda _: Answer(answer(200), after_s=0.3)) as stand_in:
        envoy = stage.envoy("steady", [Front("front", CONFIG)], stand_in.port)
        with Load(envoy.ports["front"], pause_s=TICK_MS / 1000) as load:
            wait_until(lambda: len(load.calls) >= 100, DEADLINE_S, "a hundred calls in as many ticks")
        assert never_in_the_way(load.calls)
        wait_until(lambda: set(load.trace_ids) <= set(arrived(stand_in.seen())), 5.0, "all calls are posted")


def test_pauses_grow_with_jitter_and_two_proxies_are_not_in_step(impatient):
    def of_session() -> list[list[float]]:
        """Arrival times of the POSTs of each session that is tried over and over."""
        posts = sorted(impatient.seen(), key=lambda post: post.session)
        return [[post.at_s for post in group] for _, group in itertools.groupby(posts, lambda post: post.session)]
    times = wait_until(lambda: (found := of_session()) and len(found) == 4 and min(map(len, found)) >= 5 and found,
                       DEADLINE_S, "each thread of both Envoys has tried five times")
    pauses = [[later - earlier for earlier, later in itertools.pairwise(attempts[:5])] for attempts in times]
    for row in pauses:
        for failures, pause_s in enumerate(row):
            least_s, most_s = (bound * 2 ** failures for bound in PAUSE_S)
            assert least_s - EARLY_S <= pause_s <= most_s + SLACK_S, row
        assert row[-1] >= 1.5 * row[0]
    for one, other in itertools.combinations(pauses, 2):
        assert any(abs(a - b) > 0.03 for a, b in zip(one, other)), "the same pauses"
