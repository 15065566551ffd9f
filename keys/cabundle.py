"""Certificates of CAs: which may be one, what names its key, and which CA vouches for which.

A CA vouches for the next one with a cross certificate: the next one's name and key, signed by the CA. It is an
introduction and no link of a chain: who accepts it trusts the next CA's key from then on as it trusted the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import SignatureAlgorithmOID
from linkseal.keys.errors import ConfigError

MAX_AUTHORITIES: Final = 16
"""Certificates of a bundle: a CA and the next one, or as many cross certificates as a node may have slept through."""

BROKEN: Final = (
    ValueError,
    TypeError,
    Warning,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)
"""What cryptography raises over certificates that are broken on purpose."""


def fingerprint_of(certificate: x509.Certificate) -> str:
    """Return what names a CA: SHA-256 of its public key (SubjectPublicKeyInfo, DER) in hex.

    A new certificate of the same key has the same, and so has a cross certificate for it.
    """
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(certificate.public_key().public_bytes(serialization.Encoding.DER, form)).hexdigest()


def complaint(certificate: x509.Certificate) -> str:
    """Return why a certificate cannot be a CA's here, empty text if it can. Dates are for the caller to judge."""
    try:
        key, extensions = certificate.public_key(), certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        try:
            signs = extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
        except x509.ExtensionNotFound:  # then the key may be used for everything (RFC 5280 §4.2.1.3)
            signs = True
    except x509.ExtensionNotFound:
        return "it has no basicConstraints: issue it with CA:TRUE"
    except BROKEN:
        return "it is malformed"
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return "its key is not ECDSA P-256 or P-384: make one with `openssl ecparam -name secp384r1 -genkey`"
    if not constraints.ca:
        return "its basicConstraints say CA:FALSE: issue it with CA:TRUE"
    return "" if signs else "its keyUsage lacks keyCertSign: issue it with keyCertSign"


def read_bundle(pem: str) -> tuple[x509.Certificate, ...]:
    """Read one or more CA certificates (PEM). Raises ConfigError."""
    try:
        found = tuple(x509.load_pem_x509_certificates(pem.encode()))
    except BROKEN:
        raise ConfigError("the CA bundle cannot be read: it is one or more certificates in PEM") from None
    if not found or len(found) > MAX_AUTHORITIES:
        raise ConfigError(f"the CA bundle must hold 1 to {MAX_AUTHORITIES} certificates, and holds {len(found)}")
    for certificate in found:
        if why := complaint(certificate):
            raise ConfigError(f"the CA bundle must hold CA certificates and nothing else; of one, {why}")
    return found


def bundle_pem(certificates: Iterable[x509.Certificate]) -> str:
    """Return certificates as PEM."""
    return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in certificates)


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Tell whether the issuer's name and key stand behind a certificate, with SHA-384. Dates are not looked at."""
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def distinct(certificates: Iterable[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """Return the first certificate of each name and key, in their order."""
    found: dict[tuple[bytes, str], x509.Certificate] = {}
    for one in certificates:
        found.setdefault((one.subject.public_bytes(), fingerprint_of(one)), one)
    return tuple(found.values())


def vouched(
    trusted: Sequence[x509.Certificate], offered: Sequence[x509.Certificate], crosses: Sequence[x509.Certificate]
) -> tuple[tuple[x509.Certificate, ...], tuple[x509.Certificate, ...]]:
    """Return of the CAs `offered` those that one of `trusted` vouches for, directly or through others, and the rest.

    What vouches is a signature by a trusted CA over the name and key of another, in `crosses` or in `offered` itself.
    """
    known = {fingerprint_of(one) for one in trusted}
    vouching, left = list(trusted), [*crosses, *offered]
    while True:
        left = [one for one in left if fingerprint_of(one) not in known]
        found = next((one for one in left if any(issued_by(one, by) for by in vouching)), None)
        if found is None:
            break
        vouching.append(found)
        known.add(fingerprint_of(found))
    named = distinct(offered)
    return (
        tuple(one for one in named if fingerprint_of(one) in known),
        tuple(one for one in named if fingerprint_of(one) not in known),
    )
