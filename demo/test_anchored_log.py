"""A log anchored on a real chain: `meshchain fsck --rpc` compares the two, finds rot and an older copy, and repairs."""

import json
import shutil

import pytest

from chain import CHAIN_ID, Chain
from lab import batches
from lab.batches import SECOND_NS, START_NS, Session, sha256
from lab.client import request
from lab.collector import COLLECTOR, VERIFIER, meshchain
from lab.procs import Processes, free_port, wait_http, wait_until

ORIGIN = "anchored.example/meshchain"
DEADLINE_S = 60.0


class Log:
    """A collector that anchors each second, and what is asked about its log."""

    def __init__(self, processes: Processes, directory, chain: Chain):
        self.processes, self.data, self.chain = processes, directory / "data", chain
        self.contract, self.session = chain.deploy(), Session(b"anchored", workload="web")
        key, self.config = chain.key_file(1, directory / "anchor.key"), directory / "collector.toml"
        self.config.write_text("\n".join([
            f'origin = "{ORIGIN}"', f"data = {json.dumps(str(self.data))}", "", "[[anchor]]", 'chain = "anvil"',
            f"rpc = {json.dumps(chain.url)}", f"chain_id = {CHAIN_ID}", f'contract = "{self.contract}"',
            f"key_file = {json.dumps(str(key))}", "interval_s = 1", "poll_ms = 200", ""]))
        self.process = self.url = None

    def start(self) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        argv = [COLLECTOR, "--config", self.config, "--listen", f"127.0.0.1:{port}"]
        self.process = self.processes.start("collector", argv)
        wait_http(f"{self.url}/healthz", DEADLINE_S, self.process)

    def stop(self) -> None:
        assert self.processes.stop(self.process) == 0

    def send(self, trace: bytes, session: Session | None = None):
        """One batch of one call, of the log's one session unless told otherwise."""
        session = session or self.session
        start = START_NS + session.seq * SECOND_NS
        call = batches.call(b"anchored", trace, start)
        batch = session.batch([call.entry], [call.record], start, start)
        return request("POST", f"{self.url}/v1/batches", body=batch)

    def post(self, trace: bytes) -> None:
        """One batch of one call; waits until it is anchored for good."""
        assert self.send(trace).status == 200
        size = self.session.seq
        wait_until(lambda: size in self.kept(), DEADLINE_S, f"{size} leaves are anchored", self.process)

    def anchor(self) -> dict:
        """State of its one anchor."""
        return json.loads(request("GET", f"{self.url}/v1/anchors").body)[0]["status"]

    def finals(self, limit: int) -> list[list[int]]:
        """Sizes of its final anchors, page by page."""
        pages, path = [], f"/v1/anchors?limit={limit}"
        while path:
            page = request("GET", f"{self.url}{path}")
            pages.append([final["size"] for final in json.loads(page.body)[0]["finals"]])
            link = page.headers.get("link")
            path = link[1:link.index(">")] if link else None
        return pages

    def metric(self, name: str) -> float:
        text = request("GET", f"{self.url}/metrics").body.decode()
        return float(next(line.rsplit(" ", 1)[1] for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name))

    def sent(self) -> tuple[int, int]:
        """Transactions of its account that the chain has seen, in blocks and in all."""
        account = self.chain.accounts[1]
        return tuple(int(self.chain.call("eth_getTransactionCount", account, block), 16) for block in ("latest", "pending"))

    def kept(self) -> dict:
        return {int(file.stem): file for file in (self.data / "anchor" / "anvil" / "receipts").glob("*.json")}

    def policy(self, path):
        vkey = json.loads(request("GET", f"{self.url}/v1/log").body)["vkey"]
        anchor = {"type": "evm", "chain_id": CHAIN_ID, "contract": self.contract, "sender": self.chain.accounts[1]}
        log = {"origin": ORIGIN, "vkey": vkey, "anchors": [anchor]}
        path.write_text(json.dumps({"format": "meshchain/policy/v1", "logs": [log]}))
        return path

    def fsck(self, policy, *more, data=None):
        where = data or self.data
        return meshchain("fsck", where, "--policy", policy, "--rpc", f"{CHAIN_ID}={self.chain.url}", *more)


built = pytest.mark.skipif(not (COLLECTOR.exists() and VERIFIER.exists()), reason="`make build` builds collector and verifier")


@built
def test_a_log_and_its_anchors_are_compared_with_the_chain_and_repaired_from_it(tmp_path):
    traces = [sha256(bytes([n]))[:16] for n in range(3)]
    with Processes(tmp_path) as processes:
        log = Log(processes, tmp_path, Chain(processes, tmp_path / "chain"))
        log.start()
        log.post(traces[0])
        policy = log.policy(tmp_path / "policy.json")
        older = tmp_path / "older"
        shutil.copytree(log.data, older, ignore=shutil.ignore_patterns("*#*"))  # which are not finished
        for trace in traces[1:]:
            log.post(trace)

        assert log.finals(1) == [[3], [2], [1]] and log.finals(2) == [[3, 2], [1]] and log.finals(3) == [[3, 2, 1]]

        clean = log.fsck(policy)
        assert clean.code == 0 and "3 on chains asked" in clean.text, clean.text
        by_url = log.fsck(policy, data=log.url)
        assert by_url.code == 0 and "3 on chains asked" in by_url.text, by_url.text
        evidence = tmp_path / "evidence.json"
        evidence.write_bytes(request("GET", f"{log.url}/v1/evidence/{traces[1].hex()}").body)
        verify = ("verify", evidence, "--policy", policy, "--rpc", f"{CHAIN_ID}={log.chain.url}")
        assert meshchain(*verify).code == 0, meshchain(*verify).text

        log.stop()
        wrong = log.fsck(policy, data=older)
        assert wrong.code == 1 and "more than this log" in wrong.text and "older copy" in wrong.text, wrong.text
        file = log.kept()[2]
        good = file.read_bytes()
        at = good.index(b'"header": "') + 200
        for bad in (good[:at] + (b"0" if good[at:at + 1] != b"0" else b"1") + good[at + 1:], good[: len(good) // 2]):
            file.write_bytes(bad)
            rotten = log.fsck(policy)
            assert rotten.code == 1 and f"DAMAGE      anchor/anvil/receipts/{file.name}" in rotten.text, rotten.text
            repaired = log.fsck(policy, "--repair")
            assert repaired.code == 0 and "repaired    anchor/anvil/receipts/" in repaired.text, repaired.text
            assert file.read_bytes() == good

        log.start()
        assert "a collector is running" in log.fsck(policy, "--repair").text
        found = request("GET", f"{log.url}/v1/evidence/{traces[1].hex()}").body
        evidence.write_bytes(found)
        assert meshchain(*verify).code == 0
        # What a collector would hand out of a rotten file refutes nothing.
        text = found.decode()
        at = text.index('"header": "') + 200
        evidence.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1:])
        run = meshchain(*verify)
        assert run.code == 2 and "REFUTED" not in run.text, run.text


@built
def test_an_older_copy_of_an_anchored_log_is_read_and_neither_grows_nor_anchors(tmp_path):
    """The copy is whole and contradicts nothing in itself: only the chain's head for this account and log tells."""
    traces = [sha256(bytes([n]))[:16] for n in range(4)]
    with Processes(tmp_path) as processes:
        log = Log(processes, tmp_path, Chain(processes, tmp_path / "chain"))
        log.start()
        log.post(traces[0])
        log.stop()
        older = tmp_path / "older"
        shutil.copytree(log.data, older)
        log.start()
        for trace in traces[1:3]:
            log.post(trace)
        wait_until(lambda: log.metric("meshchain_anchored_size") == 3, DEADLINE_S, "the last anchor is counted", log.process)
        gas, time = log.metric("meshchain_anchor_gas_total"), log.metric("meshchain_anchored_timestamp_seconds")
        assert gas > 60_000 and time > 0
        sent = log.sent()
        log.stop()
        newest = tmp_path / "newest"
        log.data.rename(newest)
        shutil.copytree(older, log.data)

        for life in range(2):
            log.start()
            refused = log.send(traces[3], Session(b"stranger %d" % life, workload="web"))
            assert (refused.status, json.loads(refused.body)["reason"]) == (503, "older_copy"), refused
            ready = request("GET", f"{log.url}/readyz")
            assert ready.status == 503 and b"this is an older copy of the log, or another one" in ready.body, ready.body
            assert request("GET", f"{log.url}/healthz").status == 200
            assert json.loads(request("GET", f"{log.url}/v1/log").body)["size"] == 1
            assert request("GET", f"{log.url}/v1/evidence/{traces[0].hex()}").status == 200
            assert request("GET", f"{log.url}/checkpoint").body == (older / "checkpoint").read_bytes()
            assert log.metric("meshchain_older_copy") == 1 and log.metric("meshchain_anchored_size") == 1
            status = log.anchor()
            assert not status["stopped"] and "by the word of the RPC node, is of 3 leaves, the log has fewer" in status["alert"], status
            log.stop()
            lines = [json.loads(line) for line in (log.data / "audit.jsonl").read_text().splitlines()]
            told = [line for line in lines if line["event"] == "older_copy"]
            assert told and "chain anvil: this log is not all of the one that was anchored" in told[-1]["why"], told
            assert any(line["event"] == "anchor" and line["step"] == "other_history" for line in lines)
            assert log.sent() == sent and log.kept().keys() == {1}

        # The way out: the newest copy is put back, and goes on.
        shutil.rmtree(log.data)
        newest.rename(log.data)
        log.start()
        assert (log.metric("meshchain_anchor_gas_total"), log.metric("meshchain_anchored_timestamp_seconds")) == (gas, time)
        assert log.metric("meshchain_anchored_size") == 3
        assert request("GET", f"{log.url}/readyz").status == 200
        log.post(traces[3])
        assert log.sent() == (sent[0] + 1, sent[1] + 1)
