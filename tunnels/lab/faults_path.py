"""Faults of the path: cables, NICs, what is forwarded and how large a packet may be."""

from __future__ import annotations

from typing import Final

from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.fault import STATUS, WIRE, Fault, Faults, done
from linkseal.tunnels.lab.lab import Lab

DROP_TABLE: Final = "lab_drop"
HOLE_TABLE: Final = "lab_hole"
"""nft tables of faults, so that they can be taken away again."""

HOLE_BYTES: Final = 1400
"""Larger packets vanish in an MTU hole, or do not fit a narrow wire: a handshake fits, a full-size probe does not."""


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
}
