"""Removes everything of ours from this host, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from linkseal.keys.errors import HostError
from linkseal.keys.secrets import PrivateKey
from linkseal.keys.values import PublicKey
from linkseal.tunnels.addressing import DOOR, OURS, PROBE, PROBE_PEER
from linkseal.tunnels.guard.model import GuardTransaction
from linkseal.tunnels.host.host import Host
from linkseal.tunnels.host.links import KINDS_WE_MAKE
from linkseal.tunnels.model import (
    Kind,
    NftTransaction,
    Observed,
    RemoveInterface,
    RemoveRoute,
    RemoveRule,
    SetRpFilter,
    Step,
)
from linkseal.tunnels.redirect.model import DetachRedirect


def cleanup(host: Host, recorded_rp_filter: Mapping[str, int], *, guard: bool = True) -> list[str]:
    """Remove our rules, routes, nft tables and interfaces, and give foreign interfaces back their rp_filter.

    Without `guard` its tables and the programs on NICs stay: they go on dropping plaintext.

    `recorded_rp_filter` is what each had before we loosened it. Returns what was removed, a line each; what could not
    be is a line that begins with `failed:`. HostError if the host cannot be read.
    """
    observed = host.observe()
    kernel_kinds = host.links.kernel_kinds()
    planned = list(_removals(observed, kernel_kinds, recorded_rp_filter))
    if not guard:
        planned = [(step, text) for step, text in planned if not isinstance(step, GuardTransaction | DetachRedirect)]
    lines = [f"left alone: {name} ({kind or 'physical'}), not ours" for name, kind in _foreign(kernel_kinds)]
    failures = {id(step): error for step, error in host.apply([step for step, _ in planned], _no_secrets)}
    for step, text in planned:
        error = failures.get(id(step))
        lines.append(text if error is None else f"failed: {text}: {error}")
    return lines


def _removals(
    observed: Observed, kernel_kinds: Mapping[str, str], rp_filter: Mapping[str, int]
) -> Iterator[tuple[Step, str]]:
    """Yield steps, rules first: from then on no packet is routed to what goes next."""
    for rule in sorted(observed.rules, key=repr):
        yield RemoveRule(rule), f"rule {rule.priority} to table {rule.table} (IPv{rule.family})"
    for route in sorted(observed.routes.values(), key=repr):
        by = f"dev {route.interface}" if route.interface else "unreachable"
        yield RemoveRoute(route), f"route {route.prefix} {by} table {route.table}"
    if observed.nft is not None:
        yield NftTransaction(drop_tables=True), "nft tables netdev linkseal and inet linkseal"
    if observed.guard is not None and not observed.guard.foreign:
        table = observed.guard.table
        yield GuardTransaction(table, drop_tables=True), f"the guard: nft tables netdev {table} and inet {table}"
    for name in OURS:
        # The pair goes with its first end, unless that is another's or renamed.
        if name == PROBE_PEER and kernel_kinds.get(PROBE) == "veth":
            continue
        if kernel_kinds.get(name) in KINDS_WE_MAKE:
            yield RemoveInterface(name, _kind(name)), f"interface {name}"
    state = observed.redirect
    for hook in () if state is None else sorted(state.standing | state.strays | state.behind):
        yield DetachRedirect(hook), f"program on {hook.device} ({hook.way})"
    for name, value in sorted(rp_filter.items()):
        have = observed.interfaces.get(name)
        if have is not None and have.rp_filter != value:
            yield SetRpFilter(name, value, have.rp_filter), f"rp_filter of {name} back to {value}"


def _foreign(kernel_kinds: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((name, kernel_kinds[name]) for name in OURS if kernel_kinds.get(name, "tun") not in KINDS_WE_MAKE)


def _kind(name: str) -> Kind:
    if name == DOOR:
        return Kind.DOOR
    return Kind.PROBE if name in (PROBE, PROBE_PEER) else Kind.SLOT


def _no_secrets(_: PublicKey) -> PrivateKey:
    raise HostError("cleanup configures no device")
