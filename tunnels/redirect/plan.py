"""What our programs on the NICs should drop, from the world. Pure.

Wanted for peers towards which the stage is `enforce`, and for nobody else. A prefix of another peer, or of this node,
that lies inside of one that is dropped is let through by an entry of its own: the longest prefix decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network

from linkseal.keys.values import Prefix
from linkseal.tunnels.guard.exemption import NUMBERS
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import SLOT_PORTS
from linkseal.tunnels.redirect.model import LET_THROUGH, Exemption, Mark, Ports, RedirectSpec
from linkseal.tunnels.redirect.reasons import reason_of
from linkseal.tunnels.world import World, stage_towards


def plan_redirect(
    world: World, owned: Mapping[str, Iterable[Prefix]], own: Iterable[Prefix] = ()
) -> RedirectSpec | None:
    """Return what should be; None: no program of ours.

    `owned` is what the tunnels carry for each peer, `own` for this node.
    """
    enforced = {name for name, peer in world.peers.items() if stage_towards(world, peer) is Stage.ENFORCE}
    if not world.redirect or not enforced or world.broken_glass:
        return None
    layout = world.layout
    dropped = {
        prefix: reason_of(world.peers[name], world.links.get(name))
        for name in sorted(enforced)
        for prefix in owned.get(name, ())
    }
    others = [prefix for name, prefixes in owned.items() if name not in enforced for prefix in prefixes]
    holes = {prefix: LET_THROUGH for prefix in (*others, *own) if prefix not in dropped and _inside(prefix, dropped)}
    return RedirectSpec(
        frozenset({world.underlay.interface}),
        {**dropped, **holes},
        frozenset((*world.me.addresses, *world.own_addresses)),
        Mark(layout.fwmark, layout.fwmark_mask),
        Ports(layout.port, layout.port + SLOT_PORTS - 1),
        frozenset(_exempt(world)),
    )


def _exempt(world: World) -> Iterator[Exemption]:
    return (Exemption(Prefix(one.cidr), NUMBERS[one.protocol], one.port or 0) for one in world.exemptions)


def _inside(prefix: Prefix, dropped: Mapping[Prefix, int]) -> bool:
    return any(wider in dropped for wider in _wider(prefix))


def _wider(prefix: Prefix) -> Iterator[Prefix]:
    network = ip_network(prefix)
    for length in range(network.prefixlen):
        yield Prefix(str(network.supernet(new_prefix=length)))
