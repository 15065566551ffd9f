# ruff: noqa: PLR2004 - protocol numbers, ports and lengths of headers, as the standards have them
"""What an Ethernet frame is, judged from outside as someone on the wire would."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from linkseal.tunnels.verify.packet import is_control

WIREGUARD_PORTS = range(51820, 51824)
"""Base port and the four slots of it."""

_HANDSHAKE_LENGTHS = {1: 148, 2: 92, 3: 64}
"""Message type → length (WireGuard whitepaper, section 5.4): initiation, response, cookie reply."""

LEAST_FULL = 576
"""Bytes of the smallest MTU a path may have (RFC 791): Linux pads no packet beyond the MTU of its route."""

_ICMP_ERRORS = {1: {3, 4, 5, 11, 12}, 58: {1, 2, 3, 4}}
_ND_TYPES, _MLD_TYPES = range(133, 138), {130, 131, 132, 143}
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}

Fragments = dict[tuple[bytes, bytes, bytes], str]
"""Source, destination and id of fragmented packets, and what their first fragment said they are."""


class Frame(NamedTuple):
    """A frame that was seen."""

    at: float
    """Unix seconds."""
    kind: str
    text: str
    """For a reader: `10.244.1.2 > 10.244.2.2 TCP 40000 > 80, 66 bytes`."""
    data: bytes


class _Packet(NamedTuple):
    """The parts of an IP packet that matter here."""

    source: bytes
    destination: bytes
    protocol: int
    fragment: bytes | None
    """Id, if it is a fragment."""
    offset: int
    payload: bytes


def classify(at: float, data: bytes, fragments: Fragments) -> Frame:
    """Kind and description of a frame; `fragments` is filled and used so that later fragments count as their first."""
    ethertype = int.from_bytes(data[12:14], "big")
    if ethertype == 0x0806:
        return Frame(at, "arp", "ARP", data)
    packet = _parse(ethertype, data[14:])
    if packet is None:
        return Frame(at, "plaintext", f"ethertype {ethertype:#06x}, {len(data)} bytes", data)
    key = (packet.source, packet.destination, packet.fragment or b"")
    if packet.offset:
        kind = fragments.get(key, "plaintext")
    else:
        kind = _kind(packet)
        if packet.fragment is not None:
            fragments[key] = kind
    return Frame(at, kind, _describe(packet, len(data)), data)


def _parse(ethertype: int, data: bytes) -> _Packet | None:
    if ethertype == 0x0800 and len(data) >= 20:
        header = (data[0] & 15) * 4
        total, identity, flags = struct.unpack_from("!H2sH", data, 2)
        offset, more = (flags & 0x1FFF) * 8, bool(flags & 0x2000)
        fragment = identity if offset or more else None
        return _Packet(data[12:16], data[16:20], data[9], fragment, offset, data[header : total or None])
    if ethertype == 0x86DD and len(data) >= 40:
        return _parse6(data)
    return None


def _parse6(data: bytes) -> _Packet:
    protocol, at, fragment, offset = data[6], 40, None, 0
    while protocol in {0, 43, 44, 60} and len(data) >= at + 8:  # extension headers
        if protocol == 44:
            field, fragment = struct.unpack_from("!H4s", data, at + 2)
            offset, length = field & 0xFFF8, 8
        else:
            length = 8 + data[at + 1] * 8
        protocol, at = data[at], at + length
    end = 40 + int.from_bytes(data[4:6], "big")
    return _Packet(data[8:24], data[24:40], protocol, fragment, offset, data[at:end])


def _kind(packet: _Packet) -> str:
    body = packet.payload
    if packet.protocol == 50:
        return "esp"
    if packet.protocol == 17 and len(body) >= 8:
        return _udp_kind(body, whole=packet.fragment is None)
    if packet.protocol == 58 and body[:1]:
        if body[0] in _ND_TYPES:
            return "nd"
        if body[0] in _MLD_TYPES:
            return "mld"
    if packet.protocol in _ICMP_ERRORS and body[:1] and body[0] in _ICMP_ERRORS[packet.protocol]:
        return _error_kind(packet)
    return "plaintext"


def _udp_kind(body: bytes, *, whole: bool) -> str:
    source, destination = struct.unpack_from("!HH", body)
    ports, payload = {source, destination}, body[8:]
    if ports & set(WIREGUARD_PORTS) and _is_wireguard(payload, whole=whole):
        return "wireguard"
    if whole and is_control(payload):
        return "control"
    if 500 in ports or (4500 in ports and payload[:4] == bytes(4)):
        return "ike"
    if 4500 in ports:  # ESP in UDP, or its one-byte keepalive
        return "esp"
    return "plaintext"


def _is_wireguard(payload: bytes, *, whole: bool) -> bool:
    """By type byte, zero reserved bytes and the length the type must have: a port alone says nothing."""
    if len(payload) < 32 or payload[1:4] != bytes(3):
        return False
    if payload[0] == 4:  # data: 16 bytes header, padded to 16 bytes unless it is full-size (LEAST_FULL), 16 bytes tag
        return len(payload) % 16 == 0 or len(payload) >= LEAST_FULL or not whole
    return len(payload) == _HANDSHAKE_LENGTHS.get(payload[0])


def _error_kind(packet: _Packet) -> str:
    """`pmtu` for a router's error about a tunnel packet (it quotes ciphertext only), else plaintext."""
    quoted = packet.payload[8:]
    inner = _parse(0x0800 if packet.protocol == 1 else 0x86DD, quoted)
    if inner is None:
        return "plaintext"
    if inner.protocol == 50:
        return "pmtu"
    if inner.protocol == 17 and len(inner.payload) >= 8:
        ports = set(struct.unpack_from("!HH", inner.payload))
        text = inner.payload[8:12]
        if ports & set(WIREGUARD_PORTS) and (not text or (text[0] in range(1, 5) and not any(text[1:]))):
            return "pmtu"
    return "plaintext"


def _describe(packet: _Packet, length: int) -> str:
    family = socket.AF_INET if len(packet.source) == 4 else socket.AF_INET6
    source, destination = (socket.inet_ntop(family, part) for part in (packet.source, packet.destination))
    what = _PROTOCOLS.get(packet.protocol, f"protocol {packet.protocol}")
    if packet.offset:
        what += f" fragment at {packet.offset}"
    elif packet.protocol in {6, 17} and len(packet.payload) >= 4:
        what += " {} > {}".format(*struct.unpack_from("!HH", packet.payload))
    elif packet.protocol in {1, 58} and packet.payload:
        what += f" type {packet.payload[0]}"
    return f"{source} > {destination} {what}, {length} bytes"
