"""Batches as a proxy sends them, each chained to the one before; written from docs/format.md alone."""

import struct
import sys
from dataclasses import dataclass

from lab.tools import REPOSITORY

sys.path.append(str(REPOSITORY / "tests"))
from check_vectors import ENTRY, encode, leaf_hash, sha256, tree_root  # noqa: E402, F401

START_NS = 1_795_000_000_000_000_000
SECOND_NS = 1_000_000_000
DATA, HEARTBEAT, CLOSE = 1, 2, 3


@dataclass(frozen=True)
class Call:
    """What a filter makes of one call."""

    trace_id: bytes
    entry: bytes
    record: bytes


def call(name: bytes, trace_id: bytes, start_ns: int = START_NS, **hop) -> Call:
    """A call with an entry and a record that fit each other; `name` makes its span id and its salt."""
    span_id = sha256(b"span", name)[:8]
    part = encode("HopPart", {"trace_id": hexed(trace_id), "span_id": hexed(span_id), "method": "GET",
                              "authority": "load", "path": "/", "status": 200, "request_id": "", **hop})
    own = encode("OwnPart", {"side": 2, "start_ns": start_ns, "duration_ns": 1000,
                             "salt": hexed(sha256(b"salt", name)[:16]), "headers": []})
    hop_digest = sha256(b"meshchain/hop/v1\0", part)
    span_digest = sha256(b"meshchain/span/v1\0", hop_digest, own)
    entry = ENTRY.pack(1, 2, trace_id, span_id, hop_digest, span_digest)
    return Call(trace_id, entry, encode("SpanRecord", {"hop": hexed(part), "own": hexed(own)}))


class Session:
    """A proxy's run of batches."""

    def __init__(self, name: bytes, **source):
        self.id = sha256(b"session", name)[:16]
        self.source = source
        self.seq, self.prev = 0, bytes(32)

    def batch(self, entries: list[bytes], records: list[bytes] = (), first_ns: int = START_NS,
              last_ns: int = START_NS, kind: int | None = None) -> bytes:
        """The body of the next batch; unless told otherwise a heartbeat where there are no entries."""
        header = encode("BatchHeader", {
            "version": 1, "kind": kind or (DATA if entries else HEARTBEAT), "source": self.source, "session": hexed(self.id),
            "seq": self.seq, "count": len(entries), "dropped": [], "first_ns": first_ns, "last_ns": last_ns,
            "notices": []})
        joined = b"".join(entries)
        chain = sha256(b"meshchain/chain/v1\0", self.prev, struct.pack(">I", len(header)), header, joined)
        parts = {"header": header, "prev": self.prev, "chain": chain, "entries": joined}
        self.seq, self.prev = self.seq + 1, chain
        return encode("Batch", {**{name: hexed(part) for name, part in parts.items()},
                                "records": [hexed(record) for record in records]})


def hexed(data: bytes) -> str:
    return "0x" + data.hex()
