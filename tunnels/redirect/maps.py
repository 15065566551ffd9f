"""The maps of our programs and their entries as bytes. Pure.

Every key has one form, of which `own` has no length in front and the tries all of it:

    u32 length in bits of what follows | u8 family 4, 6 | u8 protocol | u16 port | address, 4 or 16 bytes, then zeros

In keys of `exempt` the family carries the flags SERVED and LATER (program.py).

Integers in native order, the port in network order (as it stands in a packet).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from linkseal.tunnels.redirect.model import Entry, Table
from linkseal.tunnels.redirect.program import COUNTERS, LATER, SERVED, WAYS

HASH, ARRAY, LPM_TRIE = 1, 2, 11
"""`enum bpf_map_type`."""

_NO_PREALLOC: Final = 1
"""BPF_F_NO_PREALLOC: a trie takes memory for what is in it; the kernel makes no other."""

_MOST: Final = 1 << 20
"""Entries a trie takes at most; 5,000 nodes with eight prefixes each are 40,000."""

_FRONT: Final = struct.Struct("=BB2s")
_LENGTH: Final = struct.Struct("=I")
_FRONT_BITS: Final = 32
_SERVED, _LATER = "served", "later"
_NUMBERS: Final = ("mark", "ports", "control")


class MapShape(NamedTuple):
    """What a map is made with."""

    kind: int
    key_size: int
    value_size: int
    size: int
    flags: int = 0


MAPS: Final[dict[str, MapShape]] = {
    "out": MapShape(LPM_TRIE, 24, 4, _MOST, _NO_PREALLOC),
    "in": MapShape(LPM_TRIE, 24, 4, _MOST, _NO_PREALLOC),
    "exempt": MapShape(LPM_TRIE, 24, 4, _MOST, _NO_PREALLOC),
    "own": MapShape(HASH, 20, 4, 4096, _NO_PREALLOC),
    "number": MapShape(ARRAY, 4, 8, len(_NUMBERS)),
    "count": MapShape(ARRAY, 4, 16, COUNTERS * len(WAYS)),
}

TABLES: Final[tuple[Table, ...]] = ("out", "in", "exempt", "own", "number")


def key_bytes(entry: Entry) -> bytes:
    """Return the key of an entry. ValueError where its text is none."""
    if entry.table == "number":
        return _LENGTH.pack(_NUMBERS.index(entry.key))
    if entry.table == "own":
        return _key(0, 0, entry.key)[_LENGTH.size :]
    if entry.table == "exempt":
        return _exempt_key(entry.key)
    return _key(0, 0, entry.key)


def value_bytes(entry: Entry, value: int) -> bytes:
    """Return the value of an entry."""
    return value.to_bytes(MAPS[entry.table].value_size, "little")


def entry_of(table: Table, key: bytes, value: bytes) -> tuple[str, int]:
    """Return key and value of an entry that a map holds. ValueError where it is none that we could have made."""
    number = int.from_bytes(value, "little")
    if table == "number":
        return _NUMBERS[_LENGTH.unpack(key)[0]], number
    if table == "own":
        return str(_address(key[0], key[4:])), number
    return (_exempt_text(key) if table == "exempt" else _prefix(key)), number


def _exempt_key(text: str) -> bytes:
    words = text.split(" ")
    flags = SERVED if words[0] == _SERVED else 0
    protocol, port, prefix = words[-3:]
    if port == _LATER:
        return _key(int(protocol), 0, prefix, flags | LATER)
    return _key(int(protocol), int(port), prefix, flags)


def _exempt_text(key: bytes) -> str:
    family, protocol, port = _FRONT.unpack_from(key, _LENGTH.size)
    served = f"{_SERVED} " if family & SERVED else ""
    return f"{served}{protocol} {_LATER if family & LATER else int.from_bytes(port, 'big')} {_prefix(key)}"


def _key(protocol: int, port: int, prefix: str, flags: int = 0) -> bytes:
    text, _, length = prefix.partition("/")
    address = IPv6Address(text) if ":" in text else IPv4Address(text)
    bits = _FRONT_BITS + (int(length) if length else address.max_prefixlen)
    front = _FRONT.pack(address.version | flags, protocol, port.to_bytes(2, "big"))
    return _LENGTH.pack(bits) + front + address.packed.ljust(16, b"\0")


def _prefix(key: bytes) -> str:
    return f"{_address(key[_LENGTH.size], key[8:])}/{_LENGTH.unpack_from(key)[0] - _FRONT_BITS}"


def _address(family: int, octets: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(octets[:4]) if family & ~(SERVED | LATER) == 4 else IPv6Address(octets)  # noqa: PLR2004 - IPv4
