"""Which link carries a peer's traffic when the agent starts: what the kernel says, else what the disk says. Pure.

Nothing is proven by that; it keeps what works as it is until it is proven again.
"""

from __future__ import annotations

from collections.abc import Mapping

from linkseal.tunnels.addressing import DOOR, slot_name
from linkseal.tunnels.agent.state import SavedLink
from linkseal.tunnels.links import LinkBook
from linkseal.tunnels.model import Observed
from linkseal.tunnels.plan import pair_links, protected
from linkseal.tunnels.world import Peer, World


def adopt(book: LinkBook, world: World, observed: Observed, saved: Mapping[str, SavedLink], now: float) -> None:
    """Take over the current pair of every peer that has one. Call once, after the first `sync` and `observe`.

    Where that pair is no more (the peer rotated while this node was down), the newest link stands in: what went into a
    tunnel does not go out in plaintext because nobody was there to see it.
    """
    for name, peer in world.peers.items():
        known = saved.get(name)
        pair = _in_kernel(world, observed, peer) or (None if known is None else known.current)
        if pair is not None:
            book.adopt(name, pair)
        if known is not None and known.endpoint is not None:
            book.remember_endpoint(name, known.endpoint, now)


def _in_kernel(world: World, observed: Observed, peer: Peer) -> tuple[int, int] | None:
    """The pair whose slot the peer's traffic goes into; (0, 0): into one that belongs to no live pair."""
    slots = {
        slot_name(own.number, remote.number): (own.number, remote.number) for own, remote in pair_links(world.me, peer)
    }
    for prefix in protected(world.layout.scope, peer.addresses, peer.prefixes):
        route = observed.routes.get((world.layout.table, prefix))
        if route is None:
            continue
        slot: str | None = route.interface
        if slot == DOOR:
            slot = None if observed.nft is None else observed.nft.slots.get(prefix)
        if slot is not None:
            return slots.get(slot, (0, 0))
    return None
