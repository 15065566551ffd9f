"""plan(world) → Desired: everything of ours that should be on this host. Pure; nothing here knows what is there now.

What a stage means for the data path:

    off       nothing of ours
    prepare   slots, peers and probes; no traffic is routed to the door
    prefer    overlay: all pod prefixes are routed to the door, which drops what has no proven link (nobody else
              carries them)
              transparent: a peer's prefixes are routed to the door once one of its links has been proven
    enforce   all prefixes of every peer that has an agent are routed to the door, in either scope, and have a floor:
              an `unreachable` route that is looked up next, so that one lost never falls through to `main`. What has
              no agent has neither: the guard drops it and says so.

Exemptions have rules of their own before ours, so that what is exempt does not depend on the tunnel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import NamedTuple

from linkseal.keys.values import Prefix, PublicKey
from linkseal.tunnels import addressing as names
from linkseal.tunnels.guard.plan import guard_of, is_closed
from linkseal.tunnels.intervals import outermost
from linkseal.tunnels.model import (
    V4,
    V6,
    Address,
    Desired,
    Family,
    Interface,
    KeyOfGeneration,
    Kind,
    Route,
    Rule,
    Ruleset,
    Scope,
    Stage,
    family_of,
)
from linkseal.tunnels.nftables import clamp_chain, door_chain, probe_chains
from linkseal.tunnels.planrules import exempt_rules, floor_rule, own_rules
from linkseal.tunnels.redirect.plan import plan_redirect
from linkseal.tunnels.world import (
    Me,
    Peer,
    PeerLinks,
    World,
    device_mtu,
    encrypts,
    endpoint_of,
    host_prefix,
    link_mtu,
    protected,
)
from linkseal.wireguard.model import DeviceSpec, Endpoint, PeerSpec

__all__ = [
    "FALLBACK_TABLE",
    "door_sources",
    "families_of",
    "initiates",
    "pair_links",
    "plan",
    "protected",
]

FALLBACK_TABLE = 253
"""RT_TABLE_DEFAULT of linux/rtnetlink.h: the kernel's own last rule looks there what `main` does not know."""

_LOOSE = 2
"""Of rp_filter (ip-sysctl.rst): the source must be reachable, by whatever interface."""

_PROBE_MTU = 65535
"""Bytes, ETH_MAX_MTU of linux/if_ether.h: the probe pair never says "too big". A peer would otherwise say so while a
path grows and its devices have not yet; IPv6 believes it for ten minutes, and no probe of full size would cross."""

_UNKNOWN = PeerLinks()


def plan(world: World) -> Desired:
    """Return what this host should be. Equal worlds give equal results, whatever the order of their mappings."""
    if world.layout.stage is Stage.OFF:
        return Desired()
    ground = _ground(world)
    views = [_view(ground, world.peers[name]) for name in sorted(world.peers)]
    devices = _devices(ground, views)
    return Desired(
        interfaces=_interfaces(ground, devices),
        addresses=frozenset(_addresses(ground, devices)),
        devices=devices,
        routes={(route.table, route.prefix): route for route in _routes(ground, views)},
        rules=frozenset((*_rules(ground, views), *exempt_rules(world))),
        nft=_ruleset(ground, views),
        underlay_rp_filter=_underlay_rp_filter(world),
        guard=guard_of(world),
        redirect=plan_redirect(
            world,
            {view.peer.name: view.protected for view in views},
            protected(world.layout.scope, world.me.addresses, world.me.prefixes),
        ),
    )


def families_of(world: World) -> tuple[Family, ...]:
    """Address families in which this node or a peer has something protected, as far as this host has them.

    A peer's alone counts too: what goes to it must not pass by the door because this node owns nothing of that family.
    """
    found: set[Family] = set()
    nodes: list[Me | Peer] = [world.me, *world.peers.values()]
    for node in nodes:
        found.update(map(family_of, protected(world.layout.scope, node.addresses, node.prefixes)))
        if len(found) == 2:  # noqa: PLR2004 - there are no more
            break
    return tuple(family for family in (V4, V6) if family in found and (family == V4 or world.ipv6))


def door_sources(world: World) -> dict[Family, str]:
    """Return the address this host uses towards protected prefixes, one a family.

    transparent: the node's own; overlay: the first of its first pod prefix, which no CNI gives to a pod.
    """
    if world.layout.scope is Scope.TRANSPARENT:
        candidates = list(world.me.addresses)
    else:
        networks = [ip_network(prefix) for prefix in world.me.prefixes]
        candidates = [str(network.network_address) for network in networks if network.num_addresses > 1]
    sources: dict[Family, str] = {}
    for address in candidates:
        sources.setdefault(family_of(address), address)
    return sources


def initiates(me: Me, peer: Peer, own: KeyOfGeneration, remote: KeyOfGeneration, endpoint: Endpoint | None) -> bool:
    """Whether this node starts the handshake of a link; exactly one end does: crossing initiations cost 5 s and more.

    The end that announced no endpoint, else the one with the lower public key. `endpoint` is what this node would
    send to (`endpoint_of`): without one it cannot start anything.
    """
    if endpoint is None:
        return False
    if not me.reachable:
        return True
    return bool(peer.endpoints) and own.public_key < remote.public_key


def pair_links(me: Me, peer: Peer) -> Iterator[tuple[KeyOfGeneration, KeyOfGeneration]]:
    """Every pair of live generations of this node and a peer."""
    for own in me.generations:
        for remote in peer.generations:
            yield own, remote


class _Ground(NamedTuple):
    """The world, and what follows from it for every peer alike."""

    world: World
    families: tuple[Family, ...]
    sources: Mapping[Family, str]
    mtu: int


class _View(NamedTuple):
    """A peer, and what devices, routes and map all need to know of it."""

    peer: Peer
    links: PeerLinks
    endpoint: Endpoint | None
    """As announced or set by the operator; the base port."""
    protected: tuple[Prefix, ...]
    carried: tuple[Prefix, ...]
    """Those whose traffic goes to the door now."""
    closed: bool
    """Plaintext to and from it is dropped: there are floors below its routes."""
    mtu: int | None
    """Where it is narrower than the devices'."""
    pairs: tuple[tuple[KeyOfGeneration, KeyOfGeneration, tuple[Prefix, ...]], ...]
    """Ours, the peer's, and the peer's probe addresses of that link, one prefix a family."""


def _ground(world: World) -> _Ground:
    return _Ground(world, families_of(world), door_sources(world), device_mtu(world))


def _view(ground: _Ground, peer: Peer) -> _View:
    world = ground.world
    probe = world.layout.probe
    links = world.links.get(peer.name, _UNKNOWN)
    everything = protected(world.layout.scope, peer.addresses, peer.prefixes)
    endpoint = endpoint_of(world, peer)
    mtu = link_mtu(world, peer, endpoint)
    closed = is_closed(world, peer)
    return _View(
        peer,
        links,
        endpoint,
        everything,
        everything if _carries(world, peer, links, closed=closed) else (),
        closed,
        mtu if mtu < ground.mtu else None,
        tuple(
            [
                (own, remote, tuple([probe.pair(f, peer.index, remote.number, own.number) for f in ground.families]))
                for own, remote in pair_links(world.me, peer)
            ]
        ),
    )


def _carries(world: World, peer: Peer, links: PeerLinks, *, closed: bool) -> bool:
    if not encrypts(world, peer):
        return False
    return (closed and bool(peer.generations)) or links.current is not None or links.entered


def _interfaces(ground: _Ground, devices: Mapping[str, DeviceSpec]) -> dict[str, Interface]:
    found = {name: Interface(name, Kind.SLOT, ground.mtu) for name in devices}
    if ground.world.door:
        found[names.DOOR] = Interface(names.DOOR, Kind.DOOR, ground.mtu)
    found[names.PROBE] = Interface(names.PROBE, Kind.PROBE, _PROBE_MTU, accept_local=True)
    return found


def _addresses(ground: _Ground, devices: Mapping[str, DeviceSpec]) -> Iterator[Address]:
    world = ground.world
    for name in (*devices, names.PROBE):
        yield Address(name, names.SLOT_ADDRESS, "host")
    if world.door:
        holders: Iterable[str] = (names.DOOR,)
    else:  # in transparent the NIC has them
        holders = devices if world.layout.scope is Scope.OVERLAY else ()
    for name in holders:
        for address in ground.sources.values():
            yield Address(name, host_prefix(address))
    for family in ground.families:
        for own in world.me.generations:
            for remote in (0, 1):
                local = world.layout.probe.local(family, world.me.index, own.number, remote)
                yield Address(names.PROBE, host_prefix(local), "host" if family == V4 else "global")


def _devices(ground: _Ground, views: list[_View]) -> dict[str, DeviceSpec]:
    world = ground.world
    devices = {
        names.slot_name(own.number, parity): DeviceSpec(
            names.slot_name(own.number, parity),
            own.public_key,
            names.slot_port(world.layout.port, own.number, parity),
            world.layout.fwmark,
            {},
        )
        for own in world.me.generations
        for parity in (0, 1)
    }
    peers: dict[str, dict[PublicKey, PeerSpec]] = {name: {} for name in devices}
    for view in views:
        for own, remote, probes in view.pairs:
            spec = _peer_spec(world, view, own, remote, probes)
            peers[names.slot_name(own.number, remote.number)][remote.public_key] = spec
    return {name: replace(device, peers=peers[name]) for name, device in devices.items()}


def _peer_spec(
    world: World, view: _View, own: KeyOfGeneration, remote: KeyOfGeneration, probes: tuple[Prefix, ...]
) -> PeerSpec:
    pair = (own.number, remote.number)
    endpoint = None
    if view.endpoint is not None and pair in view.links.set_endpoint:
        endpoint = Endpoint(view.endpoint.host, names.slot_port(view.endpoint.port, remote.number, own.number))
    starts = pair in view.links.provoke or initiates(world.me, view.peer, own, remote, view.endpoint)
    keepalive = world.layout.keepalive if starts else 0
    return PeerSpec(remote.public_key, frozenset((*view.protected, *probes)), endpoint, keepalive)


def _routes(ground: _Ground, views: list[_View]) -> Iterator[Route]:
    world, sources = ground.world, ground.sources
    table, probe = world.layout.table, world.layout.probe
    for family in ground.families:
        yield Route(table, probe.node(family, world.me.index), names.PROBE)
        if world.door:
            yield Route(table, probe.network(family), names.DOOR)
    for view in views:
        yield from _probe_routes(ground, view)
        if view.carried:
            out = _way_out(world, view)
            for prefix in view.carried:
                family = family_of(prefix)
                if family not in ground.families:
                    continue
                yield Route(table, prefix, out, sources.get(family), view.mtu)
                if view.closed:
                    yield Route(table + 1, prefix, "")
        elif view.pairs:
            yield from _last_resort(world, view)


def _last_resort(world: World, view: _View) -> Iterator[Route]:
    """Return routes to what is not carried yet, which the loose filter of the slots wants to see.

    Without any it drops the probes that come from there, and the link could never be proven. They stand after all
    others, and what is sent by them is lost as before: the door answers that it is unreachable.
    """
    device = names.DOOR if world.door else names.PROBE
    return (Route(FALLBACK_TABLE, prefix, device) for prefix in view.protected if family_of(prefix) == V4)


def _probe_routes(ground: _Ground, view: _View) -> Iterator[Route]:
    """Where the door's route for all probes does not do: a narrower path, or no door."""
    table, probe = ground.world.layout.table, ground.world.layout.probe
    if not ground.world.door:
        for own, remote, probes in view.pairs:
            for prefix in probes:
                yield Route(table, prefix, names.slot_name(own.number, remote.number), None, view.mtu)
    elif view.mtu is not None and view.pairs:
        for family in ground.families:
            yield Route(table, probe.node(family, view.peer.index), names.DOOR, None, view.mtu)


def _way_out(world: World, view: _View) -> str:
    """Return the door; without one the slot of the current link, or of the newest where none is proven (that drops)."""
    if world.door:
        return names.DOOR
    if view.links.current is not None:
        return names.slot_name(*view.links.current)
    remote = view.peer.generations[-1].number if view.peer.generations else 0
    return names.slot_name(world.me.generations[-1].number, remote)


def _rules(ground: _Ground, views: list[_View]) -> Iterator[Rule]:
    floors = {family_of(prefix) for view in views if view.closed for prefix in view.carried}
    for family in ground.families:
        yield from own_rules(family, ground.world.layout)
        if family in floors:
            yield floor_rule(family, ground.world.layout)


def _ruleset(ground: _Ground, views: list[_View]) -> Ruleset:
    world = ground.world
    probe = world.layout.probe
    own = {
        probe.pair(family, world.me.index, generation.number, remote): names.slot_name(generation.number, remote)
        for family in (V4, V6)
        for generation in world.me.generations
        for remote in (0, 1)
    }
    chains = [*probe_chains(probe.network(V4), probe.network(V6), own), clamp_chain()]
    if world.door:
        chains.append(door_chain())
    return Ruleset({(chain.family, chain.name): chain for chain in chains}, _slots(views) if world.door else {})


def _slots(views: list[_View]) -> dict[Prefix, str]:
    """Return the door's map: every link's probe addresses, and what is carried by the peer's current link."""
    slots: dict[Prefix, str] = {}
    for view in views:
        for own, remote, probes in view.pairs:
            for prefix in probes:
                slots[prefix] = names.slot_name(own.number, remote.number)
        if view.links.current is not None:
            slot = names.slot_name(*view.links.current)
            slots.update(dict.fromkeys(outermost(view.carried), slot))
    return slots


def _underlay_rp_filter(world: World) -> dict[str, int]:
    """Loosen a strict NIC, which drops WireGuard's own packets and ARP once node addresses are routed to the tunnel.

    And whatever else leads to peers: while stages change they send in plaintext what this host routes to the door. One
    that is loose is to stay so: who makes it strict again has changed what is needed.
    """
    underlay = world.underlay
    found = dict(world.ways)
    if world.layout.scope is Scope.TRANSPARENT:
        found[underlay.interface] = underlay.rp_filter
    return {name: _LOOSE for name, own in found.items() if own == _LOOSE or max(own, underlay.rp_filter_all) == 1}
