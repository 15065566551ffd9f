"""Laws of the probe codec: hostile bytes never raise, and whatever is accepted is exactly what we would have sent."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st
from linkseal.tunnels.model import Family
from linkseal.tunnels.probe.packet import (
    SMALL_SIZE,
    Reply,
    Request,
    Rung,
    encode_packet,
    encode_payload,
    header_size,
    parse_packet,
    parse_payload,
)

NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?(\.[a-z0-9]{1,9}){0,3}", fullmatch=True)
NUMBERS = st.integers(0, 2**64 - 1)
FAMILIES = st.sampled_from((4, 6))
SIZES = st.integers(SMALL_SIZE, 2000)


@st.composite
def probes(draw: st.DrawFn) -> tuple[Family, Request | Reply]:
    family: Family = draw(FAMILIES)  # type: ignore[assignment]  # sampled from exactly these two
    request = Request(
        draw(st.binary(min_size=16, max_size=16)),
        draw(NAMES),
        draw(NUMBERS),
        draw(NUMBERS),
        draw(st.sampled_from(Rung)),
        draw(st.integers(SMALL_SIZE, 65535)),
        draw(st.integers(0, 65535)),
    )
    if draw(st.booleans()):
        return family, request
    addresses = st.none() | (
        st.integers(1, 2**32 - 1).map(lambda n: str(IPv4Address(n)))
        if family == 4
        else st.integers(1, 2**128 - 1).map(lambda n: str(IPv6Address(n)))
    )
    uses = st.none() | st.tuples(NUMBERS, NUMBERS)
    return family, Reply(*request, draw(addresses), draw(addresses), draw(uses), draw(st.integers(0, 65535)))


@given(probes(), SIZES)
def test_what_is_encoded_is_read_back(probe: tuple[Family, Request | Reply], size: int) -> None:
    family, value = probe
    assert parse_payload(encode_payload(value, family, size), family) == value


@given(
    st.binary(max_size=600), st.sampled_from((b"", b"\x45", b"\x60", b"LSPB\x01\x01\x01\x00", b"LSPB\x01\x02\x01\x01"))
)
def test_random_bytes_raise_nothing(tail: bytes, head: bytes) -> None:
    data = head + tail
    parse_packet(data, 51829)
    for family in (4, 6):
        probe = parse_payload(data, family)
        assert probe is None or encode_payload(probe, family, len(data) + header_size(family)) == data


@given(probes(), SIZES, st.data())
def test_a_changed_payload_is_refused_or_is_itself_canonical(
    probe: tuple[Family, Request | Reply], size: int, data: st.DataObject
) -> None:
    family, value = probe
    payload = bytearray(encode_payload(value, family, size))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, min(len(payload) - 1, 130)))] = data.draw(st.integers(0, 255))
    read = parse_payload(bytes(payload), family)
    assert read is None or encode_payload(read, family, size) == bytes(payload)


@given(probes(), SIZES, st.data())
def test_a_truncated_or_padded_packet_is_refused(
    probe: tuple[Family, Request | Reply], size: int, data: st.DataObject
) -> None:
    family, value = probe
    way = ("10.0.0.1", "198.18.0.8") if family == 4 else ("fd00::1", "fd00::2")
    packet = encode_packet(value, *way, 51829, size)
    cut = data.draw(st.integers(0, len(packet) - 1))
    assert parse_packet(packet, 51829) is not None
    assert parse_packet(packet[:cut], 51829) is None
    assert parse_packet(packet + bytes(1 + cut % 7), 51829) is None
