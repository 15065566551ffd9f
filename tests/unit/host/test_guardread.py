"""Counters of the guard's sets, from messages as the kernel sends them (nf_tables_api.c, nf_tables_fill_setelem)."""

from __future__ import annotations

import socket
import struct
from typing import Self

import pytest
from linkseal.tunnels.guard.readings import Count, Flow, Spot
from linkseal.tunnels.host import guardread
from linkseal.tunnels.host.guardread import read_counters
from linkseal.tunnels.host.nfnetlink import NFGEN
from linkseal.wireguard.netlink import Answer
from linkseal.wireguard.nlattr import attribute


def element(key: bytes, counted: tuple[int, int] | None = None, flags: int | None = None) -> bytes:
    """`counted`: packets and bytes; None: it has no counter."""
    body = attribute(1, attribute(1, key))
    if flags is not None:
        body += attribute(3, struct.pack("!I", flags))
    if counted is not None:
        packets, size = counted
        data = attribute(1, struct.pack("!Q", size)) + attribute(2, struct.pack("!Q", packets))
        body += attribute(7, attribute(1, b"counter\0") + attribute(2, data))
    return attribute(1, body)


def v4(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET, text)


SETS = {
    "drop_out4": [
        element(v4("10.244.1.0"), (0, 0)),
        element(v4("10.244.2.0"), flags=1),
        element(v4("10.244.2.0"), (3, 180)),
        element(v4("10.244.3.0"), (9, 900), flags=1),
        element(v4("10.244.4.0"), (1, 1 << 40)),
    ],
    "drop_in6": [
        element(socket.inet_pton(socket.AF_INET6, "fd00::"), (0, 0)),
        element(socket.inet_pton(socket.AF_INET6, "fd00:1::"), (1, 60)),
        # the very bytes of a silent counter do not fit into a key: they are longer
        element(socket.inet_pton(socket.AF_INET6, "c00:100::"), (2, 120)),
    ],
    "flow_out4": [
        element(v4("10.244.1.5") + bytes([6, 0, 0, 0]) + struct.pack("!HH", 443, 0), (0, 0)),
        element(v4("10.244.1.6") + bytes([17, 0, 0, 0]) + struct.pack("!HH", 53, 0), (2, 90)),
    ],
}


class Socket:
    def __init__(self, _protocol: int) -> None:
        self.asked = iter(SETS.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def dump(self, _request: bytes) -> list[Answer]:
        data = NFGEN.pack(1, 0, 0) + attribute(1, b"t\0") + attribute(3, b"".join(next(self.asked)))
        return [Answer(0, data, 0, len(data))]


def test_what_has_counted_is_read_and_what_has_not_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    whole = guardread._expression

    def noted(data: bytes, start: int, end: int) -> Count | None:
        read.append(data[start:end])
        return whole(data, start, end)

    monkeypatch.setattr(guardread, "NetlinkSocket", Socket)
    monkeypatch.setattr(guardread, "_expression", noted)
    found = read_counters("t", (("inet", name) for name in SETS), [])
    assert found.spots == {
        Spot("inet", "drop_out4", "10.244.2.0"): Count(3, 180),
        Spot("inet", "drop_out4", "10.244.4.0"): Count(1, 1 << 40),
        Spot("inet", "drop_in6", "fd00:1::"): Count(1, 60),
        Spot("inet", "drop_in6", "c00:100::"): Count(2, 120),
    }
    assert found.flows == {
        Flow("out", "10.244.1.5", 6, 443): Count(0, 0),
        Flow("out", "10.244.1.6", 17, 53): Count(2, 90),
    }
    assert len(read) == 7, "the silent ones of thousands of peers are not taken apart"
