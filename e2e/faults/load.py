"""Batches of sessions, each with its chain, as proxies would send them."""

import struct
import sys

from lab.tools import REPOSITORY

sys.path.append(str(REPOSITORY / "tests"))
from check_vectors import ENTRY, encode, leaf_hash, sha256, tree_root  # noqa: E402, F401

START_NS = 1_795_000_000_000_000_000
DATA, HEARTBEAT = 1, 2


class Session:
    """A proxy's run of batches: every other one holds a call."""

    def __init__(self, number: int):
        self.id = sha256(b"session", struct.pack(">I", number))[:16]
        self.source = {"mesh": "mesh1", "namespace": "load", "workload": "load", "pod": f"load-{number}"}
        self.seq, self.prev = 0, bytes(32)

    def batch(self) -> bytes:
        """The body of the next batch."""
        calls = 1 - self.seq % 2
        call = sha256(self.id, struct.pack(">Q", self.seq))
        entries = calls * ENTRY.pack(1, 2, call[:16], call[16:24], call, call)
        header = encode("BatchHeader", {
            "version": 1, "kind": DATA if calls else HEARTBEAT, "source": self.source, "session": hexed(self.id),
            "seq": self.seq, "count": calls, "dropped": [], "first_ns": START_NS, "last_ns": START_NS, "notices": []})
        chain = sha256(b"meshchain/chain/v1\0", self.prev, struct.pack(">I", len(header)), header, entries)
        parts = {"header": header, "prev": self.prev, "chain": chain, "entries": entries}
        self.seq, self.prev = self.seq + 1, chain
        return encode("Batch", {**{name: hexed(part) for name, part in parts.items()}, "records": []})


def rounds(sessions: range, number: int) -> list[list[bytes]]:
    """`number` rounds, each of one batch of every session."""
    running = [Session(session) for session in sessions]
    return [[session.batch() for session in running] for _ in range(number)]


def hexed(data: bytes) -> str:
    return "0x" + data.hex()
