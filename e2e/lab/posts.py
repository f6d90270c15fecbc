"""What a filter posted, as docs/format.md says how to read it."""

from dataclasses import dataclass, field

from lab.batches import DATA

ENTRY_BYTES = 90
QUEUE_FULL, REFUSED_CALLS = 1, 2  # why calls were dropped
REFUSALS = (400, 409, 413, 415, 422)  # statuses that end a session; what they refuse is lost
GONE = 410  # ends a session too, and nothing is lost


@dataclass(frozen=True)
class Post:
    """One POST of a batch, whose chain value and signature hold. `attempt`: 0 the first time that this batch comes."""

    at_s: float  # time.monotonic() when all of it was here
    path: str
    body: bytes
    attempt: int
    batch: dict = field(repr=False)
    header: dict = field(repr=False)

    @property
    def session(self) -> bytes:
        return self.header["session"]

    @property
    def seq(self) -> int:
        return self.header.get("seq", 0)

    @property
    def has_calls(self) -> bool:
        return self.header["kind"] == DATA

    @property
    def entries(self) -> list[bytes]:
        joined = self.batch.get("entries", b"")
        return [joined[at:at + ENTRY_BYTES] for at in range(0, len(joined), ENTRY_BYTES)]

    @property
    def trace_ids(self) -> list[bytes]:
        """Of its calls, in order."""
        return [entry[2:18] for entry in self.entries]

    @property
    def dropped(self) -> dict[int, int]:
        """Calls lost so far, by reason."""
        return _counts(self.header["dropped"])

    @property
    def previous(self) -> tuple[bytes, int, dict[int, int]] | None:
        """The session that its own follows: id, batches, and calls lost by reason; in a first header only."""
        told = self.header.get("previous")
        return told and (told["session"], told.get("batches", 0), _counts(told["dropped"]))


def _counts(dropped: list[dict]) -> dict[int, int]:
    return {d["reason"]: d["count"] for d in dropped}


def of_workers(posts: list[Post]) -> list[Post]:
    """POSTs of the sessions that have calls: the main thread's VM only beats."""
    sessions = {post.session for post in posts if post.has_calls}
    return [post for post in posts if post.session in sessions]


def by_session(posts: list[Post]) -> dict[bytes, list[Post]]:
    """The POSTs of each session, in the order in which the sessions began."""
    found: dict[bytes, list[Post]] = {}
    for post in posts:
        found.setdefault(post.session, []).append(post)
    return found


def first_attempts(posts: list[Post]) -> list[Post]:
    return [post for post in posts if post.attempt == 0]


def check_chain(posts: list[Post]) -> None:
    """One session's batches came in order, none is missing, and each is chained to the one before."""
    batches = first_attempts(posts)
    assert [post.seq for post in batches] == list(range(len(batches))), "out of order, or one is missing"
    prev = bytes(32)
    for post in batches:
        assert post.batch["prev"] == prev, post
        prev = post.batch["chain"]
    bodies = {post.seq: post.body for post in batches}
    assert all(post.body == bodies[post.seq] for post in posts), "what is sent again is the same"


def arrived(posts: list[Post]) -> list[bytes]:
    """Trace ids of the calls in these batches, in order."""
    return [trace_id for post in first_attempts(posts) for trace_id in post.trace_ids]
