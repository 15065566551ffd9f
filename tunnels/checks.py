"""Checks of a host: what was found out about it (`Facts`) → what is fine, what is not, and what to do. No I/O.

    gather() in host/preflight.py ──► Facts ──► checks(facts, policy) ──► Result …

A result that is not fine has a code of the catalogue; its severity and advice are the catalogue's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Final, Literal, NamedTuple

from linkseal.tunnels import codes
from linkseal.tunnels.addressing import OURS, SLOTS
from linkseal.tunnels.catalogue import Severity
from linkseal.tunnels.cni import of_cni, pod_mtu
from linkseal.tunnels.findings import CATALOGUE
from linkseal.tunnels.model import Family, Scope
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.policyspec import SLOT_PORTS
from linkseal.tunnels.world import OVERHEAD

LEAST_FREE: Final = 50 * 1024 * 1024
"""Bytes the state directory's disk should have: last known good of 5,000 nodes is under 40 MiB, written aside first."""

CLOCK_TOLERANCE: Final = 60.0
"""Seconds the clock may be behind the newest file of the state directory."""

LOCAL_TABLE: Final = 255
"""RT_TABLE_LOCAL of linux/rtnetlink.h."""

Status = Literal["ok", "info", "warning", "error", "skipped"]


class Interface(NamedTuple):
    """An interface of the host; `rp_filter` its own value."""

    name: str
    mtu: int
    rp_filter: int = 0


class PolicyRule(NamedTuple):
    """A policy routing rule; `ours` if it carries our routing protocol number. `fwmark` is (value, mask)."""

    family: Family
    priority: int
    table: int
    fwmark: tuple[int, int] | None = None
    ours: bool = False
    limited: bool = False
    """It has a selector beside the mark (source, interface, port, prefix length): it may take nothing of ours."""


class RouteFact(NamedTuple):
    """A route: where to, in which table, by which interface."""

    prefix: str
    table: int
    interface: str


@dataclass(frozen=True, slots=True)
class StateFacts:
    """The state directory. `problems` are permissions, each a sentence."""

    path: str
    exists: bool = False
    problems: tuple[str, ...] = ()
    free: int | None = None
    newest: float | None = None
    """Unix seconds of its newest file."""


@dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """What the directory says of this node. `error` None: it can be read."""

    error: str | None = None
    certificate: bool = False
    grant: bool = False
    announced: bool = False
    ipv6: bool = False
    """IPv6 addresses or prefixes are granted to some node."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about a host. Where something could not be found out, `unknown` says why, by topic."""

    now: float
    net_admin: bool
    kernel_wireguard: str | None = None
    """Why the kernel makes no WireGuard device; None: it does."""
    wireguard_go: str | None = None
    """Path of wireguard-go."""
    nft: str | None = None
    """Version; None: not installed."""
    door: bool = False
    ports: frozenset[int] = frozenset()
    """UDP ports that programs have bound, our own slots' left out."""
    ipv6: bool = True
    forwarding: Mapping[Family, bool] = field(default_factory=dict)
    rp_filter_all: int = 0
    interfaces: tuple[Interface, ...] = ()
    underlay: str | None = None
    rules: tuple[PolicyRule, ...] = ()
    routes: tuple[RouteFact, ...] = ()
    """Routes of all tables and addresses of all interfaces (as /32 and /128, table local)."""
    managers: tuple[str, ...] = ()
    """Network managers that would touch what is ours, each with what is missing in its configuration."""
    state: StateFacts | None = None
    directory: DirectoryFacts | None = None
    agent: str | None = None
    """Why no agent answers; None: one does."""
    unknown: Mapping[str, str] = field(default_factory=dict)


class Result(NamedTuple):
    """One check. `code` and `advice` only where it is not fine."""

    category: str
    name: str
    status: Status
    seen: str
    code: str | None = None
    advice: str | None = None


Check = Callable[[Facts, Policy], Iterator[Result]]


def checks(facts: Facts, policy: Policy, *, pre: bool) -> list[Result]:
    """Return every check's result in the order they are shown; `pre` leaves out what needs an agent."""
    chosen = PREREQUISITES if pre else (*PREREQUISITES, *HEALTH)
    return [result for check in chosen for result in check(facts, policy)]


def worst(results: Iterable[Result]) -> Severity | None:
    """Return the worst severity among the results, None if all is fine."""
    found = {result.status for result in results}
    levels: tuple[Severity, ...] = ("error", "warning", "info")
    return next((severity for severity in levels if severity in found), None)


def _ok(category: str, name: str, seen: str) -> Result:
    return Result(category, name, "ok", seen)


def _bad(category: str, name: str, code: str, seen: str) -> Result:
    entry = CATALOGUE[code]
    return Result(category, name, entry.severity, seen, code, entry.fix)


def _unknown(facts: Facts, topic: str, category: str, name: str) -> Iterator[Result]:
    if topic in facts.unknown:
        yield Result(category, name, "skipped", f"not known: {facts.unknown[topic]}")


def _privileges(facts: Facts, _: Policy) -> Iterator[Result]:
    if facts.net_admin:
        yield _ok("privileges", "CAP_NET_ADMIN", "this process may change the network")
    else:
        yield _bad("privileges", "CAP_NET_ADMIN", codes.NOT_PRIVILEGED, "this process may not change the network")


def _wireguard(facts: Facts, _: Policy) -> Iterator[Result]:
    if facts.kernel_wireguard is None:
        yield _ok("kernel", "WireGuard", "the kernel made a device")
    elif not facts.net_admin:
        yield Result("kernel", "WireGuard", "skipped", "not known: making a device needs CAP_NET_ADMIN")
    elif facts.wireguard_go is not None:
        yield _ok("kernel", "WireGuard", f"not in the kernel, but {facts.wireguard_go} is there (slower)")
    else:
        yield _bad("kernel", "WireGuard", codes.NO_WIREGUARD, f"{facts.kernel_wireguard}; wireguard-go was not found")


def _nftables(facts: Facts, _: Policy) -> Iterator[Result]:
    if facts.nft is None:
        yield _bad("kernel", "nftables", codes.NO_NFT, "nft was not found")
        return
    yield _ok("kernel", "nftables", f"nft {facts.nft}")
    if facts.door:
        yield _ok("kernel", "door", "the kernel accepts egress chains with fwd")
    elif not facts.net_admin:
        yield Result("kernel", "door", "skipped", "not known: trying it needs CAP_NET_ADMIN")
    else:
        yield _bad("kernel", "door", codes.NO_DOOR, "the kernel refuses egress chains with fwd")


def _ports(facts: Facts, policy: Policy) -> Iterator[Result]:
    first = policy.wireguard.port
    wanted = [*range(first, first + SLOT_PORTS), policy.probe.port]
    if taken := sorted(port for port in wanted if port in facts.ports):
        yield _bad("network", "UDP ports", codes.PORT_IN_USE, f"in use: {', '.join(map(str, taken))}")
    else:
        yield _ok("network", "UDP ports", f"{first}-{first + SLOT_PORTS - 1} and {policy.probe.port} are free or ours")


def _families(facts: Facts, policy: Policy) -> Iterator[Result]:
    needed = facts.directory is not None and facts.directory.ipv6
    if facts.ipv6:
        yield _ok("network", "IPv6", "enabled")
    elif needed:
        yield _bad("network", "IPv6", codes.NO_IPV6, "disabled, and IPv6 prefixes are granted")
    else:
        yield _ok("network", "IPv6", "disabled, and nothing granted needs it")
    if policy.scope is Scope.OVERLAY:
        families: tuple[Family, ...] = (4, 6) if facts.ipv6 and needed else (4,)
        off = [f"IPv{family}" for family in families if not facts.forwarding.get(family, False)]
        if off:
            yield _bad("network", "forwarding", codes.NO_FORWARDING, f"off for {' and '.join(off)}")
        else:
            yield _ok("network", "forwarding", "on")


def _reverse_path(facts: Facts, policy: Policy) -> Iterator[Result]:
    nic = next((one for one in facts.interfaces if one.name == facts.underlay), None)
    if nic is None:
        yield Result("network", "rp_filter", "skipped", "not known which interface carries the tunnels")
    elif policy.scope is Scope.TRANSPARENT and max(nic.rp_filter, facts.rp_filter_all) == 1:
        seen = f"strict on {nic.name}: the agent will loosen it"
        yield _bad("network", "rp_filter", codes.RP_FILTER_LOOSENED, seen)
    else:
        yield _ok("network", "rp_filter", f"nothing to change on {nic.name}")


def _mtu(facts: Facts, policy: Policy) -> Iterator[Result]:
    nic = next((one for one in facts.interfaces if one.name == facts.underlay), None)
    if nic is None and policy.wireguard.mtu is None:
        yield Result("network", "MTU", "skipped", "not known which interface carries the tunnels")
        return
    room = policy.wireguard.mtu or (nic.mtu - OVERHEAD[4] if nic is not None else 0)
    least = pod_mtu([one.name for one in facts.interfaces], room, policy.scope, 4)
    large = [one for one in facts.interfaces if of_cni(one.name) and one.mtu > least]
    if large:
        names = ", ".join(f"{one.name} {one.mtu}" for one in large[:5]) + (", …" if len(large) > 5 else "")  # noqa: PLR2004
        wrapped = f", {least} beside the CNI's encapsulation" if least < room else ""
        yield _bad("network", "MTU", codes.CNI_MTU, f"tunnels carry {room} bytes{wrapped}; larger: {names}")
    else:
        yield _ok("network", "MTU", f"tunnels carry {room} bytes; no CNI interface is larger")


def _rules(facts: Facts, policy: Policy) -> Iterator[Result]:
    yield from _unknown(facts, "rules", "routing", "rules")
    routing = policy.routing
    tables = (routing.table, routing.table + 1)  # ours and that of the floors
    foreign = [rule for rule in facts.rules if not rule.ours and rule.table != LOCAL_TABLE]
    taken = [
        *(
            f"rule {rule.priority} is another's"
            for rule in foreign
            if rule.priority - routing.rule_priority in (0, 1, 2)
        ),
        *(f"rule {rule.priority} looks up table {rule.table}" for rule in foreign if rule.table in tables),
        *(
            f"rule {rule.priority} is for our mark {routing.fwmark:#x}"
            for rule in foreign
            if rule.fwmark is not None and rule.fwmark[1] and routing.fwmark & rule.fwmark[1] == rule.fwmark[0]
        ),
        *sorted(
            {
                f"table {route.table} has a route by {route.interface}"
                for route in facts.routes
                if route.table in tables and route.interface not in OURS
            }
        ),
    ]
    if taken:
        yield _bad("routing", "table, rules, mark", codes.ROUTING_COLLISION, "; ".join(dict.fromkeys(taken)))
    elif "rules" not in facts.unknown:
        yield _ok(
            "routing", "table, rules, mark", f"table {routing.table} and priority {routing.rule_priority} are free"
        )
    earlier = [rule for rule in foreign if rule.priority < routing.rule_priority]
    earlier = [rule for rule in earlier if rule.fwmark is None and not rule.limited]
    if earlier:
        listed = ", ".join(f"{rule.priority} (table {rule.table})" for rule in earlier[:5])
        yield _bad("routing", "order of rules", codes.FOREIGN_RULE, f"before ours: {listed}")
    elif "rules" not in facts.unknown:
        yield _ok("routing", "order of rules", "ours come first")


def _managers(facts: Facts, _: Policy) -> Iterator[Result]:
    if facts.managers:
        yield _bad("routing", "network managers", codes.FOREIGN_MANAGER, "; ".join(facts.managers))
    else:
        yield _ok("routing", "network managers", "none that would touch our interfaces")


def _probe_range(facts: Facts, policy: Policy) -> Iterator[Result]:
    ranges = (policy.probe.range.v4, policy.probe.range.v6)
    used = []
    for route in facts.routes:
        network = ip_network(route.prefix, strict=False)
        inside = any(network.version == one.version and network.overlaps(one) for one in ranges)
        if network.prefixlen and inside and route.interface not in OURS:
            used.append(f"{route.prefix} on {route.interface}")
    if used:
        yield _bad("routing", "probe prefixes", codes.PROBE_RANGE_USED, ", ".join(dict.fromkeys(used[:5])))
    else:
        yield _ok("routing", "probe prefixes", f"{ranges[0]} and {ranges[1]} are not used here")


def _state(facts: Facts, _: Policy) -> Iterator[Result]:
    state = facts.state
    if state is None:
        return
    if not state.exists:
        yield _ok("host", "state directory", f"{state.path} is not there yet; the agent makes it")
    elif state.problems:
        yield _bad("host", "state directory", codes.STATE_PERMISSIONS, "; ".join(state.problems))
    else:
        yield _ok("host", "state directory", f"{state.path} is private")
    if state.free is not None:
        mib = f"{state.free // 2**20} MiB free"
        if state.free < LEAST_FREE:
            yield _bad("host", "disk", codes.STATE_NOT_SAVED, f"{mib} for {state.path}")
        else:
            yield _ok("host", "disk", mib)
    if state.newest is not None and state.newest - facts.now > CLOCK_TOLERANCE:
        yield _bad("host", "clock", codes.CLOCK_BACK, f"{state.newest - facts.now:.0f} s behind the newest file there")
    else:
        yield _ok("host", "clock", "not behind what is on the disk")


def _directory(facts: Facts, _: Policy) -> Iterator[Result]:
    found = facts.directory
    if found is None:
        return
    if found.error is not None:
        yield _bad("directory", "readable", codes.DIRECTORY_UNREADABLE, found.error)
        return
    yield _ok("directory", "readable", "yes")
    for name, there, code, missing in (
        ("certificate", found.certificate, codes.NO_CERTIFICATE, "none was issued to this node"),
        ("grant", found.grant, codes.OWN_GRANT_MISSING, "none is there for this node"),
        ("announcement", found.announced, codes.NOT_PUBLISHED, "this node has announced nothing"),
    ):
        yield _ok("directory", name, "there") if there else _bad("directory", name, code, missing)


def _agent(facts: Facts, _: Policy) -> Iterator[Result]:
    if facts.agent is None:
        yield _ok("agent", "running", "it answers")
    else:
        yield _bad("agent", "running", codes.AGENT_SILENT, facts.agent)
    if slots := [one.name for one in facts.interfaces if one.name in SLOTS]:
        yield _ok("agent", "slots", ", ".join(slots))


PREREQUISITES: Final[tuple[Check, ...]] = (
    _privileges,
    _wireguard,
    _nftables,
    _ports,
    _families,
    _reverse_path,
    _mtu,
    _rules,
    _managers,
    _probe_range,
    _state,
)
HEALTH: Final[tuple[Check, ...]] = (_directory, _agent)
