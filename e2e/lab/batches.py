"""Batches as a proxy sends them, each chained to the one before; written from docs/format.md alone."""

import functools
import sys
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lab.tools import REPOSITORY

sys.path.append(str(REPOSITORY / "tests"))
from check_vectors import (  # noqa: E402, F401
    ENTRY, batch_message, chain_value, encode, leaf_hash, session_id, sha256, tree_root)

START_NS = 1_795_000_000_000_000_000
SECOND_NS = 1_000_000_000
DATA, HEARTBEAT, CLOSE = 1, 2, 3
CLIENT, SERVER, GATEWAY_OUT, GATEWAY_IN = 1, 2, 3, 4  # the sides of an entry


@dataclass(frozen=True)
class Call:
    """What a filter makes of one call."""

    trace_id: bytes
    entry: bytes
    record: bytes


def call(name: bytes, trace_id: bytes, start_ns: int = START_NS, headers: list[dict] = (), **hop) -> Call:
    """A call with an entry and a record that fit each other; `name` makes its span id and its salt. `headers`: included."""
    span_id = sha256(b"span", name)[:8]
    part = encode("HopPart", {"trace_id": hexed(trace_id), "span_id": hexed(span_id), "method": "GET",
                              "authority": "load", "path": "/", "status": 200, "request_id": "", **hop})
    own = encode("OwnPart", {"side": SERVER, "start_ns": start_ns, "duration_ns": 1000,
                             "salt": hexed(sha256(b"salt", name)[:16]), "headers": list(headers)})
    hop_digest = sha256(b"meshchain/hop/v1\0", part)
    span_digest = sha256(b"meshchain/span/v1\0", hop_digest, own)
    entry = ENTRY.pack(1, SERVER, trace_id, span_id, hop_digest, span_digest)
    return Call(trace_id, entry, encode("SpanRecord", {"hop": hexed(part), "own": hexed(own)}))


class Session:
    """A proxy's run of batches, signed; `name` makes its key."""

    def __init__(self, name: bytes, **source):
        self.key = Ed25519PrivateKey.from_private_bytes(sha256(b"session", name))
        self.public_key = self.key.public_key().public_bytes_raw()
        self.id = session_id(self.public_key)
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
        chain = chain_value(self.prev, header, joined)
        parts = {"header": header, "prev": self.prev, "chain": chain, "entries": joined,
                 "public_key": self.public_key, "signature": self.key.sign(batch_message(chain))}
        self.seq, self.prev = self.seq + 1, chain
        return encode("Batch", {**{name: hexed(part) for name, part in parts.items()},
                                "records": [hexed(record) for record in records]})


def check_signed(batch: dict, header: dict) -> None:
    """Fails unless a batch's chain value is its own, its key signed that, and its session is the key's."""
    public_key, chain = batch["public_key"], batch["chain"]
    assert header["session"] == session_id(public_key), "the session is not the key's"
    assert chain == chain_value(batch["prev"], batch["header"], batch.get("entries", b"")), "the chain is broken"
    try:
        _loaded(public_key).verify(batch["signature"], batch_message(chain))
    except InvalidSignature:
        raise AssertionError("the batch is not signed by its session's key") from None


_loaded = functools.lru_cache(1024)(Ed25519PublicKey.from_public_bytes)


def hexed(data: bytes) -> str:
    return "0x" + data.hex()
