"""The maps of our programs and their entries as bytes. Pure.

Every key has one form, of which `own` has no length in front and the tries all of it:

    u32 length in bits of what follows | u8 family 4, 6 | u8 protocol | u16 port | address, 4 or 16 bytes, then zeros

Integers in native order, the port in network order (as it stands in a packet).
"""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from linkseal.tunnels.redirect.model import Entry, Table
from linkseal.tunnels.redirect.program import COUNTERS, WAYS

HASH, ARRAY, LPM_TRIE = 1, 2, 11
"""`enum bpf_map_type`."""

_NO_PREALLOC: Final = 1
"""BPF_F_NO_PREALLOC: a trie takes memory for what is in it; the kernel makes no other."""

_MOST: Final = 1 << 20
"""Entries a trie takes at most; 5,000 nodes with eight prefixes each are 40,000."""

_FRONT: Final = struct.Struct("=BB2s")
_LENGTH: Final = struct.Struct("=I")
_FRONT_BITS: Final = 32
_NUMBERS: Final = ("mark", "ports")


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
        return _key(0, 0, f"{entry.key}")[_LENGTH.size :]
    if entry.table == "exempt":
        protocol, port, prefix = entry.key.split(" ")
        return _key(int(protocol), int(port), prefix)
    return _key(0, 0, entry.key)


def value_bytes(entry: Entry, value: int) -> bytes:
    """Return the value of an entry."""
    return value.to_bytes(MAPS[entry.table].value_size, "little")


def entry_of(table: Table, key: bytes, value: bytes) -> tuple[Entry, int]:
    """Return the entry that a map holds. ValueError where it is none that we could have made."""
    number = int.from_bytes(value, "little")
    if table == "number":
        return Entry(table, _NUMBERS[_LENGTH.unpack(key)[0]]), number
    if table == "own":
        return Entry(table, _read(_LENGTH.pack(0) + key)[2].partition("/")[0]), number
    protocol, port, prefix = _read(key)
    return Entry(table, f"{protocol} {port} {prefix}" if table == "exempt" else prefix), number


def _key(protocol: int, port: int, prefix: str) -> bytes:
    network = ip_network(prefix)
    front = _FRONT.pack(network.version, protocol, port.to_bytes(2, "big"))
    return _LENGTH.pack(_FRONT_BITS + network.prefixlen) + front + network.network_address.packed.ljust(16, b"\0")


def _read(key: bytes) -> tuple[int, int, str]:
    (length,) = _LENGTH.unpack_from(key)
    family, protocol, port = _FRONT.unpack_from(key, _LENGTH.size)
    address = ip_address(key[8 : 12 if family == 4 else 24])  # noqa: PLR2004 - IP version 4
    return protocol, int.from_bytes(port, "big"), f"{address}/{length - _FRONT_BITS}"
