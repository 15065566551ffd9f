"""What crosses the wire: nothing but tunnels and neighbours, in both scopes and both families, whatever the CNI."""

from __future__ import annotations

import contextlib
import time

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Cluster
from ground.probes import Flow, Loss, loss_probes

pytestmark = pytest.mark.kernel

DUAL = ("4", "6")


def flows(cluster: Cluster, *, hosts: bool) -> contextlib.AbstractContextManager[list[Loss]]:
    """Traffic in the block between all nodes: pod to pod, and with `hosts` node to node and to pod; both families."""
    ways = []
    for source, target in ((0, 1), (1, 2), (2, 0)):
        a, b = cluster[source], cluster[target]
        ends = [(a.pods[0], b.pods[0], b.pods[0])]
        if hosts:
            ends += [(a, b, b), (a, b.pods[1], b.pods[1])]
        for port, (sender, receiver, named) in enumerate(ends, 9000):
            for family, address in ((4, named.address4), (6, named.address6)):
                ways.append(Flow(sender, receiver, address, 20, port=port + 100 * family + 10 * source))
    return loss_probes(ways)


def plaintext_seen(cluster: Cluster, *, hosts: bool) -> int:
    """The negative control: how many plaintext packets the same flows put on the wire when nothing encrypts them."""
    with cluster.capture() as wire, flows(cluster, hosts=hosts):
        time.sleep(1)
    return len(wire.plaintext())


def test_overlay_carries_both_families_of_pods_and_nothing_else_crosses(nodes: Nodes) -> None:
    cluster = nodes(3, families=DUAL)
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        with cluster.capture() as wire, flows(cluster, hosts=False) as probes:
            time.sleep(3)
        assert [str(probe) for probe in probes if probe.lost] == []
        assert wire.plaintext() == []
        assert wire.count("wireguard") >= sum(probe.sent for probe in probes)


@pytest.mark.parametrize("cni", ["host-gw", "vxlan"])
def test_transparent_carries_pods_hosts_and_the_cnis_own_encapsulation(nodes: Nodes, cni: str) -> None:
    cluster = nodes(3, families=DUAL, cni=cni)
    assert plaintext_seen(cluster, hosts=True) > 150
    with Deployment(cluster, scope="transparent") as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        with cluster.capture() as wire, flows(cluster, hosts=True) as probes:
            time.sleep(3)
        assert [str(probe) for probe in probes if probe.lost] == []
        assert wire.plaintext() == []
        assert wire.count("wireguard") >= sum(probe.sent for probe in probes)


def test_enabling_transparent_under_traffic_loses_nothing(nodes: Nodes) -> None:
    """Before: plaintext (the negative control). During: each link moves when it is proven. After: none."""
    cluster = nodes(3, families=DUAL, cni="host-gw")
    with Deployment(cluster, scope="transparent") as linkseal:
        with contextlib.ExitStack() as stack:
            with cluster.capture() as before:
                probes = stack.enter_context(flows(cluster, hosts=True))
                time.sleep(1)
            linkseal.start()
            linkseal.wait_sealed()
            time.sleep(0.5)
            with cluster.capture() as after:
                time.sleep(2)
        assert len(before.plaintext()) > 150
        assert [str(probe) for probe in probes if probe.lost] == []
        assert after.plaintext() == []
