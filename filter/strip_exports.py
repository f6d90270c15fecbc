#!/usr/bin/env python3
"""Takes the exports out of a wasm module that the filter has no use for.

The SDK exports every callback, and Envoy crosses into the VM for each one that is exported: body chunks
too, which then never enter it. Usage: strip_exports.py MODULE (rewritten in place).
"""

import sys
from pathlib import Path

KEPT = {
    "memory", "_initialize", "proxy_abi_version_0_2_1", "proxy_on_memory_allocate", "proxy_on_context_create",
    "proxy_on_vm_start", "proxy_on_configure", "proxy_on_tick", "proxy_on_request_headers", "proxy_on_log",
    "proxy_on_delete", "proxy_on_http_call_response",
}
EXPORTS = 7  # id of the export section, https://webassembly.github.io/spec/core/binary/modules.html


def number(data, at):
    """An unsigned LEB128 at `at`: (value, end)."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def leb128(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def strip(section):
    """The export section with nothing but what is kept: (section, names kept)."""
    count, at = number(section, 0)
    kept = {}
    for _ in range(count):
        start = at
        length, at = number(section, at)
        name = section[at : at + length].decode()
        _, at = number(section, at + length + 1)
        if name in KEPT:
            kept[name] = section[start:at]
    return leb128(len(kept)) + b"".join(kept.values()), set(kept)


def main(path):
    data, out, at, found = path.read_bytes(), bytearray(), 8, set()
    if data[:4] != b"\0asm":
        sys.exit(f"{path}: not a wasm module")
    out += data[:8]
    while at < len(data):
        kind = data[at]
        size, start = number(data, at + 1)
        section, at = data[start : start + size], start + size
        if kind == EXPORTS:
            section, found = strip(section)
        out += bytes([kind]) + leb128(len(section)) + section
    if found != KEPT:
        sys.exit(f"{path}: does not export {', '.join(sorted(KEPT - found))}")
    path.write_bytes(out)


main(Path(sys.argv[1]))
