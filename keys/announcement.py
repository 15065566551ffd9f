"""The announcement: what a node says of itself, signed by it. Never prefixes: those come from the grant.

    {"format": 1, "node": "n1", "uid": "…", "serial": 7, "issued": "2026-11-02T10:00:00Z",
     "generations": [{"number": 3, "protocol": "wireguard", "publicKey": "…",
                      "proof": {"ed25519PublicKey": "…", "signature": "…"}}],
     "endpoints": [{"address": "192.0.2.1", "port": 51820}], "capabilities": ["door"]}

One or two generations are live, of different parity. No endpoints: the node cannot be reached (NAT) and initiates.
Unknown fields are ignored and covered by the signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

from cryptography.hazmat.primitives.asymmetric import ec
from linkseal.keys import codes
from linkseal.keys.ca import MAX_CERTIFICATE, Trust
from linkseal.keys.documents import (
    FORMAT,
    MAX_SIGNATURE,
    MAX_TEXT,
    Document,
    canonical_address,
    check_size,
    format_time,
    malformed,
    parse_time,
    read_document,
    sign_text,
    signature_fits,
    write_object,
)
from linkseal.keys.errors import PeerError
from linkseal.keys.secrets import PossessionProof, parse_public_key, verify_possession
from linkseal.keys.values import MAX_NUMBER, NODE_PATTERN, UID_PATTERN, Protocol, PublicKey
from pydantic import Field

MAX_ENDPOINTS: Final = 8
MAX_CAPABILITIES: Final = 32
MAX_BASE_PORT: Final = 65532
"""The four slots listen on base … base + 3."""
_WHAT: Final = "the announcement"


@dataclass(frozen=True, slots=True)
class GenerationKey:
    """A live generation: its number, protocol and public key."""

    number: int
    protocol: Protocol
    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class AnnouncedEndpoint:
    """Where a node can be reached: an IP literal and the base port of its slots."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node says of itself. `generations` has one or two entries, the lower number first."""

    node: str
    uid: str
    serial: int
    issued: datetime
    generations: tuple[GenerationKey, ...]
    endpoints: tuple[AnnouncedEndpoint, ...] = ()
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SignedAnnouncement:
    """An announcement as it travels: JSON text, base64 signature over its exact bytes, PEM certificate."""

    text: str
    signature: str
    certificate: str


class _Proof(Document):
    ed25519: Annotated[str, Field(alias="ed25519PublicKey", max_length=44)]
    signature: Annotated[str, Field(max_length=88)]


class _Generation(Document):
    number: Annotated[int, Field(ge=1, le=MAX_NUMBER)]
    protocol: Protocol
    public_key: Annotated[str, Field(alias="publicKey", max_length=44)]
    proof: _Proof


class _Endpoint(Document):
    address: Annotated[str, Field(max_length=45)]
    port: Annotated[int, Field(ge=1, le=MAX_BASE_PORT)]


class _Announcement(Document):
    format: Annotated[int, Field(ge=1)]
    node: Annotated[str, Field(max_length=253, pattern=NODE_PATTERN)]
    uid: Annotated[str, Field(pattern=UID_PATTERN)]
    serial: Annotated[int, Field(ge=1, le=MAX_NUMBER)]
    issued: Annotated[str, Field(max_length=40)]
    generations: Annotated[list[_Generation], Field(min_length=1, max_length=2)]
    endpoints: Annotated[list[_Endpoint], Field(max_length=MAX_ENDPOINTS)]
    capabilities: Annotated[
        list[Annotated[str, Field(pattern=r"^[a-z0-9][-a-z0-9.]{0,62}$")]], Field(max_length=MAX_CAPABILITIES)
    ]


def encode(announcement: Announcement, proofs: Mapping[int, PossessionProof]) -> str:
    """Return the JSON text of an announcement; `proofs` by generation number. Same arguments, same bytes."""
    return write_object(
        {
            "format": FORMAT,
            "node": announcement.node,
            "uid": announcement.uid,
            "serial": announcement.serial,
            "issued": format_time(announcement.issued),
            "generations": [_generation_fields(key, proofs[key.number]) for key in announcement.generations],
            "endpoints": [{"address": e.address, "port": e.port} for e in announcement.endpoints],
            "capabilities": list(announcement.capabilities),
        }
    )


def _generation_fields(key: GenerationKey, proof: PossessionProof) -> dict[str, object]:
    return {
        "number": key.number,
        "protocol": key.protocol,
        "publicKey": key.public_key,
        "proof": {"ed25519PublicKey": proof.ed25519_public, "signature": proof.signature},
    }


def sign(identity_key: ec.EllipticCurvePrivateKey, text: str) -> str:
    """Return base64 of the node's signature over the exact bytes of an announcement."""
    return sign_text(identity_key, text)


def parse(text: str, *, node: str) -> Announcement:
    """Read an announcement that claims to be `node`'s and check everything but its signature and certificate.

    Raises PeerError: TOO_LARGE, MALFORMED, UNKNOWN_FORMAT or POSSESSION_NOT_PROVEN.
    """
    model = read_document(_Announcement, text, what=_WHAT, node=node)
    try:
        announcement = Announcement(
            node=model.node,
            uid=model.uid,
            serial=model.serial,
            issued=parse_time(model.issued),
            generations=tuple(
                GenerationKey(g.number, g.protocol, parse_public_key(g.public_key))
                for g in sorted(model.generations, key=lambda g: g.number)
            ),
            endpoints=tuple(AnnouncedEndpoint(canonical_address(e.address), e.port) for e in model.endpoints),
            capabilities=tuple(model.capabilities),
        )
    except ValueError as error:
        raise malformed(_WHAT, node, str(error)[:200]) from None
    _check_distinct(announcement, node)
    _check_possession(announcement, model)
    return announcement


def _check_distinct(announcement: Announcement, node: str) -> None:
    generations = announcement.generations
    if len({g.number % 2 for g in generations}) != len(generations):
        raise malformed(_WHAT, node, "two live generations of equal parity")
    if len({g.public_key for g in generations}) != len(generations):
        raise malformed(_WHAT, node, "two live generations with one key")
    if len(set(announcement.endpoints)) != len(announcement.endpoints):
        raise malformed(_WHAT, node, "an endpoint given twice")
    if len(set(announcement.capabilities)) != len(announcement.capabilities):
        raise malformed(_WHAT, node, "a capability given twice")


def _check_possession(announcement: Announcement, model: _Announcement) -> None:
    for generation in model.generations:
        proof = PossessionProof(generation.proof.ed25519, generation.proof.signature)
        key = parse_public_key(generation.public_key)
        if not verify_possession(key, proof, announcement.node, announcement.uid, generation.number):
            raise PeerError(
                f"{announcement.node} does not prove that it holds the key of its generation {generation.number}: "
                "copied, or announced by a broken agent",
                code=codes.POSSESSION_NOT_PROVEN,
                node=announcement.node,
            )


def verify(
    signed: SignedAnnouncement, trust: Trust, *, node: str, uid: str, now: datetime, check_time: bool = True
) -> Announcement:
    """Return the announcement if it is node's (name, UID), by a key that a trusted CA certified for it.

    `check_time` False: the certificate may have expired (last known good). The serial is the register's matter.
    Raises PeerError with the code of what is wrong; nothing is parsed before its signature is known to be good.
    """
    check_size(signed.text, MAX_TEXT, what=_WHAT, node=node)
    check_size(signed.signature, MAX_SIGNATURE, what="the announcement's signature", node=node)
    check_size(signed.certificate, MAX_CERTIFICATE, what="the certificate", node=node)
    certificate = trust.verify_certificate(signed.certificate, node, uid, now, check_time=check_time)
    if not signature_fits(certificate.public_key, signed.text, signed.signature):
        raise PeerError(
            f"the announcement of {node} is not signed by its certificate's key: altered on the way, or forged",
            code=codes.SIGNATURE_INVALID,
            node=node,
        )
    announcement = parse(signed.text, node=node)
    if (announcement.node, announcement.uid) != (node, uid):
        raise PeerError(
            f"{node} published an announcement of {announcement.node} (UID {announcement.uid})",
            code=codes.WRONG_IDENTITY,
            node=node,
            other=announcement.node,
        )
    return announcement
