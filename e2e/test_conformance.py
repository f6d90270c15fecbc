"""A log of 10^5 leaves, grown over restarts and kills, judged by other people's tools.

The judges come from the Go module proxy, unpatched, as `e2e/conformance/go.sum` pins them: Tessera's
`fsck`, which reads the whole log over HTTP, and `golang.org/x/mod/sumdb/note`, which opens its
checkpoints. Without Go the tests are skipped. They take about 30 s on two cores, most of it growth: a
session gets one batch into a commit, and commits are 100 ms apart. Empty Go caches add as much.
"""

import contextlib
import functools
import http.server
import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.batches import ENTRY, Session, leaf_hash, sha256, tree_root
from lab.client import request
from lab.collector import COLLECTOR, check_built
from lab.procs import Processes, free_port, wait_http, wait_until
from lab.tools import REPOSITORY

ORIGIN = "conformance.example/meshchain"
SESSIONS = 800  # connections; below the 1,024 files that a process may commonly open
ROUNDS = 125  # batches of each session, one leaf each
LEAVES = SESSIONS * ROUNDS
STOPS = {20: signal.SIGTERM, 50: signal.SIGKILL, 85: signal.SIGTERM, 110: signal.SIGKILL}  # by round
BUNDLE = 256  # entries
DEADLINE_S = 20.0
GO_S = 300.0  # an empty module cache, a slow proxy
# A worker of fsck ends at its first bad tile, and without workers fsck waits for ever: more than one bad
# leaf can end, which makes a tile of each level bad.
FSCK_WORKERS = 8


# --- the judges

@dataclass(frozen=True)
class Judges:
    """The two programs, and the log's verification key in a file."""

    directory: Path
    vkey: Path

    def fsck(self, url):
        """(size, root in hex) of the log at `url`, or None where it is refused; and what fsck said.

        Its exit code is 0 either way, so only its own words count.
        """
        argv = ["--storage_url", url, "--public_key", self.vkey, "--origin", ORIGIN, "--ui=false", "-N", FSCK_WORKERS]
        text = self.run("fsck", *argv).stderr
        passed = re.search(r"Successfully fsck'd log with size (\d+) and root \S+ \(([0-9a-f]{64})\)", text)
        assert bool(passed) != ("fsck failed: " in text), text
        return (int(passed[1]), passed[2]) if passed else None, text

    def notecheck(self, *checkpoints, vkey=None):
        return self.run("notecheck", vkey or self.vkey, *checkpoints)

    def run(self, name, *arguments):
        argv = [str(self.directory / name), *map(str, arguments)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Builds the judges into `.tools/bin`, and checks their sources against `go.sum`."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed: fsck and note, which judge the log, are Go programs")
    directory = REPOSITORY / ".tools" / "bin"
    directory.mkdir(parents=True, exist_ok=True)
    fsck = "github.com/transparency-dev/tessera/cmd/fsck"
    for command in (["build", "-buildvcs=false", "-o", f"{directory}/", fsck, "./notecheck"], ["mod", "verify"]):
        done = subprocess.run([go, *command], cwd=REPOSITORY / "e2e" / "conformance", capture_output=True, text=True,
                              timeout=GO_S)
        assert done.returncode == 0, f"go {' '.join(command)}\n{done.stdout}{done.stderr}"
    return Judges(directory, tmp_path_factory.mktemp("judges") / "vkey")


# --- the load

class Poster:
    """A proxy that posts batches of one call each."""

    def __init__(self, number):
        self.session = Session(struct.pack(">I", number), mesh="mesh1", namespace="load", workload="load",
                               pod=f"load-{number}")

    def post(self):
        """The POST of the next batch."""
        call = sha256(self.session.id, struct.pack(">Q", self.session.seq))
        body = self.session.batch([ENTRY.pack(1, 2, call[:16], call[16:24], call, call)])
        return b"POST /v1/batches HTTP/1.1\r\nhost: collector\r\ncontent-length: %d\r\n\r\n" % len(body) + body


class Connection:
    """A kept-alive connection, so that all sessions can wait for the same commit."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self.incoming = self.socket.makefile("rb")

    def send(self, data):
        self.socket.sendall(data)

    def answer(self):
        """The body of the next answer, which must be 200."""
        status, length = self.incoming.readline(), 0
        while (line := self.incoming.readline().lower()) not in (b"\r\n", b""):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body = self.incoming.read(length)
        assert status.split()[1:2] == [b"200"], (status, body)
        return json.loads(body)

    def close(self):
        self.incoming.close()
        self.socket.close()


# --- the log

@dataclass
class GrownLog:
    """A collector with a log that outlived several of its processes."""

    processes: Processes
    data: Path
    port: int = 0
    process: object = None
    checkpoints: list[str] = field(default_factory=list)  # after each start that followed a stop, and the last

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def start(self):
        self.port = free_port()
        argv = [COLLECTOR, "--data", self.data, "--origin", ORIGIN, "--listen", f"127.0.0.1:{self.port}"]
        self.process = self.processes.start("collector", argv)
        wait_http(self.url + "healthz", DEADLINE_S, self.process)

    def get(self, path):
        answer = request("GET", self.url + path)
        assert answer.status == 200, (path, answer)
        return answer.body

    def grow(self):
        """Every batch is sent, and sent again where its collector ended before the round was answered."""
        sessions = [Poster(number) for number in range(SESSIONS)]
        connections = self.connect()
        for number in range(ROUNDS):
            posts = [session.post() for session in sessions]
            send(connections, posts)
            if number in STOPS:
                # An answered batch is committed; its tiles and checkpoint are being written now.
                connections[0].answer()
                self.restart(STOPS[number])
                assert SESSIONS * number < size_of(self.checkpoints[-1]) <= SESSIONS * (number + 1)
                close(connections)
                connections = self.connect()
                send(connections, posts)
            answers = [connection.answer() for connection in connections]
            assert answers[0]["replayed"] == (number in STOPS)
        close(connections)
        wait_until(lambda: size_of(self.get("checkpoint").decode()) == LEAVES, DEADLINE_S, "all is published")
        self.checkpoints.append(self.get("checkpoint").decode())

    def connect(self):
        return [Connection(self.port) for _ in range(SESSIONS)]

    def restart(self, how):
        code = self.processes.stop(self.process, grace_s=0 if how == signal.SIGKILL else DEADLINE_S)
        assert code == (-signal.SIGKILL if how == signal.SIGKILL else 0), self.process.tail()
        self.start()
        self.checkpoints.append(self.get("checkpoint").decode())

    def leaves(self):
        """The log's entries, out of its entry bundles."""
        for index in range(-(-LEAVES // BUNDLE)):
            width = min(BUNDLE, LEAVES - index * BUNDLE)
            bundle = self.get(f"tile/entries/{index:03}" + (f".p/{width}" if width < BUNDLE else ""))
            at = 0
            while at < len(bundle):
                (length,) = struct.unpack_from(">H", bundle, at)
                yield bundle[at + 2:at + 2 + length]
                at += 2 + length


def send(connections, posts):
    for connection, post in zip(connections, posts):
        connection.send(post)


def close(connections):
    for connection in connections:
        connection.close()


def size_of(checkpoint):
    return int(checkpoint.splitlines()[1])


@pytest.fixture(scope="module")
def log(judges, tmp_path_factory):
    check_built()
    directory = tmp_path_factory.mktemp("conformance")
    with Processes(directory) as processes:
        log = GrownLog(processes, directory / "data")
        log.start()
        judges.vkey.write_text(json.loads(log.get("v1/log"))["vkey"])
        log.grow()
        yield log


# --- what they say

def test_fsck_accepts_a_log_that_grew_over_restarts(judges, log):
    """fsck derives every tile and the root from the entry bundles, and compares them with what is served."""
    found, text = judges.fsck(log.url)
    described = json.loads(log.get("v1/log"))
    assert found == (LEAVES, described["root"]), text


def test_note_opens_the_checkpoint_of_every_start(judges, log, tmp_path):
    files = []
    for checkpoint in log.checkpoints:
        files.append(tmp_path / f"{size_of(checkpoint)}")
        files[-1].write_text(checkpoint)
    done = judges.notecheck(*files)
    assert done.returncode == 0, done.stderr
    opened = [line.split() for line in done.stdout.splitlines()]
    assert [(origin, int(size)) for origin, size, _ in opened] == [(ORIGIN, size_of(c)) for c in log.checkpoints]
    assert len(opened) == len(STOPS) + 1

    # Nothing was rewritten: each is the head of the first leaves of the log as it is now.
    hashes = [leaf_hash(leaf) for leaf in log.leaves()]
    assert len(hashes) == LEAVES
    assert [root for _, _, root in opened] == [tree_root(hashes[:int(size)]).hex() for _, size, _ in opened]


def test_note_refuses_another_key_and_another_text(judges, log, tmp_path):
    checkpoint, changed, vkey = (tmp_path / name for name in ("checkpoint", "changed", "vkey"))
    checkpoint.write_text(log.checkpoints[-1])
    changed.write_text(log.checkpoints[-1].replace(f"\n{LEAVES}\n", f"\n{LEAVES - 1}\n"))
    vkey.write_text("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")  # of note's own documentation
    assert judges.notecheck(checkpoint).returncode == 0
    assert "no verifiable signatures" in judges.notecheck(checkpoint, vkey=vkey).stderr
    assert "invalid signature" in judges.notecheck(changed).stderr


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # past it a connection waits a second, and fsck opens one per file

    def handle_error(self, *_):
        pass  # fsck hangs up once it has refused


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served_copy(log, tmp_path_factory):
    """(directory, URL) of a copy of the log's public files, served by a server that knows no log."""
    directory = tmp_path_factory.mktemp("copy")
    shutil.copytree(log.data / "tile", directory / "tile")
    shutil.copy(log.data / "checkpoint", directory)
    server = Server(("127.0.0.1", 0), functools.partial(Quiet, directory=directory))
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield directory, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def flipped_byte(path):
    """One bit is another one for a while: eight bytes from the end, in the last entry, hash or signature."""
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[-8] ^= 1
    path.write_bytes(changed)
    yield
    path.write_bytes(whole)


@pytest.mark.parametrize("path", [
    "tile/entries/200", f"tile/entries/390.p/{LEAVES % BUNDLE}", "tile/0/100", "tile/1/000", "tile/2/000.p/1",
    "checkpoint"])
def test_fsck_refuses_a_flipped_byte(judges, served_copy, path):
    """The judge can say no: one bit in a bundle, in a tile of each level, or in the checkpoint."""
    directory, url = served_copy
    with flipped_byte(directory / path):
        found, text = judges.fsck(url)
    assert found is None, text


def test_fsck_accepts_the_files_without_their_collector(judges, served_copy):
    """The copies are as good as the log, so that what was refused above was refused for its flipped byte."""
    found, text = judges.fsck(served_copy[1])
    assert found and found[0] == LEAVES, text
