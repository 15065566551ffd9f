"""Address space as ranges of numbers: who holds what, what is left of a block without some addresses. No I/O.

WireGuard's AllowedIPs know a longest match and the receivers' rule for grants does not: of two that overlap one loses.
So what one node has inside another's block is cut out of the block, and all grants are disjoint.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network, summarize_address_range
from itertools import pairwise
from typing import NamedTuple

from linkseal.keys.values import Prefix


class Span(NamedTuple):
    """The addresses of one family from `low` to `high`, both included."""

    version: int
    low: int
    high: int


@lru_cache(maxsize=1 << 16)
def span(prefix: Prefix) -> Span:
    """Return a prefix as a range. Remembers its answers: every pass asks for the same."""
    network = ip_network(prefix)
    return Span(network.version, int(network.network_address), int(network.broadcast_address))


def spans(prefixes: Iterable[Prefix]) -> tuple[Span, ...]:
    """Return what prefixes cover, as ranges that are sorted and apart: neighbours are one.

    >>> len(spans([Prefix("10.0.0.0/25"), Prefix("10.0.0.128/25"), Prefix("10.0.0.7/32"), Prefix("10.1.0.0/24")]))
    2
    """
    found: list[Span] = []
    for one in sorted(map(span, prefixes)):
        last = found[-1] if found else None
        if last is not None and last.version == one.version and one.low <= last.high + 1:
            found[-1] = Span(one.version, last.low, max(last.high, one.high))
        else:
            found.append(one)
    return tuple(found)


def prefixes_of(ranges: Iterable[Span]) -> tuple[Prefix, ...]:
    """Return the fewest prefixes that cover just these ranges, which are apart."""
    found: list[Prefix] = []
    for version, low, high in ranges:
        kind: type[IPv4Address | IPv6Address] = IPv4Address if version == 4 else IPv6Address  # noqa: PLR2004
        found += [Prefix(str(network)) for network in summarize_address_range(kind(low), kind(high))]
    return tuple(found)


def common(ones: Sequence[Span], others: Sequence[Span]) -> tuple[Span, ...]:
    """Return what is in both; each is sorted and apart, as `spans` returns it."""
    found: list[Span] = []
    first = second = 0
    while first < len(ones) and second < len(others):
        one, other = ones[first], others[second]
        low, high = max(one.low, other.low), min(one.high, other.high)
        if one.version == other.version and low <= high:
            found.append(Span(one.version, low, high))
        if (one.version, one.high) < (other.version, other.high):
            first += 1
        else:
            second += 1
    return tuple(found)


def minus(ones: Iterable[Span], holes: Sequence[Span]) -> tuple[Span, ...]:
    """Return `ones` without what is in `holes`; each is sorted and apart, as `spans` returns it."""
    found: list[Span] = []
    for one in ones:
        low = one.low
        for hole in common((one,), holes):
            if hole.low > low:
                found.append(Span(one.version, low, hole.low - 1))
            low = hole.high + 1
        if low <= one.high:
            found.append(Span(one.version, low, one.high))
    return tuple(found)


def without(prefix: Prefix, holes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """Return the fewest prefixes that are `prefix` without `holes`.

    >>> without(Prefix("10.0.0.0/29"), [Prefix("10.0.0.5/32"), Prefix("192.0.2.0/24")])
    ('10.0.0.0/30', '10.0.0.4/32', '10.0.0.6/31')
    """
    return prefixes_of(minus((span(prefix),), spans(holes)))


class Land:
    """Ranges with the node that has them; no address has two."""

    def __init__(self) -> None:
        self._lows: list[tuple[int, int]] = []
        self._owned: list[tuple[Span, str]] = []

    @classmethod
    def shared_out(cls, claims: Iterable[tuple[Span, str]]) -> Land:
        """Give each range to the node beside it; of what two have, to the first in this order."""
        listed = list(claims)
        ordered = sorted(listed, key=lambda claim: claim[0])
        land = cls()
        if all(one.version < other.version or one.high < other.low for (one, _), (other, _) in pairwise(ordered)):
            land._owned, land._lows = ordered, [one[:2] for one, _ in ordered]
            return land
        for one, name in listed:
            land.give(one, name)
        return land

    def give(self, wanted: Span, name: str) -> None:
        """Give a node what is nobody's of a range."""
        for one in minus((wanted,), [taken for taken, _ in self.within(wanted)]):
            at = bisect_right(self._lows, one[:2])
            self._lows.insert(at, one[:2])
            self._owned.insert(at, (one, name))

    def within(self, wanted: Span) -> list[tuple[Span, str]]:
        """Return the parts of a range that somebody has, in their order."""
        found: list[tuple[Span, str]] = []
        for at in range(max(bisect_right(self._lows, wanted[:2]) - 1, 0), len(self._owned)):
            taken, name = self._owned[at]
            if (taken.version, taken.low) > (wanted.version, wanted.high):
                break
            if taken.version == wanted.version and taken.high >= wanted.low:
                part = Span(wanted.version, max(taken.low, wanted.low), min(taken.high, wanted.high))
                found.append((part, name))
        return found
