"""Which certificates may be a CA's, and which CA is trusted because another vouches for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys import policydoc
from linkseal.keys.ca import CertificateAuthority, Trust, make_csr
from linkseal.keys.cabundle import MAX_AUTHORITIES, bundle_pem, complaint, fingerprint_of, read_bundle, vouched
from linkseal.keys.errors import ConfigError, PeerError
from linkseal.keys.policydoc import PolicyDocument
from unit.keys.cluster import NOW, YEAR, Node, authority

CAS = ("a", "b", "c", "d")


def cross(by: str, of: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority(by).cross_sign(authority(of).certificate).encode())


def certificate(name: str) -> x509.Certificate:
    return authority(name).certificate


def brought(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *extensions: x509.ExtensionType) -> x509.Certificate:
    """A certificate as others' tools make one, by itself."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Example")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - YEAR, NOW + YEAR)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, SHA256())


def usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(False, False, False, False, False, signs, True, False, False)  # noqa: FBT003 - its nine bits


P256, P521 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP521R1())
RSA = rsa.generate_private_key(65537, 2048)
IS_CA, IS_NONE = x509.BasicConstraints(ca=True, path_length=None), x509.BasicConstraints(ca=False, path_length=None)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (brought(P256, IS_CA), ""),
        (brought(P256, IS_CA, usage(signs=True)), ""),
        (brought(P256, IS_CA, usage(signs=False)), "keyCertSign"),
        (brought(P256, IS_NONE), "CA:FALSE"),
        (brought(P256), "no basicConstraints"),
        (brought(P521, IS_CA), "P-256 or P-384"),
        (brought(RSA, IS_CA), "P-256 or P-384"),
    ],
)
def test_what_may_be_a_ca_and_what_is_said_of_the_rest(made: x509.Certificate, why: str) -> None:
    assert why in complaint(made)
    assert bool(why) is bool(complaint(made))


def test_a_brought_p256_ca_signs_for_nodes_and_vouches_for_the_next() -> None:
    made = brought(P256, IS_CA, usage(signs=True))
    found = CertificateAuthority(P256, made)
    again = CertificateAuthority.from_pem(found.key_pem(), found.certificate_pem() + authority().certificate_pem())
    assert again.fingerprint == fingerprint_of(made), "its chain comes after it"
    node = Node("n1")
    trust = Trust.from_pem(found.certificate_pem())
    pem = found.sign_csr(make_csr(node.identity, "n1", "uid-1"), "n1", "uid-1", NOW, timedelta(hours=1))
    assert trust.verify_certificate(pem, "n1", "uid-1", NOW).issuer == found.fingerprint
    assert trust.grant_signer("text", found.sign_grant("text")) == found.fingerprint
    vouching = read_bundle(found.cross_sign(certificate("a")))
    assert vouched([made], [certificate("a")], vouching) == ((certificate("a"),), ())


def test_a_cross_certificate_names_the_same_ca_and_is_no_nodes() -> None:
    assert fingerprint_of(cross("a", "b")) == authority("b").fingerprint != authority("a").fingerprint
    both = Trust([cross("a", "b"), certificate("b")])
    assert both.fingerprints == (authority("b").fingerprint,), "one CA, though there are two certificates"
    pem = bundle_pem([cross("a", "b")])
    with pytest.raises(PeerError, match=r"not issued, as a node's|malformed"):
        Trust([certificate("a")]).verify_certificate(pem, "n1", "uid-1", NOW)


EVIL = CertificateAuthority.create("a", NOW - YEAR, 10 * YEAR)
"""It has the name of a trusted one."""


@pytest.mark.parametrize(
    "crosses",
    [
        (),
        tuple(read_bundle(EVIL.cross_sign(EVIL.certificate))),
        tuple(read_bundle(authority("b").cross_sign(EVIL.certificate))),
        (cross("a", "b"),),
        (certificate("a"),),
    ],
)
def test_a_ca_that_no_trusted_one_vouches_for_stays_a_stranger(crosses: Sequence[x509.Certificate]) -> None:
    good, strangers = vouched([certificate("a")], [certificate("a"), EVIL.certificate], crosses)
    assert good == (certificate("a"),)
    assert strangers == (EVIL.certificate,)


def test_one_signed_with_another_digest_vouches_for_nobody() -> None:
    ca, other = authority("a"), authority("b")
    weak = (
        x509.CertificateBuilder(
            ca.certificate.subject, other.certificate.subject, other.certificate.public_key(), 7, NOW - YEAR, NOW + YEAR
        )
        .add_extension(IS_CA, critical=True)
    )  # fmt: skip
    for digest, good in ((SHA384(), True), (SHA256(), False)):
        found, _ = vouched([ca.certificate], [other.certificate], [weak.sign(ca._key, digest)])
        assert bool(found) is good


EDGES = {(by, of): cross(by, of) for by in CAS for of in CAS if by != of}


@given(
    st.sets(st.sampled_from(CAS), min_size=1), st.sets(st.sampled_from(CAS)), st.sets(st.sampled_from(sorted(EDGES)))
)
def test_trusted_is_what_can_be_reached(trusted: set[str], offered: set[str], edges: set[tuple[str, str]]) -> None:
    reached = set(trusted)
    while more := {of for by, of in edges if by in reached} - reached:
        reached |= more
    good, strangers = vouched(
        [certificate(n) for n in sorted(trusted)],
        [certificate(n) for n in sorted(offered)],
        [EDGES[edge] for edge in sorted(edges)],
    )
    assert {*map(fingerprint_of, good)} == {authority(n).fingerprint for n in offered & reached}
    assert {*map(fingerprint_of, strangers)} == {authority(n).fingerprint for n in offered - reached}


def test_a_bundle_is_bounded() -> None:
    pem = authority().certificate_pem()
    assert len(read_bundle(pem * MAX_AUTHORITIES)) == MAX_AUTHORITIES
    with pytest.raises(ConfigError, match="1 to 16"):
        read_bundle(pem * (MAX_AUTHORITIES + 1))


def test_a_policy_that_names_cas_is_by_the_first_of_them() -> None:
    both = Trust([certificate("a"), certificate("b")])
    a, b = authority("a").fingerprint, authority("b").fingerprint
    for signer, named, good in (("a", (a, b), True), ("b", (b,), True), ("a", (), True), ("a", (b, a), False)):
        signed = policydoc.sign(authority(signer), PolicyDocument("c1", 1, NOW, {}, named))
        if good:
            assert policydoc.verify(signed, both, cluster="c1").authorities == named
        else:
            with pytest.raises(PeerError, match="the first is not the CA that signed it"):
                policydoc.verify(signed, both, cluster="c1")
