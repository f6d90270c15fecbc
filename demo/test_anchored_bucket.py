"""A log in a bucket, anchored on a real chain: who starts last anchors, and whatever the bucket does, once."""

import json
from dataclasses import replace

import pytest

from chain import CHAIN_ID, Chain
from lab import batches
from lab.batches import SECOND_NS, START_NS, Session, sha256
from lab.client import request
from lab.collector import COLLECTOR
from lab.procs import Processes, wait_until
from lab.s3 import PREFIX, Bucket, Lab, Life, Place, S3Server
from lab.s3_proxy import Answer, Delay, Fault, Lose, S3Proxy
from lab.tools import ToolMissing

pytestmark = [pytest.mark.long, pytest.mark.skipif(not COLLECTOR.exists(), reason="`make build` builds the collector")]

DEADLINE_S = 60.0
LATE_S = 4.0  # far longer than a start
OUTAGE_S = 3.0
STATE = "anchor/anvil/pending.json"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("anchored")
    with Processes(directory) as processes:
        try:
            server = S3Server(processes, directory / "server")
        except ToolMissing as missing:
            pytest.skip(str(missing))
        yield Lab(processes, server, directory), Chain(processes, directory / "chain")


class Log:
    """A new log in a bucket of its own, with an account of its own."""

    accounts = iter(range(1, 10))

    def __init__(self, lab: Lab, chain: Chain):
        self.lab, self.chain = lab, chain
        place = lab.place()
        name = place.data.removeprefix("s3://").split("/")[0]
        self.bucket = Bucket(name, lab.server.directory / name, lab.server.port)
        self.account = next(self.accounts)
        key, config = chain.key_file(self.account, lab.directory / f"{name}.anchor"), lab.directory / f"{name}.toml"
        config.write_text("\n".join([
            "[[anchor]]", 'chain = "anvil"', f"rpc = {json.dumps(chain.url)}", f"chain_id = {CHAIN_ID}",
            f'contract = "{chain.deploy()}"', f"key_file = {json.dumps(str(key))}", "interval_s = 1", "poll_ms = 200", ""]))
        self.place = replace(place, options=(*place.options, "--config", str(config)))
        self.session = Session(name.encode())

    def life(self, place: Place | None = None) -> Life:
        life = self.lab.life(place or self.place)
        assert life.up(), life.log
        return life

    def post(self, life: Life) -> None:
        start = START_NS + self.session.seq * SECOND_NS
        call = batches.call(b"bucket", sha256(bytes([self.session.seq]))[:16], start)
        batch = self.session.batch([call.entry], [call.record], start, start)
        assert request("POST", f"{life.url}/v1/batches", body=batch).status == 200

    def anchored(self, life: Life, size: int) -> None:
        wait_until(lambda: steps(life, "final", size), DEADLINE_S, f"{size} leaves are anchored", life.process)

    def nonce(self) -> int:
        return int(self.chain.call("eth_getTransactionCount", self.chain.accounts[self.account], "pending"), 16)

    def ended(self, life: Life) -> str:
        wait_until(lambda: life.ended, DEADLINE_S, "the collector that lost the log ends")
        assert life.process.popen.returncode == 1 and "taken over by another collector" in life.log, life.log
        return life.log


def steps(life: Life, step: str, size: int) -> list[dict]:
    """What it told of an anchor of this size."""
    lines = [json.loads(line) for line in life.log.splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in lines if line["event"] == "anchor" and line["step"] == step and line["size"] == size]


def test_a_collector_whose_state_is_taken_over_while_it_writes_it_sends_nothing(world):
    log = Log(*world)
    with S3Proxy(log.lab.server.port) as proxy:
        former = log.life(log.place.behind(proxy.port))
        log.post(former)
        log.anchored(former, 1)
        late = proxy.inject(Fault(Delay(LATE_S), "PUT", STATE))
        log.post(former)
        wait_until(lambda: late.hits, DEADLINE_S, "a write of the state is held back", former.process)
        newer = log.life()
        log.ended(former)
        log.anchored(newer, 2)
    assert not steps(former, "submitted", 2) and len(steps(newer, "submitted", 2)) == 1
    assert log.nonce() == 2
    # Nor does one that the newer one hands over to in peace.
    newest = log.life()
    log.ended(newer)
    log.post(newest)
    log.anchored(newest, 3)
    assert log.nonce() == 3


def test_an_anchor_that_lost_its_state_ends_the_collector_with_the_reason(world):
    log = Log(*world)
    life = log.life()
    log.post(life)
    log.anchored(life, 1)
    sent = log.nonce()
    key = f"{PREFIX}/{STATE}"
    state = json.loads(log.bucket.read(key))
    assert log.bucket.request("PUT", key, body=json.dumps({**state, "writer": "another"}).encode()).status == 200
    log.post(life)
    told = log.ended(life)
    assert f"anchor anvil: the log was taken over by another collector: {STATE}" in told, told
    assert log.nonce() == sent, "it sent something"
    last = log.life()
    log.anchored(last, 2)
    assert log.nonce() == sent + 1


@pytest.mark.parametrize("fault", [
    pytest.param(Fault(Lose(), "PUT", STATE), id="a lost answer"),
    pytest.param(Fault(Lose(), "PUT", STATE, nth=2, times=3), id="answers lost later"),
    pytest.param(Fault(Answer(503), "PUT", STATE, for_s=OUTAGE_S), id="503 for a while"),
    pytest.param(Fault(Lose(), "PUT", "anchor/anvil/receipts/"), id="a lost answer for a final anchor"),
])
def test_whatever_the_bucket_does_to_the_state_each_root_is_anchored_once(world, fault):
    log = Log(*world)
    with S3Proxy(log.lab.server.port) as proxy:
        life = log.life(log.place.behind(proxy.port))
        log.post(life)
        log.anchored(life, 1)
        proxy.inject(fault)
        for size in (2, 3):
            log.post(life)
            log.anchored(life, size)
        assert fault.hits, "the fault was done to nothing"
        assert not life.ended and log.nonce() == 3
