"""Addresses of all interfaces, and the policy rules that are ours; both by pyroute2."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from errno import EADDRNOTAVAIL, EEXIST, ENODEV, ENOENT
from typing import Any, Literal

from linkseal.keys.errors import HostError
from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import OURS
from linkseal.tunnels.host.links import index_of, translated
from linkseal.tunnels.host.routes import PROTOCOL
from linkseal.tunnels.model import V4, V6, Address, Family, ForeignRule, Rule, family_of

_SCOPES: dict[str, int] = {"global": 0, "host": 254}
_SCOPE_HOST, _SCOPE_LINK = 254, 253
_ALL_BITS = 0xFFFFFFFF
_LOOK_UP, _INVERTED = 1, 0x2
"""FR_ACT_TO_TBL and FIB_RULE_INVERT of <linux/fib_rules.h>."""
_SELECTORS = (
    "FRA_IIFNAME",
    "FRA_OIFNAME",
    "FRA_UID_RANGE",
    "FRA_TUN_ID",
    "FRA_FLOW",
    "FRA_SUPPRESS_IFGROUP",
)
_NO_DAD = 0x02
"""IFA_F_NODAD: without it an IPv6 address is tentative for a moment, and a route from it refused."""


class Addresses:
    """Addresses and rules of the calling thread's network namespace. `writes` counts changes.

    A rule is ours if it has our protocol number: the kernel deletes the first rule that has what was named, so
    without it another's with more selectors could go instead.
    """

    def __init__(self, route: Any) -> None:
        self.writes = 0
        self._route = route

    def read(self, names: Mapping[int, str]) -> tuple[frozenset[Address], dict[str, str]]:
        """Return the addresses on our interfaces, and address → interface of the whole host. HostError."""
        ours: set[Address] = set()
        everywhere: dict[str, str] = {}
        for one in translated("read the addresses", self._route.get_addr):
            address = one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS")
            name = names.get(one["index"])
            if address is None or name is None:
                continue
            if name not in OURS or address not in everywhere:  # `transparent`: the NIC's address is on the door too
                everywhere[address] = name
            made_by_kernel = one["family"] == socket.AF_INET6 and one["scope"] == _SCOPE_LINK
            if name in OURS and not made_by_kernel:
                scope: Literal["global", "host"] = "host" if one["scope"] == _SCOPE_HOST else "global"
                ours.add(Address(name, f"{address}/{one['prefixlen']}", scope))
        return frozenset(ours), everywhere

    def add(self, address: Address) -> None:
        """Add an address; one that is there is fine. HostError."""
        fields = {**self._fields(address), "scope": _SCOPES[address.scope]}
        if family_of(address.cidr) == V6:
            fields["flags"] = _NO_DAD
        self._write(f"add {address.cidr} to {address.interface}", (EEXIST,), self._route.addr, "add", **fields)

    def remove(self, address: Address) -> None:
        """Remove an address; one that is absent is fine. HostError."""
        what = f"remove {address.cidr} from {address.interface}"
        try:
            fields = self._fields(address)
        except HostError:
            return  # went with its interface
        self._write(what, (EADDRNOTAVAIL, ENODEV), self._route.addr, "del", **fields)

    def _fields(self, address: Address) -> dict[str, Any]:
        text, _, length = address.cidr.partition("/")
        return {"index": index_of(address.interface), "address": text, "prefixlen": int(length)}

    def read_rules(self) -> tuple[frozenset[Rule], frozenset[ForeignRule]]:
        """Return our rules and all others, of both families. HostError."""
        found = list(self._rules())
        ours = frozenset(rule for rule in found if isinstance(rule, Rule))
        return ours, frozenset(rule for rule in found if isinstance(rule, ForeignRule))

    def _rules(self) -> Iterator[Rule | ForeignRule]:
        families: tuple[tuple[Family, int], ...] = ((V4, socket.AF_INET), (V6, socket.AF_INET6))
        for family, number in families:
            for one in translated("read the rules", self._route.get_rules, family=number):
                yield _rule(family, one)

    def add_rule(self, rule: Rule) -> None:
        """Add a rule. HostError."""
        self._write(f"add the rule {rule.priority}", (EEXIST,), self._route.rule, "add", **_rule_fields(rule))

    def remove_rule(self, rule: Rule) -> None:
        """Remove a rule; one that is absent is fine. HostError."""
        self._write(f"remove the rule {rule.priority}", (ENOENT,), self._route.rule, "del", **_rule_fields(rule))

    def _write(self, what: str, harmless: Collection[int], call: Callable[..., Any], verb: str, **fields: Any) -> None:
        self.writes += 1
        try:
            translated(what, call, verb, **fields)
        except HostError as error:
            if error.errno not in harmless:
                raise


def _rule(family: Family, one: Any) -> Rule | ForeignRule:
    """One with our protocol number that has more than a rule of ours can have is another's."""
    priority, fwmark = one.get_attr("FRA_PRIORITY") or 0, _fwmark(one)
    looks_up = one["action"] == _LOOK_UP and one.get_attr("FRA_L3MDEV") is None
    table = one.get_attr("FRA_TABLE") or one["table"] if looks_up else None
    suppressed = one.get_attr("FRA_SUPPRESS_PREFIXLEN")
    longer_than = -1 if suppressed in (None, _ALL_BITS) else suppressed
    inverted = bool(one["flags"] & _INVERTED)
    beyond = bool(one["tos"] or longer_than >= 0)
    beyond = (
        beyond or any(one.get_attr(name) is not None for name in _SELECTORS) or not all(map(_one_port, _ports(one)))
    )
    if one.get_attr("FRA_PROTOCOL") == PROTOCOL and table is not None and not beyond:
        return Rule(
            family,
            priority,
            table,
            fwmark,
            _end(one, "FRA_DST", "dst_len"),
            _end(one, "FRA_SRC", "src_len"),
            one.get_attr("FRA_IP_PROTO"),
            _port(one, "FRA_DPORT_RANGE"),
            _port(one, "FRA_SPORT_RANGE"),
            inverted,
        )
    chosen = one["src_len"] or one["dst_len"] or one.get_attr("FRA_IP_PROTO") or any(_ports(one))
    limited = beyond or inverted or bool(chosen)
    return ForeignRule(family, priority, table, fwmark, limited, longer_than)


def _ports(rule: Any) -> tuple[Any, Any]:
    return rule.get_attr("FRA_DPORT_RANGE"), rule.get_attr("FRA_SPORT_RANGE")


def _one_port(ports: Any) -> bool:
    first, _, last = str(ports).partition(":")  # pyroute2 has `first:last`
    return ports is None or last in ("", first)


def _fwmark(rule: Any) -> tuple[int, int] | None:
    mark, mask = rule.get_attr("FRA_FWMARK"), rule.get_attr("FRA_FWMASK")
    return None if mark is None and mask is None else (mark or 0, _ALL_BITS if mask is None else mask)


def _end(rule: Any, name: str, length: str) -> Prefix | None:
    address = rule.get_attr(name)
    return None if address is None else Prefix(f"{address}/{rule[length]}")


def _port(rule: Any, name: str) -> int | None:
    ports = rule.get_attr(name)
    return None if ports is None else int(str(ports).partition(":")[0])


def _rule_fields(rule: Rule) -> dict[str, Any]:
    family = socket.AF_INET6 if rule.family == V6 else socket.AF_INET
    fields: dict[str, Any] = {"family": family, "priority": rule.priority, "table": rule.table, "protocol": PROTOCOL}
    if rule.fwmark is not None:
        fields["fwmark"], fields["fwmask"] = rule.fwmark
    if rule.inverted:
        fields["flags"] = _INVERTED
    for name, prefix in (("dst", rule.destination), ("src", rule.source)):
        if prefix is not None:
            address, _, length = prefix.partition("/")
            fields[name], fields[f"{name}_len"] = address, int(length)
    if rule.protocol is not None:
        fields["ip_proto"] = rule.protocol
    for name, port in (("dport_range", rule.destination_port), ("sport_range", rule.source_port)):
        if port is not None:
            fields[name] = f"{port}:{port}"
    return fields
