"""Requests one after another on one connection, each in a trace of its own."""

import http.client
import struct
import threading
import time
from dataclasses import dataclass

CALL_S = 20.0
QUICK_S = 1.5  # far below the 5 s after which Envoy gives up a POST of the filter
SPAN_ID = "00000000000000aa"


@dataclass(frozen=True)
class Done:
    """A call as its client saw it; `status` 0: no answer. Times are of time.monotonic()."""

    trace_id: bytes
    status: int
    begun_s: float
    ended_s: float

    @property
    def took_s(self) -> float:
        return self.ended_s - self.begun_s


class Load:
    """Runs while its `with` block does, and ends by itself where it gets no answer. `number` sets its traces apart."""

    def __init__(self, port: int, number: int = 1, pause_s: float = 0.0):
        self.calls: list[Done] = []
        self._number, self._pause_s = number, pause_s
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_S)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    @property
    def trace_ids(self) -> list[bytes]:
        return [call.trace_id for call in self.calls]

    def stop(self) -> None:
        """Returns when the last call has ended."""
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.calls.append(self._call(struct.pack(">QQ", self._number, len(self.calls) + 1)))
            if self.calls[-1].status == 0:
                return
            self._stop.wait(self._pause_s)

    def _call(self, trace_id: bytes) -> Done:
        status, begun_s = 0, time.monotonic()
        try:
            self._connection.request("GET", "/", headers={"x-b3-traceid": trace_id.hex(), "x-b3-spanid": SPAN_ID})
            answer = self._connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException):
            pass
        return Done(trace_id, status, begun_s, time.monotonic())


def never_in_the_way(calls: list[Done]) -> bool:
    """Whether all were answered 200, and quickly."""
    return bool(calls) and all(call.status == 200 and call.took_s < QUICK_S for call in calls)
