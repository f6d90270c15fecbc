"""One root CA per organisation and short-lived workload certificates, as Istio's CA issues them.

A trust domain is an organisation's. Organisations are federated by giving every sidecar the roots
of all of them in one bundle, as Istio does with `meshConfig.caCertificates`. Such a bundle does not
tie a root to its trust domain: only the SPIFFE ids that a sidecar is told to expect do.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROOT_VALIDITY = datetime.timedelta(days=1)
LEAF_VALIDITY = datetime.timedelta(hours=6)
CLOCK_SKEW = datetime.timedelta(minutes=1)


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"


@dataclass(frozen=True)
class WorkloadCertificate:
    """A leaf certificate and its ECDSA P-256 key, as PEM files."""

    spiffe_id: str
    chain: Path
    key: Path


class Authority:
    """The root CA of one trust domain; its own key never leaves memory."""

    def __init__(self, trust_domain: str):
        self.trust_domain = trust_domain
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain)])
        usage = _key_usage(key_cert_sign=True, crl_sign=True)
        self._root = (
            _builder(ROOT_VALIDITY).subject_name(self._name).issuer_name(self._name)
            .public_key(self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(_uri(f"spiffe://{trust_domain}"), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256()))

    @property
    def root_pem(self) -> bytes:
        return self._root.public_bytes(serialization.Encoding.PEM)

    def issue(self, namespace: str, service_account: str, directory: Path, subject: x509.Name = x509.Name([]),
              names: list[x509.GeneralName] | None = None) -> WorkloadCertificate:
        """Issues a leaf with the workload's SPIFFE id and writes cert-chain.pem and key.pem.

        `names`: in place of the SPIFFE id.
        """
        uri = spiffe_id(self.trust_domain, namespace, service_account)
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            _builder(LEAF_VALIDITY).subject_name(subject).issuer_name(self._name)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names) if names is not None else _uri(uri),
                           critical=not list(subject))  # RFC 5280, 4.2.1.6: critical if the subject is empty
            .sign(self._key, hashes.SHA256()))
        directory.mkdir(parents=True, exist_ok=True)
        issued = WorkloadCertificate(uri, directory / "cert-chain.pem", directory / "key.pem")
        issued.chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        issued.key.touch(mode=0o600)
        issued.key.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return issued


def write_bundle(authorities: list[Authority], path: Path) -> Path:
    """Writes the roots of all federated organisations into one PEM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(a.root_pem for a in authorities))
    return path


def _builder(validity: datetime.timedelta) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (x509.CertificateBuilder().serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW).not_valid_after(now + validity))


def _uri(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def _key_usage(**given: bool) -> x509.KeyUsage:
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
             "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: given.get(name, False) for name in every})
