"""Which notifications make which aspects dirty; the kernel's own are tested in tests/kernel/test_host_events.py."""

from __future__ import annotations

import socket
import struct

import pytest
from linkseal.tunnels.host.events import Judge
from linkseal.tunnels.host.host import Aspect
from linkseal.wireguard.nlattr import attribute, attribute_text, attribute_u32

ROUTE, NETFILTER = 0, 12
TABLE = 51820
UP, RUNNING = 0x1, 0x40
OURS = {Aspect.LINKS, Aspect.ROUTES, Aspect.WIREGUARD}


def judge(one: Judge, kind: int, body: bytes, protocol: int = ROUTE) -> set[Aspect]:
    return set(one.dirt(protocol, kind, body, 0, len(body)))


def link(name: str, index: int = 7, flags: int = UP, mtu: int = 1500, family: int = 0) -> bytes:
    return struct.pack("=BxHiII", family, 0, index, flags, 0) + attribute_text(3, name) + attribute_u32(4, mtu)


def address(text: str, flags: int = 0) -> bytes:
    return struct.pack("=BBBBI", socket.AF_INET6, 64, flags, 0, 2) + attribute(1, socket.inet_pton(10, text))


def route(table: int) -> bytes:
    return struct.pack("=BBBBBBBBI", 2, 24, 0, 0, min(table, 252), 0, 0, 1, 0) + attribute_u32(15, table)


def nft(table: str) -> bytes:
    return struct.pack("=BBH", 1, 0, 0) + attribute_text(1, table)


def test_a_link_of_ours_is_always_news_and_concerns_nft_when_it_comes_or_goes() -> None:
    one = Judge(TABLE)
    assert judge(one, 16, link("lsl00")) == OURS | {Aspect.NFT}
    assert judge(one, 16, link("lsl00")) == OURS
    assert judge(one, 17, link("lsl00")) == OURS | {Aspect.NFT}
    assert judge(one, 16, link("lsl00")) == OURS | {Aspect.NFT}


@pytest.mark.parametrize("change", [{"flags": UP | RUNNING}, {"flags": 0}, {"mtu": 9000}, {"name": "eth1"}])
def test_another_link_is_news_when_something_changed(change: dict) -> None:
    one = Judge(TABLE)
    assert judge(one, 16, link("eth0")) == {Aspect.LINKS, Aspect.REDIRECT}, "new: without a program of ours"
    assert judge(one, 16, link("eth0")) == set()
    assert judge(one, 16, link(**({"name": "eth0"} | change))) == {Aspect.LINKS}
    assert judge(one, 17, link("eth0")) == {Aspect.LINKS, Aspect.REDIRECT}
    assert judge(one, 16, link("eth0", family=7)) == set(), "a bridge's own"


def test_an_address_whose_lifetime_is_renewed_is_no_news() -> None:
    one = Judge(TABLE)
    assert judge(one, 20, address("2001:db8::1", flags=0x40)) == {Aspect.LINKS}
    assert judge(one, 20, address("2001:db8::1", flags=0)) == set()
    assert judge(one, 20, address("2001:db8::2")) == {Aspect.LINKS}
    assert judge(one, 21, address("2001:db8::1")) == {Aspect.LINKS}
    assert judge(one, 20, address("2001:db8::1")) == {Aspect.LINKS}


@pytest.mark.parametrize(("ours", "other"), [(51820, 51822), (51820, 254), (200, 202), (200, 51820)])
def test_routes_of_our_table_only(ours: int, other: int) -> None:
    one = Judge(ours)
    for kind in (24, 25):
        assert judge(one, kind, route(ours)) == {Aspect.ROUTES}
        assert judge(one, kind, route(ours + 1)) == {Aspect.ROUTES}, "the floors"
        assert judge(one, kind, route(other)) == set()


def test_nft_tables_of_our_name_only() -> None:
    one = Judge(TABLE)
    for kind in (0, 2, 3, 5, 6, 8, 9, 11, 12, 14):
        assert judge(one, 10 << 8 | kind, nft("linkseal"), NETFILTER) == {Aspect.NFT}
        assert judge(one, 10 << 8 | kind, nft("linkseal2"), NETFILTER) == set()
    assert judge(one, 10 << 8 | 15, nft("linkseal"), NETFILTER) == set(), "the generation, told after every change"
    assert judge(one, 1 << 8 | 0, nft("linkseal"), NETFILTER) == set(), "conntrack"


def test_the_guards_tables_but_not_what_packets_write_there() -> None:
    one = Judge(TABLE, "guard")
    for kind in (0, 2, 3, 5, 6, 8, 9, 11, 12, 14):
        assert judge(one, 10 << 8 | kind, nft("guard"), NETFILTER) == {Aspect.GUARD}
    for kind in (12, 14):
        told = nft("guard") + attribute_text(2, "flow_out4")
        assert judge(one, 10 << 8 | kind, told, NETFILTER) == set()


def test_after_lost_notifications_known_links_are_news_again() -> None:
    one = Judge(TABLE)
    judge(one, 16, link("eth0"))
    judge(one, 20, address("2001:db8::1"))
    one.forget()
    assert judge(one, 16, link("eth0")) == {Aspect.LINKS, Aspect.REDIRECT}, "new: without a program of ours"
    assert judge(one, 20, address("2001:db8::1")) == {Aspect.LINKS}


def test_netconf_matters_for_its_rp_filter_only() -> None:
    one = Judge(TABLE)
    head = struct.pack("=Bxxx", socket.AF_INET) + attribute_u32(1, 7)
    assert judge(one, 80, head + attribute_u32(3, 1)) == {Aspect.LINKS}
    assert judge(one, 80, head + attribute_u32(2, 1)) == set()


@pytest.mark.parametrize("kind", [36, 37, 44, 45])
def test_filters_and_qdiscs_are_news_where_programs_stand(kind: int) -> None:
    one = Judge(TABLE)
    for parent in (0xFFFFFFF1, 0xFFFFFFF2, 0xFFFFFFF3):
        assert judge(one, kind, struct.pack("=BxxxiIII", 0, 2, 0, parent, 0)) == {Aspect.REDIRECT}
    assert judge(one, kind, struct.pack("=BxxxiIII", 0, 2, 0, 0xFFFFFFFF, 0)) == set(), "a queue's"
