"""Neighbours that are slow, idle, deaf or many take nothing from an honest sender, and not its evidence; `make siege` has
all of them at once."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import client
from lab.batches import CLIENT, ENTRY, Session, call, sha256
from lab.collector import Collector, behind_sidecar, check_built
from lab.procs import Failed, Process, Processes, wait_until
from siege.bounds import memory_mb

pytestmark = pytest.mark.long
DOMAIN = "starve.example"
SHOWN_S = 5.0  # a filter gives up its POST then
ENDED_S = 20.0
FEW_FILES = 64
ROUNDS = 10  # of senders that hold what they got
TOO_MANY = 10_001  # calls of one trace
PER_BATCH = 1_000
HEAVY = 1_600  # calls with the largest records
EVIDENCE_MB = 64  # for 8 MB in hexadecimal, and what it is made of


def identity(namespace: str) -> dict[str, str]:
    uri = f"spiffe://{DOMAIN}/ns/{namespace}/sa/{namespace}"
    return {"x-forwarded-client-cert": f"Hash={'0a' * 32};Subject=\"\";URI={uri}"}


def head(method: str, path: str, *more: str, namespace: str | None = "evil") -> bytes:
    """A request up to its body."""
    known = [f"{name}: {value}" for name, value in identity(namespace).items()] if namespace else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: collector", *known, *more, "", ""]).encode()


POST = ("POST", "/v1/batches")
HALF_OPEN = head(*POST)[:-2]
ANNOUNCED, CHUNKED = head(*POST, "content-length: 16777216"), head(*POST, "transfer-encoding: chunked")


@pytest.fixture
def running(request, tmp_path) -> Iterator[tuple[Collector, Process]]:
    """One of its own; with `param`, of so many open files."""
    check_built()
    with Processes(tmp_path / "logs") as processes:
        yield behind_sidecar("starve", tmp_path, processes, getattr(request, "param", None))


@pytest.fixture
def collector(running) -> Collector:
    return running[0]


@contextlib.contextmanager
def held(collector: Collector, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """So many connections, on each of which that was sent."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", collector.port), SHOWN_S)) for _ in range(count)]
        for connection in sockets:
            connection.sendall(sent)
        yield sockets


def posted(collector: Collector, session: Session, entries: list[bytes] = ()) -> client.Response:
    body = session.batch(list(entries))
    return client.request("POST", f"{collector.url}/v1/batches", identity(session.source["namespace"]), body, SHOWN_S)


def shop() -> Session:
    return Session(b"shop", namespace="shop", workload="shop")


def ended(connection: socket.socket) -> bool:
    """Whether the collector ended it, with or without an answer."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("opening", [ANNOUNCED, CHUNKED], ids=["announced", "chunked"])
def test_bodies_that_do_not_come_take_no_room_from_another_principal(collector, opening):
    session = shop()
    assert posted(collector, session).status == 200
    with contextlib.ExitStack() as stack:
        for _ in range(ROUNDS):
            stack.enter_context(held(collector, 8, opening))
            assert posted(collector, session).status == 200


def test_who_is_nobody_is_told_so_before_the_body_comes(collector):
    with held(collector, 1, head(*POST, "content-length: 16777216", namespace=None)) as (connection,):
        connection.settimeout(SHOWN_S)
        assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("running", [FEW_FILES], indirect=True)
def test_half_open_requests_leave_a_way_for_batches_and_health(collector):
    session = shop()
    assert posted(collector, session).status == 200
    with held(collector, 4 * FEW_FILES, HALF_OPEN):
        assert posted(collector, session).status == 200
        assert client.request("GET", f"{collector.url}/healthz", timeout_s=SHOWN_S).status == 200


def test_a_request_whose_header_does_not_end_is_given_up(collector):
    with held(collector, 1, HALF_OPEN) as (connection,):
        wait_until(lambda: ended(connection), ENDED_S, "the connection ends")


@pytest.mark.parametrize("opening", [head(*POST, "content-length: 1000"), CHUNKED], ids=["announced", "chunked"])
def test_a_body_that_does_not_come_is_given_up_and_its_sender_named(collector, opening):
    with held(collector, 1, opening) as (connection,):
        wait_until(lambda: ended(connection), ENDED_S, "the connection ends")
    wait_until(lambda: collector.audit("refusal"), SHOWN_S, "it is told")
    (line,) = collector.audit("refusal")
    assert (line["reason"], line["principal"]) == ("slow", f"spiffe://{DOMAIN}/ns/evil/sa/evil")


def test_who_does_not_read_the_answers_is_given_up(running):
    collector, process = running
    trace_id = sha256(b"long")[:16]
    assert posted(collector, shop(), [call(b"%d" % number, trace_id).entry for number in range(4_000)]).status == 200
    wait_until(lambda: collector.get("/v1/log")["size"] == 1, SHOWN_S, "it is published")
    files = Path(f"/proc/{process.pid}/fd")
    before = len(list(files.iterdir()))
    # As many as one reader is answered at the same time.
    with held(collector, 2, head("GET", f"/v1/evidence/{trace_id.hex()}") * 8):
        wait_until(lambda: len(list(files.iterdir())) > before, SHOWN_S, "the collector answers")
        wait_until(lambda: len(list(files.iterdir())) <= before, ENDED_S, "it gives them up")


def test_evidence_that_is_asked_for_takes_no_more_memory_than_may_be_given(running):
    collector, process = running
    trace_id = sha256(b"heavy")[:16]
    fields = [{"name": "x" * 20, "value": "y" * 1_000}] * 32
    session = shop()
    for begin in range(0, HEAVY, 200):
        calls = [call(b"%d" % number, trace_id, headers=fields) for number in range(begin, begin + 200)]
        body = session.batch([one.entry for one in calls], [one.record for one in calls])
        assert client.request("POST", f"{collector.url}/v1/batches", identity("shop"), body).status == 200
    wait_until(lambda: collector.get("/v1/log")["size"] == session.seq, SHOWN_S, "it is published")
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the most begins from now on
    before = memory_mb(process)
    client.request("GET", f"{collector.url}/v1/evidence/{trace_id.hex()}", timeout_s=60)
    assert memory_mb(process) - before < EVIDENCE_MB


def test_sessions_are_listed_by_the_page(collector):
    for number in range(5):
        assert posted(collector, Session(b"%d" % number, namespace="shop", workload="shop")).status == 200
    assert len(collector.get("/v1/sessions?limit=3")) == 3


def test_calls_that_a_stranger_sends_under_a_trace_id_do_not_hide_the_first(collector):
    trace_id = sha256(b"trace")[:16]
    first = call(b"first", trace_id)
    assert posted(collector, shop(), [first.entry]).status == 200
    stranger = Session(b"stranger", namespace="evil", workload="evil")
    for begin in range(0, TOO_MANY, PER_BATCH):
        digests = [sha256(b"%d" % number) for number in range(begin, begin + PER_BATCH)]
        entries = [ENTRY.pack(1, CLIENT, trace_id, digest[:8], digest, digest) for digest in digests]
        assert posted(collector, stranger, entries).status == 200
    answer = client.request("GET", f"{collector.url}/v1/evidence/{trace_id.hex()}")
    assert answer.status == 200, answer.text[:200]
    assert first.entry.hex() in answer.text


def test_without_an_attack_a_siege_finds_no_fault():
    done = subprocess.run([sys.executable, "-m", "siege", "--attack", "none", "--seconds", "2", "--patience", "20"], cwd=Path(__file__).parent,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAULT" not in done.stdout and "batches, kept connection" in done.stdout
