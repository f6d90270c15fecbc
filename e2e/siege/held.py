"""Connections that are held: opened, begun with some bytes, and kept as long as the collector lets them."""

import select
import socket
import time
from collections import Counter
from dataclasses import dataclass

OPENED_PER_TURN = 50
TURN_S = 0.05
SMALL = 4096  # bytes that a kernel keeps for a peer that does not read
ENDED = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP


@dataclass(frozen=True)
class Held:
    """`count` connections, opened again where they end. `drip` follows once a second; one that `reads` takes its answer."""

    count: int
    opening: bytes
    drip: bytes = b""
    reads: bool = True

    def run(self, port: int, stop) -> Counter:
        """Holds them until `stop` is set; how many were opened, answered with what, and ended by the collector."""
        seen, sockets, dripped_s = Counter(), {}, time.monotonic()
        with select.epoll() as poll:
            while not stop.is_set():
                for _ in range(min(OPENED_PER_TURN, self.count - len(sockets))):
                    connection = self._connect(port)
                    sockets[connection.fileno()] = connection
                    poll.register(connection, select.EPOLLOUT)
                for number, events in poll.poll(TURN_S):
                    if not self._turn(sockets[number], events, poll, seen):
                        sockets.pop(number).close()
                if self.drip and time.monotonic() > dripped_s + 1:
                    dripped_s = time.monotonic()
                    for connection in sockets.values():
                        self._send(connection, self.drip)
                seen["held"] = max(seen["held"], len(sockets))
        for connection in sockets.values():
            connection.close()
        return seen

    def _connect(self, port: int) -> socket.socket:
        connection = socket.socket()
        connection.setblocking(False)
        if not self.reads:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        connection.connect_ex(("127.0.0.1", port))
        return connection

    def _turn(self, connection: socket.socket, events: int, poll: select.epoll, seen: Counter) -> bool:
        """Whether the connection goes on."""
        if events & select.EPOLLOUT and not events & ENDED:
            seen["opened"] += 1
            self._send(connection, self.opening)
            poll.modify(connection, select.EPOLLRDHUP | (select.EPOLLIN if self.reads else 0))
            return True
        try:
            answer = connection.recv(65536) if events & select.EPOLLIN else b""
        except OSError:
            answer = b""
        if answer.startswith(b"HTTP/1.1 "):
            seen[answer[9:12].decode()] += 1
        if answer and not events & ENDED:
            return True
        seen["ended"] += 1
        return False

    @staticmethod
    def _send(connection: socket.socket, data: bytes) -> None:
        try:
            connection.send(data)
        except OSError:  # it ends, which the next turn sees, or takes no more now
            pass
