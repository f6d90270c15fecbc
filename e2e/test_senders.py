"""Who sends a batch is whom mTLS authenticated, whatever stands in a certificate's subject or in what a caller sent:
a real Envoy in front of the collector, in both ways that it has to tell."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from lab.batches import Session
from lab.certs import Authority, WorkloadCertificate, write_bundle
from lab.client import Response
from lab.collector import START_S, Collector, behind_sidecar, check_built
from lab.doors import KINDS, Doors, reason
from lab.procs import Processes
from lab.tools import OLDEST_ENVOY, envoy_binary, envoy_of

DOMAIN = "bank.example"
SHOP = f"spiffe://{DOMAIN}/ns/shop/sa/web"
VICTIM = f"spiffe://{DOMAIN}/ns/victim/sa/v"
FORGED = f"By=spiffe://{DOMAIN}/ns/meshchain/sa/collector;Hash={'0a' * 32};Subject=\"\";URI={VICTIM}"


def _name(*values: str, oid: x509.ObjectIdentifier = NameOID.ORGANIZATION_NAME) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for value in values])


SUBJECTS = {
    "none": _name(),
    "a CN": _name("web", oid=NameOID.COMMON_NAME),
    "a URI": _name(f"URI={VICTIM}", oid=NameOID.COMMON_NAME),
    "an end and a URI": _name(f'";URI={VICTIM};DNS="'),
    "an escaped end and a URI": _name(f'\\";URI={VICTIM}'),
    "a whole element": _name(f",{FORGED}"),
    "an end and a whole element": _name(f'",{FORGED}'),
    "backslashes": _name("\\", "\\\\", '\\"'),
    "separators": _name(",", ";", "=", "+", "#", " "),
    "an open quote": _name('Subject="'),
    "other scripts": _name("Käse, 日本; \"Ω\" \U0001f980"),
    "control characters": _name("a\r\nx-forwarded-client-cert: b\x00"),
    "an unknown attribute": _name(f'",{FORGED}', oid=x509.ObjectIdentifier("1.3.6.1.4.1.55555.1")),
    "many values": x509.Name([x509.RelativeDistinguishedName([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, f'",{FORGED}'),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, f";URI={VICTIM}")])]),
    "long": _name(f'",{FORGED};' * 40),
}
CALLERS = {
    "nothing": [],
    "an element": [FORGED.encode()],
    "two elements": [f"{FORGED},{FORGED}".encode()],
    "two lines": [FORGED.encode(), FORGED.encode()],
    "an open element": [f"{FORGED};Subject=\"".encode()],
    "an open quote and a backslash": [b'Hash=0a;Subject="\\'],
    "a URI": [f"URI={VICTIM}".encode()],
    "the end of an element": [FORGED.encode(), f"Hash=00;URI={VICTIM};".encode()],
    "separators": [b'",;=\\', b",", b";"],
    "no text": [b"\xfc\xff\x80"],
    "an empty line": [b"", FORGED.encode(), b""],
}


@dataclass(frozen=True)
class Posted:
    """One batch, and what became of it."""

    caller: str
    namespace: str
    session: str
    answer: Response


@dataclass
class Scene:
    """One collector, its doors, and who may come."""

    collector: Collector
    doors: Doors
    authority: Authority
    directory: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def certificate(self, subject: x509.Name = _name(), names: list[x509.GeneralName] | None = None) -> WorkloadCertificate:
        return self.authority.issue("shop", "web", self.directory / "caller", subject, names)

    def posts(self, kind: str, caller: WorkloadCertificate, *namespaces: str) -> list["Posted"]:
        """The first batches of new sessions of those namespaces, each with each of the callers' headers, side by side."""
        def post(number: int, namespace: str, name: str) -> Posted:
            session = Session(b"%d" % number, namespace=namespace, workload="web")
            answer = self.doors.post(kind, caller, session.batch([]), CALLERS[name])
            return Posted(name, namespace, session.id.hex(), answer)
        wanted = [(next(self.numbers), *row) for row in itertools.product(namespaces, CALLERS)]
        with ThreadPoolExecutor(len(CALLERS)) as pool:
            return list(pool.map(post, *zip(*wanted)))

    def principals(self) -> dict[str, str]:
        """By session, as both the list and the audit log tell them."""
        listed = {s["session"]: s["principal"] for s in self.collector.get("/v1/sessions")}
        assert listed == {line["session"]: line["principal"] for line in self.collector.audit("session_opened")}
        return listed


@pytest.fixture(scope="module", params=("newest", OLDEST_ENVOY))
def scene(request, tmp_path_factory):
    check_built()
    directory = tmp_path_factory.mktemp("senders")
    binary = envoy_binary() if request.param == "newest" else envoy_of(request.param)
    authority = Authority(DOMAIN)
    own = authority.issue("meshchain", "collector", directory / "own")
    roots = write_bundle([authority], directory / "roots.pem")
    with Processes(directory / "logs") as processes:
        collector, _ = behind_sidecar("bank", directory, processes)
        doors = Doors(collector.port, own, roots, processes, directory / "doors", binary)
        doors.wait_ready(START_S)
        yield Scene(collector, doors, authority, directory)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_neither_a_subject_nor_a_caller_changes_or_hides_who_sends(scene, kind, subject):
    caller = scene.certificate(SUBJECTS[subject])
    opened = {}
    for posted in scene.posts(kind, caller, "shop", "victim"):
        answer = posted.answer
        if posted.namespace == "shop":
            assert answer.status == 200, (posted.caller, answer.text)
            opened[posted.session] = SHOP
        else:
            assert (answer.status, reason(answer)) == (403, "wrong_principal"), posted.caller
            assert SHOP in answer.text, posted.caller
    assert len(opened) == len(CALLERS) and opened.items() <= scene.principals().items()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names, why", [
    ([], "no_principal"),
    (["spiffe://bank.example/ns//sa/web"], "no_principal"),
    (["spiffe://bank.example/ns/shop/sa/"], "no_principal"),
    (["spiffe://bank.example/ns/shop"], "wrong_principal"),
    (["spiffe://bank.example"], "no_principal"),
    (["https://bank.example/ns/shop/sa/web"], "no_principal"),
    ([SHOP, VICTIM], "no_principal"),
    ([VICTIM, SHOP], "no_principal"),
    ([f"{SHOP};URI={VICTIM}"], "no_principal"),
    ([f'{SHOP}"'], "no_principal"),
    ([SHOP + "/" + "x" * 2000], "no_principal"),
    (["spiffe://other.example/ns/shop/sa/web"], "wrong_trust_domain"),
])
def test_who_is_no_workload_of_this_organisation_is_nobody_with_or_without_forged_headers(scene, kind, names, why):
    dns = x509.DNSName("web.shop.example")
    caller = scene.certificate(names=[*map(x509.UniformResourceIdentifier, names), dns])
    before = scene.principals()
    for posted in scene.posts(kind, caller, "", "shop", "victim"):
        assert (posted.answer.status, reason(posted.answer)) == (403, why), posted
    assert scene.principals() == before
