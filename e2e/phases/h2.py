"""One request over HTTP/2 in plain text with prior knowledge (RFC 9113), frame by frame.

Headers go out as literals without indexing (RFC 7541, 6.2.2). Header blocks that come back are not
decoded: what is asserted of an answer is its body, its trailers being there, and how it ended.
"""

import socket
import struct
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, ACK, END_HEADERS = 1, 1, 4
STREAM = 1
CANCEL = 8  # error code
FRAME = 16_384  # bytes of data in a frame at most


@dataclass
class Answer:
    header_blocks: int = 0  # one of headers, one of trailers if there are any
    body: bytes = b""
    reset: bool = False


class Stream:
    """The one stream of a connection of its own; a context manager. It begins with its request, body and all.

    The body must fit the first window (65,535 bytes).
    """

    def __init__(self, port: int, headers: list[tuple[bytes, bytes]], body: bytes | None = None,
                 timeout_s: float = 10.0):
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)
        self.answer = Answer()
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._incoming = self._connection.makefile("rb")
        out = PREFACE + _frame(SETTINGS, 0, 0)
        out += _frame(HEADERS, END_HEADERS | (END_STREAM if body is None else 0), STREAM, block)
        for at in range(0, len(body or b""), FRAME):
            out += _frame(DATA, END_STREAM if at + FRAME >= len(body) else 0, STREAM, body[at:at + FRAME])
        self._connection.sendall(out)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_) -> None:
        self._incoming.close()
        self._connection.close()

    def finish(self) -> Answer:
        """Reads until the stream ends."""
        while not self.read_frame():
            pass
        return self.answer

    def read_body(self) -> None:
        """Reads until the first bytes of the answer's body are there."""
        while not self.answer.body:
            assert not self.read_frame(), "the stream ended"

    def cancel(self) -> None:
        """Resets the stream and reads on until the peer has nothing more to say about it."""
        reset = _frame(RST_STREAM, 0, STREAM, struct.pack(">I", CANCEL))
        self._connection.sendall(reset + _frame(PING, 0, 0, bytes(8)))
        while self._frame()[0] != PING:
            pass

    def read_frame(self) -> bool:
        """Reads one frame; whether the stream has ended with it."""
        kind, flags, stream, payload = self._frame()
        if stream != STREAM:
            return False
        self.answer.reset |= kind == RST_STREAM
        self.answer.header_blocks += kind == HEADERS
        self.answer.body += payload if kind == DATA else b""
        return kind == RST_STREAM or kind in (HEADERS, DATA) and bool(flags & END_STREAM)

    def _frame(self) -> tuple[int, int, int, bytes]:
        head = self._incoming.read(9)
        if len(head) < 9:
            raise OSError("the connection ended before the stream")
        kind, flags, payload = head[3], head[4], self._incoming.read(int.from_bytes(head[:3]))
        if kind == SETTINGS and not flags & ACK:
            self._connection.sendall(_frame(SETTINGS, ACK, 0))
        return kind, flags, struct.unpack(">I", head[5:])[0], payload


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _text(value: bytes) -> bytes:
    """A string literal without Huffman coding: its length with a 7-bit prefix (RFC 7541, 5.1), then its bytes."""
    length, head = len(value), b""
    if length < 127:
        return bytes((length,)) + value
    length -= 127
    while length >= 128:
        head += bytes((length % 128 + 128,))
        length //= 128
    return b"\x7f" + head + bytes((length,)) + value
