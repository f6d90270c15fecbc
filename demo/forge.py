"""What a liar needs: Merkle proofs, signed checkpoints and staging bundles of his own making.

Formats: RFC 6962 (trees), C2SP signed-note and tlog-checkpoint (checkpoints), and the collector's
staging bundle, `pool/FIRST_LEAF-HASH16`, which keeps leaves, entries and records until they are sealed
into a segment. The demo's logs are too young and too small for that: all of their leaves are in bundles.
"""

import base64
import hashlib
import re
import shutil
import struct
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from lab.batches import ENTRY, chain_value, encode, hexed, sha256
from lab.messages import decode

ENTRY_LEN = 90
MAGIC = b"meshchain-pool/1"
_POOL_NAME = re.compile(r"\d{20}-[0-9a-f]{16}")


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def root(hashes: list[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    k = _split(hashes)
    return hashlib.sha256(b"\x01" + root(hashes[:k]) + root(hashes[k:])).digest()


def inclusion_path(hashes: list[bytes], index: int) -> list[bytes]:
    if len(hashes) == 1:
        return []
    k = _split(hashes)
    if index < k:
        return [*inclusion_path(hashes[:k], index), root(hashes[k:])]
    return [*inclusion_path(hashes[k:], index - k), root(hashes[:k])]


def consistency_path(hashes: list[bytes], old: int, whole: bool = True) -> list[bytes]:
    if old == len(hashes):
        return [] if whole else [root(hashes)]
    k = _split(hashes)
    if old <= k:
        return [*consistency_path(hashes[:k], old, whole), root(hashes[k:])]
    return [*consistency_path(hashes[k:], old - k, False), root(hashes[:k])]


def _split(hashes: list[bytes]) -> int:
    """The largest power of two below the number of hashes."""
    return 1 << (len(hashes) - 1).bit_length() - 1


class Signer:
    """Signs checkpoints as the log `origin`: with the log's own key, or with any other."""

    def __init__(self, origin: str, key: Ed25519PrivateKey):
        self.origin = origin
        self._key = key
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._id = hashlib.sha256(origin.encode() + b"\n\x01" + public).digest()[:4]

    @classmethod
    def of_log(cls, origin: str, data: Path) -> "Signer":
        seed = bytes.fromhex((data / "key").read_text().split()[0])
        return cls(origin, Ed25519PrivateKey.from_private_bytes(seed))

    def checkpoint(self, size: int, root: bytes) -> str:
        text = f"{self.origin}\n{size}\n{base64.b64encode(root).decode()}\n"
        signature = base64.b64encode(self._id + self._key.sign(text.encode())).decode()
        return f"{text}\n— {self.origin} {signature}\n"


def tlog_proof(index: int, path: list[bytes], checkpoint: str) -> str:
    """A C2SP tlog-proof."""
    hashes = "".join(base64.b64encode(h).decode() + "\n" for h in path)
    return f"c2sp.org/tlog-proof@v1\nindex {index}\n{hashes}\n{checkpoint}"


def proof_index(proof: str) -> int:
    return int(proof.split("\n")[1].removeprefix("index "))


def proof_checkpoint(proof: str) -> str:
    return proof.split("\n\n", 1)[1]


@dataclass(frozen=True)
class Batch:
    """A leaf of the log with the entries and records that belong to it."""

    leaf: bytes
    entries: tuple[bytes, ...]
    records: bytes

    def without(self, entry: int) -> "Batch":
        """The same batch, one entry and its record short."""
        records = list(_records(self.records))
        del records[entry:entry + 1]
        kept = b"".join(struct.pack(">I", len(r)) + r for r in records)
        return replace(self, entries=self.entries[:entry] + self.entries[entry + 1:], records=kept)


def _records(data: bytes):
    while data:
        length, = struct.unpack_from(">I", data)
        yield data[4:4 + length]
        data = data[4 + length:]


def rewrite(batch: Batch, at: int, record: dict, status: int) -> Batch:
    """The batch with another status in one of its calls, and everything that needs no proxy's key made to fit.

    Changes the hop part in `record` too.
    """
    hop = decode("HopPart", bytes.fromhex(record["hop"])) | {"status": status}
    encoded = _encode("HopPart", hop)
    record["hop"] = encoded.hex()
    digest = sha256(b"meshchain/hop/v1\0", encoded)
    span_digest = sha256(b"meshchain/span/v1\0", digest, bytes.fromhex(record["own"]))
    entries = list(batch.entries)
    entries[at] = ENTRY.pack(*ENTRY.unpack(entries[at])[:4], digest, span_digest)
    leaf = decode("BatchLeaf", batch.leaf)
    leaf["chain"] = chain_value(leaf["prev"], leaf["header"], b"".join(entries))
    leaf["entries_root"] = root([leaf_hash(entry) for entry in entries])
    return replace(batch, leaf=_encode("BatchLeaf", leaf), entries=tuple(entries))


def _encode(message: str, fields: dict) -> bytes:
    return encode(message, {name: hexed(value) if isinstance(value, bytes) else value for name, value in fields.items()})


def read_pool(path: Path) -> list[Batch]:
    body, batches = path.read_bytes()[len(MAGIC):-32], []
    while body:
        parts = []
        lengths, body = struct.unpack_from(">III", body), body[12:]
        for length in lengths:
            parts.append(body[:length])
            body = body[length:]
        leaf, entries, records = parts
        split = tuple(entries[i:i + ENTRY_LEN] for i in range(0, len(entries), ENTRY_LEN))
        batches.append(Batch(leaf, split, records))
    return batches


def write_pool(path: Path, batches: list[Batch]) -> Path:
    """Replaces a bundle by one of these batches, with a fitting check sum and the name that goes with it."""
    body = bytearray(MAGIC)
    for batch in batches:
        entries = b"".join(batch.entries)
        body += struct.pack(">III", len(batch.leaf), len(entries), len(batch.records))
        body += batch.leaf + entries + batch.records
    total = hashlib.sha256(body).digest()
    written = path.with_name(f"{_first_leaf(path):020}-{total[:8].hex()}")
    path.unlink(missing_ok=True)
    written.write_bytes(bytes(body) + total)
    return written


def pools(data: Path) -> list[Path]:
    """The committed bundles, in log order: none is half-written, none lies beyond the head.

    A commit that failed would leave a second one for the same leaf; here none does.
    """
    size = int((data / "head").read_text().split("\n")[1])
    found = [path for path in (data / "pool").iterdir() if _POOL_NAME.fullmatch(path.name)]
    return sorted(path for path in found if _first_leaf(path) < size)


def _first_leaf(pool: Path) -> int:
    return int(pool.name.split("-")[0])


def copy_data(data: Path, target: Path) -> None:
    """Copies a running collector's log, not its anchors. Heads first: what comes later, no head speaks of."""
    target.mkdir(parents=True)
    for name in ("key", "head", "checkpoint", "sealed"):
        shutil.copy2(data / name, target / name)
    for name in ("pool", "tile"):
        shutil.copytree(data / name, target / name, ignore=shutil.ignore_patterns("*#*"))
