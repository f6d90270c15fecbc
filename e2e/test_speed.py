"""No call is lost at speed: one worker of Envoy that answers as many requests as it can, the filter as it is by default,
and a real collector on a real disk, quick, slow or away.

SPEED_S=30 makes each run as long as the promise says; by default they are shorter.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest

from lab.flood import flood
from lab.plain import Front, Stage
from lab.procs import wait_until
from lab.standin import StandIn, forward_to

pytestmark = pytest.mark.alone

FOR_S = float(os.environ.get("SPEED_S", "8"))
AWAY_S, AWAY_PER_S = 10.0, 2000
SETTLE_S = 30.0
STATS = "wasmcustom.meshchain_"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with Stage(tmp_path_factory.mktemp("speed")) as running:
        yield running


@pytest.fixture(scope="module")
def crowd():
    """Runs a flood in a process of its own, so that neither slows down what else runs here."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda *arguments, **more: pool.submit(flood, *arguments, **more)


def counted(envoy) -> dict[str, int]:
    return {name.removeprefix(STATS): value for name, value in envoy.stats(STATS).items()}


def assert_nothing_lost(envoy, collector, made: int) -> None:
    """Every call that was made is acknowledged and in the log, once."""
    def settled() -> bool:
        stats = counted(envoy)
        lost = sum(count for name, count in stats.items() if name.startswith("dropped_"))
        return stats["digests"] + lost == made and stats["acked"] == stats["batches"] and stats["queue_bytes"] == 0
    wait_until(settled, SETTLE_S, "all that was recorded is acknowledged")
    assert {name: count for name, count in counted(envoy).items() if name.startswith("dropped_") and count} == {}
    wait_until(lambda: collector.get("/v1/log")["entries"] >= made, SETTLE_S, "all calls are in the log")
    assert collector.get("/v1/log")["entries"] == made
    assert all(session["missing_batches"] == session["dropped"] == 0 for session in collector.get("/v1/sessions"))
    assert [line for event in ("gap", "refusal") for line in collector.audit(event)] == []


@pytest.mark.parametrize("late_s", [0.0, 0.1, 1.0], ids=["at-once", "100-ms-later", "1-s-later"])
def test_as_many_calls_as_a_worker_serves_are_all_in_the_log(stage, crowd, late_s):
    name = f"late-{late_s:g}"
    collector = stage.collector(name)
    port = int(collector.url.rpartition(":")[2])
    with ExitStack() as stack:
        if late_s:
            forward = forward_to(collector.url)
            stand_in = StandIn(lambda post: replace(forward(post), after_s=late_s))
            port = stack.enter_context(stand_in).port
        envoy = stage.envoy(name, [Front("front")], port)
        made = crowd(envoy.ports["front"], FOR_S).result()
        assert made > 1000 * FOR_S
        assert_nothing_lost(envoy, collector, made)


def test_calls_made_while_the_collector_is_away_are_all_in_the_log(stage, crowd):
    collector = stage.collector("away")
    stand_in = StandIn(forward_to(collector.url))
    envoy = stage.envoy("away", [Front("front")], stand_in.port)
    made = crowd(envoy.ports["front"], AWAY_S, per_s=AWAY_PER_S).result()
    assert made > 0.95 * AWAY_S * AWAY_PER_S
    assert collector.get("/v1/log")["entries"] == 0
    with stand_in:
        assert_nothing_lost(envoy, collector, made)
