"""diff(desired, observed) → Steps: what turns the host from what it is into what it should be. Pure.

The order is part of the value. What adds comes before what removes, and within each half what others stand on
comes first:

    the guard and its floors, interfaces, addresses, filters, devices and peers, programs on the NICs, map elements and
    chains, routes, rules, IPv6 caches
    rules, routes, map elements and chains, prefixes of peers, peers, addresses, interfaces, programs on the NICs, the
    guard                                                                                                    (removals)

So a peer's new link exists before its element of the map moves, the element before its route, the route before the
rule; and a prefix leaves a peer's AllowedIPs only when nothing points to it any more.
A diff of two equal states is empty, and nothing that is right is ever replaced (law 1, law 8).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import DOOR, PROBE, SLOTS
from linkseal.tunnels.guard.diff import diff_guard
from linkseal.tunnels.model import (
    V6,
    AddAddress,
    AddInterface,
    Address,
    AddRule,
    Desired,
    Interface,
    InterfaceState,
    LookAgain,
    Observed,
    RemoveAddress,
    RemoveInterface,
    RemoveRoute,
    RemoveRule,
    Rule,
    SetInterface,
    SetRoute,
    SetRpFilter,
    Step,
)
from linkseal.tunnels.nftables import diff_ruleset, joined
from linkseal.tunnels.redirect.diff import diff_redirect
from linkseal.wireguard.diff import diff_device
from linkseal.wireguard.model import DeviceState, RemovePeer, SetPeer, WireguardStep

RouteKey = tuple[int, Prefix]
"""Table and destination."""


def diff(desired: Desired, observed: Observed) -> tuple[Step, ...]:
    """Return ordered steps; none when nothing differs."""
    devices = list(_devices(desired, observed))
    early, late = diff_ruleset(desired.nft, observed.nft)
    close, open_ = diff_guard(desired.guard, observed.guard, observed.interfaces)
    changed = _changed_routes(desired, observed)
    floors, routes = _new_routes(desired, changed)
    rules = sorted(desired.rules - observed.rules, key=_rule_order)
    redirect = diff_redirect(desired.redirect, observed.redirect, observed.interfaces.keys())
    misfits = _misfits(desired, observed)
    between = (
        *routes,
        *(AddRule(rule) for rule in rules if not (floors and _is_floor(rule, floors))),
        *_look_again(desired, observed, changed),
        *(RemoveRule(rule) for rule in sorted(observed.rules - desired.rules, key=_rule_order, reverse=True)),
        *_old_routes(desired, observed, changed),
    )
    if not between:  # one run of nft for both
        early, late = joined(early, late)
    return (
        *(() if close is None else (close,)),
        *floors,
        *(AddRule(rule) for rule in rules if floors and _is_floor(rule, floors)),
        *_interfaces(desired, observed),
        *(AddAddress(address) for address in sorted(desired.addresses - observed.addresses) if address not in misfits),
        *_underlay_filters(desired, observed),
        *(step for step in devices if not _takes_away(step)),
        *redirect.early,
        *(() if early is None else (early,)),
        *between,
        *(() if late is None else (late,)),
        *(step for step in devices if _takes_away(step)),
        *_old_addresses(desired, observed),
        *(AddAddress(address) for address in sorted(misfits)),
        *_old_interfaces(desired, observed),
        *redirect.late,
        *(() if open_ is None else (open_,)),
    )


def _is_floor(rule: Rule, floors: Sequence[SetRoute]) -> bool:
    return rule.table == floors[0].route.table


def _rule_order(rule: Rule) -> tuple[object, ...]:
    """Ascending priority: the rule that keeps WireGuard's own packets out stands before the one that takes them in."""
    selectors = tuple(map(str, rule[4:]))
    return rule.priority, rule.family, rule.table, rule.fwmark or (0, 0), selectors


def _look_again(desired: Desired, observed: Observed, changed: Sequence[RouteKey]) -> Iterator[Step]:
    """IPv6 sockets that talk already must find a prefix's new way; a rule added just now has that effect by itself."""
    if any(":" in key[1] and key not in observed.routes for key in changed):
        last = max((rule for rule in desired.rules if rule.family == V6), key=_rule_order, default=None)
        if last is not None and last in observed.rules:
            yield LookAgain(last._replace(priority=last.priority + 1))


def _interfaces(desired: Desired, observed: Observed) -> Iterator[Step]:
    for name in sorted(desired.interfaces):
        want = desired.interfaces[name]
        have = observed.interfaces.get(name)
        if have is None or have.kind is None:
            if have is not None and have.replaceable:
                yield RemoveInterface(name, want.kind)
            yield AddInterface(want)  # where another's stands in its place this is refused, and nothing built on it
        else:
            step = _change(want, have)
            if step is not None:
                yield step


def _change(want: Interface, have: InterfaceState) -> SetInterface | None:
    step = SetInterface(
        want.name,
        want.kind,
        mtu=want.mtu if have.mtu != want.mtu else None,
        up=not have.up,
        rp_filter=want.rp_filter if have.rp_filter != want.rp_filter else None,
        accept_local=want.accept_local if have.accept_local != want.accept_local else None,
    )
    return None if step == SetInterface(want.name, want.kind) else step


def _misfits(desired: Desired, observed: Observed) -> frozenset[Address]:
    """Return wanted addresses that are there with another scope: the kernel takes no second one beside that.

    The other one goes first, and with it routes that name it as their source; the next pass puts them back.
    """
    there = {(address.interface, address.cidr) for address in observed.addresses - desired.addresses}
    return frozenset(address for address in desired.addresses if (address.interface, address.cidr) in there)


def _underlay_filters(desired: Desired, observed: Observed) -> Iterator[Step]:
    for name in sorted(desired.underlay_rp_filter):
        have = observed.interfaces.get(name)
        want = desired.underlay_rp_filter[name]
        if have is not None and have.rp_filter != want:
            yield SetRpFilter(name, want, have.rp_filter)


def _devices(desired: Desired, observed: Observed) -> Iterator[WireguardStep]:
    for name in sorted(desired.devices):
        state = observed.devices.get(name) if name in observed.interfaces else None  # else it is being made now
        yield from diff_device(desired.devices[name], DeviceState(name) if state is None else state)


def _takes_away(step: WireguardStep) -> bool:
    """Whether a peer goes, or loses prefixes: diff_device puts these in steps of their own."""
    if isinstance(step, SetPeer):
        return step.allowed_ips is not None and not step.add and not step.keep
    return isinstance(step, RemovePeer)


def _changed_routes(desired: Desired, observed: Observed) -> list[RouteKey]:
    """Return, in order, which routes are to be set. There are tens of thousands, and as a rule none: compared in C."""
    have = observed.routes
    if desired.routes == have:
        return []
    return sorted([key for key, route in desired.routes.items() if have.get(key) != route])


def _new_routes(desired: Desired, changed: Sequence[RouteKey]) -> tuple[list[SetRoute], list[SetRoute]]:
    """Return floors, which need no interface and come first, and the other routes."""
    steps = [SetRoute(desired.routes[key]) for key in changed]
    return [step for step in steps if not step.route.interface], [step for step in steps if step.route.interface]


def _old_routes(desired: Desired, observed: Observed, changed: Sequence[RouteKey]) -> Iterator[Step]:
    kept = len(desired.routes) - sum(key not in observed.routes for key in changed)
    if len(observed.routes) == kept:  # the usual case: no need to look for those that go
        return iter(())
    return (RemoveRoute(observed.routes[key]) for key in sorted(observed.routes.keys() - desired.routes.keys()))


def _old_addresses(desired: Desired, observed: Observed) -> Iterator[Step]:
    for address in sorted(observed.addresses - desired.addresses):
        have = observed.interfaces.get(address.interface)
        if address.interface in desired.interfaces and have is not None and have.kind is not None:
            yield RemoveAddress(address)  # the others go with their interface, or are another's


def _old_interfaces(desired: Desired, observed: Observed) -> Iterator[Step]:
    for name in (DOOR, *SLOTS, PROBE):  # the probe pair's second end goes with its first
        have = observed.interfaces.get(name)
        if name not in desired.interfaces and have is not None and have.kind is not None:
            yield RemoveInterface(name, have.kind)
