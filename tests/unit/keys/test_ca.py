"""A certificate convinces for one node and UID, by a CA of the bundle, within its dates, and for nothing else."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from linkseal.keys import codes
from linkseal.keys.ca import MAX_CERTIFICATE, CertificateAuthority, Trust, generate_identity, make_csr, node_uri
from linkseal.keys.errors import ConfigError, PeerError
from unit.keys.cluster import NOW, YEAR, Node, authority, trust

HOUR = timedelta(hours=1)
NODE = Node("n1")


def refusal(pem: str, *, ca: Trust | None = None, node: str = "n1", uid: str = "uid-1") -> str:
    with pytest.raises(PeerError) as caught:
        (ca or trust()).verify_certificate(pem, node, uid, NOW)
    assert caught.value.node == node
    return caught.value.code


def forged(
    *,
    signer: CertificateAuthority | None = None,
    key: Any = None,
    digest: HashAlgorithm | None = None,
    ca: bool = False,
    names: tuple[str, ...] = (node_uri("n1", "uid-1"),),
    common: str = "n1",
    usage: dict[str, bool] | None = None,
    critical: bool = False,
) -> str:
    """A certificate as a careless or hostile CA might write it; by default it is good."""
    signer = signer or authority()
    bits = dict.fromkeys(list(inspect.signature(x509.KeyUsage).parameters), False)
    bits |= usage or {"digital_signature": True}
    builder = (
        x509.CertificateBuilder(
            signer._certificate.subject,
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)]),
            (key or generate_identity()).public_key(),
            x509.random_serial_number(),
            NOW - HOUR,
            NOW + HOUR,
        )
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**bits), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(n) for n in names]), critical=False)
    )
    if critical:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
        builder = builder.add_extension(unknown, critical=True)
    certificate = builder.sign(signer._key, digest or SHA384())
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def test_an_issued_certificate_is_accepted_and_says_whose_it_is() -> None:
    certificate = trust().verify_certificate(NODE.certificate(), "n1", "uid-1", NOW)
    assert (certificate.node, certificate.uid) == ("n1", "uid-1")
    assert certificate.public_key == NODE.identity.public_key()
    trust().verify_certificate(forged(), "n1", "uid-1", NOW)


def test_the_longest_node_name_fits() -> None:
    long = Node(".".join(["a" * 63] * 4)[:253], "u" * 64)
    pem = long.certificate()
    assert trust().verify_certificate(pem, long.name, long.uid, NOW).node == long.name
    assert refusal(pem, node=long.name[:-1], uid=long.uid) == codes.WRONG_IDENTITY
    assert len(pem) < MAX_CERTIFICATE


@pytest.mark.parametrize(("node", "uid"), [("n2", "uid-1"), ("n1", "uid-2")])
def test_another_name_or_uid_is_refused(node: str, uid: str) -> None:
    assert refusal(NODE.certificate(), node=node, uid=uid) == codes.WRONG_IDENTITY


def test_dates_are_checked_unless_told_not_to() -> None:
    for pem in (NODE.certificate(until=NOW - HOUR), NODE.certificate(since=NOW + HOUR)):
        assert refusal(pem) == codes.CERTIFICATE_EXPIRED
        assert trust().verify_certificate(pem, "n1", "uid-1", NOW, check_time=False).node == "n1"


def test_a_remembered_certificate_still_expires() -> None:
    ca, pem = Trust.from_pem(authority().certificate_pem()), NODE.certificate(until=NOW + HOUR)
    ca.verify_certificate(pem, "n1", "uid-1", NOW)
    with pytest.raises(PeerError, match="renew"):
        ca.verify_certificate(pem, "n1", "uid-1", NOW + 2 * HOUR)


def namesake() -> CertificateAuthority:
    """A CA with the trusted one's name and another key."""
    return CertificateAuthority.create("lab", NOW - YEAR, 10 * YEAR)


@pytest.mark.parametrize(
    "change",
    [
        {"signer": namesake()},
        {"signer": authority("evil")},
        {"digest": SHA256()},
        {"key": ec.generate_private_key(ec.SECP256R1())},
        {"ca": True},
        {"usage": {"digital_signature": True, "key_cert_sign": True}},
        {"usage": {"key_agreement": True}},
        {"critical": True},
    ],
)
def test_what_is_not_a_node_certificate_of_a_trusted_ca_is_refused(change: dict[str, Any]) -> None:
    assert refusal(forged(**change)) == codes.UNTRUSTED_CERTIFICATE


def test_a_certificate_issued_by_a_node_is_refused() -> None:
    certificate = x509.load_pem_x509_certificate(NODE.certificate().encode())
    node_as_ca = CertificateAuthority(NODE.identity, certificate)
    assert refusal(forged(signer=node_as_ca)) == codes.UNTRUSTED_CERTIFICATE


def test_names_must_be_exactly_one_and_agree() -> None:
    own, other = node_uri("n1", "uid-1"), node_uri("n2", "uid-1")
    assert refusal(forged(names=(own, other))) == codes.MALFORMED
    assert refusal(forged(common="n2")) == codes.WRONG_IDENTITY


@pytest.mark.parametrize("pem", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "\ud800"])
def test_rubbish_is_malformed(pem: str) -> None:
    assert refusal(pem) == codes.MALFORMED


def test_a_long_certificate_is_not_parsed() -> None:
    assert refusal(NODE.certificate() + "\n" * MAX_CERTIFICATE) == codes.TOO_LARGE


def test_every_root_of_a_bundle_is_trusted_and_no_other() -> None:
    both = Trust.from_pem(authority().certificate_pem() + authority("next").certificate_pem())
    for ca in ("lab", "next"):
        assert both.verify_certificate(NODE.certificate(ca=ca), "n1", "uid-1", NOW).node == "n1"
    assert refusal(NODE.certificate(ca="evil"), ca=both) == codes.UNTRUSTED_CERTIFICATE
    assert both != trust()
    assert Trust.from_pem(authority().certificate_pem()) == trust()


@pytest.mark.parametrize("bundle", ["", "x", forged(), forged(ca=True, key=ec.generate_private_key(ec.SECP256R1()))])
def test_a_bundle_of_anything_but_p384_roots_is_refused(bundle: str) -> None:
    with pytest.raises(ConfigError, match="CA bundle"):
        Trust.from_pem(bundle)


def test_a_request_is_signed_only_for_whom_it_names() -> None:
    request = make_csr(NODE.identity, "n1", "uid-1")
    with pytest.raises(PeerError) as caught:
        authority().sign_csr(request, "n2", "uid-1", NOW, HOUR)
    assert caught.value.code == codes.WRONG_IDENTITY


def test_a_request_must_be_signed_by_its_own_key() -> None:
    request = x509.load_pem_x509_csr(make_csr(NODE.identity, "n1", "uid-1").encode())
    der = bytearray(request.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    for pem, code in ((broken, codes.POSSESSION_NOT_PROVEN), ("x", codes.MALFORMED), ("x" * 9999, codes.TOO_LARGE)):
        with pytest.raises(PeerError) as caught:
            authority().sign_csr(pem, "n1", "uid-1", NOW, HOUR)
        assert caught.value.code == code


def test_a_ca_survives_pem_and_refuses_a_foreign_key() -> None:
    one, two = authority(), authority("next")
    again = CertificateAuthority.from_pem(one.key_pem(), one.certificate_pem())
    assert trust().signed_grant("text", again.sign_grant("text"))
    for key, certificate in ((two.key_pem(), one.certificate_pem()), (b"x", one.certificate_pem())):
        with pytest.raises(ConfigError):
            CertificateAuthority.from_pem(key, certificate)


def test_a_node_name_that_cannot_be_one_is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        make_csr(NODE.identity, "N1/..", "uid-1")
