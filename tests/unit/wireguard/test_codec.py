"""Netlink bytes: exact goldens for every kind of step, and what the decoder makes of what the kernel sends."""

from __future__ import annotations

import base64
from ipaddress import IPv6Network, ip_network
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys.values import Prefix, PublicKey
from linkseal.wireguard import codec
from linkseal.wireguard.model import (
    ConfigureDevice,
    Endpoint,
    PeerSpec,
    RemovePeer,
    ReprovokePeer,
    SetPeer,
    WireguardStep,
)
from linkseal.wireguard.netlink import Answer
from linkseal.wireguard.nlattr import attribute, attribute_text, attribute_u16, attribute_u32, nested

GOLDEN = Path(__file__).parents[2] / "golden" / "wireguard" / "netlink.txt"
FAMILY = 0x1D
A = PublicKey(base64.b64encode(bytes(range(32))).decode())
B = PublicKey(base64.b64encode(bytes(range(32, 64))).decode())
V4, V6 = Prefix("10.244.1.0/24"), Prefix("fd00:0:0:1::/64")


class Secret:
    def reveal(self) -> bytes:
        return b"\xee" * 32


def secrets(key: PublicKey) -> Secret:
    assert key == A
    return Secret()


CASES: dict[str, list[WireguardStep]] = {
    "configure a device": [ConfigureDevice("lsl00", A, 51820, 0x200000)],
    "change a port": [ConfigureDevice("lsl00", listen_port=51821)],
    "add a peer": [SetPeer("lsl00", B, True, frozenset({V4}), Endpoint("192.0.2.1", 51820), 25)],  # noqa: FBT003
    "add a peer by IPv6 with a scope": [
        SetPeer("lsl00", B, add=True, allowed_ips=frozenset({V6}), endpoint=Endpoint("fe80::1%3", 51820))
    ],
    "change an endpoint": [SetPeer("lsl00", B, add=False, endpoint=Endpoint("192.0.2.2", 1))],
    "add a prefix": [SetPeer("lsl00", B, add=False, allowed_ips=frozenset({V4}), keep=True)],
    "replace all prefixes by none": [SetPeer("lsl00", B, add=False, allowed_ips=frozenset())],
    "switch keepalive off": [SetPeer("lsl00", B, add=False, keepalive=0)],
    "remove a peer": [RemovePeer("lsl00", B)],
    "provoke a peer": [ReprovokePeer("lsl00", PeerSpec(B, frozenset({V4}), Endpoint("192.0.2.1", 51820), 25))],
    "two peers of a device, one of another": [
        RemovePeer("lsl00", A),
        RemovePeer("lsl00", B),
        RemovePeer("lsl01", B),
    ],
}


def golden() -> dict[str, str]:
    """Sections of `# name` and one line of hex a message."""
    sections = [part.partition("\n") for part in GOLDEN.read_text().split("# ")[1:]]
    return {name: text.strip() for name, _, text in sections}


def as_hex(steps: list[WireguardStep]) -> str:
    return "\n\n".join(one.payload.hex(" ", 4) for one in codec.encode(FAMILY, steps, secrets))


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_encoded_to_these_very_bytes(name: str) -> None:
    assert as_hex(CASES[name]) == golden()[name]


def test_every_golden_is_tested() -> None:
    assert golden().keys() == CASES.keys()


def test_the_bytes_of_a_message_are_not_shown() -> None:
    (one,) = codec.encode(FAMILY, CASES["configure a device"], secrets)
    assert b"\xee" * 32 in one.payload
    assert "payload" not in repr(one)
    assert "ee" * 8 not in repr(one)


def many(count: int) -> list[WireguardStep]:
    def key(n: int) -> PublicKey:
        return PublicKey(base64.b64encode(n.to_bytes(32)).decode())

    def prefixes(n: int) -> frozenset[Prefix]:
        return frozenset({Prefix(f"10.{n >> 8}.{n & 255}.0/24"), Prefix(f"192.168.{n >> 8}.{n & 255}/32")})

    endpoint = Endpoint("192.0.2.1", 51820)
    return [SetPeer("lsl00", key(n), add=True, allowed_ips=prefixes(n), endpoint=endpoint) for n in range(count)]


def test_hundreds_of_peers_share_a_message_and_none_is_too_long() -> None:
    messages = codec.encode(FAMILY, many(5000), secrets)
    assert len(messages) <= 5000 // 400
    assert max(len(one.payload) for one in messages) < 61_000
    assert [(one.first, one.stop) for one in messages] == [
        (start.first, following.first) for start, following in pairwise(messages)
    ] + [(messages[-1].first, 5000)]


def test_a_peer_too_big_for_a_message_is_continued_without_replacing() -> None:
    prefixes = frozenset(Prefix(str(IPv6Network(((0xFD << 120) + (n << 64), 64)))) for n in range(4000))
    messages = codec.encode(FAMILY, [SetPeer("lsl00", B, add=False, allowed_ips=prefixes)], secrets)
    flags = [one.payload[one.payload.index(b"\x08\x00\x03\x00") :][4] for one in messages]
    assert flags == [codec._REPLACE_ALLOWED | codec._UPDATE_ONLY] + [codec._UPDATE_ONLY] * (len(messages) - 1)
    assert {(one.first, one.stop) for one in messages} == {(0, 1)}
    state = codec.decode_device("lsl00", [answer_of(one.payload) for one in messages])
    assert state.peers[B].allowed_ips == prefixes


def answer_of(payload: bytes) -> Answer:
    return Answer(FAMILY, payload, 16, len(payload))


def dumped(*attributes: bytes) -> Answer:
    data = bytes(20) + b"".join(attributes)
    return Answer(FAMILY, data, 16, len(data))


def test_a_peer_cut_over_two_messages_is_one_peer() -> None:
    key = attribute(1, base64.b64decode(B))
    v4 = nested(0, attribute_u16(1, 2) + attribute(3, b"\x18") + attribute(2, bytes([10, 244, 1, 0])))
    v6 = nested(0, attribute(3, b"\x40") + attribute(2, bytes.fromhex("fd00" + "00" * 5 + "01" + "00" * 8)))
    first = nested(0, key + attribute_u16(5, 25) + attribute(7, (9).to_bytes(8, "little")) + nested(9, v4))
    second = nested(0, key + nested(9, v6))
    state = codec.decode_device(
        "lsl00", [dumped(attribute_u16(6, 51820), attribute_u32(7, 5), nested(8, first)), dumped(nested(8, second))]
    )
    assert (state.listen_port, state.fwmark, state.public_key) == (51820, 5, None)
    (peer,) = state.peers.values()
    assert (peer.public_key, peer.keepalive, peer.rx_bytes, peer.allowed_ips) == (B, 25, 9, {V4, V6})


def test_a_private_key_in_a_dump_is_not_looked_at() -> None:
    state = codec.decode_device("lsl00", [dumped(attribute(3, b"\xee" * 32), attribute(4, base64.b64decode(A)))])
    assert state.public_key == A
    assert "7u7u" not in repr(state)


def test_a_cut_attribute_is_an_error() -> None:
    with pytest.raises(ValueError, match="says 40 bytes"):
        codec.decode_device("lsl00", [dumped(b"\x28\x00\x08\x80\x00\x00")])


def test_a_handshake_time_keeps_its_fraction() -> None:
    time = (1_800_000_000).to_bytes(8, "little") + (250_000_000).to_bytes(8, "little")
    peer = nested(0, attribute(1, base64.b64decode(B)) + attribute(6, time))
    assert codec.decode_device("x", [dumped(nested(8, peer))]).peers[B].last_handshake == 1_800_000_000.25


def test_the_dump_question_names_the_device() -> None:
    assert codec.dump_message(FAMILY, "lsl00").endswith(attribute_text(2, "lsl00"))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(1, 65535), st.integers(1, 2**32 - 1))
def test_an_endpoint_survives_both_ways(address: object, port: int, scope: int) -> None:
    text = str(address)
    endpoint = Endpoint(f"{text}%{scope}" if ":" in text else text, port)
    assert codec.decode_endpoint(codec.encode_endpoint(endpoint)) == endpoint


@given(
    st.one_of(st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128)))
)
def test_a_prefix_survives_both_ways_in_canonical_text(parts: tuple[object, int]) -> None:
    prefix = Prefix(str(ip_network(f"{parts[0]}/{parts[1]}", strict=False)))
    raw = codec._encode_prefix(prefix)
    assert codec._decode_prefix(raw[4:]) == prefix
