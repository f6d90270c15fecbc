"""The interposed library that makes one operation on the file system fail (faultfs.c)."""

import re
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("faultfs.c")
# How a process ends that a fault ends, as Popen tells it; after all others it ends by itself, with 1.
ENDS = {"kill": -9, "torn_write": 137, "rename_lost": 137}


def missing() -> str | None:
    """Why there can be no such library here; None where there can."""
    if sys.platform != "linux":
        return "the fault library interposes glibc on Linux"
    return None if shutil.which("cc") else "cc is not installed: it compiles the fault library"


def build(directory: Path) -> Path:
    library = directory / "faultfs.so"
    argv = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", library, SOURCE, "-ldl"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return library


def kinds() -> list[str]:
    """Every kind of fault that the library knows, as its table says."""
    table = SOURCE.read_text().partition("KINDS[] = {")[2].partition("};")[0]
    return re.findall(r'\{"(\w+)"', table)


@dataclass(frozen=True)
class Fault:
    """One fault in one process, and what the library says of it."""

    library: Path
    kind: str
    at: int | None  # None: operations are only counted
    scratch: Path  # a directory of its own, beside the one it is about

    def environment(self, directory: Path) -> dict[str, str]:
        at = {} if self.at is None else {"FAULT_AT": str(self.at)}
        return {"LD_PRELOAD": str(self.library), "FAULT_DIR": str(directory), "FAULT_KIND": self.kind,
                "FAULT_LOG": str(self.scratch / "fired"), "FAULT_COUNT": str(self.scratch / "count"), **at}

    def fired(self) -> str:
        """The kind, the number and the path of the operation that failed; empty where none did."""
        path = self.scratch / "fired"
        return path.read_text().strip() if path.exists() else ""

    def count(self) -> int:
        """Operations that matched so far, or until the process ended."""
        return struct.unpack("=Q", (self.scratch / "count").read_bytes())[0]

    def __str__(self) -> str:
        return self.fired() or f"{self.kind} {self.at}, not reached"
