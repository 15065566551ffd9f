"""The guard's chains, each rule spelled as `nft -j list` of nft 1.0.6 spells it. Pure.

    netdev  out_NIC → egress        what really leaves by the NIC
    netdev  in_NIC → ingress        what the wire brings, before anything else sees it
    inet    post                    every way out of this host, after all address translation
    inet    pre                     every way in, defragmented and tracked, before address translation
    both    drop_out drop_in count_out count_in    note the flow, and drop

An exemption's replies are let through `netdev` by their ports and through `inet` only if connection tracking calls
them replies: a packet has to pass both, so a source port alone opens nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from typing import Any, Final, NamedTuple

from linkseal.tunnels.guard.exemption import NUMBERS, Exemption
from linkseal.tunnels.guard.model import Family, GuardChain, Place

AFTER_NAT: Final = 450
"""inet postrouting: after source NAT (100), helpers (300) and whatever mangles."""

BEFORE_NAT: Final = -190
"""inet prerouting: after defragmentation (-400) and connection tracking (-200), which tells replies; before
destination NAT (-100), so that source and destination are those of the wire (linux/netfilter_ipv4.h)."""

LAST, FIRST = 500, -500
"""netdev egress and ingress: what leaves after everybody else's chains, what comes before them."""

VERSIONS: Final = ((4, "ip"), (6, "ip6"))
CONTROL: Final = "control"
"""Named counter of the packets that `verify` sends in clear on purpose."""

SYSTEM_USERS: Final = 999
"""Highest user id of system accounts (login.defs, SYS_UID_MAX)."""

_WITH_PORTS: Final = (6, 17, 33, 132, 136)
"""TCP, UDP, DCCP, SCTP, UDP-Lite (IANA protocol numbers; never names: those are the host's, from /etc/protocols)."""
_ND: Final = ("nd-router-solicit", "nd-redirect")
"""ICMPv6 types 133 to 137 (RFC 4861)."""
_FRAGMENT: Final = 0x3FFF
"""More-fragments bit and offset of the IPv4 header (RFC 791)."""

Expression = dict[str, Any]


class Numbers(NamedTuple):
    """What the rules need to know."""

    fwmark: int
    mask: int
    ports: tuple[int, int]
    """First and last UDP port of the tunnels."""
    control: int
    """UDP port, source and destination, of the packets of `verify`."""
    passing: tuple[str, ...] = ()
    """Further interfaces that are not judged: what they send on is judged where it leaves."""
    exemptions: tuple[Exemption, ...] = ()
    own: tuple[str, ...] = ()
    """Prefixes of this node: it serves the exemptions that have an address of these."""
    counts: bool = False
    """The inet chains count as well: there is no netdev egress hook in this kernel."""


def chains(numbers: Numbers, nics: Iterable[str]) -> Iterator[GuardChain]:
    """Every chain; without NICs none of family netdev."""
    yield GuardChain("inet", "post", "postrouting", AFTER_NAT, None, tuple(_post(numbers)))
    yield GuardChain("inet", "pre", "prerouting", BEFORE_NAT, None, tuple(_pre(numbers)))
    yield from _verdicts("inet", count=numbers.counts)
    hooked = list(nics)
    if not hooked:
        return
    yield GuardChain("netdev", "egress", None, 0, None, tuple(_egress(numbers)))
    yield GuardChain("netdev", "ingress", None, 0, None, tuple(_ingress(numbers)))
    yield from _verdicts("netdev", count=True)
    for nic in hooked:
        yield GuardChain("netdev", f"out_{nic}", "egress", LAST, nic, (rule({"jump": {"target": "egress"}}),))
        yield GuardChain("netdev", f"in_{nic}", "ingress", FIRST, nic, (rule({"jump": {"target": "ingress"}}),))


def counters(numbers: Numbers, family: Family) -> Iterator[Place]:
    """The named counters that the rules of a family use."""
    yield family, CONTROL
    for exemption in numbers.exemptions:
        for direction in ("out", "in"):
            yield family, exempt_counter(direction, exemption.name)


def exempt_counter(direction: str, name: str) -> str:
    """Name of the counter of what an exemption lets through in one direction."""
    return f"exempt_{direction}_{name}"


# --- the chains ----------------------------------------------------------------------------------------------------


def _post(numbers: Numbers) -> Iterator[str]:
    yield from _passing("oifname", numbers)
    yield from _outgoing(numbers, stateful=True)
    yield from _judgement("out", "daddr", count=numbers.counts)


def _pre(numbers: Numbers) -> Iterator[str]:
    yield from _passing("iifname", numbers)
    yield rule(match({"ct": {"key": "direction"}}, "reply"))  # decides nothing: it has the kernel track and defragment
    yield from _incoming(numbers, stateful=True)
    yield from _judgement("in", "saddr", count=numbers.counts)


def _egress(numbers: Numbers) -> Iterator[str]:
    yield from _outgoing(numbers, stateful=False)
    yield from _judgement("out", "daddr", count=True)


def _ingress(numbers: Numbers) -> Iterator[str]:
    """Fragments are left to the inet chain, which sees them whole."""
    yield rule(match(_masked(field("ip", "frag-off"), _FRAGMENT), 0, "!="), ACCEPT)
    yield rule(match({"exthdr": {"name": "frag"}}, True), ACCEPT)  # noqa: FBT003 - nft's word for "exists"
    yield from _incoming(numbers, stateful=False)
    yield from _judgement("in", "saddr", count=True)


def _passing(key: str, numbers: Numbers) -> Iterator[str]:
    for name in ("lo", "lsl*", *numbers.passing):
        yield rule(match(_meta(key), name), ACCEPT)


def _outgoing(numbers: Numbers, *, stateful: bool) -> Iterator[str]:
    """Our outer packets by mark and own address, so that later fragments pass too; never by port."""
    mark = _meta("mark") if numbers.mask == 0xFFFFFFFF else _masked(_meta("mark"), numbers.mask)  # noqa: PLR2004
    for version, protocol in VERSIONS:
        yield rule(match(mark, numbers.fwmark), match(field(protocol, "saddr"), f"@own{version}"), ACCEPT)
    yield _neighbours()
    system = match(_meta("skuid"), {"range": [0, SYSTEM_USERS]})
    for version, (here, there) in ((4, (68, 67)), (6, (546, 547))):
        yield rule(
            _version(version), match(field("udp", "sport"), here), match(field("udp", "dport"), there), system, ACCEPT
        )
    for exemption in numbers.exemptions:
        yield rule(*_selector(exemption, "d"), _named("out", exemption), ACCEPT)
        if is_served(exemption, numbers.own):
            yield rule(*_selector(exemption, "s"), *_reply(stateful=stateful), _named("out", exemption), ACCEPT)


def _incoming(numbers: Numbers, *, stateful: bool) -> Iterator[str]:
    yield _neighbours()
    first, last = numbers.ports
    for version, protocol in VERSIONS:
        port = match(field("udp", "dport"), {"range": [first, last]})
        yield rule(match(field(protocol, "daddr"), f"@own{version}"), port, ACCEPT)
    control = [match(field("udp", name), numbers.control) for name in ("sport", "dport")]
    yield rule(*control, {"counter": CONTROL}, DROP)
    for version, (there, here) in ((4, (67, 68)), (6, (547, 546))):
        yield rule(_version(version), match(field("udp", "sport"), there), match(field("udp", "dport"), here), ACCEPT)
    for exemption in numbers.exemptions:
        yield rule(*_selector(exemption, "s"), *_reply(stateful=stateful), _named("in", exemption), ACCEPT)
        if is_served(exemption, numbers.own):
            yield rule(*_selector(exemption, "d"), _named("in", exemption), ACCEPT)


def _judgement(direction: str, name: str, *, count: bool) -> Iterator[str]:
    """Each prefix is looked up once: looking is what counts its packets."""
    for verdict in ("drop", "count")[: 2 if count else 1]:
        for version, protocol in VERSIONS:
            found = match(field(protocol, name), f"@{verdict}_{direction}{version}")
            yield rule(found, {"goto": {"target": f"{verdict}_{direction}"}})


def _verdicts(family: Family, *, count: bool) -> Iterator[GuardChain]:
    for verdict in ("drop", "count")[: 2 if count else 1]:
        for direction, name in (("out", "daddr"), ("in", "saddr")):
            rules = [*_flows(direction, name), *([rule(DROP)] if verdict == "drop" else [])]
            yield GuardChain(family, f"{verdict}_{direction}", None, 0, None, tuple(rules))


def _flows(direction: str, name: str) -> Iterator[str]:
    """Note address, protocol and port; what has no ports, or is a later fragment, by the second pair of sets."""
    ports = match(_meta("l4proto"), {"set": list(_WITH_PORTS)})
    for version, protocol in VERSIONS:
        address = field(protocol, name)
        known = {"concat": [address, _meta("l4proto"), field("th", "dport")]}
        yield rule(ports, {"set": {"op": "update", "elem": known, "set": f"@flow_{direction}{version}"}})
    others = match(_meta("l4proto"), {"set": list(_WITH_PORTS)}, "!=")
    for version, protocol in VERSIONS:
        plain = {"concat": [field(protocol, name), _meta("l4proto")]}
        yield rule(others, {"set": {"op": "update", "elem": plain, "set": f"@plain_{direction}{version}"}})


# --- expressions ---------------------------------------------------------------------------------------------------

ACCEPT: Final[Expression] = {"accept": None}
DROP: Final[Expression] = {"drop": None}


def rule(*expressions: Expression) -> str:
    """The canonical text of a rule."""
    return json.dumps(expressions, sort_keys=True, separators=(",", ":"))


def match(left: Any, right: Any, op: str = "==") -> Expression:
    """An expression that lets the rule go on only where it holds."""
    return {"match": {"op": op, "left": left, "right": right}}


def field(protocol: str, name: str) -> Expression:
    """A field of a header."""
    return {"payload": {"protocol": protocol, "field": name}}


def network(prefix: str) -> Any:
    """A prefix as nft lists it: one address is no prefix to it."""
    parsed = ip_network(prefix)
    if parsed.num_addresses == 1:
        return str(parsed.network_address)
    return {"prefix": {"addr": str(parsed.network_address), "len": parsed.prefixlen}}


def _meta(key: str) -> Expression:
    return {"meta": {"key": key}}


def _masked(left: Expression, mask: int) -> Expression:
    return {"&": [left, mask]}


def _version(version: int) -> Expression:
    return match(_meta("protocol"), "ip" if version == 4 else "ip6")  # noqa: PLR2004 - the IP version


def _neighbours() -> str:
    """Neighbour discovery: a hop limit of 255 says that no router, and so no pod, sent it (RFC 4861)."""
    kind = match(field("icmpv6", "type"), {"range": list(_ND)})
    return rule(kind, match(field("ip6", "hoplimit"), 255), ACCEPT)


def _selector(exemption: Exemption, end: str) -> Iterator[Expression]:
    """The exempt service as destination (`d`) or as source (`s`)."""
    protocol = "ip6" if ":" in exemption.cidr else "ip"
    yield match(field(protocol, f"{end}addr"), network(exemption.cidr))
    if exemption.port is None:
        yield match(_meta("l4proto"), NUMBERS[exemption.protocol])
    else:
        yield match(field(exemption.protocol, f"{end}port"), exemption.port)


def _reply(*, stateful: bool) -> Iterator[Expression]:
    if stateful:
        yield match({"ct": {"key": "direction"}}, "reply")


def _named(direction: str, exemption: Exemption) -> Expression:
    return {"counter": exempt_counter(direction, exemption.name)}


def is_served(exemption: Exemption, own: Iterable[str]) -> bool:
    """Whether an exempt service has an address in these prefixes."""
    served = ip_network(exemption.cidr)
    return any(served.version == mine.version and served.overlaps(mine) for mine in map(ip_network, own))
