"""Faults of the path: cables, NICs, what is forwarded, how large a packet may be, a CNI that goes its own way."""

from __future__ import annotations

from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.fault import STATUS, WIRE, Fault, Faults, done
from linkseal.tunnels.lab.lab import Lab

DROP_TABLE: Final = "lab_drop"
HOLE_TABLE: Final = "lab_hole"
"""nft tables of faults, so that they can be taken away again."""

HOLE_BYTES: Final = 1400
"""Larger packets vanish in an MTU hole, or do not fit a narrow wire: a handshake fits, a full-size probe does not."""

REDIRECT_PRIORITY: Final = 7
"""Of the filter by which a CNI would redirect: its place says whose it is when it is taken away."""


def _link_down(lab: Lab, node: Node) -> str:
    lab.cluster.wire.ip(f"link set up{node.index} down")
    return f"pulled the cable of {node.name} (its port on the bridge is down)"


def _link_up(lab: Lab, node: Node) -> str:
    lab.cluster.wire.ip(f"link set up{node.index} up")
    return f"plugged the cable of {node.name} in again"


def _nic(lab: Lab, node: Node) -> str:
    lab.cluster.new_nic(node)
    return f"{node.name}: eth0 deleted and made anew, with the addresses and routes it had"


def _forward_drop(_: Lab, node: Node) -> str:
    chain = "{ type filter hook forward priority 10; policy drop; }"
    return done(node, f"nft add table inet {DROP_TABLE} && nft add chain inet {DROP_TABLE} forward '{chain}'")


def _forward_ok(_: Lab, node: Node) -> str:
    return done(node, f"nft delete table inet {DROP_TABLE}")


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


def _narrow(lab: Lab, _: Node) -> str:
    return _wire_mtu(lab, HOLE_BYTES)


def _narrow_ok(lab: Lab, _: Node) -> str:
    return _wire_mtu(lab, lab.cluster.mtu)


def _wire_mtu(lab: Lab, mtu: int) -> str:
    for node in lab.cluster:
        node.ip(f"link set eth0 mtu {mtu}")
    lab.cluster.wire.ip(*(f"link set up{node.index} mtu {mtu}" for node in lab.cluster))
    return f"the wire and every node's NIC carry packets of up to {mtu} bytes"


def _redirect(lab: Lab, node: Node) -> str:
    """What a CNI does that sends a pod's packets to the NIC by itself: they meet neither routes nor netfilter."""
    lines = ["qdisc add dev pod1 clsact"]
    for number, cidr in enumerate((c for other in lab.cluster if other is not node for c in other.pod_cidrs), 1):
        layer = "ipv6" if ":" in cidr else "ip"
        lines.append(
            f"filter add dev pod1 ingress protocol {layer} pref {REDIRECT_PRIORITY + number} flower dst_ip {cidr} "
            "action mirred egress redirect dev eth0"
        )
    node.tc(*lines)
    return f"{node.name}: tc redirects what {node.name}.p1 sends to other nodes' pods straight to eth0"


def _redirect_ok(_: Lab, node: Node) -> str:
    if "clsact" not in node.run("tc qdisc show dev pod1"):
        raise HostError(f"nothing is redirected on {node.name}")
    return done(node, "tc qdisc del dev pod1 clsact")


_NAMED: Final = f"no proof comes through, and within two minutes a finding says why: {STATUS}"

PATH: Final[Faults] = {
    "link-down": Fault(_link_down, "pull a node's cable", "its links become stale: " + STATUS, "link-up"),
    "link-up": Fault(_link_up, "plug it in again", "its links come back: " + STATUS),
    "nic": Fault(_nic, "delete a node's NIC and make it anew", WIRE),
    "forward-drop": Fault(_forward_drop, "drop everything a node forwards", _NAMED, "forward-ok"),
    "forward-ok": Fault(_forward_ok, "undo forward-drop", STATUS),
    "mtu-hole": Fault(_mtu_hole, "lose large packets of a node without an error", _NAMED, "mtu-ok"),
    "mtu-ok": Fault(_mtu_ok, "undo mtu-hole", STATUS),
    "narrow": Fault(_narrow, f"make the wire carry {HOLE_BYTES} bytes only, which every NIC says", STATUS, "narrow-ok"),
    "narrow-ok": Fault(_narrow_ok, "undo narrow", STATUS),
    "redirect": Fault(_redirect, "send a pod's packets to the NIC by tc, past all routes", WIRE, "redirect-ok"),
    "redirect-ok": Fault(_redirect_ok, "undo redirect", STATUS),
}
