"""The tracers' server goes away in the middle of a run, and comes back: no call and no receipt depends on it."""

import contextlib
import socket

import pytest

from lab.chain import BACK, CALLER, KINDS, MIDDLE, Chain
from lab.envoy import ZIPKIN_CLUSTER
from lab.procs import free_port, wait_until
from lab.receipts import Inbox
from lab.topology import Zipkin

DEADLINE_S = 15.0


@contextlib.contextmanager
def refusing(_port):
    """Nobody listens; the name of what counts it at a sidecar."""
    yield "tracing.zipkin.reports_dropped"


@contextlib.contextmanager
def silent(port):
    """Connections are taken, and no answer ever comes."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield f"cluster.{ZIPKIN_CLUSTER}.upstream_rq_active"


@pytest.mark.parametrize("away", [refusing, silent])
def test_zipkin_goes_away_and_comes_back_and_no_call_and_no_receipt_minds(tmp_path, away):
    zipkin = Zipkin(free_port(), report_at_once=True)
    paths = []
    with Inbox() as inbox, Chain(tmp_path, inbox, zipkin, zipkin) as chain:
        def call(times):
            paths.extend(chain.call(kind, {}) for _ in range(times) for kind in KINDS)

        def reports(spans):
            wait_until(lambda: spans, DEADLINE_S, "spans reach Zipkin")

        with Inbox(zipkin.port) as before:
            call(5)
            reports(before.spans)
        with away(zipkin.port) as stat:
            call(10)
            for pod in (CALLER, MIDDLE, BACK):
                sidecar = chain.mesh.pods[pod].sidecar
                wait_until(lambda: sidecar.stats(stat)[stat] > 0, DEADLINE_S, f"{pod} misses Zipkin")
            call(5)
        with Inbox(zipkin.port) as after:
            call(5)
            reports(after.spans)
        for path in paths:
            hops = chain.hops(path).values()
            assert all(hop.client.hop_digest == hop.server.hop_digest for hop in hops), path
            assert len({hop.client.span_id for hop in hops}) == 3, path
        assert len(inbox.receipts) == 6 * len(paths)
        assert not inbox.faults and not inbox.spans
