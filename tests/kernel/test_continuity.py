"""Nothing that happens to a running cluster loses a packet or resets a connection, and only what must is touched.

1,000 packets a second pod to pod, and 20 connections from a pod through a service (DNAT, MASQUERADE) to two nodes.
"""

from __future__ import annotations

import signal
import time

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Node
from ground.traffic import TRIAL, assert_no_drift, data_path, of_peer, probe_addresses, steady_traffic, tunnels, watched
from linkseal.tunnels.agent.control import ask

pytestmark = pytest.mark.kernel

DUAL = ("4", "6")


LOOK_AGAIN = "102:"
"""A rule that comes and goes, so that IPv6 sockets look their routes up again."""

NEW = "192.0.2.112"
"""b's second address."""


def endpoint(node: Node, peer: Node) -> str:
    """Where a node sends what goes to a peer."""
    return next(iter(of_peer(tunnels(node), peer).values()), "").split(" ")[0]


def test_agents_that_stop_start_and_reconcile_touch_nothing(nodes: Nodes) -> None:
    """Restarted by SIGTERM and by SIGKILL: tunnels work on without an agent and are taken over as they are."""
    cluster = nodes(3, families=DUAL, cni="host-gw")
    a, b, c = cluster
    with Deployment(cluster, scope="transparent") as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        with steady_traffic(a, b, c) as traffic:
            paths = [data_path(node) for node in cluster]
            with watched(a) as at_a, watched(b) as at_b:
                traffic.note("every agent reconciles")
                for node in cluster:
                    ask(linkseal.run_folder(node), {"do": "reconcile"})
                traffic.note("the agent of a ends by SIGTERM")
                linkseal.stop(a)
                time.sleep(1)
                traffic.note("the agent of a starts")
                linkseal.start(a)
                traffic.note("the agent of b is killed")
                linkseal.stop(b, signal.SIGKILL)
                time.sleep(1)
                traffic.note("the agent of b starts")
                linkseal.start(b)
                linkseal.wait_sealed()
                time.sleep(2.5)  # a poll
            assert paths == [data_path(node) for node in cluster]
        traffic.assert_unharmed()
        for touched in (at_a, at_b):
            assert touched.besides(TRIAL) == []
            assert touched.peers_after == touched.peers_before
        assert linkseal.status(a).announced_serial == linkseal.status(a).serial == 1
        assert_no_drift(linkseal)


def test_a_peer_that_joins_moves_or_leaves_concerns_its_own_links_only(nodes: Nodes) -> None:
    """d joins; b gets a second address, announces that one first, then that one only, then loses the old; d leaves."""
    cluster = nodes(4, families=DUAL)
    a, b, c, d = cluster

    def moved(*peers: Node) -> bool:
        return all(endpoint(peer, b).startswith(f"{NEW}:") for peer in peers)

    def stay_moved() -> bool:
        """Packets under way from the old address may bring it back, until both ends have heard from the new one."""
        return all(time.sleep(0.25) or moved(a, c, d) for _ in range(6))

    b.sysctl({"ipv4/conf/all/promote_secondaries": 1})
    with Deployment(cluster) as linkseal:
        linkseal.remove_node(d)
        linkseal.start(a, b, c)
        linkseal.wait_sealed()
        with steady_traffic(a, b, c) as traffic, watched(a) as at_a, watched(c) as at_c:
            traffic.note("d joins")
            linkseal.members.append(d)
            linkseal.sign()
            linkseal.start(d)
            linkseal.wait_sealed()
            traffic.note("b announces its second address")
            b.ip(f"address add {NEW}/24 dev eth0")
            linkseal.addresses[b.name] = [NEW, *b.addresses]
            linkseal.sign()
            linkseal.until(stay_moved, "new endpoint")
            traffic.note("b announces its second address alone")
            linkseal.addresses[b.name] = [NEW, str(b.address6)]
            linkseal.sign()
            time.sleep(1)
            assert moved(a, c, d), "and nothing brings the old one back"
            traffic.note("b loses its first address")
            b.ip(f"address del {b.address4}/24 dev eth0")
            time.sleep(1)
            traffic.note("d leaves")
            linkseal.remove_node(d)
            linkseal.until(lambda: not any(of_peer(tunnels(node), d) for node in (a, b, c)), "d forgotten")
            linkseal.stop(d)
            linkseal.wait_sealed()
        traffic.assert_unharmed()
        for node, other, touched in ((a, c, at_a), (c, a, at_c)):
            assert touched.besides(TRIAL, LOOK_AGAIN, *d.pod_cidrs, *probe_addresses(d)) == []
            assert of_peer(touched.peers_after, other) == of_peer(touched.peers_before, other)
            assert len(touched.peers_after) == 2
            assert moved(node)
        assert_no_drift(linkseal)
