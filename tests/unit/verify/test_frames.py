"""What is counted: canaries wherever they are in a packet, ciphertext of the right tunnel only."""

from __future__ import annotations

import struct

import pytest
from linkseal.tunnels.probe.packet import encode_udp
from linkseal.tunnels.verify.frames import Place, Sieve, Tunnel
from linkseal.tunnels.verify.packet import CIPHERTEXT_SIZE, End, Seen, canary_payload, control_payload, tokens

WANTED = tokens(bytes(32), 2)
OTHERS = tokens(bytes(31) + b"x", 2)
TUNNEL = Tunnel(range(51820, 51824), frozenset({"192.0.2.2", "2001:db8::2"}))
CANARY = encode_udp(canary_payload(WANTED.canaries[1], 4), "10.244.1.1", "10.244.2.1", 51830, 51830)


def seen(*packets: tuple[bytes, Place], tunnel: Tunnel = TUNNEL) -> End:
    sieve = Sieve(WANTED, tunnel)
    for packet, place in packets:
        sieve.look(packet, place)
    return sieve.end(1, 0)


def ciphertext(
    source: str = "192.0.2.1", target: str = "192.0.2.2", port: int = 51823, size: int = CIPHERTEXT_SIZE
) -> bytes:
    return encode_udp(b"\x04\0\0\0".ljust(size, b"x"), source, target, 51823, port)


@pytest.mark.parametrize(
    "around",
    [
        b"",
        bytes.fromhex("00640800"),  # what is left of 802.1Q
        encode_udp(bytes(8) + bytes(12) + b"\x08\x00", "192.0.2.1", "192.0.2.2", 40000, 8472),  # VXLAN
        bytes(252 + 70),  # Geneve with all its options
    ],
)
def test_a_canary_is_found_in_any_encapsulation_by_its_number(around: bytes) -> None:
    assert seen((around + CANARY + bytes(4), Place.UNDERLAY)).canaries == (Seen(), Seen(clear=1))


def test_places_are_told_apart() -> None:
    found = seen(*((CANARY, place) for place in (Place.UNDERLAY, Place.SLOT, Place.SLOT, Place.PROBE)))
    assert found.canaries[1] == Seen(1, 2, 1)


def test_a_control_counts_on_the_underlay_alone() -> None:
    control = encode_udp(control_payload(WANTED.control, 4), "192.0.2.1", "192.0.2.2", 51829, 51829)
    assert seen((control, Place.UNDERLAY), (control, Place.SLOT)).control == 1


def test_tokens_of_another_session_or_cut_off_are_nothing() -> None:
    foreign = CANARY.replace(WANTED.canaries[1], OTHERS.canaries[1])
    assert seen((foreign, Place.UNDERLAY), (CANARY[:-1], Place.UNDERLAY), (b"", Place.UNDERLAY)) == End(
        1, 0, 0, 0, (Seen(), Seen())
    )


def test_a_token_behind_a_false_marker_is_found() -> None:
    assert seen((WANTED.marker + b"x" + CANARY, Place.UNDERLAY)).canaries[1].clear == 1


@pytest.mark.parametrize("tag", [b"", bytes.fromhex("0064") + b"\x08\x00"])
@pytest.mark.parametrize(
    "packet", [ciphertext(), ciphertext("2001:db8::1", "2001:db8::2"), ciphertext("192.0.2.2", "192.0.2.1")]
)
def test_the_tunnels_own_packets_are_ciphertext(packet: bytes, tag: bytes) -> None:
    assert seen((tag + packet, Place.UNDERLAY)).ciphertext == 1


@pytest.mark.parametrize(
    "packet",
    [
        ciphertext(target="192.0.2.3"),
        ciphertext(size=CIPHERTEXT_SIZE + 16),
        ciphertext().replace(b"\x04\0\0\0xxx", b"\x01\0\0\0xxx"),
        struct.pack("!BBHHHBBH", 0x45, 0, 600, 0, 0, 64, 6, 0) + ciphertext()[12:],
        b"\x45",
        b"\x60",
        b"\x4f" * 20,
    ],
)
def test_other_packets_are_not(packet: bytes) -> None:
    assert seen((packet, Place.UNDERLAY)).ciphertext == 0


def test_ports_that_are_not_the_tunnels_are_no_ciphertext() -> None:
    packet = encode_udp(b"\x04\0\0\0".ljust(CIPHERTEXT_SIZE, b"x"), "192.0.2.1", "192.0.2.2", 4000, 4001)
    assert seen((packet, Place.UNDERLAY)).ciphertext == 0


def test_a_peer_behind_nat_may_have_any_address() -> None:
    packet = ciphertext(target="203.0.113.9", port=33333)
    assert seen((packet, Place.UNDERLAY)).ciphertext == 0
    assert seen((packet, Place.UNDERLAY), tunnel=Tunnel(TUNNEL.ports)).ciphertext == 1
