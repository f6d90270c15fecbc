"""Child processes, their logs, ports, and waiting for what they do.

Each process leads its own process group, so that what it starts ends with it. Groups end in
three ways: `Processes.close`, `atexit`, and, if the lab is killed, the guard (see guard.py).
"""

import atexit
import contextlib
import fcntl
import functools
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lab import client

T = TypeVar("T")

POLL_S = 0.02
GRACE_S = 5.0
PORT_ATTEMPTS = 1000


class Failed(AssertionError):
    """Something did not happen in time, or a process ended early; the text shows its log's tail."""


class Process:
    """One running child process, leader of its own process group."""

    def __init__(self, name: str, popen: subprocess.Popen, log: Path):
        self.name = name
        self.popen = popen
        self.log = log

    @property
    def pid(self) -> int:
        """Process id, and process group id."""
        return self.popen.pid

    def alive(self) -> bool:
        return self.popen.poll() is None

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 30) -> str:
        """The last lines of its log, under a heading."""
        state = "running" if self.alive() else f"ended with {self.popen.returncode}"
        return f"--- {self.name} ({state}), {self.log}\n" + "\n".join(self.log_text().splitlines()[-lines:])

    def signal(self, number: int) -> None:
        """Sends a signal to the whole group; one that is gone is no error."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass


class Processes:
    """Starts processes and ends all of them; a context manager."""

    def __init__(self, log_directory: Path):
        self.log_directory = Path(log_directory)
        self.log_directory.mkdir(parents=True, exist_ok=True)
        self._running: dict[int, Process] = {}
        self._lock = threading.Lock()
        self._guard = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("guard.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, bufsize=0, start_new_session=True)
        atexit.register(self.close)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def start(self, name: str, argv: list[str], env: dict[str, str] | None = None,
              cwd: Path | None = None) -> Process:
        """Starts argv with `env` added to ours; stdout and stderr are appended to NAME.log."""
        log = self.log_directory / f"{name}.log"
        with self._lock, log.open("ab") as out:
            popen = subprocess.Popen([str(a) for a in argv], env={**os.environ, **(env or {})}, cwd=cwd,
                                     stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
            process = self._running[popen.pid] = Process(name, popen, log)
            try:
                self._tell_guard(f"+{popen.pid}")
            except (OSError, ValueError):  # no guard, no process; also after close
                process.signal(signal.SIGKILL)
                popen.wait()
                del self._running[popen.pid]
                raise
        return process

    def stop(self, process: Process, grace_s: float = GRACE_S) -> int:
        """SIGTERM, then SIGKILL after `grace_s` (at once if 0). Returns the exit status. Idempotent."""
        if process.pid not in self._running:  # by now the id may be somebody else's
            return process.popen.returncode
        if grace_s > 0:
            process.signal(signal.SIGTERM)
        return self._reap(process, time.monotonic() + grace_s)

    def close(self) -> None:
        """Ends every process, newest first, within one common grace period. Idempotent."""
        left = list(reversed(self._running.values()))
        for process in left:
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        for process in left:
            self._reap(process, deadline)
        self._guard.stdin.close()
        self._guard.wait()
        atexit.unregister(self.close)

    def _reap(self, process: Process, deadline: float) -> int:
        try:
            process.popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        process.signal(signal.SIGKILL)  # also what the leader left behind in its group
        status = process.popen.wait()
        with self._lock, contextlib.suppress(OSError):  # without its guard, ending still works
            if self._running.pop(process.pid, None):
                self._tell_guard(f"-{process.pid}")
        return status

    def _tell_guard(self, line: str) -> None:
        self._guard.stdin.write(f"{line}\n".encode())


_handed_out: set[int] = set()
_handing_out = threading.Lock()


def free_port() -> int:
    """A TCP port that nobody listens on, on any address, and that was not handed out before, neither here nor by
    another process of this user's that still runs.

    Chosen below the kernel's ephemeral range: a port got by binding to port 0 may become the
    source port of somebody's connection before its owner listens on it.
    """
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with _handing_out:
        for _ in range(PORT_ATTEMPTS):
            port = random.randrange(10_000, ephemeral)
            if port not in _handed_out and _claim(port) and _unused(port):
                _handed_out.add(port)
                return port
    raise Failed(f"no free port between 10000 and {ephemeral} in {PORT_ATTEMPTS} attempts")


def _claim(port: int) -> bool:
    """Whether no other process has the port; from then on this one has it, until it ends."""
    try:
        fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):
        return False
    return True


@functools.cache
def _claims() -> int:
    """A file that all processes of this user share: byte N is locked by the one that has port N."""
    path = Path(tempfile.gettempdir()) / f"meshchain-lab-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _unused(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def wait_until(predicate: Callable[[], T], deadline_s: float, what: str, *processes: Process) -> T:
    """Polls until `predicate` returns something true, and returns that.

    Raises Failed after `deadline_s` seconds, or as soon as one of `processes` has ended; the text
    shows `what` and the log tails. An OSError of the predicate counts as "not yet".
    """
    end = time.monotonic() + deadline_s
    why = None
    while True:
        try:
            if value := predicate():
                return value
        except OSError as error:
            why = error
        ended = [p.name for p in processes if not p.alive()]
        if ended or time.monotonic() > end:
            reason = f"{ended[0]} ended" if ended else f"not within {deadline_s} s"
            tails = "\n".join(p.tail() for p in processes)
            raise Failed(f"{what}: {reason}" + (f" ({why})" if why else "") + f"\n{tails}")
        time.sleep(POLL_S)


def wait_http(url: str, deadline_s: float, *processes: Process, status: int = 200) -> client.Response:
    """Polls `url` until it answers with `status`."""
    def answered() -> client.Response | None:
        response = client.request("GET", url)
        return response if response.status == status else None
    return wait_until(answered, deadline_s, f"{url} answers {status}", *processes)


def wait_port(address: tuple[str, int], deadline_s: float, *processes: Process) -> None:
    """Polls until something accepts TCP connections at `address`."""
    def accepted() -> bool:
        socket.create_connection(address, timeout=1).close()
        return True
    wait_until(accepted, deadline_s, f"{address[0]}:{address[1]} accepts connections", *processes)
