"""What a frame's fate should be, said a second time and in another way: by the words of the ADR, with ipaddress.

Nothing of tunnels/redirect but its values is used here.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from linkseal.tunnels.redirect.model import Exemption, RedirectSpec

NEXT, DROP = -1, 2
VLAN = (0x8100, 0x88A8)
WITH_PORTS = (6, 17, 132)
PORTLESS = (1, 58)
Ip = IPv4Address | IPv6Address


class Packet(NamedTuple):
    source: Ip
    target: Ip
    protocol: int
    ports: tuple[int, int] | None
    """Source and destination; None: not known for sure."""
    later: bool
    """A fragment that is not the first."""
    discovery: bool


def fate(way: str, frame: bytes, mark: int, spec: RedirectSpec) -> int:
    """-1: pass on; 2: drop."""
    network = strip(frame)
    if network is None:
        return NEXT
    version, packet = network
    if len(packet) < (20 if version == 4 else 40):
        return DROP
    read = read4(packet) if version == 4 else read6(packet)
    judged = read.target if way == "out" else read.source
    if not verdict(judged, spec):
        return NEXT
    own = {ip_address(one) for one in spec.own}
    good = leaves(read, mark, spec, own) if way == "out" else arrives(read, spec, own)
    return NEXT if good or exempt(way, read, spec) else DROP


def strip(frame: bytes) -> tuple[int, bytes] | None:
    """IP version and packet behind the Ethernet header and at most two tags; None: no IP."""
    at = 12
    for _ in range(3):
        kind, at = int.from_bytes(frame[at : at + 2], "big"), at + 2
        if kind in (0x0800, 0x86DD):
            return (4 if kind == 0x0800 else 6), frame[at:]
        if kind not in VLAN:
            return None
        at += 2
        if len(frame) < at + 2:
            return None
    return None


def ports_of(protocol: int, packet: bytes, start: int) -> tuple[int, int] | None:
    """Zeros for a protocol without; None: not known."""
    if protocol in PORTLESS:
        return 0, 0
    part = packet[start : start + 4]
    known = protocol in WITH_PORTS and len(part) == 4
    return (int.from_bytes(part[:2], "big"), int.from_bytes(part[2:], "big")) if known else None


def read4(packet: bytes) -> Packet:
    length, protocol = (packet[0] & 0xF) * 4, packet[9]
    sound = length >= 20
    later = sound and (packet[6] & 0x1F) << 8 | packet[7] != 0 if sound else False
    ports = ports_of(protocol, packet, length) if sound and not later else None
    return Packet(ip_address(packet[12:16]), ip_address(packet[16:20]), protocol, ports, bool(later), discovery=False)


def read6(packet: bytes) -> Packet:
    source, target = ip_address(packet[8:24]), ip_address(packet[24:40])
    protocol, start, later, discovery = packet[6], 40, False, False
    if protocol == 44:
        if len(packet) < 44:
            return Packet(source, target, 44, None, later=False, discovery=False)
        protocol, start = packet[40], 48
        later = int.from_bytes(packet[42:44], "big") >> 3 != 0
    elif protocol == 58:
        discovery = packet[7] == 255 and len(packet) > 40 and 133 <= packet[40] <= 137
    ports = ports_of(protocol, packet, start) if not later else None
    return Packet(source, target, protocol, ports, later, discovery)


def verdict(address: Ip, spec: RedirectSpec) -> int:
    """Of the longest prefix."""
    found = [(ip_network(p).prefixlen, v) for p, v in spec.verdicts.items() if address in ip_network(p)]
    return max(found)[1] if found else 0


def leaves(read: Packet, mark: int, spec: RedirectSpec, own: set[Ip]) -> bool:
    ours = read.source in own
    if ours and spec.mark.mask and mark & spec.mark.mask == spec.mark.value & spec.mark.mask:
        return True
    return read.discovery and (ours or read.source in ip_network("fe80::/10"))


def arrives(read: Packet, spec: RedirectSpec, own: set[Ip]) -> bool:
    if read.protocol == 17 and read.target in own:
        if read.later:
            return True
        if read.ports is not None and spec.ports.first <= read.ports[1] <= spec.ports.last:
            return True
    return read.discovery


def exempt(way: str, read: Packet, spec: RedirectSpec) -> bool:
    """An exempt server at the other end, or one that is at this node."""
    source_port, target_port = read.ports or (None, None)
    ends = [(read.source, source_port, way == "out"), (read.target, target_port, way == "in")]
    for address, port, near in ends:
        for one in spec.exemptions:
            if one.served == near and address in ip_network(one.prefix) and _fits(one, read, port):
                return True
    return False


def _fits(one: Exemption, read: Packet, port: int | None) -> bool:
    if one.protocol == 0:
        return True
    if one.protocol != read.protocol:
        return False
    return read.later or (read.ports is not None and one.port in (0, port))
