"""What can be broken in a lab on purpose, and what to watch then. Faults of a node act in its namespace."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from linkseal.keys.errors import ConfigError, HostError
from linkseal.tunnels.addressing import DOOR, SLOTS
from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.lab import CONTROLLER, Lab
from linkseal.tunnels.lab.state import DEFAULT_NAME

DROP_TABLE: Final = "lab_drop"
HOLE_TABLE: Final = "lab_hole"
"""nft tables of faults, so that they can be taken away again."""

HOLE_BYTES: Final = 1400
"""Larger packets vanish in an MTU hole: a handshake fits, a full-size probe does not."""


class Fault(NamedTuple):
    """One way to break (or mend) something; `act` returns what it did."""

    act: Callable[[Lab, Node], str]
    summary: str
    watch: str


def break_it(lab: Lab, name: str, node: Node) -> tuple[str, str]:
    """Carry out a fault; returns what was done, and what to watch. ConfigError for an unknown one, HostError."""
    fault = FAULTS.get(name)
    if fault is None:
        raise ConfigError(f"there is no fault {name!r}: {', '.join(FAULTS)}")
    option = "" if lab.record.spec.name == DEFAULT_NAME else f"--name {lab.record.spec.name} "
    others = [other for other in lab.cluster if other is not node] or [node]
    pod = others[0].pods[0]
    names = {"node": f"{option}{node.name}", "pod": f"{option}{node.name}.p1", "other": pod.address4 or pod.address6}
    return fault.act(lab, node), fault.watch.format(**names)


# --- the agent ------------------------------------------------------------------------------------------------------


def _agent_stop(lab: Lab, node: Node) -> str:
    return _ended(lab, node.name, f"the agent of {node.name}", signal.SIGTERM)


def _agent_kill(lab: Lab, node: Node) -> str:
    return _ended(lab, node.name, f"the agent of {node.name}", signal.SIGKILL)


def _controller_stop(lab: Lab, _: Node) -> str:
    return _ended(lab, CONTROLLER, "the controller", signal.SIGTERM)


def _ended(lab: Lab, process: str, title: str, number: signal.Signals) -> str:
    if not lab.stop(process, number):
        raise HostError(f"{title} does not run")
    return f"ended {title} ({number.name})"


def _agent_start(lab: Lab, node: Node) -> str:
    if not lab.start_agent(node):
        raise HostError(f"the agent of {node.name} runs already")
    return f"started the agent of {node.name}"


def _controller_start(lab: Lab, _: Node) -> str:
    if lab.running(CONTROLLER):
        raise HostError("the controller runs already")
    lab.start_controller()
    return "started the controller"


def _rotate(lab: Lab, node: Node) -> str:
    return f"{node.name} raised generation {lab.ask(node, 'rotate')['generation']}"


def _rotate_all(lab: Lab, _: Node) -> str:
    return "; ".join(_rotate(lab, node) for node in lab.cluster)


# --- drift ----------------------------------------------------------------------------------------------------------


def _device(_: Lab, node: Node) -> str:
    return _done(node, f"ip link del {_slot(node)}")


def _peer(_: Lab, node: Node) -> str:
    slot = _slot(node)
    peers = node.run(f"wg show {slot} peers").split()
    if not peers:
        raise HostError(f"{slot} of {node.name} has no peer")
    return _done(node, f"wg set {slot} peer {peers[0]} remove")


def _route(_: Lab, node: Node) -> str:
    for family in ("-4", "-6"):
        for line in node.run(f"ip {family} route show table all dev {DOOR}").splitlines():
            if (found := re.match(r"(\S+) .*\btable (\S+)", line)) and found[2] not in ("local", "main"):
                return _done(node, f"ip {family} route del {found[1]} dev {DOOR} table {found[2]}")
    raise HostError(f"{node.name} has no route of Linkseal's")


def _rule(_: Lab, node: Node) -> str:
    for family in ("-4", "-6"):
        rules = json.loads(node.run(f"ip -j {family} rule show", check=False) or "[]")
        ours = [rule for rule in rules if rule["priority"] not in (0, 32766, 32767) and "fwmark" not in rule]
        if ours:
            return _done(node, f"ip {family} rule del priority {ours[0]['priority']} table {ours[0]['table']}")
    raise HostError(f"{node.name} has no rule of Linkseal's")


def _address(_: Lab, node: Node) -> str:
    slot = _slot(node)
    for entry in json.loads(node.run(f"ip -j address show dev {slot}"))[0]["addr_info"]:
        return _done(node, f"ip address del {entry['local']}/{entry['prefixlen']} dev {slot}")
    raise HostError(f"{slot} of {node.name} has no address")


def _element(_: Lab, node: Node) -> str:
    for name in ("slot4", "slot6"):
        listing = json.loads(node.run(f"nft -j list map netdev linkseal {name}"))["nftables"]
        for entry in listing:
            for key, _value in entry.get("map", {}).get("elem", []):
                return _done(node, f"nft delete element netdev linkseal {name} '{{ {_key(key)} }}'")
    raise HostError(f"the door of {node.name} has no element")


def _key(key: Any) -> str:
    if isinstance(key, dict) and "prefix" in key:
        return f"{key['prefix']['addr']}/{key['prefix']['len']}"
    if isinstance(key, dict) and "range" in key:
        return "-".join(key["range"])
    return str(key)


def _table(_: Lab, node: Node) -> str:
    return _done(node, "nft delete table netdev linkseal")


def _rp_filter(_: Lab, node: Node) -> str:
    slot = _slot(node)
    node.sysctl({f"ipv4/conf/{slot}/rp_filter": 1})
    return f"{node.name}: net.ipv4.conf.{slot}.rp_filter = 1 (strict)"


# --- the path -------------------------------------------------------------------------------------------------------


def _link_down(lab: Lab, node: Node) -> str:
    lab.cluster.wire.ip(f"link set up{node.index} down")
    return f"pulled the cable of {node.name} (its port on the bridge is down)"


def _link_up(lab: Lab, node: Node) -> str:
    lab.cluster.wire.ip(f"link set up{node.index} up")
    return f"plugged the cable of {node.name} in again"


def _forward_drop(_: Lab, node: Node) -> str:
    chain = "{ type filter hook forward priority 10; policy drop; }"
    return _done(node, f"nft add table inet {DROP_TABLE} && nft add chain inet {DROP_TABLE} forward '{chain}'")


def _forward_ok(_: Lab, node: Node) -> str:
    return _done(node, f"nft delete table inet {DROP_TABLE}")


def _mtu_hole(lab: Lab, node: Node) -> str:
    port, table = f"up{node.index}", f"netdev {HOLE_TABLE}{node.index}"
    lines = [f"add table {table}"]
    for hook in ("ingress", "egress"):
        lines += [
            f"add chain {table} {hook} {{ type filter hook {hook} device {port} priority 0; }}",
            f"add rule {table} {hook} ip length > {HOLE_BYTES} drop",
            f"add rule {table} {hook} ip6 length > {HOLE_BYTES - 40} drop",
        ]
    lab.cluster.wire.run("nft -f - <<'END'\n" + "\n".join(lines) + "\nEND")
    return f"packets of more than {HOLE_BYTES} bytes from and to {node.name} vanish on the wire, without a word"


def _mtu_ok(lab: Lab, node: Node) -> str:
    lab.cluster.wire.run(f"nft delete table netdev {HOLE_TABLE}{node.index}")
    return f"large packets reach {node.name} again"


def _slot(node: Node) -> str:
    """Return the first slot that is there: in the steady state most links are in it."""
    there = {line.split(":")[1].strip() for line in node.run("ip -o link show").splitlines()}
    for slot in SLOTS:
        if slot in there and node.run(f"wg show {slot} peers", check=False).strip():
            return slot
    raise HostError(f"{node.name} has no tunnel device")


def _done(node: Node, command: str) -> str:
    node.run(command)
    return f"{node.name}: {command}"


_STATUS: Final = "linkseal lab exec {node} -- linkseal status"
_LINKS: Final = "linkseal lab exec {node} -- linkseal links"
_HEALED: Final = f"the agent puts it back within seconds and says so (LS3009): {_STATUS}"
_TRAFFIC: Final = "traffic goes on: linkseal lab exec {pod} -- ping -c3 {other}"
_ADOPTS: Final = f"it adopts the tunnels it finds: {_STATUS}"
_NAMED: Final = f"no proof comes through, and within two minutes a finding says why: {_STATUS}"

FAULTS: Final[Mapping[str, Fault]] = {
    "agent-stop": Fault(_agent_stop, "end a node's agent with SIGTERM", _TRAFFIC),
    "agent-kill": Fault(_agent_kill, "end a node's agent with SIGKILL", _TRAFFIC),
    "agent-start": Fault(_agent_start, "start a node's agent again", _ADOPTS),
    "controller-stop": Fault(_controller_stop, "end the controller", "nothing that works stops: " + _STATUS),
    "controller-start": Fault(_controller_start, "start the controller again", _STATUS),
    "rotate": Fault(_rotate, "raise a node's generation: new keys", _LINKS),
    "rotate-all": Fault(_rotate_all, "raise every node's generation at once", _LINKS),
    "device": Fault(_device, "delete a tunnel device", _HEALED),
    "peer": Fault(_peer, "remove a peer from a tunnel device", _HEALED),
    "route": Fault(_route, "delete a route into the door", _HEALED),
    "rule": Fault(_rule, "delete the ip rule that leads to our routes", _HEALED),
    "address": Fault(_address, "delete a tunnel device's address", _HEALED),
    "element": Fault(_element, "delete an element of the door's map", _HEALED),
    "table": Fault(_table, "delete the nftables table of the door", _HEALED),
    "rp-filter": Fault(_rp_filter, "make a tunnel device's reverse path filter strict", _HEALED),
    "link-down": Fault(_link_down, "pull a node's cable", "its links become stale: " + _STATUS),
    "link-up": Fault(_link_up, "plug it in again", "its links come back: " + _STATUS),
    "forward-drop": Fault(_forward_drop, "drop everything a node forwards", _NAMED),
    "forward-ok": Fault(_forward_ok, "undo forward-drop", _STATUS),
    "mtu-hole": Fault(_mtu_hole, "lose large packets of a node without an error", _NAMED),
    "mtu-ok": Fault(_mtu_ok, "undo mtu-hole", _STATUS),
}
