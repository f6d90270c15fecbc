"""A proxy-wasm module that does nothing: the price of having a filter at all.

It exports `proxy_on_log`, the one callback that a filter like ours cannot do without, and what the
ABI demands: version, memory, an allocator. Raw bytes, so that no SDK adds its own.
"""

from pathlib import Path

I32 = 0x7F
HEAP_AT = 1024


def write_empty(path: Path) -> Path:
    """Writes the module."""
    nothing, on_log, allocate = 0, 1, 2  # function indices, in the order of their bodies
    types = [_func([], []), _func([I32], []), _func([I32], [I32])]
    exports = [("memory", 2, 0), ("proxy_abi_version_0_2_1", 0, nothing),
               ("proxy_on_log", 0, on_log), ("proxy_on_memory_allocate", 0, allocate)]
    bodies = [b"", b"", b"\x41" + _signed(HEAP_AT)]  # i32.const HEAP_AT
    sections = [
        (1, _vector(types)),
        (3, _vector([b"\x00", b"\x01", b"\x02"])),
        (5, _vector([b"\x00\x01"])),  # one page
        (7, _vector([_sized(name.encode()) + bytes([kind, index]) for name, kind, index in exports])),
        (10, _vector([_sized(b"\x00" + body + b"\x0b") for body in bodies])),
    ]
    path.write_bytes(b"\x00asm\x01\x00\x00\x00" + b"".join(bytes([n]) + _sized(body) for n, body in sections))
    return path


def _leb(n: int) -> bytes:
    """Unsigned LEB128."""
    return bytes([n]) if n < 0x80 else bytes([n & 0x7F | 0x80]) + _leb(n >> 7)


def _signed(n: int) -> bytes:
    """Signed LEB128 of n >= 0: bit 6 of the last byte is the sign."""
    return bytes([n]) if n < 0x40 else bytes([n & 0x7F | 0x80]) + _signed(n >> 7)


def _sized(content: bytes) -> bytes:
    return _leb(len(content)) + content


def _vector(items: list[bytes]) -> bytes:
    return _leb(len(items)) + b"".join(items)


def _func(parameters: list[int], results: list[int]) -> bytes:
    return b"\x60" + _sized(bytes(parameters)) + _sized(bytes(results))
