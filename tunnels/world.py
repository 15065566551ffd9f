"""What `plan` plans from: this node, its peers, the links' choices, the settings and the host's facts.

This file does no I/O and holds no secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import ProbeRange
from linkseal.tunnels.guard.exemption import Exemption
from linkseal.tunnels.model import V4, V6, Family, KeyOfGeneration, Scope, Stage, family_of
from linkseal.wireguard.model import Endpoint

OVERHEAD: Final[Mapping[Family, int]] = {V4: 60, V6: 80}
"""Bytes WireGuard adds to a packet, outer IP header included (WireGuard paper, 5.4.6: 16 + 16, UDP 8, IP 20 or 40)."""

MINIMUM_MTU: Final[Mapping[Family, int]] = {V4: 576, V6: 1280}
"""RFC 791, RFC 8200."""


@dataclass(frozen=True, slots=True)
class Me:
    """This node, as its own grant and generations say."""

    name: str
    index: int
    addresses: tuple[str, ...]
    prefixes: tuple[Prefix, ...]
    generations: tuple[KeyOfGeneration, ...]
    reachable: bool = True
    """False: announced without endpoint (behind NAT), so this node initiates."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node, as accepted."""

    name: str
    index: int
    addresses: tuple[str, ...]
    prefixes: tuple[Prefix, ...]
    generations: tuple[KeyOfGeneration, ...] = ()
    """Empty: no agent there, or refused: no tunnel."""
    endpoints: tuple[Endpoint, ...] = ()
    """Address and base port, in the order announced."""
    stage: Stage | None = None
    """How far this peer has gone, where it is not as far as the cluster (a pool goes first); None: as the cluster."""


@dataclass(frozen=True, slots=True)
class PeerLinks:
    """What the link book decided for one peer."""

    current: tuple[int, int] | None = None
    """The pair of generations that carries traffic; None: none has been proven yet."""
    set_endpoint: frozenset[tuple[int, int]] = frozenset()
    """Pairs whose endpoint is to be set to the announced one; the others keep what the kernel has (a roamed one)."""
    path_mtu: int | None = None
    """Of the underlay towards this peer, where it is narrower than the NIC."""
    provoke: frozenset[tuple[int, int]] = frozenset()
    """Pairs where this end initiates whoever should: it has just made the peer anew."""
    entered: bool = False
    """Its traffic went into a tunnel before: without a link it is dropped in the door, never sent in plaintext."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """The NIC that carries the tunnels."""

    interface: str
    mtu: int
    families: frozenset[Family]
    """Families in which this node has an address there."""
    rp_filter: int = 0
    """The interface's own value and that of `all`: the kernel uses the greater."""
    rp_filter_all: int = 0
    addresses: tuple[str, ...] = ()
    """All that are on it, granted or not: tunnel packets may leave from any."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The cluster-wide numbers: ports, marks, tables."""

    scope: Scope = Scope.OVERLAY
    stage: Stage = Stage.PREFER
    port: int = 51820
    mtu: int | None = None
    keepalive: int = 25
    table: int = 51820
    rule_priority: int = 100
    fwmark: int = 0x4C530C00
    fwmark_mask: int = 0xFFFFFFFF
    probe: ProbeRange = field(default_factory=ProbeRange)
    probe_port: int = 51829
    guard_table: str = "linkseal_guard"
    pass_through: tuple[str, ...] = ()
    """Interfaces of a CNI that encapsulate: the guard judges what they send on, where that leaves."""
    protected_cidrs: tuple[Prefix, ...] = ()
    """Networks that the guard protects also where no node is known that has the address."""


@dataclass(frozen=True, slots=True)
class World:
    """All of it."""

    me: Me
    layout: Layout
    underlay: Underlay
    peers: Mapping[str, Peer] = field(default_factory=dict)
    links: Mapping[str, PeerLinks] = field(default_factory=dict)
    door: bool = True
    """The kernel can forward in netdev egress; else routes go to the slots."""
    endpoint_overrides: Mapping[str, Endpoint] = field(default_factory=dict)
    ipv6: bool = True
    """This host has IPv6; where it is switched off every IPv6 address, route and rule would be refused."""
    ways: Mapping[str, int] = field(default_factory=dict)
    """Foreign interfaces by which the main table reaches what peers own, with the reverse path filter of each."""
    nics: tuple[str, ...] = ()
    """Further interfaces that have an address granted to this node."""
    exemptions: tuple[Exemption, ...] = ()
    """Those that are open now."""
    broken_glass: bool = False
    """The operator of this host has lifted the guard: it counts and drops nothing."""
    redirect: bool = False
    """The kernel can have the program that stops redirected packets; `no_redirect` says why not."""
    no_redirect: str = ""
    opted_out: Mapping[str, Peer] = field(default_factory=dict)
    """Nodes that take no part on purpose: no tunnel leads to them, and plaintext to and from them is counted."""
    behind: Mapping[str, Peer] = field(default_factory=dict)
    """Nodes at stage off while this one, in a pool, is further: plaintext to and from them is nobody's matter yet."""
    own_addresses: frozenset[str] = frozenset()
    """What is on the underlay NIC now, granted or not: the tunnels' own packets may come from there."""


STAGES: Final = (Stage.OFF, Stage.PREPARE, Stage.PREFER, Stage.ENFORCE)
"""In their order: traffic between two nodes goes by the lesser of theirs."""


def stage_towards(world: World, peer: Peer) -> Stage:
    """Return the stage of the traffic to and from one peer: the lesser of this node's and the peer's."""
    if peer.stage is None:
        return world.layout.stage
    return min(world.layout.stage, peer.stage, key=STAGES.index)


def encrypts(world: World, peer: Peer) -> bool:
    """Whether the stage has traffic to this peer encrypted."""
    return stage_towards(world, peer) in (Stage.PREFER, Stage.ENFORCE)


def endpoint_of(world: World, peer: Peer) -> Endpoint | None:
    """Return the endpoint (base port) of a peer: the operator's override, else the first announced in our families."""
    override = world.endpoint_overrides.get(peer.name)
    if override is not None:
        return override
    families = world.underlay.families
    for endpoint in peer.endpoints:
        if family_of(endpoint.host) in families:
            return endpoint
    return None


def device_mtu(world: World) -> int:
    """MTU of door and slots: as configured, else the NIC's less the overhead of the family we prefer."""
    if world.layout.mtu is not None:
        return world.layout.mtu
    return world.underlay.mtu - OVERHEAD[V4 if V4 in world.underlay.families else V6]


def link_mtu(world: World, peer: Peer, endpoint: Endpoint | None) -> int:
    """Largest packet that crosses to this peer without an outer fragment (never above the devices' MTU).

    `endpoint` is its `endpoint_of`, which whoever asks has at hand.
    """
    links = world.links.get(peer.name)
    path = links.path_mtu if links is not None and links.path_mtu is not None else world.underlay.mtu
    mtu = device_mtu(world)
    if world.layout.mtu is None and endpoint is not None:
        mtu = min(mtu, path - OVERHEAD[family_of(endpoint.host)])
    if mtu >= MINIMUM_MTU[V6]:
        return mtu
    carries6 = any(family_of(known) == V6 for known in (*peer.prefixes, *peer.addresses))
    return max(mtu, MINIMUM_MTU[V6 if carries6 else V4])


def protected(scope: Scope, addresses: Iterable[str], prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """Return what the tunnels carry for a node: its pod prefixes, and in `transparent` its own addresses too."""
    own = map(host_prefix, addresses) if scope is Scope.TRANSPARENT else ()
    return (*prefixes, *own)


@lru_cache(maxsize=1 << 15)
def host_prefix(address: str) -> Prefix:
    """Return an address as a prefix of full length. Remembers its answers: it is asked in every plan."""
    return Prefix(f"{address}/128" if ":" in address else f"{address}/32")
