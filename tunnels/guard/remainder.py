"""What is protected and belongs to no node that is known: `spec.protectedCIDRs` less what nodes have. Pure.

A node that has just come and was granted nothing yet, one that cannot have an agent, an address that a pod borrowed a
moment ago: at stage enforce no packet goes there, or comes from there, until a grant says whose it is.

    protected networks ─┬─ this node's prefixes and addresses    never judged
                        ├─ other nodes' prefixes                 judged by the stage towards each
                        ├─ those of nodes still off             not judged, while this one is ahead in a pool
                        ├─ other nodes' addresses                likewise; in scope overlay not judged
                        └─ the remainder                         dropped if this node is in stage enforce, else counted

Nobody has a tunnel there, so it has no route and no floor.
"""

from __future__ import annotations

from collections.abc import Iterator

from linkseal.keys.values import Prefix
from linkseal.tunnels.intervals import without
from linkseal.tunnels.model import Stage
from linkseal.tunnels.world import World, host_prefix


def remainder(world: World) -> tuple[Prefix, ...]:
    """Return it as prefixes, and as ranges `first-last` where that is fewer: apart from each other and all nodes'."""
    networks = world.layout.protected_cidrs
    return without(networks, tuple(_known(world))) if networks else ()


def drops_remainder(world: World) -> bool:
    """Whether packets to and from it are dropped here; else they are counted."""
    return world.layout.stage is Stage.ENFORCE and not world.broken_glass


def _known(world: World) -> Iterator[Prefix]:
    """What has an owner; addresses too, in every scope: where they are protected they are judged as their node's."""
    me = world.me
    yield from me.prefixes
    for node in (*world.peers.values(), *world.opted_out.values(), *world.behind.values()):
        yield from node.prefixes
        yield from map(host_prefix, node.addresses)
    yield from map(host_prefix, sorted({*me.addresses, *world.underlay.addresses, *world.own_addresses}))
