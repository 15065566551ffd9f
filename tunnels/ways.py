"""By which interfaces this host reaches its peers without Linkseal: where plaintext of theirs arrives. Pure.

While stages change, one end sends in plaintext for some seconds when the other already routes it to the door. A strict
reverse path filter then drops what arrives by another interface than the door: on the NIC, or on a CNI's VXLAN device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv4Network, ip_network
from typing import Final

from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import OURS
from linkseal.tunnels.model import V4, Observed, Scope, family_of
from linkseal.tunnels.plan import protected
from linkseal.tunnels.world import Peer

_ALL: Final = (1 << 32) - 1
_Table = dict[int, dict[int, set[str]]]
"""Prefix length → network → interfaces."""


def ways(observed: Observed, peers: Iterable[Peer], scope: Scope) -> dict[str, int]:
    """Return the foreign interfaces by which the main table reaches what peers own, with their own rp_filter.

    IPv4 alone: the kernel filters no IPv6 by its way back.
    """
    owned = [prefix for peer in peers for prefix in protected(scope, peer.addresses, peer.prefixes)]
    names = _ways(observed.main_routes, tuple(prefix for prefix in owned if family_of(prefix) == V4))
    here = observed.interfaces
    return {name: here[name].rp_filter for name in sorted(names) if name in here and name not in OURS}


@lru_cache(maxsize=2)
def _ways(main: frozenset[tuple[Prefix, str]], owned: tuple[Prefix, ...]) -> frozenset[str]:
    """Remembered, since both are the same in nearly every pass."""
    routes: _Table = {}
    for prefix, interface in main:
        length, network = _number(prefix)
        routes.setdefault(length, {}).setdefault(network, set()).add(interface)
    wanted: _Table = {}
    for prefix in owned:
        length, network = _number(prefix)
        wanted.setdefault(length, {})[network] = set()
    found: set[str] = set()
    for length, networks in wanted.items():
        for network in networks:
            found |= _longest(routes, network, length)
    for prefix, interface in main:  # what leads to a part of a prefix
        length, network = _number(prefix)
        if any(shorter < length for shorter in wanted) and _covered(wanted, network, length):
            found.add(interface)
    return frozenset(found)


def _number(prefix: Prefix) -> tuple[int, int]:
    network = ip_network(prefix)
    assert isinstance(network, IPv4Network)
    return network.prefixlen, int(network.network_address)


def _around(table: Mapping[int, Mapping[int, set[str]]], network: int, length: int) -> Iterator[set[str]]:
    """Yield what the table says of a network and of those around it, the narrowest first."""
    for shorter in sorted((known for known in table if known <= length), reverse=True):
        entry = table[shorter].get(network & (_ALL << (32 - shorter)) & _ALL)
        if entry is not None:
            yield entry


def _longest(table: _Table, network: int, length: int) -> set[str]:
    return next(_around(table, network, length), set())


def _covered(table: _Table, network: int, length: int) -> bool:
    return next(_around(table, network, length - 1), None) is not None
