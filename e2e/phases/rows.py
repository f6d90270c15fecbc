"""The rows of the matrix: a situation, and what the record of each side must say of it."""

from collections.abc import Callable
from dataclasses import dataclass

from phases import caller
from phases.app import BIG
from phases.scene import HOST

UNAVAILABLE = 14
NO_GRPC_STATUS = 2  # UNKNOWN: Envoy's word where an answer began and no grpc-status came


@dataclass(frozen=True)
class Seen:
    """What a side must say. `flags` as access logs write them; `details`: how they begin; `path`: the row's if None."""

    status: int
    flags: str = ""
    details: str = "via_upstream"
    attempts: int = 0  # on the server side always 0: unknown
    protocol: str = "HTTP/1.1"
    path: str | None = None
    grpc: int | None = None  # None: the record must say nothing


@dataclass(frozen=True)
class Row:
    """`ends`: what the caller sees (caller.py). `server`: a record for each attempt that got there."""

    name: str
    path: str
    ends: str
    client: Seen | None
    server: tuple[Seen, ...] = ()
    app: str = "hello"
    call: Callable = caller.plain()
    request_id: bytes | None = None  # as recorded; None: as sent
    authority: str = HOST  # as recorded

    @property
    def id(self) -> bytes:
        return self.name.encode()


def ok(attempts: int = 0, **fields) -> Seen:
    return Seen(200, attempts=attempts, **fields)


def grpc_ok(attempts: int = 0, grpc: int = 0, **fields) -> Seen:
    return Seen(200, attempts=attempts, grpc=grpc, protocol="HTTP/2", **fields)


NO_ANSWER = "upstream_reset_before_response_started{connection_termination}"
BROKEN_OFF = "upstream_reset_after_response_started"
REFUSED = "upstream_reset_before_response_started{remote_connection_failure"
GONE = "downstream_remote_disconnect"
UNAVAILABLE_SERVER = grpc_ok(grpc=UNAVAILABLE, flags="UC", details=NO_ANSWER)

ANSWERED_BY_THE_CLIENTS_SIDECAR = (
    Row("refused-before-the-filter", "/forbidden", "403", Seen(0, details="rbac_access_denied_matched_policy[deny]")),
    Row("aborted-before-the-filter", "/aborted", "503", Seen(0, "FI", "fault_filter_abort")),
    Row("redirect", "/moved", "301", Seen(0, details="direct_response")),
    Row("direct-response", "/direct", "418", Seen(0, details="direct_response")),
    Row("two-hosts", "/plain", "502", Seen(0, details="direct_response"), call=caller.plain(b"host: second"),
        authority=f"{HOST},second"),
    Row("fragment-in-the-path", "/a#b", "400", Seen(0, details="path_normalization_failed", path="/a")),
    Row("connect-failure", "/dead", "503", Seen(0, "UF,URX", REFUSED, 3)),
    Row("no-endpoint", "/empty", "503", Seen(0, "UH", "no_healthy_upstream", 1)),
    Row("no-cluster", "/unknown-cluster", "503", Seen(0, "NC", "cluster_not_found")),
    Row("upstream-resets", "/external", "503", Seen(0, "UC", NO_ANSWER, 1), app="reset"),
    Row("upstream-breaks-off", "/external", "200", Seen(0, "UPE", BROKEN_OFF, 1), app="break-off",
        call=caller.broken_off),
    Row("grpc-aborted-before-the-filter", "/aborted", "1 0",
        Seen(0, "FI", "fault_filter_abort", protocol="HTTP/2", grpc=UNAVAILABLE), call=caller.grpc),
)

ANSWERED_BY_THE_SERVERS_SIDECAR = (
    Row("server-refuses-before-the-filter", "/server-forbidden", "403", Seen(403, attempts=1),
        (Seen(403, details="rbac_access_denied_matched_policy[deny]"),)),
    Row("server-aborts-before-the-filter", "/server-aborted", "503", Seen(503, attempts=1),
        (Seen(503, "FI", "fault_filter_abort"),)),
    Row("server-direct-response", "/server-direct", "418", Seen(418, attempts=1),
        (Seen(418, details="direct_response"),)),
    Row("server-connect-failure", "/server-dead", "503", Seen(503, attempts=1), (Seen(503, "UF", REFUSED),)),
    Row("server-timeout", "/server-timed", "504", Seen(504, attempts=1), (Seen(504, "UT", "response_timeout"),),
        app="hang"),
    Row("server-timeout-in-the-answer", "/server-timed", "200", Seen(0, "UPE", BROKEN_OFF, 1),
        (Seen(0, "UT", "response_timeout"),), app="hang-later"),
    Row("server-idle-in-the-answer", "/server-idle", "200", Seen(0, "UPE", BROKEN_OFF, 1),
        (Seen(0, "SI", "stream_idle_timeout"),), app="hang-later"),
    Row("application-resets", "/plain", "503", Seen(503, attempts=1), (Seen(503, "UC", NO_ANSWER),),
        app="reset"),
    Row("application-breaks-off", "/plain", "200", Seen(0, "UPE", BROKEN_OFF, 1), (Seen(0, "UPE", BROKEN_OFF),),
        app="break-off", call=caller.broken_off),
    Row("application-breaks-off-http2", "/http2", "200", Seen(0, "UR", BROKEN_OFF, 1),
        (Seen(0, "UPE", BROKEN_OFF, protocol="HTTP/2"),), app="break-off", call=caller.broken_off),
)

SOMEBODY_LEAVES = (
    Row("caller-leaves-before-the-answer", "/plain", "left", Seen(0, "DC", GONE, 1), (Seen(0, "DC", GONE),), app="hang",
        call=caller.leaves_before_answer),
    Row("caller-leaves-in-the-request", "/plain", "left", Seen(0, "DC", GONE, 1), (Seen(0, "DC", GONE),), app="hang",
        call=caller.leaves_during_request),
    Row("caller-leaves-in-the-answer", "/plain", "200 left", Seen(0, "DC", GONE, 1), (Seen(0, "DC", GONE),),
        app="hang-later", call=caller.leaves_during_answer),
    Row("caller-leaves-in-the-answer-http2", "/http2", "200 left", Seen(0, "DC", GONE, 1),
        (Seen(0, "DR", "http2.remote_reset", protocol="HTTP/2"),), app="hang-later", call=caller.leaves_during_answer),
    Row("timeout", "/timed", "504", Seen(0, "UT", "response_timeout", 1), (Seen(0, "DC", GONE),), app="hang"),
    Row("timeout-in-the-answer", "/timed", "200", Seen(0, "UT", "response_timeout", 1), (Seen(0, "DC", GONE),),
        app="hang-later"),
    Row("idle-in-the-answer", "/idle", "200", Seen(0, "SI", "stream_idle_timeout", 1), (Seen(0, "DC", GONE),),
        app="hang-later"),
    Row("lasting-too-long", "/lasting", "504", Seen(0, details="max_duration_timeout", attempts=1),
        (Seen(0, "DC", GONE),), app="hang"),
    Row("grpc-cancelled-before-the-answer", "/http2", "left",
        Seen(0, "DR", "http2.remote_reset", 1, "HTTP/2"), (Seen(0, "DR", "http2.remote_reset", protocol="HTTP/2"),),
        app="hang", call=caller.grpc_cancelled_before_answer),
    Row("grpc-cancelled-in-the-answer", "/http2", "left",
        Seen(0, "DR", "http2.remote_reset", 1, "HTTP/2", grpc=NO_GRPC_STATUS),
        (Seen(0, "DR", "http2.remote_reset", protocol="HTTP/2", grpc=NO_GRPC_STATUS),),
        app="grpc-hang-later", call=caller.grpc_cancelled_during_answer),
    Row("grpc-stream-breaks-off", "/http2", "1 10 reset",
        Seen(0, "UR", BROKEN_OFF, 1, "HTTP/2", grpc=NO_GRPC_STATUS),
        (Seen(0, "UPE", BROKEN_OFF, protocol="HTTP/2", grpc=NO_GRPC_STATUS),), app="grpc-break-off",
        call=caller.grpc_broken_off),
)

TRIED_AGAIN = (
    Row("third-attempt-succeeds", "/retried", "200", ok(3), (Seen(503), Seen(503), ok()), app="fail-twice"),
    Row("no-attempt-succeeds", "/retried", "503", Seen(503, "URX", attempts=3), (Seen(503),) * 3, app="fail"),
    Row("no-attempt-answers", "/per-try", "504", Seen(0, "UT,URX", "upstream_per_try_timeout", 3),
        (Seen(0, "DC", GONE),) * 3, app="hang"),
    Row("third-attempt-succeeds-without-sidecar", "/retried-external", "200", ok(3), app="fail-twice"),
    Row("grpc-unavailable-by-default-retries", "/http2", "1 0", grpc_ok(3, UNAVAILABLE, flags="URX"),
        (UNAVAILABLE_SERVER,) * 3, app="reset", call=caller.grpc),
)

REWRITTEN = (
    Row("prefix-rewrite", "/old/x", "200", ok(1, path="/new/x"), (ok(path="/new/x"),)),
    Row("host-rewrite", "/host-rewrite", "200", ok(1), (ok(),), authority="rewritten.example"),
    Row("server-prefix-rewrite", "/server-old/x", "200", ok(1), (ok(),)),
    Row("query", "/plain?secret=1", "200", ok(1, path="/plain"), (ok(path="/plain"),)),
    Row("normalized-path", "/a/../b/./c%2fd//e", "200", ok(1, path="/b/c%2fd//e"), (ok(path="/b/c%2fd//e"),)),
)

PROTOCOLS = (
    Row("http1", "/plain", "200", ok(1), (ok(),)),
    Row("http1-to-http2", "/http2", "200", ok(1), (ok(protocol="HTTP/2"),)),
    Row("http2", "/http2", "1 5", ok(1, protocol="HTTP/2"), (ok(protocol="HTTP/2"),), call=caller.http2()),
    Row("http2-to-http1", "/plain", "1 5", ok(1, protocol="HTTP/2"), (ok(),), call=caller.http2()),
    Row("http10", "/plain", "200", ok(1, protocol="HTTP/1.0"), (ok(),), call=caller.plain(version="1.0")),
    Row("caller-without-sidecar", "/plain", "200", None, (ok(),), call=caller.without_sidecar()),
    Row("server-without-sidecar", "/external", "200", ok(1)),
    Row("head", "/plain", "200", ok(1), (ok(),), call=caller.plain(method="HEAD")),
    Row("no-content", "/plain", "204", Seen(204, attempts=1), (Seen(204),), app="no-content"),
    Row("continue", "/plain", "100 200", ok(1), (ok(),), call=caller.continued),
    Row("big-bodies", "/plain", f"200 {BIG}", ok(1), (ok(),), app="big", call=caller.sized),
    Row("big-bodies-http2", "/http2", f"200 {BIG}", ok(1), (ok(protocol="HTTP/2"),), app="big", call=caller.sized),
    Row("websocket-server-closes", "/plain", "101", Seen(0, "UC", BROKEN_OFF, 1), (Seen(0, "UC", BROKEN_OFF),),
        app="websocket", call=caller.websocket),
    Row("websocket-caller-closes", "/plain", "101", Seen(0, "DC", GONE, 1), (Seen(0, "DC", GONE),),
        app="websocket-open", call=caller.websocket),
    Row("grpc-unary", "/http2", "2 10", grpc_ok(1), (grpc_ok(),), app="grpc", call=caller.grpc),
    Row("grpc-error-in-trailers", "/http2", "2 0", grpc_ok(1, 5), (grpc_ok(grpc=5),), app="grpc-not-found",
        call=caller.grpc),
    Row("grpc-stream", "/http2", "2 30", grpc_ok(1), (grpc_ok(),), app="grpc-stream", call=caller.grpc),
    Row("grpc-stream-aborted", "/http2", "2 10", grpc_ok(1, 10), (grpc_ok(grpc=10),), app="grpc-stream-aborted",
        call=caller.grpc),
    Row("grpc-trailers-only", "/http2", "1 0", grpc_ok(1, 12), (grpc_ok(grpc=12),), app="grpc-trailers-only",
        call=caller.grpc),
)

ODD_HEADERS = (
    Row("not-utf8", "/plain", "200", ok(1), (ok(),), call=caller.plain(b"x-odd: \xff\xfe", b"traceparent: \xff")),
    Row("request-id-not-utf8", "/plain", "200", ok(1), (ok(),), call=caller.plain(b"x-request-id: \xff\xfe"),
        request_id=b"request-id-not-utf8,\xff\xfe"),
    Row("duplicates", "/plain", "200", ok(1), (ok(),), call=caller.plain(
        b"x-b3-traceid: 0000000000000001", b"x-b3-traceid: 0000000000000002", b"x-b3-spanid: 00000000000000bb",
        b"x-odd: 1", b"x-odd: 2")),
    Row("head-too-large-for-the-server", "/plain", "431", Seen(431, attempts=1),
        call=caller.plain(b"x-pad: " + b"y" * 10_000)),
)

ROWS = (*ANSWERED_BY_THE_CLIENTS_SIDECAR, *ANSWERED_BY_THE_SERVERS_SIDECAR, *SOMEBODY_LEAVES, *TRIED_AGAIN, *REWRITTEN,
        *PROTOCOLS, *ODD_HEADERS)
