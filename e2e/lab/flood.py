"""As many requests as one thread can make, on a few kept connections: each waits for its answer, as those of wrk do."""

import select
import socket
import time

REQUEST = b"GET / HTTP/1.1\r\nhost: flood\r\n\r\n"
END, OK = b"\r\n\r\nhere\n", b"HTTP/1.1 200"  # of an answer of lab.plain's
ANSWER_S = 20.0


def flood(port: int, for_s: float, connections: int = 16, per_s: float | None = None) -> int:
    """Makes requests for that long, at most `per_s`; returns their number when each has its answer, which must be 200."""
    sockets = {(s := socket.create_connection(("127.0.0.1", port))).fileno(): s for _ in range(connections)}
    got = dict.fromkeys(sockets, b"")
    idle, made, answered = list(sockets), 0, 0
    begun_s = time.monotonic()
    with select.epoll() as poll:
        for number, connection in sockets.items():
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(number, select.EPOLLIN)
        while True:
            passed_s = time.monotonic() - begun_s
            if passed_s < for_s:
                due = len(idle) if per_s is None else min(len(idle), int(per_s * passed_s) + 1 - made)
                for _ in range(due):
                    sockets[idle.pop()].sendall(REQUEST)
                    made += 1
            elif answered == made:
                break
            assert passed_s < for_s + ANSWER_S, f"{made - answered} requests without an answer"
            for number, _ in poll.poll(0.001 if per_s and idle else ANSWER_S):
                piece = sockets[number].recv(65536)
                assert piece, "Envoy ended a connection"
                got[number] += piece
                if got[number].endswith(END):
                    assert got[number].startswith(OK), got[number]
                    got[number] = b""
                    answered += 1
                    idle.append(number)
    for connection in sockets.values():
        connection.close()
    return made
