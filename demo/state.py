"""Where the demo keeps its files, and the lock that says whether one is running."""

import fcntl
import json
import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT / ".demo"
RUN_JSON = STATE / "run.json"
LOGS = STATE / "logs"
LOCK = STATE / "lock"  # held by the running demo for as long as it runs; its text is the process id


class Occupied(Exception):
    """A demo is running already."""


def take() -> int:
    """Takes the lock and empties the folder. The lock ends with the process that took it."""
    STATE.mkdir(exist_ok=True)
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Occupied(f"a demo is running (process {os.read(lock, 32).decode().strip()}); "
                       "`make demo-stop` ends it") from None
    os.truncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    for entry in STATE.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != LOCK:
            entry.unlink()
    LOGS.mkdir()
    return lock


def kept_by() -> int | None:
    """Process id of the demo that wrote run.json."""
    try:
        return json.loads(RUN_JSON.read_text())["pids"]["demo"]
    except FileNotFoundError:
        return None


def holder() -> int | None:
    """Process id of the running demo."""
    try:
        lock = os.open(LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        text = os.read(lock, 32).decode().strip()
        return int(text) if text else None
    finally:
        os.close(lock)
