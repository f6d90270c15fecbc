"""The batches of a life: sessions that send a call in every other batch, half of the calls with their record."""

import struct

from lab.batches import CLOSE, Session, call, sha256


class Proxy:
    def __init__(self, number: int):
        self.session = Session(struct.pack(">I", number), mesh="mesh1", namespace="load", workload="load",
                               pod=f"load-{number}")

    def batch(self) -> bytes:
        """The body of the next batch."""
        seq = self.session.seq
        if seq % 2:
            return self.session.batch([])
        name = self.session.id + struct.pack(">Q", seq)
        one = call(name, sha256(name)[:16])
        return self.session.batch([one.entry], [one.record] if seq % 4 == 0 else [])

    def close(self) -> bytes:
        """The body of the last batch."""
        return self.session.batch([], kind=CLOSE)


def rounds(sessions: range, number: int) -> list[list[bytes]]:
    """`number` rounds, each of one batch of every session."""
    running = [Proxy(session) for session in sessions]
    return [[proxy.batch() for proxy in running] for _ in range(number)]
