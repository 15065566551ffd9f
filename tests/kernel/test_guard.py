"""The guard: in stage enforce nothing crosses in plaintext, whatever becomes of the tunnels or of the agent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Cluster, Node
from ground.probes import Loss, loss_probe
from ground.traffic import assert_no_drift
from linkseal.tunnels.lab.capture import Capture

pytestmark = pytest.mark.kernel

DUAL = ("4", "6")
SLOT = "lsl11"

SABOTAGE = [
    "ip route flush table 51820",
    "ip rule del pref 101; ip -6 rule del pref 101",
    "ip route flush table 51821; ip -6 route flush table 51821; ip route flush table 51820",
    "nft delete table netdev linkseal",
    f"wg set {SLOT} peer $(wg show {SLOT} peers) remove",
    f"ip link del {SLOT}",
    "ip link del lsl0",
]
"""What becomes of tunnels."""


@contextlib.contextmanager
def traffic(cluster: Cluster, *, hosts: bool) -> Iterator[list[Loss]]:
    """Packets between pods, and with `hosts` between nodes, both ways and in both families."""
    found: list[Loss] = []
    with contextlib.ExitStack() as stack:
        for number, (a, b) in enumerate(((cluster[0], cluster[1]), (cluster[1], cluster[0]))):
            ends = [(a.pods[0], b.pods[0]), *([(a, b), (a, b.pods[1])] if hosts else [])]
            for port, (source, target) in enumerate(ends, 9100 + 10 * number):
                for offset, address in ((0, target.address4), (100, target.address6)):
                    probe = loss_probe(source, target, str(address), pps=20, port=port + offset)
                    found.append(stack.enter_context(probe))
        yield found


def sabotage(node: Node) -> None:
    for line in SABOTAGE:
        node.run(line, check=False)
        time.sleep(0.3)


def plain(wire: Capture) -> list[str]:
    return list(wire.plaintext())


@pytest.mark.parametrize(("scope", "cni"), [("overlay", "none"), ("transparent", "host-gw")])
def test_enforce_lets_no_plaintext_pass_when_tunnels_are_taken_apart(nodes: Nodes, scope: str, cni: str) -> None:
    """Prefer is the control: the same sabotage puts plaintext on the wire there, in transparent."""
    cluster = nodes(2, families=DUAL, cni=cni)
    a, _ = cluster
    with Deployment(cluster, scope=scope, stage="enforce") as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        assert_no_drift(linkseal)
        with cluster.capture() as whole, traffic(cluster, hosts=scope == "transparent") as losses:
            time.sleep(1)
        assert [str(loss) for loss in losses if loss.lost] == []
        assert plain(whole) == []
        for node in cluster:
            linkseal.stop(node, 9)
        with cluster.capture() as broken, traffic(cluster, hosts=scope == "transparent") as losses:
            sabotage(a)
        assert plain(broken) == []
        assert any(loss.lost for loss in losses)
        with cluster.capture() as open_:
            a.run("nft delete table inet linkseal_guard; nft delete table netdev linkseal_guard")
            a.run("ip rule del pref 102; ip -6 rule del pref 102")
            with traffic(cluster, hosts=scope == "transparent"):
                time.sleep(0.5)
        assert scope == "overlay" or plain(open_) != [], "without the guard the same traffic is seen"
