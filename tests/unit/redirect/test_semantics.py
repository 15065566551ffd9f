"""The loaded program against the oracle: thousands of frames, sound and spoilt, by BPF_PROG_TEST_RUN."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from ground.bpfrun import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from linkseal.keys.values import Prefix
from linkseal.tunnels.redirect.kernel import Redirector
from linkseal.tunnels.redirect.model import Exemption, Mark, Ports, RedirectSpec, SetRedirect
from linkseal.tunnels.redirect.program import WAYS, Way
from unit.redirect.oracle import DROP, NEXT, fate

SPEC = RedirectSpec(
    frozenset({"nic"}),
    {
        Prefix("10.1.0.0/16"): 1,
        Prefix("10.1.5.0/24"): 0,
        Prefix("10.1.5.8/32"): 2,
        Prefix("192.0.2.0/28"): 3,
        Prefix("fd00:1::/32"): 3,
        Prefix("fd00:1:5::/48"): 0,
        Prefix("2001:db8::/64"): 2,
    },
    frozenset({"192.0.2.1", "2001:db8::1"}),
    Mark(0x4C530C00, 0xFFFFFF00),
    Ports(51820, 51823),
    frozenset(
        {
            Exemption(Prefix("10.1.9.9/32"), 6, 6443),
            Exemption(Prefix("192.0.2.1/32"), 6, 6443, served=True),
            Exemption(Prefix("10.3.0.0/16"), 6, 443, served=True),
            Exemption(Prefix("192.0.2.2/32"), 1),
            Exemption(Prefix("10.1.10.0/24"), 17),
            Exemption(Prefix("10.1.11.0/24")),
            Exemption(Prefix("fd00:1:9::/48"), 6, 443),
            Exemption(Prefix("2001:db8::1/128"), 17, 53, served=True),
            Exemption(Prefix("fd00:1:2::/48"), 58),
        }
    ),
    Ports(51829, 51830),
)

V4 = [
    "192.0.2.1",
    "192.0.2.2",
    "10.1.2.3",
    "10.1.5.3",
    "10.1.5.8",
    "10.1.9.9",
    "10.1.10.4",
    "10.1.11.4",
    "10.2.0.1",
    "10.3.0.1",
]
V6 = ["2001:db8::1", "2001:db8::2", "fd00:1:2::3", "fd00:1:5::3", "fd00:1:9::3", "fd00:2::1", "fe80::5", "fe90::1"]
V6 += ["::", "::ffff:10.1.2.3", "a01:203::"]
"""The last two: the bytes of an IPv4 address of the map at either end of an IPv6 one."""

PORTS = [0, 53, 443, 6443, 51819, 51820, 51823, 51824, 40000]
PROTOCOLS = [0, 1, 6, 17, 44, 50, 58, 60, 132, 43]
MARKS = [0, 0x4C530C00, 0x4C530CFF, 0x4C530D00, 0xFFFFFFFF]


def _refusal() -> str:
    if os.geteuid() != 0:
        return "needs root"
    one = Redirector()
    try:
        return str(one.unable() or "")
    finally:
        one.close()


pytestmark = pytest.mark.skipif(bool(_refusal()), reason=_refusal())


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    ports = struct.pack(">HH", draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS)))
    start = draw(st.sampled_from([ports, ports, bytes([draw(st.integers(130, 140)), 0, 0, 0])]))
    return start + bytes(16)


@st.composite
def packets4(draw: st.DrawFn) -> bytes:
    words = draw(st.sampled_from([5, 5, 5, 6, 15, 4, 0]))
    fragment = draw(st.sampled_from([0, 0, 0x4000, 0x2000, 1, 0x2001, 0x1FFF]))
    source, target = (ip_address(draw(st.sampled_from(V4))).packed for _ in range(2))
    protocol = draw(st.sampled_from(PROTOCOLS))
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, 60, 1, fragment, 64, protocol, 0) + source + target
    return head + draw(st.binary(min_size=max(0, words - 5) * 4, max_size=max(0, words - 5) * 4)) + draw(payloads())


@st.composite
def packets6(draw: st.DrawFn) -> bytes:
    source, target = (ip_address(draw(st.sampled_from(V6))).packed for _ in range(2))
    protocol = draw(st.sampled_from([*PROTOCOLS, 58, 58, 44]))
    limit = draw(st.sampled_from([255, 255, 64]))
    body = draw(payloads())
    if draw(st.booleans()) or protocol in (0, 44, 60, 43):
        field = draw(st.sampled_from([0, 1, 8, 0xFFF8, 6]))
        body = struct.pack(">BBHI", draw(st.sampled_from(PROTOCOLS)), 0, field, 7) + body
    return struct.pack(">IHBB", 6 << 28, len(body), protocol, limit) + source + target + body


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    four = draw(st.booleans())
    tags = b"".join(
        struct.pack(">HH", draw(st.sampled_from([0x8100, 0x88A8])), 5)
        for _ in range(draw(st.sampled_from([0, 0, 1, 2, 3])))
    )
    kind = draw(st.sampled_from([0x0800 if four else 0x86DD] * 9 + [0x0806]))
    whole = b"\x02" * 12 + tags + struct.pack(">H", kind) + draw(packets4() if four else packets6())
    least = 15 if tags else 34 if four else 54  # the kernel runs no program on an untagged frame without IP header
    return whole[: draw(st.integers(least, len(whole)))] if draw(st.integers(0, 5)) == 0 else whole


@pytest.fixture(scope="module")
def loaded() -> Iterator[Redirector]:
    one = Redirector()
    one.apply(SetRedirect(tuple(SPEC.entries().items())))
    yield one
    one.close()


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=frames(), mark=st.sampled_from(MARKS))
def test_the_program_decides_as_the_oracle(loaded: Redirector, way: Way, frame: bytes, mark: int) -> None:
    assert run(loaded._program(way), frame, mark) == fate(way, frame, mark, SPEC), (way, mark, frame.hex(" "))


def test_both_fates_and_every_rule_are_met_by_such_frames(loaded: Redirector) -> None:
    """The strategy above is no good if nearly everything is dropped, or passed."""
    met: Counter[tuple[str, int]] = Counter()

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(frame=frames(), mark=st.sampled_from(MARKS))
    def walk(frame: bytes, mark: int) -> None:
        for way in WAYS:
            met[way, fate(way, frame, mark, SPEC)] += 1

    walk()
    for way in WAYS:
        assert met[way, NEXT] > 60
        assert met[way, DROP] > 60


def test_every_drop_is_counted_by_the_number_in_the_map(loaded: Redirector) -> None:
    head = b"\x02" * 12 + b"\x08\0" + struct.pack(">BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 1, 0)
    remote, local = ip_address("10.1.5.8").packed, ip_address("203.0.113.1").packed
    before = loaded.counters()
    for _ in range(3):
        assert run(loaded._program("out"), head + local + remote + bytes(20)) == DROP
    assert run(loaded._program("in"), head + remote + local + bytes(20)) == DROP
    control = head[:23] + b"\x11" + head[24:] + remote + local + struct.pack(">HH", 51829, 51829) + bytes(16)
    assert run(loaded._program("in"), control) == DROP
    assert run(loaded._program("in"), head[:12] + b"\x81\0\0\x05" + head[12:] + remote) == DROP, "cut short"
    after = loaded.counters()
    told = {
        key: (now.packets - before[key].packets, now.bytes - before[key].bytes)
        for key, now in after.items()
        if now != before[key]
    }
    assert told == {("out", 2): (3, 162), ("in", 2): (1, 54), ("in", 4): (1, 54), ("in", 0): (1, 34)}


def test_a_mask_of_nothing_lets_nothing_through(loaded: Redirector) -> None:
    one = Redirector()
    bare = RedirectSpec(SPEC.devices, SPEC.verdicts, SPEC.own, Mark(0, 0), SPEC.ports)
    one.apply(SetRedirect(tuple(bare.entries().items())))
    head = b"\x02" * 12 + b"\x08\0" + struct.pack(">BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 17, 0)
    marked = head + ip_address("192.0.2.1").packed + ip_address("10.1.2.3").packed + bytes(20)
    assert run(one._program("out"), marked) == DROP
    assert run(loaded._program("out"), marked, 0x4C530C00) == NEXT, "control"
    one.close()
