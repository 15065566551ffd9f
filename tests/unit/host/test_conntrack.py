"""Masqueraded connections: the kernel's own bytes, and which of them count."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys.errors import HostError
from linkseal.keys.values import Prefix
from linkseal.tunnels.host import conntrack
from linkseal.tunnels.host.conntrack import count, masqueraded, question, translated_to
from linkseal.wireguard.netlink import Answer

GOLDEN = Path(__file__).parents[2] / "golden" / "conntrack.txt"
ENTRIES = [bytes.fromhex(line) for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]


def answers(entries: list[bytes]) -> list[Answer]:
    """As they come: behind each other in one datagram, after 16 bytes of header."""
    return [Answer(256, bytes(16) + entry, 16, 16 + len(entry)) for entry in entries]


def counted(*prefixes: str) -> int | None:
    return count(answers(ENTRIES), map(Prefix, prefixes), inf)


def test_where_masqueraded_packets_go_is_read_after_both_translations() -> None:
    found = [translated_to(entry, 0, len(entry)) for entry in ENTRIES]
    shown = [None if one is None else str(ip_address(one)) for one in found]
    assert shown == ["192.0.2.2", None, "2001:db8::2", "192.0.2.2"]


@pytest.mark.parametrize(
    ("prefixes", "number"),
    [
        ((), 0),
        (("192.0.2.2/32",), 2),
        (("192.0.2.0/24", "192.0.2.2/32", "2001:db8::/64"), 3),
        (("10.96.0.0/16", "10.244.0.0/16"), 0),
        (("192.0.2.3/32", "192.0.2.0/31"), 0),
        (("::/0",), 1),
    ],
)
def test_only_connections_to_the_prefixes_count(prefixes: tuple[str, ...], number: int) -> None:
    assert counted(*prefixes) == number


@given(st.sets(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=6))
def test_a_prefix_is_its_addresses_however_they_overlap(parts: set[tuple[int, int]]) -> None:
    prefixes = [str(ip_network((f"192.0.2.{last}", length), strict=False)) for last, length in parts]
    inside = any(ip_address("192.0.2.2") in ip_network(prefix) for prefix in prefixes)
    assert counted(*prefixes) == (2 if inside else 0)


def test_the_question_asks_for_source_nat_alone() -> None:
    assert question()[16:].hex() == "00000000080003000000001008001a0000000010"


def test_cut_messages_are_an_error_and_no_count() -> None:
    with pytest.raises(ValueError, match="netlink attribute"):
        translated_to(ENTRIES[0], 0, len(ENTRIES[0]) - 2)


def many(number: int) -> Iterator[Answer]:
    one = answers(ENTRIES[3:])[0]
    return (one for _ in range(number))


def test_many_entries_hold_no_memory() -> None:
    tracemalloc.start()
    assert count(many(50_000), [Prefix("192.0.2.2/32")], inf) == 50_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_count_that_takes_too_long_is_given_up_and_one_that_is_full_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert count(many(10), [], -inf) is None
    monkeypatch.setattr(conntrack, "MOST", 3)
    assert count(many(10), [Prefix("0.0.0.0/0")], inf) == 3


def test_no_connection_tracking_is_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise HostError("no such protocol")

    monkeypatch.setattr(conntrack, "NetlinkSocket", refuse)
    assert masqueraded([Prefix("192.0.2.2/32")]) is None
