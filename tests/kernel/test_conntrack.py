"""Masqueraded connections of a real kernel: as many as `conntrack -L` shows."""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address, ip_network

import pytest
from ground.agents import Nodes
from ground.net import Node
from linkseal.keys.values import Prefix
from linkseal.tunnels.host.conntrack import masqueraded

pytestmark = pytest.mark.kernel

RULESET = """
table inet truth {
  chain out { type nat hook postrouting priority 90;
    ip daddr { 10.244.2.0/24, 10.244.3.0/24 } masquerade
    ip6 daddr fd00:244:2::/64 masquerade
  }
}
"""


def shown(node: Node, prefixes: list[Prefix]) -> int:
    """The same by another program: original source differs from reply destination, reply source is in a prefix."""
    found = 0
    for family in ("ipv4", "ipv6"):
        for line in node.run(f"conntrack -L -f {family} 2>/dev/null").splitlines():
            (source, _), (target, answered) = re.findall(r"src=(\S+) dst=(\S+)", line)
            inside = any(ip_address(target) in ip_network(prefix) for prefix in prefixes)
            found += source != answered and inside
    return found


def test_they_are_counted_as_conntrack_shows_them(nodes: Nodes) -> None:
    cluster = nodes(3, families=("4", "6"), cni="host-gw")
    a, b, c = cluster
    a.run(f"nft -f - <<'END'\n{RULESET}\nEND")
    with a.pods[0].entered():
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(30)]
        sockets6 = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(20)]
    for number, one in enumerate(sockets):
        one.sendto(b"x", ((b if number % 3 else c).pods[0].address4, 7000 + number))
    for number, one in enumerate(sockets6):
        one.sendto(b"x", ((b if number % 2 else c).pods[0].address6, 7000 + number))
    for one in (*sockets, *sockets6):
        one.close()
    for prefixes, least in (
        ([Prefix("10.244.2.0/24")], 20),
        ([Prefix("10.244.2.0/24"), Prefix("fd00:244:2::/64")], 30),
        ([Prefix("10.244.3.0/24"), Prefix("fd00:244:3::/64")], 10),
        ([Prefix("10.9.0.0/16")], 0),
    ):
        with a.entered():
            found = masqueraded(prefixes)
        assert found == shown(a, prefixes)
        assert found >= least
