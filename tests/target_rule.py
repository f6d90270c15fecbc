"""Canonical path and authority, written from docs/format.md with the standard library alone."""

import re

PIECE = re.compile(rb"%[0-9a-fA-F]{2}|.", re.S)
UNRESERVED = re.compile(rb"[A-Za-z0-9._~-]")
MUST_ESCAPE = re.compile(rb'[\x00-\x20\x7f-\xff"<>`{}|^]')
STRAY = b"\0"  # stands for a stray "%"; a NUL byte itself is always escaped


def decode_piece(piece):
    """What an escape, or a byte that is part of none, becomes."""
    escaped = len(piece) == 3
    value = bytes([int(piece[1:], 16)]) if escaped else piece
    if value == b"\\" or escaped and value == b"/":
        return b"/"
    if escaped and UNRESERVED.match(value):
        return value
    if escaped or MUST_ESCAPE.match(value):
        return b"%%%02X" % value[0]
    return STRAY if value == b"%" else value


def canonical_path(path):
    if not path.startswith(b"/"):
        return path
    flat = b"".join(map(decode_piece, PIECE.findall(path)))
    flat = re.sub(STRAY + rb"(?=[0-9a-fA-F]{2})", b"%25", flat).replace(STRAY, b"%")
    kept, given = [], flat.split(b"/")[1:]
    for at, segment in enumerate(given):
        name = segment.split(b";")[0]
        if name not in (b".", b".."):
            kept.append(segment)
            continue
        if name == b"..":
            del kept[-1:]
        if at == len(given) - 1:
            kept.append(b"")
    return b"/" + b"".join(s + b"/" for s in kept[:-1] if s) + b"".join(kept[-1:])


def canonical_authority(authority):
    while True:
        shorter = re.sub(rb"\.\Z|:\+?[0-9]+\Z", b"", authority)
        shorter = re.sub(rb"\.(?=:[^.]*\Z)", b"", shorter)
        if shorter == authority:
            return authority.lower()
        authority = shorter
