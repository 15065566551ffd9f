"""Files of a control plane: CA, certificate, keys, tokens, audit policy, kubeconfig; and what its audit log says."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")

VALID = dt.timedelta(days=2)

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}
"""Who asked for what, without contents: a line when a request is answered, two for a watch (begin and end)."""


@dataclass(frozen=True)
class Credentials:
    """Where the files lie; the admin's token (group system:masters), and those of kubelets by their nodes' names."""

    ca: Path
    ca_key: Path
    certificate: Path
    key: Path
    accounts_key: Path
    tokens: Path
    audit_policy: Path
    admin_token: str
    kubelet_tokens: Mapping[str, str]


def make_credentials(folder: Path, addresses: Iterable[str], kubelets: Iterable[str] = ()) -> Credentials:
    """Write all of them anew; the server's certificate is for these IP addresses and for NAMES."""
    found = Credentials(
        ca=folder / "ca.crt", ca_key=folder / "ca.key",
        certificate=folder / "apiserver.crt", key=folder / "apiserver.key", accounts_key=folder / "accounts.key",
        tokens=folder / "tokens.csv", audit_policy=folder / "audit-policy.yaml",
        admin_token=secrets.token_urlsafe(24),
        kubelet_tokens={name: secrets.token_urlsafe(24) for name in kubelets},
    )  # fmt: skip
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("linkseal-test-ca")
    ca = (
        _certificate(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    names = [x509.DNSName(name) for name in NAMES]
    ips = [x509.IPAddress(ipaddress.ip_address(address)) for address in dict.fromkeys(addresses)]
    certificate = (
        _certificate(_name("kube-apiserver"), ca_name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([*names, *ips]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    found.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    found.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_key(found.ca_key, ca_key)
    _write_key(found.key, key)
    _write_key(found.accounts_key, rsa.generate_private_key(65537, 2048))
    lines = [f'{found.admin_token},admin,admin,"system:masters"\n']
    lines += [
        f'{token},system:node:{name},system:node:{name},"system:nodes"\n'
        for name, token in found.kubelet_tokens.items()
    ]
    _write_private(found.tokens, "".join(lines).encode())
    found.audit_policy.write_text(yaml.safe_dump(AUDIT_POLICY))
    return found


def write_kubeconfig(path: Path, server: str, ca: Path, token: str) -> Path:
    """A kubeconfig that needs no other file."""
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(ca.read_bytes()).decode()}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    _write_private(path, yaml.safe_dump(content).encode())
    return path


@dataclass(frozen=True)
class Request:
    """What the audit log says of one request."""

    id: str
    user: str
    verb: str
    """`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`."""
    resource: str
    """Plural, with the API group and the subresource where there is one: `nodes`, `nodes/status`, `apps/daemonsets`."""
    namespace: str
    name: str
    code: int
    """HTTP status of the answer."""
    uri: str

    @classmethod
    def of(cls, event: dict[str, Any]) -> Self:
        """From one line of the log."""
        what = event.get("objectRef", {})
        parts = (what.get("apiGroup"), what.get("resource"), what.get("subresource"))
        return cls(
            id=event["auditID"], user=event["user"].get("username", ""), verb=event["verb"],
            resource="/".join(part for part in parts if part),
            namespace=what.get("namespace", ""), name=what.get("name", ""),
            code=event.get("responseStatus", {}).get("code", 0), uri=event["requestURI"],
        )  # fmt: skip


def read_audit(log: Path, since: int = 0) -> list[Request]:
    """Requests of an audit log from this byte on, in the order of their first lines; a watch is one request."""
    with log.open("rb") as lines:
        lines.seek(since)
        found = [Request.of(json.loads(line)) for line in lines if line.endswith(b"\n")]
    return list({request.id: request for request in found}.values())


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - dt.timedelta(hours=1),
        not_valid_after=now + VALID,
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    encoding, layout = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    _write_private(path, key.private_bytes(encoding, layout, serialization.NoEncryption()))


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
