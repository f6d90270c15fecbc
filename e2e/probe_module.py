"""A proxy-wasm module of a few hundred bytes that logs one line per request it sees.

It proves that a module gets into both directions of a sidecar, without a Rust toolchain.
"""

from pathlib import Path

I32 = 0x7F
MESSAGE_AT = 16
HEAP_AT = 1024


def write_probe(path: Path, message: str) -> Path:
    """Writes a module that logs `message` at level info in proxy_on_request_headers."""
    types = [_func([], []), _func([I32], [I32]), _func([I32] * 3, [I32])]
    log, abi_version, allocate, on_request_headers = range(4)  # function indices; imports come first
    call_log = _i32(2) + _i32(MESSAGE_AT) + _i32(len(message)) + bytes([0x10, log, 0x1A])  # 2: info; drop the status
    sections = [
        (1, _vector(types)),
        (2, _vector([_name("env") + _name("proxy_log") + bytes([0x00, 2])])),
        (3, _vector([b"\x00", b"\x01", b"\x02"])),
        (5, _vector([b"\x00\x01"])),
        (7, _vector([
            _name("memory") + bytes([0x02, 0]),
            _name("proxy_abi_version_0_2_1") + bytes([0x00, abi_version]),
            _name("proxy_on_memory_allocate") + bytes([0x00, allocate]),
            _name("proxy_on_request_headers") + bytes([0x00, on_request_headers])])),
        (10, _vector([_body(b""), _body(_i32(HEAP_AT)), _body(call_log + _i32(0))])),  # 0: continue
        (11, _vector([b"\x00" + _i32(MESSAGE_AT) + b"\x0b" + _name(message)])),
    ]
    module = b"\x00asm\x01\x00\x00\x00" + b"".join(bytes([n]) + _sized(content) for n, content in sections)
    path.write_bytes(module)
    return path


def _leb(n: int) -> bytes:
    """Unsigned LEB128."""
    return bytes([n]) if n < 0x80 else bytes([n & 0x7F | 0x80]) + _leb(n >> 7)


def _i32(n: int) -> bytes:
    """`i32.const n` for 0 <= n < 8192; signed LEB128, so bit 6 of the last byte must stay 0."""
    return b"\x41" + (bytes([n]) if n < 0x40 else bytes([n & 0x7F | 0x80, n >> 7]))


def _sized(content: bytes) -> bytes:
    return _leb(len(content)) + content


def _vector(items: list[bytes]) -> bytes:
    return _leb(len(items)) + b"".join(items)


def _name(text: str) -> bytes:
    return _sized(text.encode())


def _func(parameters: list[int], results: list[int]) -> bytes:
    return b"\x60" + _sized(bytes(parameters)) + _sized(bytes(results))


def _body(code: bytes) -> bytes:
    return _sized(b"\x00" + code + b"\x0b")
