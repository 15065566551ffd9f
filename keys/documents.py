"""What announcements and grants have in common: limits, exact JSON, text of addresses and times, signatures.

A document is a JSON text. Its signature covers the exact bytes of that text, so it is kept, stored and compared as text
and never written again by a receiver. Reading is strict, because two readers of a loose document may see two things.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import math
import re
from datetime import UTC, datetime
from typing import Final, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from linkseal.keys import codes
from linkseal.keys.errors import PeerError
from linkseal.keys.values import Prefix
from pydantic import BaseModel, ConfigDict, ValidationError

FORMAT: Final = 1
"""The format we write. Format N reads N and N-1 (there is no format 0).

A field that older versions may pass over needs no new format: it is optional, and they ignore it. One that they must
not pass over, or a change of what is there, does. A version that can write a new format goes on writing the old one
while some node cannot read the new: nodes are upgraded one after the other, and each must be understood by all.
"""


def readable(number: int) -> frozenset[int]:
    """Return the formats that a version reads which writes format `number`: that one and the one before."""
    return frozenset({number, number - 1}) - {0}


READABLE: Final = readable(FORMAT)

MAX_TEXT: Final = 16 * 1024
"""Bytes of a document: 256 IPv6 prefixes and 32 addresses fit; 5,000 nodes stay under 80 MiB at worst."""
MAX_SIGNATURE: Final = 200
"""Characters: an ECDSA P-384 signature is at most 104 bytes, 140 characters of base64."""
MAX_DEPTH: Final = 16
MAX_DIGITS: Final = 20
"""Digits of an integer: beyond 2^63, and far below where converting gets slow."""

_STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z", re.ASCII)

Model = TypeVar("Model", bound="Document")


class Document(BaseModel):
    """Base of the boundary models: exact types, unknown fields ignored (they are covered by the signature)."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)


def read_document(model: type[Model], text: str, *, what: str, node: str, limit: int = MAX_TEXT) -> Model:
    """Parse `text` (already verified) as `model`. Raises PeerError: too large, malformed or of an unknown format."""
    check_size(text, limit, what=what, node=node)
    fields = _read_object(text, what=what, node=node)
    number = fields.get("format")
    if type(number) is int and number > 0 and number not in READABLE:
        raise PeerError(
            f"{what} of {node} has format {number}, this version reads {sorted(READABLE)}: upgrade Linkseal here",
            code=codes.UNKNOWN_FORMAT,
            node=node,
        )
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:80]
        raise malformed(what, node, f"{where}: {first['msg'][:200]}") from None


def malformed(what: str, node: str, why: str) -> PeerError:
    """Return the error for a document of `node` that does not follow its format."""
    return PeerError(f"{what} of {node} is malformed: {why}", code=codes.MALFORMED, node=node)


def check_size(text: str, limit: int, *, what: str, node: str) -> None:
    """Raise PeerError unless `text` is UTF-8 of at most `limit` bytes."""
    if len(text) > limit or len(_utf8(text, what=what, node=node)) > limit:
        raise PeerError(f"{what} of {node} is larger than {limit} bytes", code=codes.TOO_LARGE, node=node)


def _utf8(text: str, *, what: str, node: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise malformed(what, node, "not UTF-8") from None


def _read_object(text: str, *, what: str, node: str) -> dict[str, object]:
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short_int,
        )
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise malformed(what, node, why) from None
    if _deeper_than(value, MAX_DEPTH):
        raise malformed(what, node, "nested too deep")
    if not isinstance(value, dict):
        raise malformed(what, node, "not a JSON object")
    return value


def read_wrapper(text: str, names: tuple[str, str], *, what: str, node: str) -> tuple[str, str]:
    """Read a JSON object that wraps a signed text: the two named string fields. Raises PeerError."""
    check_size(text, 2 * MAX_TEXT + 1024, what=what, node=node)  # quotes inside the text take two bytes
    fields = _read_object(text, what=what, node=node)
    first, second = (fields.get(name) for name in names)
    if not isinstance(first, str) or not isinstance(second, str):
        raise malformed(what, node, f"it must hold the strings {names[0]!r} and {names[1]!r}")
    return first, second


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is given twice")
    return fields


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _short_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("a number is too large")
    return int(text)


def _deeper_than(value: object, levels: int) -> bool:
    """Tell whether lists and objects are nested more than `levels` deep; looks no deeper than that itself."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(item, levels - 1) for item in inner)


def write_object(fields: dict[str, object]) -> str:
    """Return the JSON text of a document: fields in the given order, no spaces, ASCII. Same fields, same bytes."""
    return json.dumps(fields, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def parse_time(text: str) -> datetime:
    """Return an RFC 3339 time in UTC (`2026-11-02T10:00:00Z`, up to six digits of a second). Raises ValueError."""
    if not _STAMP.fullmatch(text):
        raise ValueError("a time is written like 2026-11-02T10:00:00Z")
    return datetime.fromisoformat(text)


def format_time(when: datetime) -> str:
    """Return `when` (which must know its zone) as RFC 3339 in UTC."""
    if when.tzinfo is None:
        raise ValueError("a time without zone cannot be put into a document")
    return when.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def canonical_address(text: str) -> str:
    """Return `text` if it is the canonical form of an address a node can have. Raises ValueError."""
    address = ipaddress.ip_address(text)
    if str(address) != text:
        raise ValueError(f"an address is written in its canonical form: {address}")
    _check_unicast(address)
    return text


def canonical_prefix(text: str) -> Prefix:
    """Return `text` if it is a network in canonical form, host bits zero, that a node can own. Raises ValueError."""
    network = ipaddress.ip_network(text)  # strict: host bits set are an error
    if str(network) != text:
        raise ValueError(f"a prefix is written in its canonical form: {network}")
    _check_unicast(network.network_address)
    return Prefix(text)


def _check_unicast(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Raise ValueError for what no node can own: such a route would swallow the host's own traffic."""
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ValueError("unspecified, loopback and multicast addresses belong to no node")
    if isinstance(address, ipaddress.IPv4Address):
        if int(address) == 2**32 - 1:
            raise ValueError("the broadcast address belongs to no node")
    elif address.ipv4_mapped is not None:
        raise ValueError("an IPv4 address is written as one, not mapped into IPv6")
    elif address.is_link_local or address.scope_id is not None:
        raise ValueError("a link-local IPv6 address means nothing on another node")


def sign_text(key: ec.EllipticCurvePrivateKey, text: str) -> str:
    """Return base64 of an ECDSA P-384/SHA-384 signature over the exact UTF-8 bytes of `text`."""
    return base64.b64encode(key.sign(text.encode(), ec.ECDSA(SHA384()))).decode()


def signature_fits(key: ec.EllipticCurvePublicKey, text: str, signature: str) -> bool:
    """Tell whether `signature` (base64) is one by `key` over the exact bytes of `text`. Never raises."""
    if len(signature) > MAX_SIGNATURE:
        return False
    try:
        key.verify(base64.b64decode(signature, validate=True), text.encode(), ec.ECDSA(SHA384()))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
