"""Ends a demo that was kept, and waits until all its processes are gone."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import state

GRACE_S = 15.0
KILLED_S = 5.0


def main() -> int:
    pid = state.holder()
    if pid is None:
        state.RUN_JSON.unlink(missing_ok=True)
        print("demo: none is running")
        return 0
    pids = _pids(pid)
    print(f"demo: stopping process {pid} and the {len(pids) - 1} processes of its scene")
    _signal(pid, signal.SIGTERM)
    if not _gone(pids, GRACE_S):
        _signal(pid, signal.SIGKILL)  # its guard then kills the others
        if not _gone(pids, KILLED_S):
            print(f"demo: still there: {[p for p in pids if _alive(p)]}", file=sys.stderr)
            return 1
    state.RUN_JSON.unlink(missing_ok=True)
    print("demo: stopped, nothing is left running")
    return 0


def _pids(pid: int) -> list[int]:
    """The demo's own process and, if it got that far, all of its scene."""
    try:
        return list(json.loads(state.RUN_JSON.read_text())["pids"].values())
    except FileNotFoundError:
        return [pid]


def _signal(pid: int, number: int) -> None:
    if state.holder() == pid:  # else it has ended, and the id may be somebody else's
        os.kill(pid, number)


def _gone(pids: list[int], within_s: float) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if state.holder() is None and not any(map(_alive, pids)):
            return True
        time.sleep(0.1)
    return False


def _alive(pid: int) -> bool:
    """Whether it runs; one that ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


if __name__ == "__main__":
    sys.exit(main())
