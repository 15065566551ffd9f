"""What a captured packet is, as far as `verify` must know: a canary, the control, or ciphertext. No I/O.

The whole packet is searched, wherever the token stands in it: a canary in clear inside VXLAN, Geneve, IP-in-IP or a
VLAN is as much a leak as a bare one. Only counts are kept.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from linkseal.tunnels.verify.packet import CIPHERTEXT_SIZE, MARKER_BYTES, TAG_BYTES, End, Seen, Tokens

_UDP: Final = 17
_UDP_HEADER: Final = 8
_TOKEN: Final = MARKER_BYTES + TAG_BYTES
_DATA: Final = b"\x04\0\0\0"
"""Type and reserved bytes of a WireGuard data message (whitepaper, 5.4.6)."""

_VLAN: Final = 4
"""Bytes of a tag that the NIC left in the frame (IEEE 802.1Q): the packet stands behind it."""


class Place(Enum):
    """Where a packet was seen."""

    UNDERLAY = "underlay"
    SLOT = "slot"
    PROBE = "probe"


@dataclass(frozen=True, slots=True)
class Tunnel:
    """By what the tunnel's own packets are known at this end: our UDP ports, and the peer's hosts.

    `hosts` empty: a peer behind NAT can have any address.
    """

    ports: range
    hosts: frozenset[str] = frozenset()


class Sieve:
    """Counts what is seen at one end in one session."""

    def __init__(self, wanted: Tokens, tunnel: Tunnel) -> None:
        self._marker = wanted.marker
        self._numbers = {token: number for number, token in enumerate(wanted.canaries)}
        self._control_token = wanted.control
        self._tunnel = tunnel
        self._hosts = frozenset(map(_packed, tunnel.hosts))
        self._counts = [dict.fromkeys(Place, 0) for _ in wanted.canaries]
        self._control = 0
        self._ciphertext = 0

    def look(self, packet: bytes, place: Place) -> None:
        """Take in a packet, from its network header on."""
        found = packet.find(self._marker)
        if found >= 0:
            self._count(packet, found, place)
        elif place is Place.UNDERLAY and self._is_ciphertext(packet):
            self._ciphertext += 1

    def _count(self, packet: bytes, found: int, place: Place) -> None:
        while found >= 0:
            token = packet[found : found + _TOKEN]
            number = self._numbers.get(token)
            if number is not None:
                self._counts[number][place] += 1
            elif token == self._control_token and place is Place.UNDERLAY:
                self._control += 1
            found = packet.find(self._marker, found + 1)

    def end(self, watched: int, lost: int) -> End:
        """Return the counts, with how many interfaces were watched and how many frames lost."""
        canaries = (Seen(count[Place.UNDERLAY], count[Place.SLOT], count[Place.PROBE]) for count in self._counts)
        return End(watched, lost, self._control, self._ciphertext, tuple(canaries))

    def _is_ciphertext(self, packet: bytes) -> bool:
        return self._is_tunnels(packet, 0) or self._is_tunnels(packet, _VLAN)

    def _is_tunnels(self, packet: bytes, at: int) -> bool:
        version = packet[at] >> 4 if len(packet) > at else 0
        if version == 4:  # noqa: PLR2004 - IP version
            udp = at + (packet[at] & 15) * 4
            protocol, addresses = packet[at + 9 : at + 10], (packet[at + 12 : at + 16], packet[at + 16 : at + 20])
        elif version == 6:  # noqa: PLR2004 - IP version
            udp = at + 40
            protocol, addresses = packet[at + 6 : at + 7], (packet[at + 8 : at + 24], packet[at + 24 : at + 40])
        else:
            return False
        if protocol != bytes([_UDP]) or not self._is_peers(addresses):
            return False
        ports = {int.from_bytes(packet[udp : udp + 2]), int.from_bytes(packet[udp + 2 : udp + 4])}
        length = int.from_bytes(packet[udp + 4 : udp + 6])
        data = packet[udp + _UDP_HEADER : udp + _UDP_HEADER + len(_DATA)]
        is_ours = any(port in self._tunnel.ports for port in ports)
        return is_ours and length == CIPHERTEXT_SIZE + _UDP_HEADER and data == _DATA

    def _is_peers(self, addresses: Collection[bytes]) -> bool:
        return not self._hosts or any(address in self._hosts for address in addresses)


def _packed(host: str) -> bytes:
    return IPv6Address(host).packed if ":" in host else IPv4Address(host).packed
