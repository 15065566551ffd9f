"""Keys that must not be seen, and the proof that a node holds one (docs/adr/0001).

A generation's secret is a 32-byte Ed25519 seed. From it follow

    SHA-512(seed)[:32], clamped  ──►  X25519 private key  ──►  WireGuard public key      u
    Ed25519 key pair             ──►  signature over node, UID, number; public key       y

and u = (1 + y) / (1 - y) mod 2^255 - 19: whoever signs with the one holds the other.

A secret shows nothing when printed and cannot be formatted, iterated, compared, hashed, copied or pickled. Only codecs
may call `.reveal()`; tests/unit/keys/test_secrets.py lists them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Final, Never, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from linkseal.keys.errors import ConfigError
from linkseal.keys.values import PublicKey, check_identity

KEY_BYTES: Final = 32
_P: Final = 2**255 - 19
_POSSESSION_LABEL: Final = "linkseal possession 1"
"""Domain label (ADR 1): no other message signed by an Ed25519 key of ours begins with it."""

_LOW_ORDER: Final = frozenset(
    {
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _P - 1,
    }
)
"""u of the points of order 1, 2, 4 and 8 of Curve25519 and its twist: they make every shared secret zero."""


def parse_public_key(text: str) -> PublicKey:
    """Return `text` as a public key: canonical base64 of 32 bytes, u < p, no low-order point. Raises ConfigError.

    One key has one text: a second spelling would get past the check for duplicates.
    """
    raw = _decode32(text)
    if raw is None:
        raise ConfigError("a public key is 44 characters of base64 (32 bytes), as `wg pubkey` prints it")
    u = int.from_bytes(raw, "little")
    if u >= _P:
        raise ConfigError("this public key is not written in its canonical form")
    if u in _LOW_ORDER:
        raise ConfigError("this public key is a low-order point: it would give no secrecy")
    return PublicKey(text)


def fingerprint(key: PublicKey) -> str:
    """Return a short name of a public key: the first 16 hex digits of SHA-256 over its 32 bytes."""
    return hashlib.sha256(base64.b64decode(key)).hexdigest()[:16]


class _Secret:
    """32 bytes that do not show."""

    __slots__ = ("_hidden",)
    __hash__ = None  # type: ignore[assignment]  # a hash of a secret tells about it
    __iter__ = None

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES or raw == bytes(KEY_BYTES):
            raise ConfigError(f"a {type(self).__name__} is {KEY_BYTES} bytes, not all zero")
        self._hidden = bytes(raw)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: hidden>"

    def __format__(self, _spec: str) -> Never:
        raise TypeError(f"a {type(self).__name__} cannot be formatted")

    def __eq__(self, _other: object) -> Never:
        raise TypeError(f"a {type(self).__name__} cannot be compared; compare public keys")

    def __bytes__(self) -> Never:
        raise TypeError(f"a {type(self).__name__} gives its bytes only to codecs, by reveal()")

    def __reduce_ex__(self, _protocol: object) -> Never:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled")


class PresharedKey(_Secret):
    """A WireGuard preshared key, 32 bytes."""

    __slots__ = ()

    def reveal(self) -> bytes:
        """Return the 32 bytes; for the WireGuard drivers alone."""
        return self._hidden


@dataclass(frozen=True, slots=True)
class PossessionProof:
    """Public evidence that the announcer of a key holds it; both fields canonical base64."""

    ed25519_public: str
    """32 bytes: the Edwards form of the announced key."""
    signature: str
    """64 bytes: Ed25519 over the domain label, node, UID and number."""


class PrivateKey(_Secret):
    """The secret of one generation. Holds the Ed25519 seed; everything else is derived from it."""

    __slots__ = ("_public",)

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        private = X25519PrivateKey.from_private_bytes(self.reveal())
        self._public = parse_public_key(base64.b64encode(private.public_key().public_bytes_raw()).decode())

    @classmethod
    def generate(cls) -> Self:
        """Return a new key from the system's random source."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @property
    def public_key(self) -> PublicKey:
        """The WireGuard public key."""
        return self._public

    def reveal(self) -> bytes:
        """Return the 32-byte X25519 private key, clamped; for the WireGuard drivers alone."""
        scalar = bytearray(hashlib.sha512(self._hidden).digest()[:KEY_BYTES])  # RFC 8032 §5.1.5
        scalar[0] &= 248
        scalar[31] = scalar[31] & 127 | 64
        return bytes(scalar)

    def seed_for_store(self) -> bytes:
        """Return the 32-byte seed; for the key store alone."""
        return self._hidden

    def prove(self, node: str, uid: str, number: int) -> PossessionProof:
        """Return the proof that this node holds the key as its generation `number`."""
        key = Ed25519PrivateKey.from_private_bytes(self._hidden)
        return PossessionProof(
            ed25519_public=base64.b64encode(key.public_key().public_bytes_raw()).decode(),
            signature=base64.b64encode(key.sign(_possession_message(node, uid, number))).decode(),
        )


def verify_possession(public_key: PublicKey, proof: PossessionProof, node: str, uid: str, number: int) -> bool:
    """Tell whether `proof` shows that node (name, UID) holds `public_key` as generation `number`. Never raises."""
    edwards = _decode32(proof.ed25519_public)
    signature = _decode(proof.signature, 64)
    if edwards is None or signature is None or _montgomery(edwards) != base64.b64decode(public_key):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(edwards).verify(signature, _possession_message(node, uid, number))
    except (InvalidSignature, ValueError):
        return False
    return True


def _possession_message(node: str, uid: str, number: int) -> bytes:
    check_identity(node, uid)  # neither holds a line feed, so that the parts cannot be shifted
    return f"{_POSSESSION_LABEL}\n{node}\n{uid}\n{number}\n".encode("ascii")


def _montgomery(edwards: bytes) -> bytes | None:
    """Map an Ed25519 public key to its X25519 form (RFC 7748 §4.1); None where there is none. Public data only."""
    y = int.from_bytes(edwards, "little") & (1 << 255) - 1  # the top bit is the sign of x
    if y >= _P or y == 1:
        return None
    return ((1 + y) * pow(1 - y, -1, _P) % _P).to_bytes(KEY_BYTES, "little")


def _decode32(text: str) -> bytes | None:
    return _decode(text, KEY_BYTES)


def _decode(text: str, length: int) -> bytes | None:
    """Decode canonical base64 of exactly `length` bytes, or return None."""
    if len(text) != (length + 2) // 3 * 4:
        return None
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    # Unused bits of the last character can be anything in base64: only the spelling we would write passes.
    return raw if len(raw) == length and base64.b64encode(raw).decode() == text else None
