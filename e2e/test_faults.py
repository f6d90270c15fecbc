"""Faults below the collector's file system: a disk that fails, is full, cuts writes or loses a rename, a
process that dies at any operation, a clock that goes back.

Each life gets one fault at one operation, made by a library that is loaded into the collector
(faults/faultfs.c); the checks of `survived` follow. By default a few operations of each kind are tried,
spread over the life; FAULTS=all tries every one, which takes two minutes.
"""

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from faults import shim
from faults.life import BUNDLE, DEADLINE_S, Life, Told, assert_whole, live, size_of, start, survived
from faults.load import Proxy, rounds
from faults.shim import Fault
from lab.collector import check_built
from lab.procs import Processes, wait_until

FIRST = 254  # leaves when a life begins: the tile is full after its second
LOAD = rounds(range(3), 3)
# Rounds of one batch, for a commit of its own, and between them one that fills a tile: only then partial ones go.
SPARE = [*rounds(range(3, 4), 60), *rounds(range(1000, 1000 + BUNDLE), 1), *rounds(range(4, 5), 20)]
SAMPLES = 6  # operations of each kind
WORKERS = 12  # lives at a time; they mostly wait, for the disk and for the next commit
FEWEST = 3  # operations of any kind in a life
TRIES = 5  # lives for one fault, each with fewer operations than the one before


@dataclass
class Lab:
    """The library, a log to begin with, and a place for each life."""

    processes: Processes
    library: Path
    directory: Path
    vkey: str = ""
    numbers: itertools.count = field(default_factory=itertools.count)

    @property
    def grown(self) -> Path:
        return self.directory / "grown"

    def fault(self, kind: str, at: int | None = None) -> Fault:
        scratch = self.directory / f"{kind}-{at}-{next(self.numbers)}"
        scratch.mkdir()
        return Fault(self.library, kind, at, scratch)

    def copied(self, fault: Fault) -> Path:
        """The data directory of a life that begins with the grown log."""
        return Path(shutil.copytree(self.grown, fault.scratch / "data"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    if why := shim.missing():
        pytest.skip(why)
    check_built()
    directory = tmp_path_factory.mktemp("faults").resolve()
    with Processes(directory / "logs") as processes:
        lab = Lab(processes, shim.build(directory), directory)
        running, told = start(processes, "grown", lab.grown), Told()
        assert running.serves(), running.process.tail()
        batches = [Proxy(number).close() for number in range(100, 100 + FIRST)]
        assert running.send(batches, told)
        wait_until(lambda: size_of(running.get("checkpoint").text) == FIRST, DEADLINE_S, "all is published")
        lab.vkey = running.get("v1/log").json()["vkey"]
        assert processes.stop(running.process) == 0, running.process.tail()
        yield lab


def sampled(operations: range) -> list[int]:
    """Some of the operations, the first and the last among them; with FAULTS=all, all."""
    if os.environ.get("FAULTS") == "all" or len(operations) <= SAMPLES:
        return list(operations)
    return [operations[at * (len(operations) - 1) // (SAMPLES - 1)] for at in range(SAMPLES)]


def try_each(lab: Lab, faults: list[tuple[str, int]], one: Callable[[Fault], Life]) -> None:
    """Runs `one` for each kind and operation, some at a time, and tells which of them failed. How many operations a
    life takes varies a little (the audit log writes as lines come): a fault past a life's last is tried at its last."""
    def tried(kind: str, at: int) -> str:
        for _ in range(TRIES):
            fault = lab.fault(kind, at)
            try:
                life = one(fault)
            except AssertionError as error:
                return f"{fault}: {error}"
            if fault.fired():
                break
            assert life.operations <= at, f"{fault} did not come, in a life of {life.operations} operations"
            at = life.operations - 1
        assert fault.fired().startswith(f"{kind} {at} "), f"the fault did not come: {fault}"
        shutil.rmtree(fault.scratch)
        return ""

    with ThreadPoolExecutor(WORKERS) as pool:
        failed = [text for text in pool.map(tried, *zip(*faults)) if text]
    assert not failed, f"{len(failed)} of {len(faults)}\n" + "\n\n".join(failed[:10])
    print(f"{len(faults)} lives")


@pytest.mark.parametrize("kind", shim.kinds())
def test_after_a_fault_nothing_acknowledged_is_lost_and_the_log_is_whole(lab, kind):
    def one(fault: Fault, spare=SPARE) -> Life:
        data = lab.copied(fault)
        life = live(lab.processes, data, fault, LOAD, spare)
        survived(lab.processes, data, life, FIRST, lab.vkey)
        return life

    unharmed = lab.fault(kind)
    planned = one(unharmed, spare=[]).before_stop
    assert planned >= FEWEST and not unharmed.fired()
    try_each(lab, [(kind, at) for at in sampled(range(planned))], one)


def test_a_fault_while_it_seals_costs_nothing(lab):
    """What fails is sealed at the next attempt, or after the next start; a clock that goes back puts it off."""
    def one(fault: Fault, spare=SPARE) -> Life:
        data = lab.copied(fault)
        life = live(lab.processes, data, fault, LOAD, spare, seals=True)
        survived(lab.processes, data, life, FIRST, lab.vkey)
        return life

    kinds = [kind for kind in shim.kinds() if kind != "clock_back"]
    with ThreadPoolExecutor(WORKERS) as pool:
        lives = pool.map(lambda kind: one(lab.fault(kind), spare=[]), kinds)
    planned = {kind: life.before_stop for kind, life in zip(kinds, lives)}
    assert min(planned.values()) >= FEWEST
    try_each(lab, [(kind, at) for kind in kinds for at in sampled(range(planned[kind]))], one)


@pytest.mark.parametrize("kind", ["kill", "torn_write", "short_write", "enospc_write", "eio_write", "eio_fsync"])
def test_a_fault_while_it_stops_costs_nothing(lab, kind):
    def one(fault: Fault) -> Life:
        data = lab.copied(fault)
        life = live(lab.processes, data, fault, [])
        survived(lab.processes, data, replace(life, sent=LOAD), FIRST, lab.vkey)
        return life

    planned = one(lab.fault(kind))
    assert planned.before_stop < planned.operations
    try_each(lab, [(kind, at) for at in range(planned.before_stop, planned.operations)], one)


@pytest.mark.parametrize("kind", ["kill", "torn_write", "rename_lost", "enospc_write", "eio_fsync"])
def test_a_first_start_that_was_cut_off_can_be_made_again(lab, kind):
    def one(fault: Fault) -> Life:
        data = fault.scratch / "data"
        data.mkdir()
        life = live(lab.processes, data, fault, [])
        survived(lab.processes, data, replace(life, sent=LOAD))
        return life

    planned = one(lab.fault(kind)).before_stop
    assert planned >= 2
    try_each(lab, [(kind, at) for at in range(planned)], one)


@pytest.fixture(scope="module")
def unfinished(lab):
    """(Directory, life) of a collector that was killed between a commit that fills a tile and its publication."""
    for at in itertools.count(10, 4):
        fault = lab.fault("kill", at)
        data = lab.copied(fault)
        life = live(lab.processes, data, fault, LOAD)
        assert fault.fired(), "no kill left a commit unpublished"
        published = size_of((data / "checkpoint").read_text())
        if published < BUNDLE <= max(life.told.leaves.values(), default=0) + 1:
            return data, life


@pytest.mark.parametrize("kind", [kind for kind in shim.kinds() if kind not in ("eio_unlink", "clock_back")])
def test_a_fault_while_it_recovers_is_recovered_from(lab, unfinished, kind):
    left, before = unfinished

    def one(fault: Fault) -> Life:
        data = Path(shutil.copytree(left, fault.scratch / "data"))
        life = live(lab.processes, data, fault, [])
        life = replace(life, sent=LOAD, told=life.told.after(before.told))
        survived(lab.processes, data, life, FIRST, lab.vkey)
        return life

    planned = one(lab.fault(kind)).before_stop
    assert planned >= FEWEST
    try_each(lab, [(kind, at) for at in sampled(range(planned))], one)


def test_a_line_of_the_audit_log_that_was_cut_off_spoils_no_other(lab):
    for at in range(10):  # its first writes: head and sealed as its own, then the line of the start
        fault = lab.fault("torn_write", at)
        data = lab.copied(fault)
        live(lab.processes, data, fault, [])
        if "/audit.jsonl" in fault.fired():
            break
    else:
        pytest.fail("the line of the start is not among the first writes")
    running = start(lab.processes, "audited", data)
    assert running.serves(), running.process.tail()
    assert lab.processes.stop(running.process) == 0
    events = []
    for line in (data / "audit.jsonl").read_text().splitlines():
        try:
            events.append(json.loads(line)["event"])
        except ValueError:
            events.append("cut off")
    assert events[-3:] == ["start", "key", "stop"] and "cut off" not in events


def test_a_lock_that_a_killed_collector_left_hinders_no_start(lab):
    fault = lab.fault("kill", 20)
    data = lab.copied(fault)
    life = live(lab.processes, data, fault, LOAD, SPARE)
    assert fault.fired() and (data / "lock").exists()
    survived(lab.processes, data, life, FIRST, lab.vkey)


def test_the_checks_find_an_acknowledged_batch_that_is_lost(lab):
    """A log that forgot: the directory is put back to what it was before the batches were acknowledged."""
    fault = lab.fault("kill")
    data = lab.copied(fault)
    life = live(lab.processes, data, fault, LOAD)
    assert len(life.told.leaves) == 9
    shutil.rmtree(data)
    lab.copied(fault)
    with pytest.raises(AssertionError, match="an acknowledged batch is lost"):
        survived(lab.processes, data, life, FIRST, lab.vkey)


def test_the_checks_find_a_checkpoint_that_the_log_does_not_continue(lab):
    """The log of another life, in which the same batches came in another order."""
    fault = lab.fault("kill")
    data = lab.copied(fault)
    life = live(lab.processes, data, fault, LOAD)
    shutil.rmtree(data)
    lab.copied(fault)
    life.told.leaves.clear()
    life.sent = [list(reversed(LOAD[0])), *LOAD[1:]]
    with pytest.raises(AssertionError, match="the log does not continue"):
        survived(lab.processes, data, life, FIRST, lab.vkey)


def last_line(data: Path) -> str:
    return (data / "audit.jsonl").read_text().splitlines()[-1]


@pytest.mark.parametrize("kept", range(1, 5))
def test_lines_that_a_kill_took_along_are_told_at_the_next_start(lab, kept):
    data = lab.copied(lab.fault("kill"))
    before = len((data / "audit.jsonl").read_text().splitlines())
    running, told = start(lab.processes, f"killed-{kept}", data), Told()
    assert running.serves(), running.process.tail()
    proxy = Proxy(1)
    running.send([proxy.batch()], told)
    running.send([proxy.close()], told)
    wait_until(lambda: f'"size":{FIRST + 2}' in last_line(data) and "checkpoint" in last_line(data), DEADLINE_S,
               "the line of the last checkpoint is kept")
    running.process.signal(signal.SIGKILL)
    running.process.popen.wait()
    lines = (data / "audit.jsonl").read_text().splitlines(keepends=True)
    names = [json.loads(line)["event"] for line in lines[before:]]
    assert names == ["start", "key", "session_opened", "checkpoint", "session_closed", "checkpoint"]
    (data / "audit.jsonl").write_text("".join(lines[:before + 1 + kept]))

    after = start(lab.processes, f"told-{kept}", data)
    assert after.serves(), after.process.tail()
    assert lab.processes.stop(after.process) == 0
    lines = [json.loads(line) for line in (data / "audit.jsonl").read_text().splitlines()[before + 1 + kept:]]
    again = ["session_opened", "session_closed"] if kept < 3 else ["session_closed"]
    assert [line["event"] for line in lines] == [*again, "start", "key", "stop"]
    assert all(line["again"] is True for line in lines[:len(again)])
    assert_whole(data, lab.vkey)
