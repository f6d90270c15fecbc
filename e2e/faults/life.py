"""One life of a collector that a fault may end, and what must hold in the life after it."""

import base64
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from faults.shim import ENDS, Fault
from lab.batches import leaf_hash, tree_root
from lab.client import request
from lab.collector import COLLECTOR, meshchain
from lab.procs import Process, Processes, free_port, wait_until

ORIGIN = "faults.example/meshchain"
DEADLINE_S = 20.0
STOP_S = 30.0  # more than the collector gives its open requests and its writer
BUNDLE = 256  # leaves
WATCHED = ["tile/entries/000.p/254", "tile/entries/000"]

Rounds = list[list[bytes]]


@dataclass
class Told:
    """What a collector said while it lived."""

    leaves: dict[bytes, int] = field(default_factory=dict)  # of each acknowledged batch
    checkpoints: set[str] = field(default_factory=set)
    bundles: set[bytes] = field(default_factory=set)  # bundle 0, as long as it was

    def after(self, before: "Told") -> "Told":
        """What was told in that life and then in this."""
        return Told(before.leaves | self.leaves, before.checkpoints | self.checkpoints, before.bundles | self.bundles)


@dataclass
class Running:
    """A collector's process and its door."""

    process: Process
    url: str

    def alive(self) -> bool:
        return self.process.alive()

    def serves(self) -> bool:
        """Waits for its start: False where it ended instead."""
        def known() -> bool:
            return not self.alive() or self.get("healthz").status == 200
        wait_until(known, DEADLINE_S, f"{self.process.name} starts or ends")
        return self.alive()

    def seals(self) -> bool:
        """Waits for its first segment: False where it ended instead."""
        def known() -> bool:
            return not self.alive() or '"event":"sealed"' in self.process.log_text()
        wait_until(known, DEADLINE_S, f"{self.process.name} seals or ends")
        return self.alive()

    def get(self, path: str):
        return request("GET", self.url + path, timeout_s=DEADLINE_S)

    def post(self, batch: bytes):
        return request("POST", self.url + "v1/batches", body=batch, timeout_s=DEADLINE_S)

    def send(self, batches: list[bytes], told: Told) -> bool:
        """Sends each batch until it is acknowledged. False where the collector ended before that."""
        def done(batch: bytes) -> bool:
            if not self.alive():
                return True
            answer = self.post(batch)
            assert answer.status in (200, 503, 507), (answer.status, answer.text)
            if answer.status == 200:
                told.leaves[batch] = answer.json()["leaf"]
            return answer.status == 200

        def deliver(batch: bytes) -> None:
            wait_until(lambda: done(batch), DEADLINE_S, f"{self.process.name} acknowledges a batch or ends")

        with ThreadPoolExecutor(len(batches)) as pool:
            list(pool.map(deliver, batches))
        return self.alive()

    def look(self, told: Told) -> None:
        """Keeps what is published just now, so that later it can be held against the log."""
        try:
            told.checkpoints.add(self.get("checkpoint").text)
            for path in WATCHED:
                answer = self.get(path)
                assert answer.status in (200, 404, 500), (path, answer)
                if answer.status == 200:
                    told.bundles.add(answer.body)
        except OSError as error:
            wait_until(lambda: not self.alive(), DEADLINE_S, f"{self.process.name} gives no answer ({error}) and ends")


def start(processes: Processes, name: str, directory: Path, fault: Fault | None = None, *options: str) -> Running:
    port = free_port()
    argv = [COLLECTOR, "--data", directory, "--origin", ORIGIN, "--listen", f"127.0.0.1:{port}", *options]
    process = processes.start(name, argv, fault.environment(directory) if fault else None)
    return Running(process, f"http://127.0.0.1:{port}/")


@dataclass
class Life:
    """A life that is over: what was told, what was sent, and how many operations it took."""

    told: Told
    sent: Rounds
    before_stop: int
    operations: int


def live(processes: Processes, directory: Path, fault: Fault, rounds: Rounds, spare: Rounds = (),
         seals: bool = False) -> Life:
    """One life with a fault, which must end it as it has to, or not at all.

    Which batches share a commit, and so its operations, is a matter of milliseconds: `spare` rounds
    follow where the planned ones were not enough for the fault. One that `seals` first writes what it
    began with into a segment, at an age of a tenth of the retention.
    """
    told, sent, rest = Told(), [], list(spare)
    options = ["--retain-records", "10s"] if seals else []
    running = start(processes, f"{directory.parent.name}-faulty", directory, fault, *options)
    alive = running.serves()
    if seals and alive:
        alive = running.seals()
    for batches in rounds:
        sent.append(batches)
        if alive := alive and running.send(batches, told):
            running.look(told)
    while alive and rest and not fault.fired():
        sent.append(rest.pop(0))
        if alive := running.send(sent[-1], told):
            running.look(told)
    before_stop, asked = fault.count(), running.alive()
    code = processes.stop(running.process, grace_s=STOP_S)
    right = ({0} if asked else set()) | ({ENDS.get(fault.kind, 1)} if fault.fired() else set())
    assert code in right, f"exit code {code}, not of {right}\n{running.process.tail()}"
    return Life(told, sent, before_stop, fault.count())


def survived(processes: Processes, directory: Path, life: Life, first: int = 0, vkey: str = "") -> None:
    """What must hold after a life that began with `first` leaves, whatever ended it.

    The log starts again, holds each acknowledged batch where it was told, takes the others, holds nothing
    else, continues every checkpoint that was ever seen, and is whole: as the fault left it, and at the end.
    """
    if vkey:
        assert_whole(directory, vkey)
    running = start(processes, f"{directory.parent.name}-after", directory)
    assert running.serves(), f"it does not start again\n{running.process.tail()}"
    running.look(life.told)
    found = [leaf for batches in life.sent for leaf in send_again(running, batches, life.told)]
    size = first + len(found)
    assert sorted(found) == list(range(first, size)), "not each batch at one leaf"
    wait_until(lambda: size_of(running.get("checkpoint").text) == size, DEADLINE_S, "all is published")
    running.look(life.told)
    vkey = running.get("v1/log").json()["vkey"]
    assert processes.stop(running.process, grace_s=STOP_S) == 0, running.process.tail()
    assert assert_whole(directory, vkey)["size"] == size
    assert_continued(directory, size, life.told)


def send_again(running: Running, batches: list[bytes], told: Told) -> list[int]:
    """The leaves of batches that are sent, or sent again; acknowledged ones must be where they were."""
    with ThreadPoolExecutor(len(batches)) as pool:
        answers = list(pool.map(running.post, batches))
    for batch, answer in zip(batches, answers):
        assert answer.status == 200, f"{answer.text}\n{running.process.tail()}"
        if batch in told.leaves:
            kept = {"leaf": told.leaves[batch], "replayed": True}
            assert answer.json() == kept, f"an acknowledged batch is lost: {answer.json()}, not {kept}"
    return [answer.json()["leaf"] for answer in answers]


def assert_whole(directory: Path, vkey: str) -> dict:
    """What `meshchain fsck` says of the directory, which must be good."""
    found = meshchain("fsck", directory, "--vkey", vkey, "--json")
    report = found.json()
    assert found.code == 0, {part: report[part] for part in ("verdict", "damages", "unchecked", "notes")}
    return report


def assert_continued(directory: Path, size: int, told: Told) -> None:
    """Every checkpoint is the head of the log's first leaves; every bundle 0 is how bundle 0 begins."""
    bundles = [(directory / path(index, size)).read_bytes() for index in range(-(-size // BUNDLE))]
    hashes = [leaf_hash(leaf) for bundle in bundles for leaf in split(bundle)]
    assert len(hashes) == size
    for checkpoint in told.checkpoints:
        root = tree_root(hashes[:size_of(checkpoint)])
        assert b64(root) == checkpoint.splitlines()[2], f"the log does not continue\n{checkpoint}"
    assert all(bundles[0].startswith(bundle) for bundle in told.bundles)


def path(index: int, size: int) -> str:
    width = min(BUNDLE, size - index * BUNDLE)
    return f"tile/entries/{index:03}" + (f".p/{width}" if width < BUNDLE else "")


def split(bundle: bytes):
    at = 0
    while at < len(bundle):
        (length,) = struct.unpack_from(">H", bundle, at)
        yield bundle[at + 2:at + 2 + length]
        at += 2 + length


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def size_of(checkpoint: str) -> int:
    return int(checkpoint.splitlines()[1])
