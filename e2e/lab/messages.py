"""Protobuf messages, read: ours by their names in tests/meshchain.proto, others field by field."""

import sys
from collections.abc import Iterator

from lab.tools import REPOSITORY

sys.path.append(str(REPOSITORY / "tests"))
from check_vectors import MESSAGES  # noqa: E402

VARINT, FIXED64, FIXED32 = 0, 1, 5


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(tag, value) of a message's fields in order; fixed-width values as their bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte, at = data[at], at + 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
    while at < len(data):
        key = varint()
        if key & 7 == VARINT:
            yield key >> 3, varint()
            continue
        size = {FIXED64: 8, FIXED32: 4}.get(key & 7) or varint()
        yield key >> 3, data[at:at + size]
        at += size


def decode(message: str, data: bytes) -> dict:
    """A message of ours as {name: value}; strings as text, repeated fields as lists, other absent ones left out."""
    known = {tag: (name, kind, repeated) for tag, name, kind, repeated in MESSAGES[message]}
    found: dict = {name: [] for name, _, repeated in known.values() if repeated}
    for tag, value in fields(data):
        name, kind, repeated = known[tag]
        if kind in MESSAGES and isinstance(value, bytes):
            value = decode(kind, value)
        elif kind == "string":
            value = value.decode()
        if repeated:
            found[name].append(value)
        else:
            found[name] = value
    return found


def decode_whole(message: str, data: bytes) -> dict:
    """The same with every field: absent ones are 0, empty or None."""
    defaults = {name: None if kind in MESSAGES else {"bytes": b"", "string": ""}.get(kind, 0)
                for _, name, kind, _ in MESSAGES[message]}
    return defaults | decode(message, data)
