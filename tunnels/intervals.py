"""Prefixes as intervals: an nftables interval map refuses elements that overlap, and knows no longest match.

This file does no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network, summarize_address_range
from typing import NamedTuple

from linkseal.keys.values import Prefix
from linkseal.tunnels.model import V4, family_of


class _Interval(NamedTuple):
    """Sorts outer before inner; `last` is negative for that."""

    family: int
    first: int
    minus_last: int
    prefix: Prefix


def flatten(slots: Mapping[Prefix, str]) -> dict[Prefix, str]:
    """Return the same mapping with disjoint prefixes: where prefixes nest, the longest wins, as in a routing table.

    >>> flatten({Prefix("10.0.0.0/30"): "lsl00", Prefix("10.0.0.1/32"): "lsl01"})
    {'10.0.0.0/32': 'lsl00', '10.0.0.2/31': 'lsl00', '10.0.0.1/32': 'lsl01'}
    """
    order = _sorted(slots)
    result: dict[Prefix, str] = {}
    for number, outer in enumerate(order):
        start, last = outer.first, -outer.minus_last
        whole = True
        for inner in order[number + 1 :]:
            if inner.family != outer.family or inner.first > last:
                break
            if inner.first >= start:  # else it lies in one already cut out
                whole = False
                result.update(dict.fromkeys(_cover(outer.family, start, inner.first - 1), slots[outer.prefix]))
                start = -inner.minus_last + 1
        if whole:
            result[outer.prefix] = slots[outer.prefix]
        else:
            result.update(dict.fromkeys(_cover(outer.family, start, last), slots[outer.prefix]))
    return result


@lru_cache(maxsize=1 << 14)
def outermost(prefixes: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
    """Return those that lie in no other: for prefixes that all go the same way. Remembers its answers.

    >>> outermost((Prefix("10.0.0.0/24"), Prefix("10.0.0.7/32"), Prefix("10.0.1.0/24")))
    ('10.0.0.0/24', '10.0.1.0/24')
    """
    if len(prefixes) < 2:  # noqa: PLR2004 - one lies in no other
        return prefixes
    kept: set[Prefix] = set()
    around: _Interval | None = None
    for one in _sorted(set(prefixes)):
        if around is None or one.family != around.family or one.minus_last < around.minus_last:
            kept.add(one.prefix)
            around = one
    return tuple(prefix for prefix in prefixes if prefix in kept)


@lru_cache(maxsize=4)
def without(prefixes: tuple[Prefix, ...], others: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
    """Return what is in `prefixes` and in none of `others`, in order and in as few pieces as can be.

    A piece is a range `first-last` where it is no one prefix: to nft that is one element, and as prefixes many.
    Remembers its answers: between two looks they are the same.

    >>> without((Prefix("10.0.0.0/29"),), (Prefix("10.0.0.1/32"), Prefix("10.0.0.4/30")))
    ('10.0.0.0/32', '10.0.0.2/31')
    >>> without((Prefix("10.0.0.0/29"),), (Prefix("10.0.0.7/32"),))
    ('10.0.0.0-10.0.0.6',)
    """
    found: list[Prefix] = []
    holes = iter(_joined(others))
    hole = next(holes, None)
    for one in _joined(prefixes):
        start, last = one.first, -one.minus_last
        while hole is not None and (hole.family, hole.first) <= (one.family, last):
            if (hole.family, -hole.minus_last) >= (one.family, start):
                found += _pieces(one.family, start, hole.first - 1)
                start = 1 - hole.minus_last
            if start > last:
                break  # and the next one may begin inside of this hole
            hole = next(holes, None)
        found += _pieces(one.family, start, last)
    return tuple(found)


def overlapping(prefixes: Collection[Prefix], others: Collection[Prefix]) -> set[Prefix]:
    """Return those of `prefixes` that share an address with one of `others`, but for what is in both.

    >>> sorted(overlapping([Prefix("10.0.0.0/25"), Prefix("10.1.0.0/24")], [Prefix("10.0.0.0/24")]))
    ['10.0.0.0/25']
    """
    if not prefixes or not others:
        return set()
    wanted = set(prefixes)
    found: set[Prefix] = set()
    open_: list[_Interval] = []
    for one in _sorted(wanted | set(others)):
        while open_ and (open_[-1].family != one.family or -open_[-1].minus_last < one.first):
            open_.pop()
        for around in open_:
            if (one.prefix in wanted) != (around.prefix in wanted):
                found.add(one.prefix if one.prefix in wanted else around.prefix)
        open_.append(one)
    return found


@lru_cache(maxsize=8)
def sharing(prefixes: frozenset[Prefix], others: frozenset[Prefix]) -> frozenset[Prefix]:
    """Return those of `prefixes` that share an address with one of `others`, or are one of them.

    Remembered: 5,000 prefixes take 50 ms, and between two looks they are the same.

    >>> sorted(sharing(frozenset({Prefix("10.0.0.0/24"), Prefix("10.1.0.0/24")}), frozenset({Prefix("10.0.0.0/24")})))
    ['10.0.0.0/24']
    """
    return frozenset(overlapping(prefixes, others)) | prefixes & others


def _sorted(prefixes: Iterable[Prefix]) -> list[_Interval]:
    return sorted(map(_interval, prefixes))


@lru_cache(maxsize=1 << 16)
def _interval(prefix: Prefix) -> _Interval:
    """Remembered: when one of thousands changes, all are sorted anew."""
    if "-" in prefix:  # a range that someone else put into our map
        first, _, last = prefix.partition("-")
        return _Interval(family_of(prefix), int(ip_address(first)), -int(ip_address(last)), prefix)
    network = ip_network(prefix)
    return _Interval(family_of(prefix), int(network[0]), -int(network[-1]), prefix)


def _joined(prefixes: Iterable[Prefix]) -> list[_Interval]:
    """Sorted and apart: what lies in another, overlaps it or is next to it is one with it."""
    found: list[_Interval] = []
    for one in _sorted(set(prefixes)):
        if found and found[-1].family == one.family and one.first <= 1 - found[-1].minus_last:
            found[-1] = found[-1]._replace(minus_last=min(found[-1].minus_last, one.minus_last))
        else:
            found.append(one)
    return found


def _pieces(family: int, first: int, last: int) -> Iterator[Prefix]:
    """Yield first … last as a prefix if it is one, else as a range; nothing if that is empty."""
    size = last - first + 1
    if size < 1:
        return
    start = _address(family, first)
    if size & (size - 1) == 0 and first % size == 0:
        yield Prefix(f"{start}/{(32 if family == V4 else 128) - size.bit_length() + 1}")
    else:
        yield Prefix(f"{start}-{_address(family, last)}")


def _address(family: int, number: int) -> IPv4Address | IPv6Address:
    return IPv4Address(number) if family == V4 else IPv6Address(number)


def _cover(family: int, first: int, last: int) -> list[Prefix]:
    """Return the fewest prefixes that are exactly first … last; none if that is empty."""
    if first > last:
        return []
    kind = ip_address("0.0.0.0" if family == 4 else "::").__class__  # noqa: PLR2004, S104 - the family's address class
    return [Prefix(str(network)) for network in summarize_address_range(kind(first), kind(last))]
