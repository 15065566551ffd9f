"""What the probe engine is to prove, from the links there are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network

from linkseal.keys.values import Prefix
from linkseal.tunnels.links import LinkBook
from linkseal.tunnels.model import Family, LinkKey, family_of
from linkseal.tunnels.plan import protected
from linkseal.tunnels.probe.outcomes import Source, Target, Way
from linkseal.tunnels.probe.packet import MAX_SOURCES
from linkseal.tunnels.world import World, endpoint_of, link_mtu


def sources_of(prefixes: tuple[Prefix, ...]) -> dict[Family, tuple[Source, ...]]:
    """One address to send from for each protected prefix, by family: the second of a network, else the only one."""
    found: dict[Family, list[Source]] = {4: [], 6: []}
    for prefix in prefixes:
        network = ip_network(prefix)
        address = network[1] if network.num_addresses > 2 else network[0]  # noqa: PLR2004 - a pair has no inside
        found[family_of(prefix)].append(Source(str(address), prefix))
    return {family: tuple(sources[:MAX_SOURCES]) for family, sources in found.items()}


def targets(world: World, book: LinkBook) -> dict[LinkKey, Target]:
    """Every installed link, with what must cross it: the families that both ends have something protected in."""
    scope = world.layout.scope
    mine = sources_of(protected(scope, world.me.addresses, world.me.prefixes))
    found: dict[LinkKey, Target] = {}
    ways: dict[str, Mapping[Family, Way]] = {}
    shared: dict[tuple[int, frozenset[Family]], Mapping[Family, Way]] = {}  # thousands of peers differ in nothing else
    for key, record in book.records.items():
        peer = world.peers.get(key.peer)
        if peer is None or not record.installed:
            continue
        if key.peer not in ways:
            theirs = frozenset(family_of(prefix) for prefix in protected(scope, peer.addresses, peer.prefixes))
            mtu = link_mtu(world, peer, endpoint_of(world, peer))
            if (mtu, theirs) not in shared:
                shared[mtu, theirs] = {
                    family: Way(mtu, sources) for family, sources in mine.items() if sources and family in theirs
                }
            ways[key.peer] = shared[mtu, theirs]
        if ways[key.peer]:
            found[key] = Target(peer.index, record.handshake_at is not None, ways[key.peer])
    return found
