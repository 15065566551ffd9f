"""Connections that this host masquerades towards given prefixes, counted in the kernel's connection tracking.

Moving such a connection's traffic from the NIC to the door, or back, resets it (kernel `nf_nat_oif_changed`), so it is
announced before. The kernel is asked for those with source NAT only (before Linux 5.18 it sends all), and the answers
are looked at as they come: a million entries hold one datagram of memory.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.keys.values import Prefix
from linkseal.tunnels.host.nfnetlink import NETLINK_NETFILTER, NFGEN
from linkseal.wireguard.netlink import Answer, NetlinkSocket
from linkseal.wireguard.nlattr import attribute, attributes, message

MOST: Final = 1_000_000
"""More are not told apart: what a report can hold."""

BUDGET: Final = 2.0
"""Seconds after which a count is given up: nothing else is looked after meanwhile."""

_BETWEEN: Final = 4096
"""Entries between two looks at the clock."""

_CT_GET: Final = 1 << 8 | 1
"""NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_GET of <linux/netfilter/nfnetlink_conntrack.h>."""

_ORIGINAL, _REPLY, _STATUS, _STATUS_MASK = 1, 2, 3, 26
"""CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_STATUS_MASK."""

_IP: Final = 1
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)
"""CTA_TUPLE_IP; CTA_IP_V4_SRC and CTA_IP_V6_SRC, CTA_IP_V4_DST and CTA_IP_V6_DST."""

_SOURCE_NAT: Final = 1 << 4
"""IPS_SRC_NAT of <linux/netfilter/nf_conntrack_common.h>."""


def masqueraded(prefixes: Iterable[Prefix]) -> int | None:
    """Return how many connections are masqueraded towards these prefixes; None: that cannot be told.

    Any source NAT counts: connection tracking does not tell which of it is a masquerade.
    """
    try:
        with NetlinkSocket(NETLINK_NETFILTER) as sock:
            return count(sock.stream(question()), prefixes, time.monotonic() + BUDGET)
    except HostError:  # no connection tracking in this kernel, or not for us
        return None


def question() -> bytes:
    """Return the request for all entries with source NAT, of both families."""
    bit = _SOURCE_NAT.to_bytes(4, "big")
    return message(_CT_GET, NFGEN.pack(0, 0, 0) + attribute(_STATUS, bit) + attribute(_STATUS_MASK, bit))


def count(answers: Iterable[Answer], prefixes: Iterable[Prefix], deadline: float) -> int | None:
    """Return how many of the entries go to these prefixes after source NAT, None if `deadline` (monotonic) passes."""
    known = list(prefixes)
    ranges = {4: _Ranges(known, 4), 16: _Ranges(known, 16)}
    found = 0
    for number, answer in enumerate(answers):
        target = translated_to(answer.data, answer.start, answer.end)
        if target is not None and target in ranges[len(target)]:
            found += 1
        if found >= MOST or (number % _BETWEEN == 0 and time.monotonic() > deadline):
            return found if found >= MOST else None
    return found


def translated_to(data: bytes, start: int, end: int) -> bytes | None:
    """Return where the packets of an entry go (4 or 16 bytes), None where their source is left alone.

    `data[start:end]` is the message from its nfgenmsg on. The reply's source is the destination after DNAT.
    """
    original = target = answered = None
    for kind, begin, stop in attributes(data, start + NFGEN.size, end):
        if kind == _STATUS and not int.from_bytes(data[begin:stop], "big") & _SOURCE_NAT:
            return None
        if kind == _ORIGINAL:
            original, _ = _addresses(data, begin, stop)
        elif kind == _REPLY:
            target, answered = _addresses(data, begin, stop)
    return target if original is not None and original != answered else None


def _addresses(data: bytes, start: int, end: int) -> tuple[bytes | None, bytes | None]:
    """Return source and destination of a tuple."""
    source = destination = None
    for kind, begin, stop in attributes(data, start, end):
        if kind != _IP:
            continue
        for part, first, last in attributes(data, begin, stop):
            if part in _SOURCES:
                source = data[first:last]
            elif part in _DESTINATIONS:
                destination = data[first:last]
    return source, destination


class _Ranges:
    """Addresses of some prefixes of one family, as disjoint ranges."""

    def __init__(self, prefixes: Iterable[Prefix], size: int) -> None:
        self._first: list[bytes] = []
        self._last: list[bytes] = []
        for first, last in sorted(_bounds(prefixes, size)):
            if self._last and first <= self._last[-1]:
                self._last[-1] = max(last, self._last[-1])
            else:
                self._first.append(first)
                self._last.append(last)

    def __contains__(self, address: bytes) -> bool:
        at = bisect_right(self._first, address) - 1
        return at >= 0 and address <= self._last[at]


def _bounds(prefixes: Iterable[Prefix], size: int) -> Iterator[tuple[bytes, bytes]]:
    for prefix in prefixes:
        network = ip_network(prefix)
        if network.max_prefixlen == 8 * size:
            yield network[0].packed, network[-1].packed
