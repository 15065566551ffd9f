"""What our programs on the NICs should drop, from the world. Pure.

Wanted for peers towards which the stage is `enforce`, for the protected networks if this node is in it, and for nobody
else. A prefix of another peer, or of this node, that lies inside of one that is dropped is let through by an entry of
its own: the longest prefix decides. So a protected network is one entry, whatever of it is known (`guard.remainder`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple

from linkseal.keys.values import Prefix
from linkseal.tunnels.guard.exemption import NUMBERS
from linkseal.tunnels.guard.remainder import drops_remainder
from linkseal.tunnels.model import V4, Stage
from linkseal.tunnels.policyspec import SLOT_PORTS
from linkseal.tunnels.redirect.model import LET_THROUGH, Exemption, Mark, Ports, RedirectSpec
from linkseal.tunnels.redirect.reasons import UNKNOWN, reason_of
from linkseal.tunnels.world import World, host_prefix, protected, stage_towards


def plan_redirect(
    world: World, owned: Mapping[str, Iterable[Prefix]], own: Iterable[Prefix] = ()
) -> RedirectSpec | None:
    """Return what should be; None: no program of ours.

    `owned` is what the tunnels carry for each peer, `own` for this node.
    """
    if not world.redirect or not enforces(world):
        return None
    layout = world.layout
    return RedirectSpec(
        frozenset((world.underlay.interface, *world.nics)),
        _verdicts(world, owned, own),
        frozenset((*world.me.addresses, *world.own_addresses)),
        Mark(layout.fwmark, layout.fwmark_mask),
        Ports(layout.port, layout.port + SLOT_PORTS - 1),
        frozenset(_exempt(world)),
        Ports(layout.probe_port, layout.probe_port + 1),
    )


def enforces(world: World) -> bool:
    """Whether this node drops anything: what a peer has, or protected networks whoever has their addresses."""
    if world.broken_glass:
        return False
    if world.layout.protected_cidrs and drops_remainder(world):
        return True
    return any(stage_towards(world, peer) is Stage.ENFORCE for peer in world.peers.values())


def _verdicts(world: World, owned: Mapping[str, Iterable[Prefix]], own: Iterable[Prefix]) -> dict[Prefix, int]:
    enforced = {name for name, peer in world.peers.items() if stage_towards(world, peer) is Stage.ENFORCE}
    dropped = {
        prefix: reason_of(world.peers[name], world.links.get(name))
        for name in sorted(enforced)
        for prefix in owned.get(name, ())
    }
    others = {prefix for name, prefixes in owned.items() if name not in enforced for prefix in prefixes}
    candidates = [prefix for prefix in (*sorted(others), *own) if prefix not in dropped]
    if world.layout.protected_cidrs and drops_remainder(world):
        candidates += [prefix for prefix in _no_peers(world) if prefix not in dropped]
        known = {*dropped, *candidates}
        candidates += _apart(_addresses(world), known)
        dropped |= dict.fromkeys(_apart(world.layout.protected_cidrs, known), UNKNOWN)
    return {**dropped, **dict.fromkeys(_inside(candidates, dropped), LET_THROUGH)}


def _no_peers(world: World) -> Iterator[Prefix]:
    """What belongs to nodes that are known, and to which no tunnel leads."""
    for _, node in sorted((*world.opted_out.items(), *world.behind.items())):
        yield from protected(world.layout.scope, node.addresses, node.prefixes)


def _addresses(world: World) -> Iterator[Prefix]:
    """Addresses of nodes: in scope overlay they are not judged."""
    others = (*world.peers.values(), *world.opted_out.values(), *world.behind.values())
    found = {address for node in others for address in node.addresses}
    found.update(world.me.addresses, world.underlay.addresses, world.own_addresses)
    yield from map(host_prefix, sorted(found))


def _apart(prefixes: Iterable[Prefix], known: AbstractSet[Prefix]) -> list[Prefix]:
    """Return those that are none of these and lie in none: what does is judged as they are."""
    unknown = [prefix for prefix in prefixes if prefix not in known]
    judged = set(_inside(unknown, known))
    return [prefix for prefix in unknown if prefix not in judged]


def _exempt(world: World) -> Iterator[Exemption]:
    """Every open exemption, and once more for what of its addresses belongs to this node."""
    here = [ip_network(one) for one in (*map(host_prefix, world.me.addresses), *world.me.prefixes)]
    for one in world.exemptions:
        protocol, port, there = NUMBERS[one.protocol], one.port or 0, ip_network(one.cidr)
        yield Exemption(Prefix(str(there)), protocol, port)
        for own in here:
            if own.version == there.version and own.overlaps(there):
                narrower = max(own, there, key=lambda network: network.prefixlen)
                yield Exemption(Prefix(str(narrower)), protocol, port, served=True)


def _inside(candidates: Iterable[Prefix], dropped: Iterable[Prefix]) -> Iterator[Prefix]:
    """Yield what lies in one that is dropped: asked by length, of which there are few."""
    wider = {_parsed(prefix) for prefix in dropped}
    lengths = {(one.version, one.length) for one in wider}
    for prefix in candidates:
        version, length, bits = _parsed(prefix)
        whole = 32 if version == V4 else 128
        if any(
            family == version and shorter < length and _Parsed(version, shorter, _cut(bits, whole - shorter)) in wider
            for family, shorter in lengths
        ):
            yield prefix


class _Parsed(NamedTuple):
    version: int
    length: int
    bits: int


@lru_cache(maxsize=1 << 16)
def _parsed(prefix: Prefix) -> _Parsed:
    """Remembered: the same thousands are asked for in every pass."""
    network = ip_network(prefix)
    return _Parsed(network.version, network.prefixlen, int(network.network_address))


def _cut(bits: int, zeros: int) -> int:
    return bits >> zeros << zeros
