"""What a fault is, and what several kinds of faults need. The kinds are in faults_*.py, all of them in faults.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from linkseal.keys.errors import HostError
from linkseal.tunnels.addressing import SLOTS
from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.lab import Lab

STATUS: Final = "linkseal lab exec {node} -- linkseal status"
LINKS: Final = "linkseal lab exec {node} -- linkseal links"
TRAFFIC: Final = "traffic goes on: linkseal lab exec {pod} -- ping -c3 {other}"
WIRE: Final = (
    "nothing in clear on the wire: linkseal lab exec {wire} -- tcpdump -ni br0 -c20 not udp portrange 51820-51823"
)
HEALED: Final = f"the agent puts it back within seconds and says so (LS3009): {STATUS}"


class Fault(NamedTuple):
    """One way to break (or mend) something; `act` returns what it did."""

    act: Callable[[Lab, Node], str]
    summary: str
    watch: str
    undo: str = ""
    """The fault that mends it; empty: it needs none, or Linkseal heals it."""


Faults = Mapping[str, Fault]
"""Name → fault, in the order they are listed."""


def slot_of(node: Node) -> str:
    """Return the first slot with a peer: in the steady state most links are in it. HostError if there is none."""
    there = {line.split(":")[1].strip() for line in node.run("ip -o link show").splitlines()}
    for slot in SLOTS:
        if slot in there and node.run(f"wg show {slot} peers", check=False).strip():
            return slot
    raise HostError(f"{node.name} has no tunnel device")


def done(node: Node, command: str) -> str:
    """Run a shell line on a node and return what was done. HostError."""
    node.run(command)
    return f"{node.name}: {command}"
