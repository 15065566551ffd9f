"""Codec of a probe: the IP packet that must cross a link before the link carries traffic. No I/O, no clock.

    IPv4 (20, DF set, no options) or IPv6 (40) | UDP (8) | fixed part (95) | node name (1 … 253) | zeros up to the size

Fixed part, big-endian: magic 4, version 1, kind 1, rung 1, flags 1, nonce 16, generations own 8 and remote 8 (as the
sender sees them), size asked for 2, source slot 2, then, zero in a request: the source address the responder saw 16,
the address of the slot asked about 16, the generations it uses 8 + 8, the number of its protected addresses 2; last
the length of the name 1. An IPv4 address fills the last 4 of its 16 bytes.

Nothing in a probe is secret or trusted: WireGuard has authenticated the sender's address already, the nonce ties a
reply to its request, and whoever reads one checks name and addresses against what the cluster granted. The parser
returns None for anything a probe cannot be; it raises nothing.
"""

from __future__ import annotations

import re
import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from linkseal.keys.values import NODE_PATTERN
from linkseal.tunnels.model import Family

DEFAULT_PORT: Final = 51829
"""UDP port, source and destination; next to WireGuard's customary 51820, unassigned at IANA."""

NONCE_BYTES: Final = 16
"""128 random bits: no other node can guess the nonce of a request it has not seen."""

SMALL_SIZE: Final = 400
"""Whole packet: the least that holds the headers (48), the fixed part (95) and any name (253), rounded up; far below
576, what every IPv4 path carries."""

MAX_SIZE: Final = 65535

PROBE_SLOT: Final = 0xFFFF
"""As source or slot: the sender's own forwarded probe address, which AllowedIPs always contain."""

MAX_SOURCES: Final = PROBE_SLOT
"""Protected addresses a node can offer: as many as slot numbers."""

_MAGIC: Final = b"LSPB"
_VERSION: Final = 1
_REQUEST, _REPLY = 1, 2
_HAS_USES: Final = 1
_FIXED: Final = struct.Struct("!4s4B16sQQHH16s16sQQHB")
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_UDP: Final = struct.Struct("!4H")
_PROTOCOL: Final = 17
_HOPS: Final = 64
_DONT_FRAGMENT: Final = 0x4000
_NO_ADDRESS: Final = bytes(16)
_LONGEST_NAME: Final = 253  # RFC 1123
_NAME: Final = re.compile(NODE_PATTERN[1:-1].encode())


class Rung(IntEnum):
    """What a probe tests; it decides which way a request and its reply take."""

    LOCAL = 1
    """Host to host: from our local probe address to the peer's, and back."""
    SMALL = 2
    """Forwarded at both ends, small."""
    FULL = 3
    """Forwarded at both ends, as large as the tunnel carries."""
    SOURCE = 4
    """Forwarded at both ends, small, from a further protected address of either end."""
    HALF = 5
    """Forwarded at the sender, to the peer's local address; the reply goes host to host."""
    NAME = 6
    """Forwarded at both ends between the probe addresses; the reply tells the address of the slot asked about."""

    @property
    def answered_by_host(self) -> bool:
        """Whether destination and reply are the local probe addresses."""
        return self in (Rung.LOCAL, Rung.HALF)


class Request(NamedTuple):
    """A question. `own` and `remote` are generations as the sender (`node`) sees them."""

    nonce: bytes
    node: str
    own: int
    remote: int
    rung: Rung
    size: int
    """Bytes of IP packet the reply shall have."""
    slot: int
    """Which of the responder's protected addresses the reply shall come from, or PROBE_SLOT."""


class Reply(NamedTuple):
    """An answer; `own` and `remote` again as its sender sees them, so swapped."""

    nonce: bytes
    node: str
    own: int
    remote: int
    rung: Rung
    size: int
    slot: int
    """The slot it comes from: PROBE_SLOT where the responder has none of the number asked for."""
    saw: str | None
    """Source address of the request when it arrived: another than sent if something rewrote it."""
    named: str | None
    """The responder's protected address of the slot asked about; None: it has none of that number."""
    uses: tuple[int, int] | None
    """Generations (responder's, requester's) by which the responder sends its traffic to the requester now."""
    offers: int
    """How many protected addresses of this family the responder has."""


Probe = Request | Reply


class Datagram(NamedTuple):
    """A probe as it came in. `size` is that of the whole IP packet, in bytes."""

    family: Family
    source: str
    destination: str
    size: int
    probe: Probe


def header_size(family: Family) -> int:
    """Bytes of IP and UDP header."""
    return 28 if family == 4 else 48  # noqa: PLR2004 - IP version


def encode_payload(probe: Probe, family: Family, size: int) -> bytes:
    """UDP payload of a probe whose whole IP packet has `size` bytes; ValueError if it does not fit or exceeds 65535."""
    saw = named = _NO_ADDRESS
    kind, flags, uses, offers = _REQUEST, 0, (0, 0), 0
    if isinstance(probe, Reply):
        kind, offers = _REPLY, probe.offers
        saw, named = _pack_address(probe.saw), _pack_address(probe.named)
        if probe.uses is not None:
            flags, uses = _HAS_USES, probe.uses
    name = probe.node.encode()
    head = (_MAGIC, _VERSION, kind, probe.rung, flags, probe.nonce, probe.own, probe.remote, probe.size, probe.slot)
    payload = _FIXED.pack(*head, saw, named, *uses, offers, len(name)) + name
    room = size - header_size(family)
    if len(payload) > room or size > MAX_SIZE:
        raise ValueError(f"a probe of {len(payload)} bytes does not make a packet of {size}")
    return payload.ljust(room, b"\0")


def parse_payload(payload: bytes, family: Family) -> Probe | None:
    """Read a UDP payload; None unless it is exactly what `encode_payload` makes."""
    if len(payload) < _FIXED.size:
        return None
    magic, version, kind, rung, flags, *rest = _FIXED.unpack_from(payload)
    nonce, own, remote, size, slot, saw, named, uses_own, uses_remote, offers, length = rest
    name = _read_name(payload, length)
    if magic != _MAGIC or version != _VERSION or flags > _HAS_USES or size < SMALL_SIZE or name is None:
        return None
    try:
        asked = Request(nonce, name, own, remote, Rung(rung), size, slot)
        seen, told = _unpack_address(saw, family), _unpack_address(named, family)
    except ValueError:
        return None
    if kind == _REPLY and (flags or not (uses_own or uses_remote)):
        return Reply(*asked, seen, told, (uses_own, uses_remote) if flags else None, offers)
    said_nothing = saw == named == _NO_ADDRESS and not (flags or uses_own or uses_remote or offers)
    return asked if kind == _REQUEST and said_nothing else None


def _read_name(payload: bytes, length: int) -> str | None:
    """Read the node name that ends a probe; None if it is none, or if anything but zeros follows it."""
    end = _FIXED.size + length
    name = payload[_FIXED.size : end]
    if len(name) != length or length > _LONGEST_NAME or not _NAME.fullmatch(name):
        return None
    return name.decode() if payload.count(0, end) == len(payload) - end else None


def encode_packet(probe: Probe, source: str, destination: str, port: int, size: int) -> bytes:
    """Make a whole IP packet of `size` bytes, not to be fragmented; the family is that of the addresses (text)."""
    family: Family = 6 if ":" in source else 4
    return encode_udp(encode_payload(probe, family, size), source, destination, port, port)


def encode_udp(payload: bytes, source: str, destination: str, source_port: int, port: int) -> bytes:
    """Make a whole IP packet with a UDP datagram, not to be fragmented; addresses are text of one family."""
    from_, to = ip_address(source), ip_address(destination)
    length = _UDP.size + len(payload)
    pseudo = from_.packed + to.packed + struct.pack("!II", length, _PROTOCOL)
    udp = _UDP.pack(source_port, port, length, _checksum(pseudo + _UDP.pack(source_port, port, length, 0) + payload))
    if from_.version == 6:  # noqa: PLR2004 - IP version
        return _IPV6.pack(0x60000000, length, _PROTOCOL, _HOPS, from_.packed, to.packed) + udp + payload
    header = (0x45, 0, _IPV4.size + length, 0, _DONT_FRAGMENT, _HOPS, _PROTOCOL)
    checksum = _checksum(_IPV4.pack(*header, 0, from_.packed, to.packed))
    return _IPV4.pack(*header, checksum, from_.packed, to.packed) + udp + payload


def parse_packet(data: bytes, port: int) -> Datagram | None:
    """Read an IP packet; None unless it is a whole, unfragmented probe to `port` with good checksums.

    The source port may differ: masquerading on the way may change it.
    """
    addresses = _read_ip(data)
    if addresses is None:
        return None
    source, destination = addresses
    family: Family = 4 if isinstance(source, IPv4Address) else 6
    udp = data[header_size(family) - _UDP.size :]
    if len(udp) < _UDP.size:
        return None
    _, to_port, length, checksum = _UDP.unpack_from(udp)
    pseudo = source.packed + destination.packed + struct.pack("!II", len(udp), _PROTOCOL)
    if to_port != port or length != len(udp) or not checksum or not _sums_to_zero(pseudo + udp):
        return None
    probe = parse_payload(udp[_UDP.size :], family)
    return None if probe is None else Datagram(family, str(source), str(destination), len(data), probe)


def _read_ip(data: bytes) -> tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address] | None:
    """Source and destination of a UDP packet whose header is as ours are, whatever was done to TTL and DSCP."""
    if len(data) >= _IPV4.size and data[0] == 0x45:  # noqa: PLR2004 - version 4, five words of header
        _, _, size, _, fragment, _, protocol, _, source, destination = _IPV4.unpack_from(data)
        good = size == len(data) and fragment == _DONT_FRAGMENT and protocol == _PROTOCOL
        if good and _sums_to_zero(data[: _IPV4.size]):
            return IPv4Address(source), IPv4Address(destination)
    elif len(data) >= _IPV6.size and data[0] >> 4 == 6:  # noqa: PLR2004 - IP version
        _, size, protocol, _, source, destination = _IPV6.unpack_from(data)
        if size == len(data) - _IPV6.size and protocol == _PROTOCOL:
            return IPv6Address(source), IPv6Address(destination)
    return None


def _checksum(data: bytes) -> int:
    """Internet checksum (RFC 1071), 1 … 65535: never the 0 that means "none" in UDP.

    The ones' complement sum is the number modulo 65535, which Python reckons in C.
    """
    return 0xFFFF - _residue(data)


def _sums_to_zero(data: bytes) -> bool:
    return _residue(data) == 0


def _residue(data: bytes) -> int:
    return int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 0xFFFF


def _pack_address(address: str | None) -> bytes:
    return _NO_ADDRESS if address is None else ip_address(address).packed.rjust(16, b"\0")


def _unpack_address(packed: bytes, family: Family) -> str | None:
    """Read an address, None for zeros; ValueError for an IPv4 address with something before it."""
    if packed == _NO_ADDRESS:
        return None
    if family == 6:  # noqa: PLR2004 - IP version
        return str(IPv6Address(packed))
    if any(packed[:12]):
        raise ValueError("not an IPv4 address")
    return str(IPv4Address(packed[12:]))
