"""Whatever the collector answers, no request notices, and the filter does with its batch what that means."""

from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from lab.load import Done, Load, never_in_the_way
from lab.plain import Front, Stage
from lab.posts import GONE, REFUSALS, REFUSED_CALLS, Post, arrived, by_session, check_chain, first_attempts, of_workers
from lab.procs import wait_until
from lab.standin import TAKEN, Answer, StandIn, answer

CONFIG = {"tick_ms": 20, "heartbeat_s": 1}
DEADLINE_S = 30.0
PAUSE_S = (0.25, 0.5)  # least and most after a first failure
EARLY_S, SLACK_S = 0.05, 1.5  # what the stand-in sees later than it was sent, the first of two or the second
POST_S = 5.0  # a POST without an answer is given up
AGAIN, TAKEN_AT_ONCE, REFUSED, ELSEWHERE = "sent again", "taken", "refused", "sent in another session"


@dataclass(frozen=True)
class Row:
    """What the collector answers to the first batch with calls, and what that means for the batch."""

    given: Answer
    meaning: str
    after_s: float = 0.0  # until the filter's own pause begins


def _status(code: int, meaning: str, *headers: str, body: bytes = b"{}", version: str = "1.1") -> Row:
    return Row(Answer(answer(code, *headers, body=body, version=version)), meaning)


WHOLE = answer(200, body=b"x" * 4096)
ROWS = {
    "slow": Row(Answer(answer(200), after_s=10.0), AGAIN, POST_S),
    **{f"{code}": _status(code, AGAIN) for code in (401, 403, 404, 408, 429, 500, 502, 503, 504)},
    "503 with retry-after": Row(Answer(answer(503, "retry-after: 2")), AGAIN, 2.0),
    "503 with a date to retry after": _status(503, AGAIN, "retry-after: Wed, 21 Oct 2026 07:28:00 GMT"),
    "302": _status(302, AGAIN, "location: /elsewhere"),
    **{f"{code}": _status(code, REFUSED) for code in REFUSALS},
    f"{GONE}": _status(GONE, ELSEWHERE),
    "204": Row(Answer(b"HTTP/1.1 204 No Content\r\n\r\n"), TAKEN_AT_ONCE),
    "200 with garbage": _status(200, TAKEN_AT_ONCE, "content-type: application/json", body=b"\xff\x00{]"),
    "200 with 1 MB": _status(200, TAKEN_AT_ONCE, body=bytes(1 << 20)),
    "HTTP/1.0": _status(200, TAKEN_AT_ONCE, version="1.0"),
    "100 first": Row(Answer(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(200)), TAKEN_AT_ONCE),
    "103 first": Row(Answer(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + answer(200)), TAKEN_AT_ONCE),
    "closed without an answer": Row(Answer(b"", end="close"), AGAIN),
    "closed in the headers": Row(Answer(WHOLE[:20], end="close"), AGAIN),
    "reset in the headers": Row(Answer(WHOLE[:20], end="reset"), AGAIN),
    "closed in the body": Row(Answer(WHOLE[:2048], end="close"), AGAIN),
    "reset in the body": Row(Answer(WHOLE[:2048], end="reset"), AGAIN),
    "no HTTP": Row(Answer(b"SSH-2.0-OpenSSH_9.9\r\n", end="close"), AGAIN),
}
NAMES = {f"/{number}": name for number, name in enumerate(ROWS)}


def rows_of(meaning: str) -> list[str]:
    return [name for name, row in ROWS.items() if row.meaning == meaning]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with Stage(tmp_path_factory.mktemp("answers")) as running:
        yield running


@dataclass
class Course:
    """What became of one row: the calls that were made, and the POSTs of their sessions."""

    calls: list[Done]
    posts: list[Post]
    struck: Post  # that got the row's answer

    @property
    def attempts(self) -> list[Post]:
        return [post for post in self.posts if (post.session, post.seq) == (self.struck.session, self.struck.seq)]

    @property
    def sessions(self) -> list[list[Post]]:
        return list(by_session(self.posts).values())


@pytest.fixture(scope="module")
def courses(stage):
    """All rows at once: an Envoy with a listener for each, and calls through each all the while."""
    struck: dict[str, Post] = {}

    def behave(post: Post) -> Answer:
        strike = post.has_calls and struck.setdefault(post.path, post) is post
        return ROWS[NAMES[post.path]].given if strike else TAKEN

    with ExitStack() as stack:
        stand_in = stack.enter_context(StandIn(behave))
        fronts = [Front(path, {**CONFIG, "collector_path": path}) for path in NAMES]
        envoy = stage.envoy("answers", fronts, stand_in.port)
        loads = {path: stack.enter_context(Load(envoy.ports[path], number, pause_s=0.1))
                 for number, path in enumerate(NAMES, start=1)}

        def went_on(path: str) -> bool:
            return path in struck and sum(post.has_calls and post.at_s > struck[path].at_s
                                          for post in first_attempts(stand_in.seen(path))) >= 3
        wait_until(lambda: all(map(went_on, NAMES)), DEADLINE_S, "all go on after their answer")
        for load in loads.values():
            load.stop()

        def told() -> bool:
            return all(set(load.trace_ids) == set(arrived(stand_in.seen(path))) for path, load in loads.items())
        wait_until(told, DEADLINE_S, "all calls were posted")
        stand_in.leave()
        yield {name: Course(loads[path].calls, of_workers(stand_in.seen(path)), struck[path])
               for path, name in NAMES.items()}


@pytest.mark.parametrize("name", ROWS)
def test_no_request_waits_or_fails_whatever_the_collector_answers(courses, name):
    assert never_in_the_way(courses[name].calls)


@pytest.mark.parametrize("name", rows_of(AGAIN))
def test_an_answer_that_is_no_judgement_makes_the_filter_send_the_same_batch_again(courses, name):
    course = courses[name]
    first, second = course.attempts
    pause_s = second.at_s - first.at_s - ROWS[name].after_s
    assert PAUSE_S[0] - EARLY_S <= pause_s <= PAUSE_S[1] + SLACK_S
    assert_nothing_lost(course)


@pytest.mark.parametrize("name", rows_of(TAKEN_AT_ONCE))
def test_any_success_is_an_acknowledgement_whatever_comes_with_it(courses, name):
    course = courses[name]
    assert len(course.attempts) == 1
    assert_nothing_lost(course)


def assert_nothing_lost(course):
    check_chain(course.posts)
    assert arrived(course.posts) == [call.trace_id for call in course.calls]
    assert not any(post.dropped or post.previous for post in course.posts)


@pytest.mark.parametrize("name", rows_of(REFUSED) + rows_of(ELSEWHERE))
def test_what_is_refused_ends_its_session_and_the_next_one_names_it_and_what_was_lost(courses, name):
    course = courses[name]
    former, latter = course.sessions
    (refused,) = course.attempts
    for posts in course.sessions:
        check_chain(posts)
        assert not any(post.dropped for post in posts)
    assert former[-1] is refused, "nothing follows what was refused"
    lost = {REFUSED_CALLS: len(refused.entries)} if name in rows_of(REFUSED) else {}
    assert not any(post.previous for post in former)
    assert all(post.previous == (former[0].session, len(former), lost) for post in latter), "calls that began before name it"


@pytest.mark.parametrize("name", rows_of(REFUSED))
def test_a_refused_batch_is_not_sent_again_and_all_other_calls_arrive(courses, name):
    course = courses[name]
    (refused,) = course.attempts
    lost = set(refused.trace_ids)
    taken = [trace_id for trace_id in arrived(course.posts) if trace_id not in lost]
    assert taken == [call.trace_id for call in course.calls if call.trace_id not in lost]


@pytest.mark.parametrize("name", rows_of(ELSEWHERE))
def test_calls_of_a_session_that_cannot_be_continued_arrive_in_the_next(courses, name):
    course = courses[name]
    former, latter = course.sessions
    assert arrived(former[:-1]) + arrived(latter) == [call.trace_id for call in course.calls]
