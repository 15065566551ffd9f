"""guard_of(world) → Guard: what the guard should be, from grants alone and never from the state of tunnels. Pure.

Every prefix of every other node that takes part is in one of two sets a direction: `drop` if the traffic between the
two is in stage enforce, else `count`, as is what belongs to nodes that have opted out. What of the protected networks
belongs to no node known (`remainder`) goes by the stage of this node alone. Both have the same chains around them, so a
change of stage moves elements.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache
from sys import intern
from typing import Final

from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import SLOTS
from linkseal.tunnels.guard import chains
from linkseal.tunnels.guard.exemption import Exemption
from linkseal.tunnels.guard.model import Element, Family, Guard, GuardSet, Place
from linkseal.tunnels.guard.remainder import drops_remainder, remainder
from linkseal.tunnels.intervals import outermost
from linkseal.tunnels.model import Stage, family_of
from linkseal.tunnels.world import Peer, World, host_prefix, protected, stage_towards

DIRECTIONS: Final = ("out", "in")
VERDICTS: Final = ("drop", "count")
KEYS: Final = {4: "ipv4_addr", 6: "ipv6_addr"}
FLOWS: Final = 4096
"""Flows a dynamic set remembers; further ones are dropped or counted like any, and not listed."""
FLOW_SECONDS: Final = 600


def guard_of(world: World) -> Guard | None:
    """Return the guard; None in stage off."""
    if world.layout.stage is Stage.OFF:
        return None
    numbers = numbers_of(world)
    nics = tuple(dict.fromkeys((world.underlay.interface, *world.nics))) if world.door else ()
    families: tuple[Family, ...] = ("netdev", "inet") if nics else ("inet",)
    wanted = {chain.place: chain for chain in chains.chains(numbers, nics)}
    sets = {
        one.place: one for family in families for one in sets_of(family, counts=family == "netdev" or numbers.counts)
    }
    counters = frozenset(place for family in families for place in chains.counters(numbers, family))
    return Guard(world.layout.guard_table, wanted, sets, counters, _elements_of(world, sets))


def numbers_of(world: World) -> chains.Numbers:
    """Return what the rules depend on."""
    layout = world.layout
    return chains.Numbers(
        layout.fwmark & layout.fwmark_mask,
        layout.fwmark_mask,
        (layout.port, layout.port + len(SLOTS) - 1),
        layout.probe_port,
        layout.pass_through,
        world.exemptions,
        tuple(sorted((*map(host_prefix, world.me.addresses), *world.me.prefixes))),
        counts=not world.door,
    )


def serves(exemption: Exemption, world: World) -> bool:
    """Whether an exempt service has an address of this node."""
    return chains.is_served(exemption, numbers_of(world).own)


def is_closed(world: World, peer: Peer) -> bool:
    """Whether plaintext to and from a peer is dropped here."""
    return not world.broken_glass and stage_towards(world, peer) is Stage.ENFORCE


def sets_of(family: Family, *, counts: bool) -> Iterator[GuardSet]:
    """Every set of a table; `counts`: those of what is only counted too."""
    for version, key in KEYS.items():
        yield GuardSet(family, f"own{version}", (key,))
        for direction in DIRECTIONS:
            for verdict in VERDICTS[: 2 if counts else 1]:
                yield GuardSet(family, f"{verdict}_{direction}{version}", (key,), interval=True, counted=True)
            flow = (key, "inet_proto", "inet_service")
            yield GuardSet(family, f"flow_{direction}{version}", flow, counted=True, dynamic=True)
            yield GuardSet(family, f"plain_{direction}{version}", flow[:2], counted=True, dynamic=True)


def _elements_of(world: World, sets: Collection[Place]) -> frozenset[Element]:
    verdicts = judged(world)
    own = frozenset({*world.me.addresses, *world.underlay.addresses})
    return _elements(verdicts["drop"], verdicts["count"], own, frozenset(sets))


def judged(world: World) -> dict[str, tuple[Prefix, ...]]:
    """Verdict → the prefixes and ranges it holds for; none lies in another of the same verdict."""
    found: dict[str, list[Prefix]] = {"drop": [], "count": []}
    for name in sorted(world.peers):  # in their order `outermost` knows them again
        peer = world.peers[name]
        verdict = "drop" if is_closed(world, peer) else "count"
        found[verdict] += protected(world.layout.scope, peer.addresses, peer.prefixes)
    for name in sorted(world.opted_out):
        peer = world.opted_out[name]
        found["count"] += protected(world.layout.scope, peer.addresses, peer.prefixes)
    verdicts = {verdict: outermost(tuple(dict.fromkeys(prefixes))) for verdict, prefixes in found.items()}
    verdicts["drop" if drops_remainder(world) else "count"] += remainder(world)
    return verdicts


@lru_cache(maxsize=2)
def _elements(
    drop: tuple[Prefix, ...], count: tuple[Prefix, ...], own: frozenset[str], sets: frozenset[Place]
) -> frozenset[Element]:
    """Every element of these sets. Remembered: for 5,000 nodes there are 40,000, and mostly the same as before."""
    families = sorted({family for family, _ in sets})
    wanted = [
        Element(family, intern(f"{verdict}_{direction}{family_of(prefix)}"), prefix)
        for verdict, prefixes in (("drop", drop), ("count", count))
        for prefix in prefixes
        for family in families
        for direction in DIRECTIONS
    ]
    wanted += [Element(family, f"own{family_of(one)}", host_prefix(one)) for one in own for family in families]
    return frozenset(element for element in wanted if (element.family, element.set) in sets)
