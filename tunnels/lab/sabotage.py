"""Random sabotage: for some seconds, one piece of what carries traffic after the other is broken, on any node."""

from __future__ import annotations

import random
import time
from typing import Final

from linkseal.tunnels.addressing import DOOR
from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.fault import WIRE, Fault, Faults
from linkseal.tunnels.lab.lab import Lab
from linkseal.tunnels.policy import RoutingPolicy

SECONDS: Final = 15.0
OPERATIONS: Final = 130
"""How long, and how many at most: so many in as many seconds found every leak of a first design."""

_TABLE: Final = RoutingPolicy().table
_RULE: Final = RoutingPolicy().rule_priority
_SLOT: Final = "s=$(wg show interfaces | tr ' ' '\\n' | grep lsl[01][01] | head -n1); "
"""The first slot there is: in the steady state all traffic is in it."""
_PEER: Final = "$(wg show $s peers | head -n1)"

OPERATIONS_KNOWN: Final = (
    f"wg set $s peer {_PEER} remove",
    f"wg set $s peer {_PEER} allowed-ips ''",
    f"wg set $s peer {_PEER} endpoint 192.0.2.99:9",
    "wg genkey | wg set $s private-key /dev/stdin",
    "wg set $s fwmark 0",
    "ip link set $s down",
    "ip link del $s",
    f"ip link set {DOOR} down",
    f"ip link del {DOOR}",
    f"ip route flush table {_TABLE}",
    f"ip -6 route flush table {_TABLE}",
    f"ip rule del pref {_RULE + 1}; ip -6 rule del pref {_RULE + 1}",
    f"ip rule del pref {_RULE}",
    "ip address flush dev $s",
    "nft flush map netdev linkseal slot4; nft flush map netdev linkseal slot6",
    "nft delete table netdev linkseal",
    "nft delete table inet linkseal",
)
"""Shell lines; one that has nothing to break any more does nothing."""


def sabotage(lab: Lab, node: Node) -> str:
    """Break things at random on every node, the same each time for a node."""
    dice = random.Random(node.index)  # noqa: S311 - so that a failure comes back
    began = time.monotonic()
    count = 0
    while count < OPERATIONS and time.monotonic() - began < SECONDS:
        victim = dice.choice(list(lab.cluster))
        line = dice.choice(OPERATIONS_KNOWN)
        victim.run(_SLOT + line, check=False)
        count += 1
        pause = began + count * SECONDS / OPERATIONS - time.monotonic()
        time.sleep(max(0.0, pause * dice.uniform(0.5, 1.5)))
    return f"broke {count} things on {len(lab.cluster)} nodes in {time.monotonic() - began:.0f} s"


SABOTAGE: Final[Faults] = {
    "sabotage": Fault(sabotage, f"{SECONDS:.0f} seconds of random sabotage on all nodes", WIRE),
}
