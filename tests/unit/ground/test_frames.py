"""The judge of the wire: what it calls encrypted must be so by its bytes, not by its port."""

from __future__ import annotations

import struct

import pytest
from ground.frames import Fragments, classify
from linkseal.tunnels.verify.packet import canary_payload, control_payload, tokens

ADDRESSES = bytes([192, 0, 2, 11]), bytes([192, 0, 2, 12])


def ipv4(protocol: int, payload: bytes, *, identity: int = 0, field: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), identity, field, 64, protocol, 0, *ADDRESSES)
    return bytes(12) + b"\x08\x00" + head + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    head = struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 64, bytes(15) + b"\1", bytes(15) + b"\2")
    return bytes(12) + b"\x86\xdd" + head + payload


def udp(source: int, destination: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def kind(frame: bytes, fragments: Fragments | None = None) -> str:
    return classify(0.0, frame, {} if fragments is None else fragments).kind


INITIATION, RESPONSE, COOKIE, DATA = b"\1" + bytes(147), b"\2" + bytes(91), b"\3" + bytes(63), b"\4" + bytes(127)


@pytest.mark.parametrize("message", [INITIATION, RESPONSE, COOKIE, DATA, b"\4" + bytes(31), b"\4" + bytes(1371)])
@pytest.mark.parametrize("ports", [(51820, 51823), (51822, 40000), (61000, 51821)])
def test_wireguard_is_known_behind_nat_too(message: bytes, ports: tuple[int, int]) -> None:
    assert kind(ipv4(17, udp(*ports, message))) == "wireguard"
    assert kind(ipv6(17, udp(*ports, message))) == "wireguard"


@pytest.mark.parametrize(
    "payload",
    [b"", b"\1" + bytes(146), b"\4" + bytes(126), b"\4\1" + bytes(126), b"\5" + bytes(127), b"\4" + bytes(15)],
)
def test_a_wireguard_port_with_other_content_is_plaintext(payload: bytes) -> None:
    assert kind(ipv4(17, udp(51820, 51820, payload))) == "plaintext"


def test_wireguard_like_content_on_another_port_is_plaintext() -> None:
    assert kind(ipv4(17, udp(8472, 8472, DATA))) == "plaintext"


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (bytes(12) + b"\x08\x06" + bytes(28), "arp"),
        (ipv6(58, b"\x87" + bytes(23)), "nd"),
        (ipv6(58, b"\x8f" + bytes(23)), "mld"),
        (ipv6(0, b"\x3a\0\5\2\0\0\1\0" + b"\x8f" + bytes(23)), "mld"),  # behind a hop-by-hop header, as in life
        (ipv6(58, b"\x80" + bytes(23)), "plaintext"),
        (ipv4(50, bytes(64)), "esp"),
        (ipv4(17, udp(500, 500, bytes(64))), "ike"),
        (ipv4(17, udp(4500, 4500, bytes(64))), "ike"),
        (ipv4(17, udp(4500, 4500, b"\1\2\3\4" + bytes(60))), "esp"),
        (ipv4(6, struct.pack("!HH", 1, 80) + bytes(16)), "plaintext"),
        (ipv4(1, b"\x08" + bytes(63)), "plaintext"),
        (bytes(12) + b"\x88\xcc" + bytes(50), "plaintext"),
        (bytes(12) + b"\x08\x00" + bytes(3), "plaintext"),
    ],
)
def test_kinds(frame: bytes, expected: str) -> None:
    assert kind(frame) == expected


def test_the_control_of_verify_is_known_and_its_canary_is_plaintext() -> None:
    wanted = tokens(bytes(32), 1)
    for ports in ((51829, 51829), (51823, 51823)):
        assert kind(ipv4(17, udp(*ports, control_payload(wanted.control, 4)))) == "control"
        assert kind(ipv6(17, udp(*ports, control_payload(wanted.control, 6)))) == "control"
        assert kind(ipv4(17, udp(*ports, canary_payload(wanted.canaries[0], 4)))) == "plaintext"


def test_a_later_fragment_is_what_its_first_was() -> None:
    fragments: Fragments = {}
    whole = udp(51820, 51820, DATA)
    assert kind(ipv4(17, whole[:72], identity=7, field=0x2000), fragments) == "wireguard"
    assert kind(ipv4(17, whole[72:], identity=7, field=9), fragments) == "wireguard"
    assert kind(ipv4(17, whole[72:], identity=8, field=9), fragments) == "plaintext"


def test_a_routers_error_about_a_tunnel_packet_is_no_plaintext() -> None:
    about_tunnel = ipv4(17, udp(51820, 51820, DATA))[14:][:36]
    about_secret = ipv4(17, udp(5000, 53, b"a name"))[14:]
    assert kind(ipv4(1, b"\3\4" + bytes(6) + about_tunnel)) == "pmtu"
    assert kind(ipv4(1, b"\3\4" + bytes(6) + about_secret)) == "plaintext"


def test_a_frame_describes_itself() -> None:
    frame = classify(1.5, ipv4(6, struct.pack("!HH", 40000, 80) + bytes(16)), {})
    assert frame.text == "192.0.2.11 > 192.0.2.12 TCP 40000 > 80, 54 bytes"
