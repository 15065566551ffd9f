"""Whose traffic a refused step concerns. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from linkseal.tunnels.addressing import SLOTS, slot_name
from linkseal.tunnels.guard.model import GuardTransaction
from linkseal.tunnels.host.host import Failure
from linkseal.tunnels.model import (
    AddAddress,
    AddInterface,
    LookAgain,
    RemoveAddress,
    RemoveRoute,
    SetInterface,
    SetRoute,
    Step,
)
from linkseal.tunnels.plan import protected
from linkseal.tunnels.world import PeerLinks, World
from linkseal.wireguard.model import ConfigureDevice, RemovePeer, ReprovokePeer, SetPeer


def unfit(failures: Sequence[Failure], world: World) -> frozenset[str] | None:
    """Peers whose traffic a refused step concerns; None: it concerns all (rules, chains, the door, the probe pair)."""
    if not failures:
        return frozenset()
    owners = {
        prefix: peer.name
        for peer in world.peers.values()
        for prefix in protected(world.layout.scope, peer.addresses, peer.prefixes)
    }
    found: set[str] = set()
    for failure in failures:
        slot = _slot(failure.step)
        match failure.step:
            case _ if slot is not None:
                found |= {name for name, links in world.links.items() if _carrier(links) == slot}
            case SetRoute(route) if route.prefix in owners:
                found.add(owners[route.prefix])
            case GuardTransaction():
                continue  # what goes into a tunnel does so without it; LS5003 says it
            case SetPeer() | RemovePeer() | ReprovokePeer() | RemoveAddress() | RemoveRoute() | LookAgain():
                continue  # a peer that is not right has no session or no proof; what is too much takes nothing away
            case _:
                return None
    return frozenset(found)


def _carrier(links: PeerLinks) -> str | None:
    """The slot that carries a peer's traffic."""
    return None if links.current is None else slot_name(*links.current)


def _slot(step: Step) -> str | None:
    """The slot that a step makes or sets up: it concerns who is reached by it, and nobody else."""
    match step:
        case AddInterface(interface):
            name = interface.name
        case AddAddress(address):
            name = address.interface
        case SetInterface():
            name = step.name
        case ConfigureDevice():
            name = step.device
        case _:
            return None
    return name if name in SLOTS else None
