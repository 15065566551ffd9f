"""A cluster walks its stages under traffic: nothing is lost, and what breaks on the way leaves it at the stage before.

Reverse path filters are strict, as many distributions have them.
"""

from __future__ import annotations

import signal
import time

import pytest
from ground.agents import Deployment, Nodes
from ground.walks import Walked, mesh_traffic

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]

GROUNDS = [("overlay", "host-gw"), ("transparent", "vxlan")]

SLOW = 10.0
"""Seconds for which one agent does nothing (issue 4)."""


@pytest.mark.parametrize(("scope", "cni"), GROUNDS)
def test_up_and_down_again_nothing_is_lost(nodes: Nodes, scope: str, cni: str) -> None:
    """off → prepare → prefer → prepare → off by the commands; one agent sleeps for ten seconds on the way."""
    cluster = nodes(3, cni=cni, rp_filter=1)
    with Walked(cluster, scope=scope) as linkseal:
        linkseal.start()
        with mesh_traffic(list(cluster)) as traffic:
            traffic.note("enable --to prepare")
            linkseal.walk("enable", "--to", "prepare")
            traffic.note("enable --to prefer, the agent of b asleep")
            linkseal.agents[cluster[1].name].kill(signal.SIGSTOP)
            enabling = linkseal.begin("enable", "--to", "prefer")
            time.sleep(SLOW)
            assert enabling.poll() is None, "it waits"
            linkseal.agents[cluster[1].name].kill(signal.SIGCONT)
            assert enabling.result(240) == 0, enabling.text()
            linkseal.wait_sealed()
            traffic.note("disable --to prepare")
            linkseal.walk("disable", "--to", "prepare")
            traffic.note("disable")
            linkseal.walk("disable")
        traffic.assert_unharmed()
        linkseal.until(lambda: linkseal.everywhere("off"), "off everywhere")
        for node in cluster:
            assert "lsl" not in node.run("ip -o link show; ip rule; nft list tables"), "everything is taken away"
            strict = node.run("cat /proc/sys/net/ipv4/conf/eth0/rp_filter").strip()
            assert strict == "1", "and what was loosened is strict again"


@pytest.mark.parametrize(("scope", "cni"), [("overlay", "host-gw"), ("transparent", "host-gw")])
def test_nodes_that_come_in_at_prefer_lose_nothing(nodes: Nodes, scope: str, cni: str) -> None:
    """Until a link is proven its traffic goes the CNI's way."""
    cluster = nodes(2, cni=cni, rp_filter=1)
    with Deployment(cluster, scope=scope, stage="prefer") as linkseal:
        with mesh_traffic(list(cluster)) as traffic:
            linkseal.start()
            linkseal.wait_sealed()
        traffic.assert_unharmed()


@pytest.mark.parametrize(("scope", "cni"), [("overlay", "host-gw"), ("transparent", "host-gw")])
def test_to_enforce_and_back_nothing_is_lost_and_nothing_is_in_the_clear(nodes: Nodes, scope: str, cni: str) -> None:
    cluster = nodes(3, cni=cni, rp_filter=1)
    with Walked(cluster, scope=scope) as linkseal:
        linkseal.start()
        with mesh_traffic(list(cluster), flows=2, pps=200) as traffic:
            traffic.note("enable --to prefer")
            linkseal.walk("enable", "--to", "prefer", "--timeout", "300s")
            linkseal.wait_sealed()
            traffic.note("enable, the agent of b asleep")
            linkseal.agents[cluster[1].name].kill(signal.SIGSTOP)
            enabling = linkseal.begin("enable", "--yes", "--timeout", "300s")
            time.sleep(SLOW)
            assert enabling.poll() is None, "it waits"
            linkseal.agents[cluster[1].name].kill(signal.SIGCONT)
            assert enabling.result(300) == 0, enabling.text()
            assert "not covered: link-local and multicast" in enabling.text()
            assert "the cluster is at stage enforce" in enabling.text()
            traffic.note("enforce")
            with cluster.capture() as wire:
                time.sleep(2)
            assert wire.count("wireguard")
            assert wire.plaintext() == []
            traffic.note("disable")
            linkseal.walk("disable", "--timeout", "300s")
        traffic.assert_unharmed()
        assert linkseal.position() == {"stage": "off"}


def test_a_command_that_is_killed_leaves_the_cluster_at_the_stage_before(nodes: Nodes) -> None:
    cluster = nodes(3, cni="host-gw", rp_filter=1)
    with Walked(cluster, scope="transparent") as linkseal:
        linkseal.start()
        linkseal.walk("enable", "--to", "prepare")
        with mesh_traffic(list(cluster), flows=1, connections=4) as traffic:
            linkseal.until(linkseal.proven, "all links proven")
            asleep = linkseal.agents[cluster[2].name]
            traffic.note("one agent sleeps, enable --to prefer")
            asleep.kill(signal.SIGSTOP)
            enabling = linkseal.begin("enable", "--to", "prefer")
            linkseal.until(lambda: linkseal.position() == {"stage": "prefer"}, "on the way")
            traffic.note("the command is killed")
            enabling.kill(signal.SIGKILL)
            linkseal.until(lambda: linkseal.position() == {"stage": "prepare"}, "taken back")
            asleep.kill(signal.SIGCONT)
            linkseal.until(lambda: linkseal.everywhere("prepare"), "prepare everywhere")
        traffic.assert_unharmed()


def test_a_command_that_is_killed_on_the_way_to_enforce_leaves_the_cluster_at_prefer(nodes: Nodes) -> None:
    cluster = nodes(3, cni="host-gw", rp_filter=1)
    with Walked(cluster, scope="transparent") as linkseal:
        linkseal.start()
        linkseal.walk("enable", "--to", "prefer")
        with mesh_traffic(list(cluster), flows=1, connections=4) as traffic:
            linkseal.wait_sealed()
            traffic.note("enable")
            enabling = linkseal.begin("enable", "--yes", "--timeout", "300s")
            linkseal.until(lambda: linkseal.position() == {"stage": "enforce"}, "on the way")
            traffic.note("the command is killed")
            enabling.kill(signal.SIGKILL)
            linkseal.until(lambda: linkseal.position() == {"stage": "prefer"}, "taken back")
            linkseal.until(lambda: linkseal.everywhere("prefer"), "prefer everywhere")
            assert linkseal.all_sealed()
        traffic.assert_unharmed()


def test_an_agent_that_dies_on_the_way_leaves_the_cluster_at_the_stage_before(nodes: Nodes) -> None:
    cluster = nodes(3, cni="host-gw", rp_filter=1)
    with Walked(cluster, scope="overlay") as linkseal:
        linkseal.start()
        linkseal.walk("enable", "--to", "prepare")
        with mesh_traffic(list(cluster), flows=1, connections=4) as traffic:
            linkseal.until(linkseal.proven, "all links proven")
            traffic.note("one agent dies, enable --to prefer")
            linkseal.stop(cluster[2], signal.SIGKILL)
            enabling = linkseal.begin("enable", "--to", "prefer", "--timeout", "10s")
            assert enabling.result(120) == 1
            assert f"not reached {cluster[2].name}; the cluster is at stage prepare" in enabling.text()
            assert linkseal.position() == {"stage": "prepare"}
            linkseal.until(lambda: linkseal.everywhere("prepare"), "prepare everywhere")
        traffic.assert_unharmed()


def test_a_pool_goes_first(nodes: Nodes) -> None:
    """Two of three nodes are encrypted among themselves; nobody loses anything when the pool goes, or the others do."""
    cluster = nodes(3, cni="host-gw", rp_filter=1)
    a, b, c = cluster
    with Walked(cluster, scope="transparent") as linkseal:
        linkseal.start()
        with mesh_traffic(list(cluster), flows=1, connections=4) as traffic:
            traffic.note("the pool")
            linkseal.walk("enable", "--to", "prefer", "--nodes", f"{a.name},{b.name}")
            linkseal.until(
                lambda: linkseal.status(a).links.sealed == linkseal.status(b).links.sealed == 1, "the pool sealed"
            )
            assert "lsl" not in c.run("ip -o link show")
            traffic.note("the others")
            linkseal.walk("enable", "--to", "prefer")
            linkseal.wait_sealed()
            traffic.note("disable")
            linkseal.walk("disable")
        traffic.assert_unharmed()


def test_ports_marks_and_tables_change_at_stage_off_without_a_restart(nodes: Nodes) -> None:
    """Before, they stay as they were, and all else goes on; at stage off the agents that run begin anew with them."""
    cluster = nodes(2, cni="host-gw", rp_filter=1)
    with Walked(cluster, scope="transparent") as linkseal:
        linkseal.start()
        linkseal.walk("enable", "--to", "prefer")
        linkseal.wait_sealed()
        pids = [linkseal.agents[node.name].pid for node in cluster]
        linkseal.spec |= {"wireguard": {"port": 51900}, "routing": {"table": 4242}, "guard": {"table": "other_guard"}}
        linkseal.sign()
        linkseal.walk("disable")
        linkseal.until(lambda: linkseal.everywhere("off"), "off everywhere")
        linkseal.walk("enable", "--to", "prefer")
        assert [linkseal.agents[node.name].pid for node in cluster] == pids
        linkseal.wait_sealed()
        for node in cluster:
            assert "LS4013" not in linkseal.codes(node)
            assert "lookup 4242" in node.run("ip rule")
            assert "other_guard" in node.run("nft list tables")
            assert "linkseal_guard" not in node.run("nft list tables")
            assert "listening port: 51903" in node.run("wg show lsl11"), "two odd generations: three further"
