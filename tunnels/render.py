"""Desired state and steps as the `ip`, `wg`, `nft` and `sysctl` lines that would do the same. Pure; keys stay hidden.

`linkseal plan` prints these and tests/golden/plan holds them. Lines come in the order of the steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from linkseal.tunnels import nftables
from linkseal.tunnels.addressing import PROBE_PEER
from linkseal.tunnels.diff import diff
from linkseal.tunnels.guard import render as guard
from linkseal.tunnels.guard.model import GuardTransaction
from linkseal.tunnels.model import (
    V6,
    AddAddress,
    AddInterface,
    Address,
    AddRule,
    Desired,
    Interface,
    Kind,
    LookAgain,
    NftTransaction,
    Observed,
    RemoveAddress,
    RemoveInterface,
    RemoveRoute,
    RemoveRule,
    Route,
    Rule,
    SetInterface,
    SetRoute,
    SetRpFilter,
    Step,
    family_of,
)
from linkseal.tunnels.redirect.model import AttachRedirect, DetachRedirect, ForgetRedirect, RedirectStep, SetRedirect
from linkseal.tunnels.redirect.render import render_redirect
from linkseal.wireguard import render as wireguard
from linkseal.wireguard.model import WireguardStep


def render(desired: Desired, observed: Observed) -> tuple[str, ...]:
    """Return the lines that would turn the host from what it is into what it should be."""
    return render_steps(diff(desired, observed))


def render_steps(steps: Iterable[Step]) -> tuple[str, ...]:
    """Return the lines of all steps, at least one a step."""
    return tuple(line for step in steps for line in _lines(step))


def _lines(step: Step) -> Iterable[str]:
    match step:
        case AddInterface() | SetInterface() | RemoveInterface():
            return _interface(step)
        case AddAddress() | RemoveAddress() | SetRoute() | RemoveRoute() | AddRule() | RemoveRule():
            return (_routing(step),)
        case LookAgain(rule):
            return (_routing(AddRule(rule)), f"{_routing(RemoveRule(rule))}  # connected IPv6 sockets look again")
        case NftTransaction() | GuardTransaction():
            return nftables.render(step) if isinstance(step, NftTransaction) else guard.render(step)
        case SetRpFilter(interface, value, was):
            return (f"{_sysctl(interface, 'rp_filter', value)}  # was {was}",)
        case _:
            return _drivers(step)


def _drivers(step: RedirectStep | WireguardStep) -> Iterable[str]:
    if isinstance(step, SetRedirect | ForgetRedirect | AttachRedirect | DetachRedirect):
        return render_redirect(step)
    return wireguard.render_steps((step,))


def _interface(step: AddInterface | SetInterface | RemoveInterface) -> Iterable[str]:
    match step:
        case AddInterface(interface):
            return _add_interface(interface)
        case SetInterface():
            return _set_interface(step)
        case RemoveInterface(name, _):
            return (f"ip link del {name}",)


def _add_interface(interface: Interface) -> Iterator[str]:
    name = interface.name
    if interface.kind is Kind.PROBE:
        yield f"ip link add {name} mtu {interface.mtu} type veth peer name {PROBE_PEER} mtu {interface.mtu}"
    else:
        yield f"ip link add {name} mtu {interface.mtu} type wireguard"
    yield _sysctl(name, "rp_filter", interface.rp_filter)
    if interface.accept_local:
        yield _sysctl(name, "accept_local", 1)
    if interface.kind is Kind.PROBE:
        yield f"ip link set {PROBE_PEER} up"
    yield f"ip link set {name} up"


def _set_interface(step: SetInterface) -> Iterator[str]:
    if step.mtu is not None:
        yield f"ip link set {step.name} mtu {step.mtu}"
    if step.rp_filter is not None:
        yield _sysctl(step.name, "rp_filter", step.rp_filter)
    if step.accept_local is not None:
        yield _sysctl(step.name, "accept_local", int(step.accept_local))
    if step.up:
        yield f"ip link set {step.name} up"


def _sysctl(interface: str, key: str, value: int) -> str:
    return f"sysctl -w net/ipv4/conf/{interface}/{key}={value}"  # slashes: an interface's name may hold a dot


def _address(address: Address) -> str:
    scope = " scope host" if address.scope == "host" else ""
    return f"{address.cidr} dev {address.interface}{scope}"


def _routing(step: AddAddress | RemoveAddress | SetRoute | RemoveRoute | AddRule | RemoveRule) -> str:
    match step:
        case AddAddress(address):
            return f"ip addr add {_address(address)}"
        case RemoveAddress(address):
            return f"ip addr del {_address(address)}"
        case SetRoute(route):
            return f"{_ip(family_of(route.prefix))} route replace {_route(route)}"
        case RemoveRoute(route):
            return f"{_ip(family_of(route.prefix))} route del {_route(route)}"
        case AddRule(rule):
            return f"{_ip(rule.family)} rule add {_rule(rule)}"
        case RemoveRule(rule):
            return f"{_ip(rule.family)} rule del {_rule(rule)}"


def _ip(family: int) -> str:
    return "ip -6" if family == V6 else "ip"


def _route(route: Route) -> str:
    if not route.interface:
        return f"unreachable {route.prefix} table {route.table}"
    source = f" src {route.source}" if route.source is not None else ""
    mtu = f" mtu {route.mtu}" if route.mtu is not None else ""
    return f"{route.prefix} dev {route.interface} table {route.table}{source}{mtu}"


def _rule(rule: Rule) -> str:
    mark = "" if rule.fwmark is None else f" fwmark {rule.fwmark[0]:#x}/{rule.fwmark[1]:#x}"
    ends = f" from {rule.source}" if rule.source else ""
    ends += f" to {rule.destination}" if rule.destination else ""
    ends += f" ipproto {rule.protocol}" if rule.protocol is not None else ""
    ends += f" sport {rule.source_port}" if rule.source_port is not None else ""
    ends += f" dport {rule.destination_port}" if rule.destination_port is not None else ""
    return f"pref {rule.priority}{' not' if rule.inverted else ''}{ends}{mark} lookup {rule.table}"
