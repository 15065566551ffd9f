"""The grant: what the cluster says a node owns, signed by the CA.

    {"format": 1, "node": "n1", "uid": "…", "index": 1, "serial": 3, "issued": "2026-11-02T10:00:00Z",
     "addresses": ["192.0.2.1"], "prefixes": ["10.244.1.0/24"], "optedOut": false}

It travels as `{"grant": TEXT, "signature": BASE64}`; the signature covers the exact bytes of TEXT.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

from linkseal.keys import codes
from linkseal.keys.ca import CertificateAuthority, Trust
from linkseal.keys.documents import (
    FORMAT,
    MAX_SIGNATURE,
    MAX_TEXT,
    Document,
    canonical_address,
    canonical_prefix,
    check_size,
    format_time,
    malformed,
    parse_time,
    read_document,
    read_wrapper,
    write_object,
)
from linkseal.keys.errors import PeerError
from linkseal.keys.values import MAX_NUMBER, NODE_PATTERN, UID_PATTERN, Prefix
from pydantic import Field

MAX_INDEX: Final = 16383
"""Eight probe addresses for each index must fit into 198.18.0.0/15 (docs/architecture.md)."""
MAX_ADDRESSES: Final = 32
MAX_PREFIXES: Final = 256
_WHAT: Final = "the grant"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a node owns. `addresses` are IP literals, `prefixes` networks; both canonical text, none twice."""

    node: str
    uid: str
    index: int
    serial: int
    issued: datetime
    addresses: tuple[str, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    opted_out: bool = False

    def protected(self) -> frozenset[Prefix]:
        """Return everything owned, addresses as /32 and /128; which of it a scope covers is decided elsewhere."""
        return frozenset(self.prefixes) | {address_prefix(address) for address in self.addresses}


@dataclass(frozen=True, slots=True)
class SignedGrant:
    """A grant as it travels: JSON text and base64 signature over its exact bytes."""

    text: str
    signature: str


def address_prefix(address: str) -> Prefix:
    """Return the prefix that holds one address: /32 or /128."""
    return Prefix(f"{address}/128" if ":" in address else f"{address}/32")


class _Grant(Document):
    format: Annotated[int, Field(ge=1)]
    node: Annotated[str, Field(max_length=253, pattern=NODE_PATTERN)]
    uid: Annotated[str, Field(pattern=UID_PATTERN)]
    index: Annotated[int, Field(ge=1, le=MAX_INDEX)]
    serial: Annotated[int, Field(ge=1, le=MAX_NUMBER)]
    issued: Annotated[str, Field(max_length=40)]
    addresses: Annotated[list[Annotated[str, Field(max_length=45)]], Field(max_length=MAX_ADDRESSES)]
    prefixes: Annotated[list[Annotated[str, Field(max_length=49)]], Field(max_length=MAX_PREFIXES)]
    opted_out: Annotated[bool, Field(alias="optedOut")]


def encode(grant: Grant) -> str:
    """Return the JSON text of a grant. Same grant, same bytes."""
    return write_object(
        {
            "format": FORMAT,
            "node": grant.node,
            "uid": grant.uid,
            "index": grant.index,
            "serial": grant.serial,
            "issued": format_time(grant.issued),
            "addresses": list(grant.addresses),
            "prefixes": list(grant.prefixes),
            "optedOut": grant.opted_out,
        }
    )


def sign(authority: CertificateAuthority, grant: Grant) -> SignedGrant:
    """Return the grant signed by the CA. Raises ValueError if no receiver could accept it."""
    text = encode(grant)
    try:
        parse(text, node=grant.node)
    except PeerError as error:
        raise ValueError(str(error)) from error
    return SignedGrant(text, authority.sign_grant(text))


def wrap(signed: SignedGrant) -> str:
    """Return the text of a grant file or annotation."""
    return write_object({"grant": signed.text, "signature": signed.signature})


def unwrap(text: str, *, node: str) -> SignedGrant:
    """Read a grant file or annotation of `node`. Raises PeerError (TOO_LARGE, MALFORMED)."""
    grant, signature = read_wrapper(text, ("grant", "signature"), what=_WHAT, node=node)
    return SignedGrant(grant, signature)


def parse(text: str, *, node: str) -> Grant:
    """Read a grant that claims to be for `node`; its signature is not checked here.

    Raises PeerError: TOO_LARGE, MALFORMED or UNKNOWN_FORMAT.
    """
    model = read_document(_Grant, text, what=_WHAT, node=node)
    try:
        grant = Grant(
            node=model.node,
            uid=model.uid,
            index=model.index,
            serial=model.serial,
            issued=parse_time(model.issued),
            addresses=tuple(map(canonical_address, model.addresses)),
            prefixes=tuple(map(canonical_prefix, model.prefixes)),
            opted_out=model.opted_out,
        )
    except ValueError as error:
        raise malformed(_WHAT, node, str(error)[:200]) from None
    if len(set(grant.addresses)) != len(grant.addresses) or len(set(grant.prefixes)) != len(grant.prefixes):
        raise malformed(_WHAT, node, "an address or prefix given twice")
    return grant


def verify(signed: SignedGrant, trust: Trust, *, node: str) -> Grant:
    """Return the grant if a trusted CA signed it for `node`. UID and serial are the register's matter.

    Raises PeerError with the code of what is wrong; nothing is parsed before its signature is known to be good.
    """
    check_size(signed.text, MAX_TEXT, what=_WHAT, node=node)
    check_size(signed.signature, MAX_SIGNATURE, what="the grant's signature", node=node)
    if not trust.signed_grant(signed.text, signed.signature):
        raise PeerError(
            f"the grant of {node} is not signed by a CA trusted here", code=codes.GRANT_SIGNATURE_INVALID, node=node
        )
    grant = parse(signed.text, node=node)
    if grant.node != node:
        raise PeerError(
            f"{node} was given the grant of {grant.node}", code=codes.GRANT_WRONG_NODE, node=node, other=grant.node
        )
    return grant
