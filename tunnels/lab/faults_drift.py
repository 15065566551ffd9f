"""Faults of drift: somebody changes or deletes what is ours in a node's kernel."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.addressing import DOOR
from linkseal.tunnels.guard.policy import TABLE as GUARD_TABLE
from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.fault import HEALED, WIRE, Fault, Faults, done, slot_of
from linkseal.tunnels.lab.lab import Lab


def _device(_: Lab, node: Node) -> str:
    return done(node, f"ip link del {slot_of(node)}")


def _door(_: Lab, node: Node) -> str:
    return done(node, f"ip link del {DOOR}")


def _peer(_: Lab, node: Node) -> str:
    slot = slot_of(node)
    peers = node.run(f"wg show {slot} peers").split()
    if not peers:
        raise HostError(f"{slot} of {node.name} has no peer")
    return done(node, f"wg set {slot} peer {peers[0]} remove")


def _route(_: Lab, node: Node) -> str:
    for family in ("-4", "-6"):
        for line in node.run(f"ip {family} route show table all dev {DOOR}").splitlines():
            if (found := re.match(r"(\S+) .*\btable (\S+)", line)) and found[2] not in ("local", "main"):
                return done(node, f"ip {family} route del {found[1]} dev {DOOR} table {found[2]}")
    raise HostError(f"{node.name} has no route of Linkseal's")


def _routes(_: Lab, node: Node) -> str:
    tables = set()
    for family in ("-4", "-6"):
        shown = node.run(f"ip {family} route show table all dev {DOOR}", check=False)
        tables |= {(family, name) for name in re.findall(r"\btable (\S+)", shown) if name not in ("local", "main")}
    if not tables:
        raise HostError(f"{node.name} has no route of Linkseal's")
    return done(node, "; ".join(f"ip {family} route flush table {name}" for family, name in sorted(tables)))


def _rule(_: Lab, node: Node) -> str:
    gone = []
    for family in ("-4", "-6"):
        rules = json.loads(node.run(f"ip -j {family} rule show", check=False) or "[]")
        ours = [rule for rule in rules if rule["priority"] not in (0, 32766, 32767) and _leads_in(rule)]
        gone += [f"ip {family} rule del priority {rule['priority']} table {rule['table']}" for rule in ours[:1]]
    if not gone:
        raise HostError(f"{node.name} has no rule of Linkseal's")
    return done(node, "; ".join(gone))


def _leads_in(rule: Mapping[str, Any]) -> bool:
    """Whether a rule of Linkseal's is for others than its tunnels' own packets."""
    return "not" in rule or "fwmark" not in rule


def _address(_: Lab, node: Node) -> str:
    slot = slot_of(node)
    for entry in json.loads(node.run(f"ip -j address show dev {slot}"))[0]["addr_info"]:
        return done(node, f"ip address del {entry['local']}/{entry['prefixlen']} dev {slot}")
    raise HostError(f"{slot} of {node.name} has no address")


def _element(_: Lab, node: Node) -> str:
    for name in ("slot4", "slot6"):
        listing = json.loads(node.run(f"nft -j list map netdev linkseal {name}"))["nftables"]
        for entry in listing:
            for key, _value in entry.get("map", {}).get("elem", []):
                return done(node, f"nft delete element netdev linkseal {name} '{{ {_key(key)} }}'")
    raise HostError(f"the door of {node.name} has no element")


def _key(key: Any) -> str:
    if isinstance(key, dict) and "prefix" in key:
        return f"{key['prefix']['addr']}/{key['prefix']['len']}"
    if isinstance(key, dict) and "range" in key:
        return "-".join(key["range"])
    return str(key)


def _table(_: Lab, node: Node) -> str:
    return done(node, "nft delete table netdev linkseal")


def _flush(_: Lab, node: Node) -> str:
    return done(node, "nft flush ruleset")


def _guard(_: Lab, node: Node) -> str:
    tables = [
        family for family in ("inet", "netdev") if f"table {family} {GUARD_TABLE}\n" in node.run("nft list tables")
    ]
    if not tables:
        raise HostError(f"{node.name} has no guard: it is loaded from stage prepare on")
    return done(node, "nft '" + "; ".join(f"delete table {family} {GUARD_TABLE}" for family in tables) + "'")


def _rp_filter(_: Lab, node: Node) -> str:
    slot = slot_of(node)
    node.sysctl({f"ipv4/conf/{slot}/rp_filter": 1})
    return f"{node.name}: net.ipv4.conf.{slot}.rp_filter = 1 (strict)"


_GUARDED: Final = f"the agent loads it again within seconds, and until then {WIRE}"

DRIFT: Final[Faults] = {
    "device": Fault(_device, "delete a tunnel device", HEALED),
    "door": Fault(_door, "delete the door, with all routes to it", HEALED),
    "peer": Fault(_peer, "remove a peer from a tunnel device", HEALED),
    "route": Fault(_route, "delete a route into the door", HEALED),
    "routes": Fault(_routes, "flush the routing table of Linkseal", HEALED),
    "rule": Fault(_rule, "delete the ip rules that lead to our routes", HEALED),
    "address": Fault(_address, "delete a tunnel device's address", HEALED),
    "element": Fault(_element, "delete an element of the door's map", HEALED),
    "table": Fault(_table, "delete the nftables table of the door", HEALED),
    "flush": Fault(_flush, "nft flush ruleset: every table of everybody", _GUARDED),
    "guard": Fault(_guard, "delete the guard's nftables tables", _GUARDED),
    "rp-filter": Fault(_rp_filter, "make a tunnel device's reverse path filter strict", HEALED),
}
