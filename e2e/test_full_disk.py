"""A collector on a disk that is full: reads go on, writes get 507, nothing is torn, and it goes on by itself.

The disk is a small tmpfs; where none may be mounted, these are skipped. What a lack of room does at each operation of a
commit is tried natively (log/src/fault_tests/full.rs).
"""

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from faults.life import DEADLINE_S, Running, Told, assert_continued, assert_whole, size_of, start
from faults.load import Proxy
from lab.collector import check_built
from lab.procs import Processes, wait_until

SIZE = 40 << 20  # the collector's reserve is 16 MiB of it
FILES = 400  # and folders
ROOM = 64 << 10  # what is left of a full disk when the load begins to use it up


@dataclass
class Disk:
    """A small file system with a data directory, and what fills it: a file, or very many of them."""

    root: Path
    lacks: str

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def ballast(self) -> Path:
        return self.root / "ballast"

    def free(self) -> int:
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Lets no more than so many bytes be free, or a file for each `ROOM` of them."""
        if self.lacks == "files":
            self.ballast.mkdir(exist_ok=True)
            while os.statvfs(self.root).f_favail > leave // ROOM:
                (self.ballast / str(len(os.listdir(self.ballast)))).touch()
            return
        with self.ballast.open("ab") as file:
            # The collector writes meanwhile, and deletes.
            while (free := self.free()) > leave:
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free - leave)

    def make_room(self) -> None:
        if self.lacks == "files":
            shutil.rmtree(self.ballast)
        else:
            self.ballast.unlink()


@pytest.fixture(params=["room", "files"])
def disk(tmp_path, request):
    check_built()
    root = tmp_path.resolve() / "disk"
    root.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},nr_inodes={FILES}", "tmpfs", root]
    if not shutil.which("mount") or subprocess.run(argv, capture_output=True).returncode != 0:
        pytest.skip("no file system may be mounted here")
    yield Disk(root, request.param)
    subprocess.run(["umount", "--lazy", root], check=True)


@pytest.fixture
def processes(tmp_path):
    with Processes(tmp_path / "logs") as processes:
        yield processes


def begun(processes: Processes, disk: Disk, name: str = "collector") -> Running:
    running = start(processes, name, disk.data)
    assert running.serves(), running.process.tail()
    return running


def send(running: Running, batch: bytes, told: Told) -> str:
    """The reason of the answer; empty where the batch was taken."""
    answer = running.post(batch)
    if answer.status == 200:
        told.leaves[batch] = answer.json()["leaf"]
        return ""
    assert answer.status in (503, 507), answer.text
    reason = answer.json()["reason"]
    assert (answer.status == 507) == (reason == "no_space"), answer.text
    return reason


def takes(running: Running, batch: bytes, told: Told) -> None:
    wait_until(lambda: send(running, batch, told) == "", DEADLINE_S, "batches are taken again")


def reads(running: Running, told: Told) -> None:
    """All that is read is served, from the tree that was published."""
    assert running.get("healthz").status == 200
    ready = running.get("readyz")
    assert ready.status == 503 and "no space" in ready.text
    running.look(told)
    assert running.get("v1/sessions").status == 200
    metrics = running.get("metrics").text
    assert 'meshchain_batches_pushed_back_total{reason="no_space"}' in metrics


def ends_well(processes: Processes, running: Running, disk: Disk, told: Told) -> None:
    """All that was acknowledged is there, once; all checkpoints that were seen are continued."""
    for batch, leaf in told.leaves.items():
        assert running.post(batch).json() == {"leaf": leaf, "replayed": True}
    vkey = running.get("v1/log").json()["vkey"]
    published = lambda: size_of(running.get("checkpoint").text) == len(told.leaves)
    wait_until(published, DEADLINE_S, "all is published")
    running.look(told)
    assert processes.stop(running.process) == 0, running.process.tail()
    assert assert_whole(disk.data, vkey)["size"] == len(told.leaves)
    assert_continued(disk.data, len(told.leaves), told)


def test_a_full_disk_ends_nothing_and_it_goes_on_when_there_is_room(disk, processes):
    running, told, proxy = begun(processes, disk), Told(), Proxy(1)
    for _ in range(3):
        assert send(running, proxy.batch(), told) == ""
    disk.fill()
    waiting = proxy.batch()
    wait_until(lambda: send(running, waiting, told) == "no_space", DEADLINE_S, "the sender hears of it")
    reads(running, told)
    disk.make_room()
    takes(running, waiting, told)
    wait_until(lambda: running.get("readyz").status == 200, DEADLINE_S, "it is ready again")
    ends_well(processes, running, disk, told)


def test_a_load_that_fills_the_disk_itself_tears_nothing(disk, processes):
    running, told = begun(processes, disk), Told()
    proxies = [Proxy(number) for number in range(4)]
    for turn in range(3):
        disk.fill(leave=(turn + 1) * ROOM)
        waiting, reason = [], ""
        while not reason:
            for proxy in proxies[turn:turn + 2]:
                waiting.append(proxy.batch())
                reason = reason or send(running, waiting[-1], told)
        wait_until(lambda: send(running, waiting[-1], told) in ("no_space", ""), DEADLINE_S, "it says why")
        reads(running, told)
        disk.make_room()
        for batch in waiting:
            takes(running, batch, told)
    assert running.alive(), running.process.tail()
    ends_well(processes, running, disk, told)


def test_it_starts_on_a_full_disk_and_serves_reads(disk, processes):
    running, told, proxy = begun(processes, disk), Told(), Proxy(1)
    for _ in range(3):
        assert send(running, proxy.batch(), told) == ""
    assert processes.stop(running.process) == 0
    (disk.data / "reserve").unlink()  # as one that was used up
    shutil.rmtree(disk.data / "spare")
    disk.fill()
    for life in range(2):
        running = begun(processes, disk, f"again-{life}")
        processes.stop(running.process)
    running, waiting = begun(processes, disk, "at last"), proxy.batch()
    wait_until(lambda: send(running, waiting, told) == "no_space", DEADLINE_S, "the sender hears of it")
    reads(running, told)
    disk.make_room()
    takes(running, waiting, told)
    ends_well(processes, running, disk, told)
