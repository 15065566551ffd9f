"""The codec of probes against checksums and offsets reckoned independently, and what it must refuse."""

import socket
import struct

import pytest
from linkseal.tunnels.probe.packet import (
    DEFAULT_PORT,
    PROBE_SLOT,
    SMALL_SIZE,
    Reply,
    Request,
    Rung,
    encode_packet,
    parse_packet,
)

REQUEST = Request(bytes(range(16)), "node-a", 4, 7, Rung.FULL, 1420, 3)
REPLY4 = Reply(b"n" * 16, "b" * 253, 7, 4, Rung.SMALL, 400, PROBE_SLOT, "10.244.1.5", "10.244.2.9", (6, 4), 2)
REPLY6 = REPLY4._replace(saw="fd00:1::5", named=None, uses=None)
V4 = ("10.244.1.5", "198.18.0.8")
V6 = ("fd00:1::5", "fd6c:736c:7072:6f62::8")


def slow_checksum(data: bytes) -> int:
    """RFC 1071 word by word."""
    total = 0
    for (word,) in struct.iter_unpack("!H", data + b"\0" * (len(data) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@pytest.mark.parametrize("size", [SMALL_SIZE, 1419, 1420, 9000])
@pytest.mark.parametrize(
    ("probe", "way"),
    [(REQUEST, V4), (REQUEST, V6), (REPLY4, V4), (REPLY6, V6)],
    ids=["ask4", "ask6", "reply4", "reply6"],
)
def test_what_is_encoded_is_read_back(probe: Request | Reply, way: tuple[str, str], size: int) -> None:
    data = encode_packet(probe, *way, DEFAULT_PORT, size)
    datagram = parse_packet(data, DEFAULT_PORT)
    assert datagram is not None
    assert (datagram.source, datagram.destination) == way
    assert datagram.size == len(data) == size
    assert datagram.probe == probe


def test_the_ipv4_header_is_as_the_rfc_says_and_forbids_fragmenting() -> None:
    data = encode_packet(REQUEST, *V4, 51829, 1420)
    assert struct.unpack_from("!BBHHHBB", data) == (0x45, 0, 1420, 0, 0x4000, 64, 17)
    assert data[12:20] == socket.inet_aton(V4[0]) + socket.inet_aton(V4[1])
    assert slow_checksum(data[:20]) == 0
    assert struct.unpack_from("!3H", data, 20) == (51829, 51829, 1400)
    assert slow_checksum(data[12:20] + struct.pack("!II", 1400, 17) + data[20:]) == 0


def test_the_ipv6_header_is_as_the_rfc_says() -> None:
    data = encode_packet(REQUEST, *V6, 51829, 1420)
    assert struct.unpack_from("!IHBB", data) == (0x60000000, 1380, 17, 64)
    assert data[8:40] == socket.inet_pton(socket.AF_INET6, V6[0]) + socket.inet_pton(socket.AF_INET6, V6[1])
    assert slow_checksum(data[8:40] + struct.pack("!II", 1380, 17) + data[40:]) == 0


def test_every_udp_checksum_is_valid_and_never_the_zero_that_means_none() -> None:
    for serial in range(3000):
        data = encode_packet(REQUEST._replace(nonce=serial.to_bytes(16, "big")), *V4, 51829, SMALL_SIZE)
        (checksum,) = struct.unpack_from("!H", data, 26)
        assert checksum != 0
        assert slow_checksum(data[12:20] + struct.pack("!II", 380, 17) + data[20:]) == 0


def test_a_name_that_does_not_fit_is_the_callers_error() -> None:
    with pytest.raises(ValueError, match="does not make a packet"):
        encode_packet(REPLY4, *V4, 51829, 300)


def test_the_smallest_size_holds_the_longest_name_in_both_families() -> None:
    assert len(encode_packet(REPLY4, *V4, 51829, SMALL_SIZE)) == SMALL_SIZE
    assert len(encode_packet(REPLY6, *V6, 51829, SMALL_SIZE)) == SMALL_SIZE


def patched(at: int, new: bytes, data: bytes) -> bytes:
    """The packet with bytes replaced and both checksums made good again: only the change itself can refuse it."""
    data = data[:at] + new + data[at + len(new) :]
    header = data[:10] + b"\0\0" + data[12:20]
    header = header[:10] + struct.pack("!H", slow_checksum(header)) + header[12:]
    udp = data[20:26] + b"\0\0" + data[28:]
    checksum = slow_checksum(header[12:20] + struct.pack("!II", len(udp), 17) + udp) or 0xFFFF
    return header + udp[:6] + struct.pack("!H", checksum) + udp[8:]


# Offsets in an IPv4 packet: the fixed part begins at 28.
MALFORMED = {
    "fragment": (6, b"\x20\x00"),
    "may be fragmented": (6, b"\x00\x00"),
    "not UDP": (9, b"\x06"),
    "other port": (22, b"\x00\x35"),
    "UDP length": (24, b"\x00\x64"),
    "magic": (28, b"XSPB"),
    "version": (32, b"\x02"),
    "kind": (33, b"\x03"),
    "rung": (34, b"\x07"),
    "flags": (35, b"\x02"),
    "reply smaller than any probe": (68, b"\x01\x8f"),
    "saw in a request": (87, b"\x01"),
    "uses in a request": (104 + 11, b"\x01"),
    "name too long": (122, b"\xff"),
    "name with a capital": (123, b"N"),
    "name empty": (122, b"\x00"),
    "something after the name": (-1, b"\x01"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_packet_that_is_no_probe_is_refused(what: str) -> None:
    data = encode_packet(REQUEST, *V4, 51829, SMALL_SIZE)
    at, new = MALFORMED[what]
    assert parse_packet(patched(28, data[28:30], data), 51829) is not None  # the patching itself breaks nothing
    assert parse_packet(patched(at % len(data), new, data), 51829) is None


@pytest.mark.parametrize(("at", "ends"), [(8, "TTL"), (12, "source"), (26, "UDP checksum"), (60, "payload")])
def test_a_flipped_bit_is_refused_by_a_checksum(at: int, ends: str) -> None:
    data = bytearray(encode_packet(REPLY4, *V4, 51829, 1000))
    data[at] ^= 4
    assert parse_packet(bytes(data), 51829) is None


def test_a_masqueraded_source_port_is_no_reason_to_refuse() -> None:
    data = patched(20, b"\x04\x00", encode_packet(REQUEST, *V4, 51829, SMALL_SIZE))
    assert parse_packet(data, 51829) is not None
