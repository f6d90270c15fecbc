"""The honest sender, and what is asked of the collector all the while."""

import http.client
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from lab import client
from lab.batches import Session, call, sha256
from siege import identity
from siege.attacks import SHARED_TRACE

TIMEOUT_S = 5.0  # a filter gives up its POST then
PAUSE_S = 0.25
CALLS_PER_BATCH = 5


@dataclass
class Times:
    """How long requests took that were answered as they should be, and how others ended."""

    took_s: list[float] = field(default_factory=list)
    failed: Counter = field(default_factory=Counter)

    def at(self, share: float) -> float:
        """Time within which that share ended; one that failed never did."""
        done = sorted(self.took_s) + [float("inf")] * self.failed.total()
        return done[min(len(done) - 1, int(share * len(done)))] if done else float("inf")


class Asking(threading.Thread):
    """Does one thing every `every_s` until `stop` is set."""

    def __init__(self, every_s: float, stop):
        super().__init__(daemon=True)
        self.times = Times()
        self._every_s, self._stop_event = every_s, stop

    def ask(self) -> int:
        """One request; its status."""
        raise NotImplementedError

    def run(self) -> None:
        while not self._stop_event.is_set():
            begun_s = time.monotonic()
            try:
                status = self.ask()
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
            took_s = time.monotonic() - begun_s
            if status == 200:
                self.times.took_s.append(took_s)
            else:
                self.times.failed[str(status)] += 1
            self._stop_event.wait(max(0.0, self._every_s - took_s))


class Health(Asking):
    """/healthz, on a connection of its own each time."""

    def __init__(self, url: str, every_s: float, stop):
        super().__init__(every_s, stop)
        self._url = url

    def ask(self) -> int:
        return client.request("GET", f"{self._url}/healthz", timeout_s=TIMEOUT_S).status


class Sender(Asking):
    """Posts batches, on a `kept` connection or each on one of its own; one that was not taken comes again, as a filter's does."""

    def __init__(self, port: int, kept: bool, every_s: float, stop):
        super().__init__(every_s, stop)
        self._name = b"honest kept" if kept else b"honest"
        self.session = Session(self._name, namespace="shop", workload=self._name.decode())
        self.traces: list[bytes] = []  # of batches that were taken
        self._kept = kept
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        self._waiting: tuple[bytes, bytes] | None = None

    def ask(self) -> int:
        trace_id, body = self._waiting = self._waiting or self._batch()
        try:
            self._connection.request("POST", "/v1/batches", body, identity("shop"))
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if not self._kept:
            self._connection.close()
        if answer.status == 200:
            self.traces.append(trace_id)
            self._waiting = None
        return answer.status

    def _batch(self) -> tuple[bytes, bytes]:
        """The next batch, of one trace; the first one's is that which a stranger will send calls under."""
        name = self._name + b" %d" % self.session.seq
        trace_id = sha256(name)[:16] if self.session.seq else SHARED_TRACE
        calls = [call(name + b" %d" % number, trace_id) for number in range(CALLS_PER_BATCH)]
        return trace_id, self.session.batch([one.entry for one in calls], [one.record for one in calls])
