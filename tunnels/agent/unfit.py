"""Whose traffic a refused step concerns. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from linkseal.tunnels.host.host import Failure
from linkseal.tunnels.model import LookAgain, RemoveAddress, RemoveRoute, SetRoute
from linkseal.tunnels.plan import protected
from linkseal.tunnels.world import World
from linkseal.wireguard.model import RemovePeer, ReprovokePeer, SetPeer


def unfit(failures: Sequence[Failure], world: World) -> frozenset[str] | None:
    """Peers whose traffic a refused step concerns; None: it concerns all (rules, chains, the door, interfaces)."""
    owners = (
        {
            prefix: peer.name
            for peer in world.peers.values()
            for prefix in protected(world.layout.scope, peer.addresses, peer.prefixes)
        }
        if failures
        else {}
    )
    found: set[str] = set()
    for failure in failures:
        match failure.step:
            case SetRoute(route) if route.prefix in owners:
                found.add(owners[route.prefix])
            case SetPeer() | RemovePeer() | ReprovokePeer() | RemoveAddress() | RemoveRoute() | LookAgain():
                continue  # a peer that is not right has no session or no proof; what is too much takes nothing away
            case _:
                return None
    return frozenset(found)
