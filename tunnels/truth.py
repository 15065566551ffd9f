"""untrue(world, desired, observed): peers to which a packet sent now would not go encrypted, and why. Pure.

A packet's way is walked through the kernel as it was found, for every protected prefix of a peer, without `diff`:

    rules (all, by priority) ─► our table ─► door ─► element of the map ─► slot ─► key, AllowedIPs, endpoint

This is law 9: `status` calls a link sealed only if nothing here objects. What cannot be judged counts as an objection.
The packet is an ordinary one: of any source, interface, protocol and user, without a mark (a program that may set marks
may send whatever it likes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final, NamedTuple

from linkseal.keys.values import Prefix, PublicKey
from linkseal.tunnels import codes
from linkseal.tunnels.addressing import DOOR, slot_name
from linkseal.tunnels.intervals import outermost, sharing
from linkseal.tunnels.model import Desired, Family, ForeignRule, Kind, Observed, Rule, family_of
from linkseal.tunnels.nftchains import door_chain
from linkseal.tunnels.plan import families_of, protected
from linkseal.tunnels.planrules import own_rules
from linkseal.tunnels.wording import listed
from linkseal.tunnels.world import Peer, World
from linkseal.wireguard.model import DeviceState

_SHOWN: Final = 3
"""Prefixes that a reason names."""


class Untrue(NamedTuple):
    """Why a peer's traffic would not go encrypted: a finding's code, and words."""

    code: str
    why: str


def untrue(world: World, desired: Desired, observed: Observed, guard: Untrue | None = None) -> dict[str, Untrue]:
    """Return peer → objection, for peers that have a link in use; who is not in it would get every packet encrypted.

    `guard`: what is wrong with the guard where one is wanted (it concerns every peer); None: nothing.
    """
    names = [name for name, links in world.links.items() if links.current is not None and name in world.peers]
    if not names:
        return {}
    general = guard or _of_host(world, desired, observed)
    if general is not None:
        return dict.fromkeys(names, general)
    walk = _walk(world, desired, observed)
    found = ((name, next(_of_peer(walk, world.peers[name]), None)) for name in names)
    return {name: wrong for name, wrong in found if wrong is not None}


# --- what concerns every peer --------------------------------------------------------------------------------------


def _of_host(world: World, desired: Desired, observed: Observed) -> Untrue | None:
    if world.door and not _serves(observed, DOOR, Kind.DOOR):
        return Untrue(codes.DATA_PATH, f"{DOOR} is missing or down")
    wanted = {} if desired.nft is None else desired.nft.chains
    there = {} if observed.nft is None else observed.nft.chains
    if world.door:
        wanted = {**wanted, ("netdev", "door"): door_chain()}
    wrong = sorted(name for family, name in wanted.keys() | there.keys() if _differs((family, name), wanted, there))
    if wrong:
        return Untrue(codes.DATA_PATH, f"chains of the nftables table linkseal are not as they should be: {wrong[0]}")
    layout = world.layout
    for family in families_of(world):
        for rule in own_rules(family, layout):
            if rule not in observed.rules:
                return Untrue(codes.DATA_PATH, f"the rule {rule.priority} (IPv{family}) is missing")
    return None


def _differs(
    key: tuple[str, str], wanted: Mapping[tuple[str, str], object], there: Mapping[tuple[str, str], object]
) -> bool:
    return wanted.get(key) != there.get(key)


def _serves(observed: Observed, name: str, kind: Kind) -> bool:
    state = observed.interfaces.get(name)
    return state is not None and state.up and state.kind is kind


# --- rules ---------------------------------------------------------------------------------------------------------


def tables_before(rules: Iterable[Rule], foreign: Iterable[ForeignRule], own: int) -> frozenset[int]:
    """Return the tables, but for our own, that an unmarked packet may be looked up in before or beside our rules."""
    ours = list(rules)
    last = max((rule.priority for rule in ours if rule.table == own), default=-1)
    takers: list[Rule | ForeignRule] = [*ours, *foreign]
    return frozenset(
        rule.table
        for rule in takers
        if rule.priority <= last and rule.table is not None and rule.table != own and _takes_unmarked(rule)
    )


def _takes_unmarked(rule: Rule | ForeignRule) -> bool:
    if isinstance(rule, ForeignRule) and rule.limited:
        return True  # it may be an inverted one
    if isinstance(rule, Rule) and rule.inverted:
        return True
    return rule.fwmark is None or not rule.fwmark[0] & rule.fwmark[1]


def _taken_by_rules(
    world: World, desired: Desired, observed: Observed, claims: Iterable[Prefix]
) -> dict[Prefix, ForeignRule | Rule]:
    """Prefixes of which another table, or no table at all, may get packets before ours is asked."""
    layout = world.layout
    by_table: dict[int, set[Prefix]] = {}
    for table, prefix in observed.foreign_routes:
        by_table.setdefault(table, set()).add(prefix)
    found: dict[Prefix, ForeignRule | Rule] = {}
    everything = frozenset(claims)
    # Wanted rules of ours before the door's are exemptions.
    rules: list[Rule | ForeignRule] = [*(observed.rules - desired.rules), *observed.foreign_rules]
    for rule in rules:
        if rule.priority > layout.rule_priority + 1 or rule.table == layout.table or not _takes_unmarked(rule):
            continue
        if rule.table is None:
            found.update((prefix, rule) for prefix in everything if family_of(prefix) == rule.family)
            continue
        least = rule.longer_than if isinstance(rule, ForeignRule) else -1
        routes = frozenset(
            prefix
            for prefix in by_table.get(rule.table, ())
            if family_of(prefix) == rule.family and int(prefix.rpartition("/")[2]) > least
        )
        found.update(dict.fromkeys(sharing(everything, routes), rule))
    return found


# --- the walk ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Walk:
    """The kernel as found, indexed for lookups."""

    world: World
    observed: Observed
    families: frozenset[Family]
    slots: Mapping[Prefix, str]
    by_rule: Mapping[Prefix, ForeignRule | Rule]
    by_route: frozenset[Prefix]
    """Protected prefixes of which a route in our table that is no peer's takes a part."""
    allowed: Mapping[str, Mapping[Prefix, PublicKey]]
    """Of each slot: who has a prefix among its AllowedIPs."""
    by_peer: Mapping[str, frozenset[Prefix]]
    """Of each slot: protected prefixes of which an AllowedIP that is no peer's takes a part."""


def _walk(world: World, desired: Desired, observed: Observed) -> _Walk:
    claims = frozenset(
        prefix
        for peer in world.peers.values()
        for prefix in protected(world.layout.scope, peer.addresses, peer.prefixes)
    )
    allowed = {
        name: {prefix: key for key, peer in device.peers.items() for prefix in peer.allowed_ips}
        for name, device in observed.devices.items()
    }
    return _Walk(
        world,
        observed,
        frozenset(families_of(world)),
        {} if observed.nft is None else observed.nft.slots,
        _taken_by_rules(world, desired, observed, claims),
        _parted(claims, _stray_routes(world, observed, claims)),
        allowed,
        {name: _parted(claims, _stray_allowed(desired, name, known, claims)) for name, known in allowed.items()},
    )


def _stray_routes(world: World, observed: Observed, claims: frozenset[Prefix]) -> frozenset[Prefix]:
    """Where routes of our table lead that are not for a peer's prefix as a whole, and not to the door."""
    table = world.layout.table
    strangers = {prefix for of, prefix in observed.foreign_routes if of == table}
    ours = {
        route.prefix
        for route in observed.routes.values()
        if route.table == table and route.prefix not in claims and not (world.door and route.interface == DOOR)
    }
    return frozenset(strangers | ours)


def _stray_allowed(
    desired: Desired, slot: str, known: Mapping[Prefix, PublicKey], claims: frozenset[Prefix]
) -> frozenset[Prefix]:
    """AllowedIPs of a slot that are neither protected prefixes nor, for the right peer, its probe addresses."""
    device = desired.devices.get(slot)
    wanted = {} if device is None else {p: key for key, peer in device.peers.items() for p in peer.allowed_ips}
    return frozenset(prefix for prefix, key in known.items() if prefix not in claims and wanted.get(prefix) != key)


def _parted(claims: frozenset[Prefix], strangers: frozenset[Prefix]) -> frozenset[Prefix]:
    """Claims in which a stranger lies, or that are one: the longest match is the stranger's there."""
    if not strangers:
        return frozenset()
    near = sharing(claims, strangers)
    return frozenset(claim for claim in near if any(_inside(stranger, claim) for stranger in strangers))


def _inside(inner: Prefix, outer: Prefix) -> bool:
    one, other = ip_network(inner, strict=False), ip_network(outer)
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]


def _of_peer(walk: _Walk, peer: Peer) -> Iterator[Untrue]:
    """Every objection to one peer's link in use."""
    world = walk.world
    current = world.links[peer.name].current
    everything = protected(world.layout.scope, peer.addresses, peer.prefixes)
    prefixes = [prefix for prefix in everything if family_of(prefix) in walk.families]
    if current is None:
        return
    own = next((key.public_key for key in world.me.generations if key.number == current[0]), None)
    remote = next((key.public_key for key in peer.generations if key.number == current[1]), None)
    slot = slot_name(*current)
    if own is None or remote is None:
        yield Untrue(codes.DATA_PATH, f"the link {current[0]}→{current[1]} is no more")
        return
    yield from _of_lookup(walk, prefixes, DOOR if world.door else slot)
    if world.door:
        wanted = [prefix for prefix in outermost(everything) if family_of(prefix) in walk.families]
        if missing := [prefix for prefix in wanted if walk.slots.get(prefix) != slot]:
            yield Untrue(codes.DATA_PATH, f"the door does not send {listed(missing, _SHOWN)} to {slot}")
    if not _serves(walk.observed, slot, Kind.SLOT):
        yield Untrue(codes.DATA_PATH, f"{slot} is missing or down")
    yield from _of_device(walk, slot, own, remote, prefixes)


def _of_lookup(walk: _Walk, prefixes: list[Prefix], way: str) -> Iterator[Untrue]:
    table = walk.world.layout.table
    for prefix in prefixes:
        if rule := walk.by_rule.get(prefix):
            where = "takes it" if rule.table is None else f"looks up table {rule.table}, which has a route for it"
            yield Untrue(codes.FOREIGN_RULE, f"{prefix}: the rule {rule.priority} comes before ours and {where}")
        if prefix in walk.by_route:
            yield Untrue(codes.ROUTING_COLLISION, f"table {table} has another's route for {prefix} or a part of it")
        route = walk.observed.routes.get((table, prefix))
        if route is None or route.interface != way:
            yield Untrue(codes.DATA_PATH, f"{prefix} is not routed to {way}")


def _of_device(walk: _Walk, slot: str, own: PublicKey, remote: PublicKey, prefixes: list[Prefix]) -> Iterator[Untrue]:
    device = walk.observed.devices.get(slot, DeviceState(slot))
    peer = device.peers.get(remote)
    if device.public_key != own or device.fwmark != walk.world.layout.fwmark:
        yield Untrue(codes.DATA_PATH, f"{slot} has another key or mark")
    if peer is None or peer.endpoint is None or not peer.last_handshake:
        yield Untrue(codes.DATA_PATH, f"{slot} lacks the peer, its endpoint or its session")
    allowed, parted = walk.allowed.get(slot, {}), walk.by_peer.get(slot, frozenset())
    if wrong := [prefix for prefix in prefixes if allowed.get(prefix) != remote or prefix in parted]:
        yield Untrue(codes.DATA_PATH, f"{slot} does not encrypt {listed(wrong, _SHOWN)} for this peer")
