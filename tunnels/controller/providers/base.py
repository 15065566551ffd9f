"""What an address provider is: how its objects are read, and which prefixes they give each node. No I/O.

What cannot be read makes no grant smaller: its node keeps what it was granted, and that is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Generic, TypeVar

from linkseal.keys.documents import canonical_address, canonical_prefix
from linkseal.keys.values import Prefix
from linkseal.tunnels.controller.nodefacts import NodeFacts
from linkseal.tunnels.controller.providers.names import ProviderName
from linkseal.tunnels.world import host_prefix

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Offered:
    """What a provider gives nodes. `keeps`: of these not all could be read. `problems`: lines that say why."""

    prefixes: Mapping[str, tuple[Prefix, ...]] = field(default_factory=dict)
    keeps: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source(Generic[T]):
    """A collection of the API server that a provider reads; `parse` as in Mirror.

    `settle`: seconds that changes of it are gathered before anything is signed.
    """

    path: str
    parse: Callable[[Mapping[str, Any], T | None], T | None]
    query: Mapping[str, str] = field(default_factory=dict)
    settle: float = 0.0


@dataclass(frozen=True, slots=True)
class Provider(Generic[T]):
    """`offer` makes of the Nodes and the objects of `source` what each node has."""

    name: ProviderName
    offer: Callable[[Mapping[str, NodeFacts], Mapping[str, T]], Offered]
    source: Source[T] | None = None


@dataclass(frozen=True, slots=True)
class PerNode:
    """What an object says that is about one node. `unread`: why not all of it, in words; empty: it is all there."""

    node: str
    prefixes: tuple[Prefix, ...] = ()
    unread: str = ""


def prefix_of(text: object) -> Prefix:
    """Return a network as a prefix. Raises ValueError, TypeError: it is none that a node can own."""
    return canonical_prefix(str(ip_network(_text(text))))


def address_of(text: object) -> Prefix:
    """Return an address as a prefix of full length. Raises ValueError, TypeError."""
    return host_prefix(canonical_address(str(ip_address(_text(text)))))


def _text(value: object) -> str:
    """Return a text as it is: of a number ipaddress would make an address."""
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:80]!r} is no text")
    return value


def in_order(prefixes: set[Prefix]) -> tuple[Prefix, ...]:
    """Return them in the order of their numbers: one that comes or goes changes the place of no other."""
    return tuple(sorted(prefixes, key=_number))


def _number(prefix: Prefix) -> tuple[int, int, int]:
    network = ip_network(prefix)
    return network.version, int(network.network_address), network.prefixlen
