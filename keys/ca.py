"""The CA and the certificates that name nodes: ECDSA P-384 with SHA-384, issued directly by a trusted CA.

There is no chain between the two. A CA that was brought may have a P-256 key.

A node certificate says one thing: this public key speaks for node NAME with UID. It is found in the URI
`linkseal:node/NAME/UID`; the common name repeats the node name for people.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509.oid import ExtensionOID, NameOID
from linkseal.keys import codes
from linkseal.keys.cabundle import BROKEN, complaint, distinct, fingerprint_of, issued_by, read_bundle
from linkseal.keys.documents import sign_text, signature_fits
from linkseal.keys.elsewhere import IN_SSH_AGENT, Elsewhere, KeyElsewhere
from linkseal.keys.errors import ConfigError, PeerError
from linkseal.keys.values import MAX_COMMON_NAME, check_identity

MAX_CERTIFICATE: Final = 4096
"""Characters of PEM: a node certificate with the longest name and UID is about 1,500."""
_CACHED_CERTIFICATES: Final = 256
"""One costs 1.7 kB to keep and half a millisecond to verify again."""
POLICY_LABEL: Final = "linkseal.io/policy 1\n"
"""Signed before a policy's text, so that no other signature of the CA can be taken for one over a policy."""
CHECK_LABEL: Final = "linkseal.io/check 1\n"
"""Signed to see that a key elsewhere signs: no document begins like this."""


def node_uri(node: str, uid: str) -> str:
    """Return the name a node certificate carries; unambiguous, because neither part holds a slash."""
    return f"linkseal:node/{node}/{uid}"


def generate_identity() -> ec.EllipticCurvePrivateKey:
    """Return a new P-384 key from the system's random source: a node's identity or a CA."""
    return ec.generate_private_key(ec.SECP384R1())


def make_csr(identity_key: ec.EllipticCurvePrivateKey, node: str, uid: str) -> str:
    """Return a certificate request (PEM) of this node; its own signature proves possession of the identity key."""
    check_identity(node, uid)
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(node))
        .add_extension(_san(node, uid), critical=False)
    )
    return builder.sign(identity_key, SHA384()).public_bytes(serialization.Encoding.PEM).decode()


def make_ca_request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """Return a request (PEM) for the certificate of a CA that another one is to sign. Raises SignerError."""
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
    )
    return builder.sign(key, SHA384()).public_bytes(serialization.Encoding.PEM).decode()


def _subject(node: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node[:MAX_COMMON_NAME])])


def _san(node: str, uid: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(node_uri(node, uid))])


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(
    issuer: x509.Name, subject: x509.Name, key: CertificatePublicKeyTypes, since: datetime, until: datetime
) -> x509.CertificateBuilder:
    """What a CA's certificate says."""
    return (
        x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


class CertificateAuthority:
    """A CA and its key: signs node certificates, grants and the policy, and vouches for the next CA."""

    __slots__ = ("_certificate", "_key")

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def create(
        cls, name: str, not_before: datetime, lifetime: timedelta, key: ec.EllipticCurvePrivateKey | None = None
    ) -> Self:
        """Make a new root; with a new key if none is given."""
        key, subject = key or generate_identity(), _subject(name)
        builder = _authority(subject, subject, key.public_key(), not_before, not_before + lifetime)
        return cls(key, builder.sign(key, SHA384()))

    @classmethod
    def from_pem(cls, key_pem: bytes, certificate_pem: str, elsewhere: Elsewhere | None = None) -> Self:
        """Read a CA, as `key_pem` and `certificate_pem` write it; of several certificates the first. ConfigError."""
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
            if key_pem.strip() == IN_SSH_AGENT:
                key = _held_elsewhere(certificate, elsewhere)
            else:
                key = serialization.load_pem_private_key(key_pem, password=None)
            fits = key.public_key() == certificate.public_key()
        except ConfigError:
            raise  # a ValueError too
        except BROKEN:
            raise ConfigError("the CA's key or certificate cannot be read: both are PEM, the key unencrypted") from None
        if why := complaint(certificate):
            raise ConfigError(f"the CA's certificate cannot be used: {why}")
        if not fits or not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError("the CA's key does not belong to its certificate, which must come first in its file")
        return cls(key, certificate)

    @property
    def certificate(self) -> x509.Certificate:
        """The CA's certificate."""
        return self._certificate

    @property
    def elsewhere(self) -> bool:
        """Whether another process holds its key."""
        return isinstance(self._key, KeyElsewhere)

    @property
    def fingerprint(self) -> str:
        """What names this CA (`fingerprint_of`)."""
        return fingerprint_of(self._certificate)

    def cross_sign(self, other: x509.Certificate) -> str:
        """Return this CA's certificate (PEM) for the name, key and dates of another, which it vouches for."""
        since, until = other.not_valid_before_utc, other.not_valid_after_utc
        builder = _authority(self._certificate.subject, other.subject, other.public_key(), since, until)
        return builder.sign(self._key, SHA384()).public_bytes(serialization.Encoding.PEM).decode()

    def key_pem(self) -> bytes:
        """Return the private key as PEM, or what stands for one that is elsewhere; for the store alone."""
        return identity_pem(self._key)

    def certificate_pem(self) -> str:
        """Return the root certificate as PEM: an entry of the CA bundle."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def check(self) -> None:
        """Sign what nobody takes for anything. Raises SignerError: its key is elsewhere, and does not sign."""
        sign_text(self._key, CHECK_LABEL)

    def sign_grant(self, text: str) -> str:
        """Return base64 of the signature over the exact bytes of a grant."""
        return sign_text(self._key, text)

    def sign_policy(self, text: str) -> str:
        """Return base64 of the signature over the label and the exact bytes of a policy."""
        return sign_text(self._key, POLICY_LABEL + text)

    def sign_csr(self, csr_pem: str, node: str, uid: str, not_before: datetime, lifetime: timedelta) -> str:
        """Return a certificate (PEM) for node (name, UID), whom the caller has verified; the request must name it.

        Raises PeerError if the request is malformed, for somebody else, or not signed by its own key.
        """
        check_identity(node, uid)
        key = _requested_key(csr_pem, node, uid)
        builder = (
            x509.CertificateBuilder(self._certificate.subject, _subject(node), key, x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_before + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(_san(node, uid), critical=False)
        )
        return builder.sign(self._key, SHA384()).public_bytes(serialization.Encoding.PEM).decode()


def _held_elsewhere(certificate: x509.Certificate, elsewhere: Elsewhere | None) -> PrivateKeyTypes:
    public = certificate.public_key()
    if elsewhere is None:
        raise ConfigError(
            "the CA's key is in an SSH agent, and none is named: a cluster's controller is told by --ssh-agent SOCKET "
            "(SSH_AUTH_SOCK; the chart's `controller.sshAgent.socket`), one of a folder needs the key itself"
        )
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise ConfigError("the CA's certificate cannot be used: its key is not on P-384")
    return elsewhere(public)


def _requested_key(csr_pem: str, node: str, uid: str) -> ec.EllipticCurvePublicKey:
    if len(csr_pem) > MAX_CERTIFICATE:
        raise PeerError(f"the certificate request of {node} is too large", code=codes.TOO_LARGE, node=node)
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        key = csr.public_key()
        signed = csr.is_signature_valid
        names = _names(csr.subject, csr.extensions)
    except BROKEN:
        raise PeerError(f"the certificate request of {node} is malformed", code=codes.MALFORMED, node=node) from None
    if not signed or not _is_p384(key):
        raise PeerError(
            f"the certificate request of {node} is not signed by its own P-384 key",
            code=codes.POSSESSION_NOT_PROVEN,
            node=node,
        )
    if names != (node[:MAX_COMMON_NAME], node_uri(node, uid)):
        raise PeerError(f"the certificate request of {node} names somebody else", code=codes.WRONG_IDENTITY, node=node)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def identity_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a P-384 private key as PEM (PKCS #8, unencrypted); for the store alone."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass(frozen=True, slots=True)
class NodeCertificate:
    """What a verified node certificate says. `not_before` and `not_after` are UTC.

    `point` is the P-384 key as an uncompressed point (SEC 1 §2.3.3, 97 bytes): there is one of these a peer, a key as
    OpenSSL holds it takes 2 KB, and making it of the point takes 20 µs.
    """

    node: str
    uid: str
    point: bytes
    not_before: datetime
    not_after: datetime
    issuer: str = ""
    """Fingerprint of the CA that issued it."""

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The node's identity key."""
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), self.point)

    def valid_at(self, now: datetime) -> bool:
        """Tell whether `now` lies within the certificate's dates."""
        return self.not_before <= now <= self.not_after


class Trust:
    """The CAs a node trusts: one, two while the CA is rotated; the older first.

    A CA's own dates are not checked (RFC 5280 §6.1.1: a trust anchor is a name and a key); taking it out is what ends
    it. Verified certificates are remembered by their exact text.
    """

    __slots__ = ("_cache", "fingerprints", "pem", "roots")

    def __init__(self, roots: Iterable[x509.Certificate], pem: str = "") -> None:
        self.roots = distinct(roots)
        self.fingerprints = tuple(map(fingerprint_of, self.roots))
        self.pem = pem
        self._cache: dict[tuple[str, str, str], NodeCertificate] = {}

    @classmethod
    def from_pem(cls, bundle: str) -> Self:
        """Read a CA bundle: one or more PEM certificates. Raises ConfigError."""
        return cls(read_bundle(bundle), bundle)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trust) and set(self.fingerprints) == set(other.fingerprints)

    def __hash__(self) -> int:
        return hash(frozenset(self.fingerprints))

    def signed_grant(self, text: str, signature: str) -> bool:
        """Tell whether a CA of the bundle signed the exact bytes of this grant."""
        return bool(self.grant_signer(text, signature))

    def grant_signer(self, text: str, signature: str) -> str:
        """Return the fingerprint of the CA that signed the exact bytes of this grant, empty text if none did."""
        return self._signer(text, signature)

    def policy_signer(self, text: str, signature: str) -> str:
        """Return the fingerprint of the CA that signed the exact bytes of this policy, as a policy; empty: none."""
        return self._signer(POLICY_LABEL + text, signature)

    def _signer(self, text: str, signature: str) -> str:
        for root, name in zip(reversed(self.roots), reversed(self.fingerprints), strict=True):
            key = root.public_key()
            if isinstance(key, ec.EllipticCurvePublicKey) and signature_fits(key, text, signature):
                return name
        return ""

    def verify_certificate(
        self, certificate_pem: str, node: str, uid: str, now: datetime, *, check_time: bool = True
    ) -> NodeCertificate:
        """Return what the certificate says if a CA of the bundle issued it for exactly this node and UID.

        Raises PeerError: TOO_LARGE, MALFORMED, UNTRUSTED_CERTIFICATE, WRONG_IDENTITY or CERTIFICATE_EXPIRED.
        """
        known = self._cache.get((certificate_pem, node, uid))
        if known is None:
            known = self._verify(certificate_pem, node, uid)
            if len(self._cache) >= _CACHED_CERTIFICATES:
                self._cache.clear()
            self._cache[certificate_pem, node, uid] = known
        if check_time and not known.valid_at(now):
            raise PeerError(
                f"the certificate of {node} is valid from {known.not_before:%Y-%m-%d %H:%M} to "
                f"{known.not_after:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M}: renew it or set the clock",
                code=codes.CERTIFICATE_EXPIRED,
                node=node,
            )
        return known

    def _verify(self, certificate_pem: str, node: str, uid: str) -> NodeCertificate:
        if len(certificate_pem) > MAX_CERTIFICATE:
            raise PeerError(f"the certificate of {node} is too large", code=codes.TOO_LARGE, node=node)
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
            issuer = next((root for root in self.roots if issued_by(certificate, root)), None)
            key = certificate.public_key()
            names = _names(certificate.subject, certificate.extensions)
            profile = _is_node_profile(certificate)
        except BROKEN:
            raise PeerError(f"the certificate of {node} is malformed", code=codes.MALFORMED, node=node) from None
        if issuer is None or not profile or not isinstance(key, ec.EllipticCurvePublicKey):
            raise PeerError(
                f"the certificate of {node} was not issued, as a node's, by a CA trusted here",
                code=codes.UNTRUSTED_CERTIFICATE,
                node=node,
            )
        if names != (node[:MAX_COMMON_NAME], node_uri(node, uid)):
            raise PeerError(
                f"the certificate of {node} is for another node or UID ({str(names[1])[:330]!r}, not UID {uid})",
                code=codes.WRONG_IDENTITY,
                node=node,
            )
        point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        dates = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return NodeCertificate(node, uid, point, *dates, fingerprint_of(issuer))


def _is_p384(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)


def _is_node_profile(certificate: x509.Certificate) -> bool:
    """Tell whether this is a node's certificate: P-384, no CA, signatures only, nothing critical we do not know."""
    extensions = certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    known = {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.SUBJECT_ALTERNATIVE_NAME}
    return (
        _is_p384(certificate.public_key())
        and not constraints.ca
        and usage.digital_signature
        and not usage.key_cert_sign
        and all(extension.oid in known for extension in extensions if extension.critical)
    )


def _names(subject: x509.Name, extensions: x509.Extensions) -> tuple[str, str]:
    """Return (common name, URI); there must be exactly one of each and no other alternative name."""
    common = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    if len(common) != 1 or len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise ValueError("not one name and one URI")
    return str(common[0].value), names[0].value
