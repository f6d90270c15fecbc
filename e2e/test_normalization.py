"""Two organisations whose Envoys are set differently agree on every call, as long as both speak of one resource.

Before any filter runs, a listener may rewrite path and authority, each by its mesh's settings, and make a request id.
Random paths and authorities go from every client's settings to every server's; the hop digests of both sides are
compared. What may differ is told by the path alone: see `leads_elsewhere`.
"""

import itertools
import random
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from lab.batches import CLIENT, ENTRY, SERVER
from lab.collector import check_built
from lab.pairs import End, Pairs, ask
from lab.posts import arrived
from lab.procs import Processes, wait_until
from lab.receipts import Inbox, Receipt
from lab.standin import StandIn

PATHS, AUTHORITIES = 500, 100  # of each pair of settings
SEED = 20261128
DEADLINE_S = 30.0
CONFIG = {"tick_ms": 50}


# --- the settings

def _paths():
    for normalize, merge, escaped in itertools.product((False, True), (False, True),
                                                       ("KEEP_UNCHANGED", "UNESCAPE_AND_FORWARD")):
        name = "-".join(["path", *(["normalize"] if normalize else []), *(["merge"] if merge else []), escaped[:4].lower()])
        yield End(name, {"normalize_path": normalize, "merge_slashes": merge, "path_with_escaped_slashes_action": escaped})


def _hosts():
    for port, dot in itertools.product(({}, {"strip_any_host_port": True}, {"strip_matching_host_port": True}),
                                       (False, True)):
        name = "-".join(["host", *port, *(["dot"] if dot else [])])
        yield End(name, {**port, "strip_trailing_host_dot": dot})


EXTERNAL = {"use_remote_address": True, "internal_address_config": {"cidr_ranges": [
    {"address_prefix": "10.0.0.0", "prefix_len": 8}]}}  # for which every peer here is a stranger
REDIRECT = {"match": {"path": "/leg/1"}, "redirect": {"path_redirect": "/leg/2", "response_code": "FOUND"}}
PATH_ENDS, HOST_ENDS = list(_paths()), list(_hosts())
ID_CLIENTS = [
    End("id-made"), End("id-not-made", {"generate_request_id": False}),
    End("id-removed", route={"request_headers_to_remove": ["x-request-id"]}),
    End("id-replaced", route={"request_headers_to_add": [{
        "header": {"key": "x-request-id", "value": "another"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]})]
ID_SERVERS = [End("id-made"), End("id-not-made", {"generate_request_id": False}), End("id-new-for-strangers", EXTERNAL)]
REDIRECTING = End("redirecting", route={"route": {"cluster_header": "x-to", "internal_redirect_policy": {}}})
REDIRECTED = End("redirected", routes=(REDIRECT,))


# --- what is sent

ATOMS = [b"/", b"/", b"/", b"a", b"b", b".", b"..", b"/..", b"%2e", b"%2E", b"%2f", b"%2F", b"%5c", b"\\", b"%41",
         b"%7e", b"~", b"%20", b"%25", b"%252f", b"%2525", b";", b";x=1", b"%c3%a9", b"%C3", b"+", b"%", b"%4", b"%zz",
         b":", b"@", b"|", b"^", b"{", b"'", b"(", b"*", b"!", b"$", b"&", b",", b"=", b"[", b"`", b'"', b"<", b"?q=/..",
         b"-", b"_", b"%2d", b"%5F"]
TRICKY = [b"/", b"/", b"\\", b"%2f", b"%5C", b".", b"..", b"/..", b"%2e", b";", b";x", b"a", b"b"]
LABELS = ["shop", "Shop", "EXAMPLE", "a-b", "x1", "10", "0"]
PORTS = ["", "", ":80", ":8080", ":443", ":0"]


@dataclass(frozen=True)
class Call:
    client: str
    server: str
    authority: bytes
    path: bytes
    more: bytes = b""

    def request(self, number: int) -> bytes:
        return (b"GET %s HTTP/1.1\r\nhost: %s\r\nx-to: %s\r\nx-b3-traceid: %032x\r\nx-b3-spanid: 00000000000000aa\r\n%s\r\n"
                % (self.path, self.authority, self.server.encode(), number, self.more))


def path_of(rng: random.Random) -> bytes:
    return b"/" + b"".join(rng.choices(rng.choice([ATOMS, TRICKY]), k=rng.randint(0, 8)))


def authority_of(rng: random.Random) -> bytes:
    host = rng.choice(["[::1]", "[2001:DB8::1]", *[".".join(rng.choices(LABELS, k=rng.randint(1, 3)))] * 4])
    return f"{host}{rng.choice(['', '', '.'])}{rng.choice(PORTS)}".encode()


def calls() -> list[Call]:
    rng = random.Random(SEED)
    made = [Call(client.name, server.name, b"shop.example", path_of(rng))
            for client, server in itertools.product(PATH_ENDS, repeat=2) for _ in range(PATHS)]
    made += [Call(client.name, server.name, authority_of(rng), b"/")
             for client, server in itertools.product(HOST_ENDS, repeat=2) for _ in range(AUTHORITIES)]
    made += [Call(client.name, server.name, b"shop.example", b"/", more)
             for client, server in itertools.product(ID_CLIENTS, ID_SERVERS)
             for more in (b"", b"x-request-id: given\r\n", b"x-request-id: 6b1d4e0f-3c5a-9f8e-9d27-1a2b3c4d5e6f\r\n")]
    return made


SLASH = re.compile(rb"%2f|%5c", re.I)
DOTS = rb"(?:\.|%2e){1,2}"


def leads_elsewhere(path: bytes) -> bool:
    """Whether two settings may lead to different resources: a `..` takes away an empty segment, or one with an escaped
    slash in it, be slashes decoded before or not; or a dot segment has parameters, which reach up to a slash that only
    some settings see, or which some settings take for a name, so that a `..` takes that away.
    """
    path = path.split(b"?")[0]
    if re.search(rb"(?:^|[/\\]|%2f|%5c)" + DOTS + rb";[^/]*(?:\\|%2f|%5c)", path, re.I):
        return True
    if re.search(DOTS + rb";.*(?:[/\\]|%2f|%5c)(?:\.|%2e){2}(?:$|[;/\\]|%2f|%5c)", path, re.I):
        return True
    text = re.sub(rb"%2e", b".", path, flags=re.I).replace(b"\\", b"/")
    return any(map(_eats, (text, SLASH.sub(b"/", text))))


def _eats(path: bytes) -> bool:
    kept: list[bytes] = []
    for segment in path.split(b"/")[1:]:
        name = segment.split(b";")[0]
        if name == b".." and kept:
            gone = kept.pop()
            if not gone or SLASH.search(gone):
                return True
        elif name not in (b".", b".."):
            kept.append(segment)
    return False


# --- what comes of it

@dataclass(frozen=True)
class Seen:
    """A call, the status of its answer, and the hop digests that each side left of it."""

    call: Call
    status: int
    client: list[bytes]
    server: list[bytes]

    @property
    def two_sided(self) -> bool:
        return bool(self.client and self.server)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    check_built()
    with Processes(tmp_path_factory.mktemp("normalization")) as running:
        yield running


@pytest.fixture(scope="module")
def seen(processes, tmp_path_factory):
    """All calls at once, those of each client on a connection of its own."""
    every = calls()
    with StandIn() as stand_in:
        envoy = Pairs([*PATH_ENDS, *HOST_ENDS, *ID_CLIENTS], [*PATH_ENDS, *HOST_ENDS, *ID_SERVERS], stand_in.port,
                      processes, tmp_path_factory.mktemp("pairs"), {**CONFIG, "payload": "digest"})
        envoy.wait_ready(DEADLINE_S)
        by_client = {name: [n for n, call in enumerate(every) if call.client == name] for name in envoy.ports}
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(lambda item: ask(envoy.ports[item[0]], [every[n].request(n + 1) for n in item[1]]),
                               by_client.items())
            statuses = dict(zip(itertools.chain(*by_client.values()), itertools.chain(*answers)))
        found = {side: [[] for _ in every] for side in (CLIENT, SERVER)}
        crossed = sum(status == 200 for status in statuses.values())
        wait_until(lambda: envoy.stats("wasmcustom.meshchain_digests")["wasmcustom.meshchain_digests"]
                   == len(arrived(stand_in.seen())) >= 2 * crossed, DEADLINE_S, "all calls are reported")
        for post in stand_in.seen():
            for entry in post.entries:
                _, side, trace_id, _, digest, _ = ENTRY.unpack(entry)
                found[side][int.from_bytes(trace_id) - 1].append(digest)
    return [Seen(call, statuses[n], found[CLIENT][n], found[SERVER][n]) for n, call in enumerate(every)]


def disputes(seen: list[Seen], kind: str) -> list[Seen]:
    return [one for one in seen if one.call.client.startswith(kind) and one.two_sided and one.client != one.server]


def test_every_call_that_crossed_has_one_entry_of_each_side(seen):
    for one in seen:
        assert len(one.client) <= 1 and len(one.server) <= 1, one
        assert one.two_sided or one.status != 200, one
    assert sum(one.two_sided for one in seen) > 0.8 * len(seen)


def test_paths_differ_only_where_a_dot_segment_leads_to_another_resource(seen):
    found = disputes(seen, "path")
    untrue = [(one.call, one.status) for one in found if not leads_elsewhere(one.call.path)]
    assert not untrue, (len(untrue), untrue[:10])
    paths = [one for one in seen if one.call.client.startswith("path")]
    assert len(found) < sum(leads_elsewhere(one.call.path) for one in paths) / 2, "most of these agree too"
    assert found, "a path that leads elsewhere is a true dispute: the test would see one"


def test_authorities_never_differ(seen):
    assert disputes(seen, "host") == []


def test_request_ids_never_differ_whoever_makes_them(seen):
    assert disputes(seen, "id") == []


# --- internal redirects

def test_the_receipts_of_a_call_that_envoy_redirects_itself_are_of_its_two_legs(processes, tmp_path):
    with Inbox() as inbox:
        envoy = Pairs([REDIRECTING], [REDIRECTED], inbox.port, processes, tmp_path, CONFIG)
        envoy.wait_ready(DEADLINE_S)
        call = Call("redirecting", "redirected", b"shop.example", b"/leg/1")
        assert ask(envoy.ports["redirecting"], [call.request(1)]) == [200]
        wait_until(lambda: len(inbox.receipts) >= 4, DEADLINE_S, "both sides report both legs")
        assert not inbox.faults

    def told(side: int) -> dict[str, Receipt]:
        return {receipt.path: receipt for receipt in inbox.receipts if receipt.side == side}
    clients, servers = told(CLIENT), told(SERVER)
    assert len(inbox.receipts) == 4
    assert {path: receipt.hop["status"] for path, receipt in servers.items()} == {"/leg/1": 302, "/leg/2": 200}
    assert {path: receipt.hop_digest for path, receipt in clients.items()} == {
        path: receipt.hop_digest for path, receipt in servers.items()}
    assert len({receipt.span_id for receipt in clients.values()}) == 2
