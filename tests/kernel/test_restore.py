"""What a node knows was good outlasts the directory, the agent and a reboot; and cleanup leaves nothing behind."""

from __future__ import annotations

import re
import shutil
import time

import pytest
from ground.agents import Deployment, Nodes
from ground.namespaces import Namespace
from ground.net import Node
from ground.probes import Flow, Loss, loss_probe, loss_probes
from ground.traffic import TRIAL, assert_no_drift, steady_traffic, tunnels, watched
from linkseal.tunnels.agent import main as agent

pytestmark = pytest.mark.kernel

DUAL = ("4", "6")

OTHER_CLUSTER = "LS1023"

DUMP = (
    "ip -d link",
    "ip address",
    "ip rule; ip -6 rule",
    "ip route show table all | sort; ip -6 route show table all | sort",
    "nft list ruleset",
    "grep -r . /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/ipv4/conf/*/accept_local",
)

BYSTANDERS = (
    "ip link add wg0 type wireguard; ip link set wg0 up",
    "ip address add 172.31.0.1/24 dev wg0",
    "ip rule add pref 50 fwmark 0x99 lookup 99; ip route add 172.31.9.0/24 dev wg0 table 99",
    "ip -6 rule add pref 50 fwmark 0x99 lookup 99",
    "nft add table inet other; nft add chain inet other c '{ type filter hook forward priority 0; }'",
    "nft add table netdev other",
)
"""Others' things that are like ours."""


def dump(node: Node) -> list[str]:
    """Everything of a node's network that we could have changed; without the timers of a bridge."""
    return [re.sub(r"\S+_timer +\S+", "", line) for command in DUMP for line in node.run(command).splitlines()]


def lose_the_kernels_memory(node: Node) -> None:
    """What a reboot does to what is ours."""
    for name in ("lsl0", "lsl00", "lsl01", "lsl10", "lsl11", "lslp"):
        node.run(f"ip link del {name}", check=False)
    for family in ("-4", "-6"):
        node.run(f"while ip {family} rule del table 51820; do :; done 2>/dev/null", check=False)
        node.run(f"ip {family} rule del pref 100", check=False)
        node.run(f"ip {family} route flush table 51820", check=False)
        node.run(f"ip {family} route flush table 51821; ip {family} rule del table 51821", check=False)
    for table in ("linkseal", "linkseal_guard"):
        node.run(f"nft delete table inet {table}; nft delete table netdev {table}")
    node.sysctl({"ipv4/conf/eth0/rp_filter": 1})


def about_directory(linkseal: Deployment, node: Node) -> list[str]:
    """What a node has to say against its directory."""
    found = [finding.code for finding in linkseal.status(node).findings]
    return [code for code in found if code == OTHER_CLUSTER or code.startswith("LS4")]


def sent(*ways: tuple[Namespace, Namespace, str | None]) -> list[Loss]:
    """What becomes of 100 packets a second for a second, by each of these ways (source, target, its address)."""
    flows = [
        Flow(source, target, str(address), 100, port=port) for port, (source, target, address) in enumerate(ways, 9000)
    ]
    with loss_probes(flows) as probes:
        time.sleep(1)
    return probes


def test_without_its_directory_a_cluster_works_on_and_forgets_nobody(nodes: Nodes) -> None:
    """It is gone, then another is in its place, then it is back; an agent is restarted each time."""
    cluster = nodes(3)
    a, b, c = cluster
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        peers = tunnels(a)
        hidden = linkseal.directory.with_name("hidden")
        with steady_traffic(a, b, c) as traffic:
            traffic.note("the directory is gone")
            linkseal.directory.rename(hidden)
            linkseal.stop(a)
            linkseal.start(a)
            linkseal.wait_sealed()
            assert "starting from the last known good" in linkseal.log(a)
            traffic.note("an empty one is in its place, of another cluster")
            linkseal.sign()
            shutil.rmtree(linkseal.directory / "nodes")
            (linkseal.directory / "nodes").mkdir()
            linkseal.stop(b)
            linkseal.start(b)
            linkseal.wait_sealed()
            linkseal.until(lambda: OTHER_CLUSTER in linkseal.log(a) and OTHER_CLUSTER in linkseal.log(b), "a finding")
            time.sleep(3)  # by then a deletion would be confirmed
            assert tunnels(a) == peers
            traffic.note("the directory is back")
            shutil.rmtree(linkseal.directory)
            hidden.rename(linkseal.directory)
            linkseal.stop(c)
            linkseal.start(c)
            linkseal.wait_sealed()
            linkseal.until(
                lambda: not any(about_directory(linkseal, node) for node in cluster), "nothing to complain of"
            )
        traffic.assert_unharmed()
        assert tunnels(a) == peers
        assert_no_drift(linkseal)


def test_restore_rebuilds_the_data_path_from_disk_and_cleanup_removes_it_all(nodes: Nodes) -> None:
    """After a reboot, without directory and agents; what agents take over then loses nothing."""
    cluster = nodes(3, families=DUAL, cni="host-gw")
    a, b, c = cluster
    for line in BYSTANDERS:
        a.run(line)
    before = dump(a)
    with Deployment(cluster, scope="transparent") as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        assert dump(a) != before
        for node in cluster:
            linkseal.stop(node)
        hidden = linkseal.directory.with_name("hidden")
        linkseal.directory.rename(hidden)
        lose_the_kernels_memory(a)
        assert dump(a) == before
        with cluster.capture() as wire:
            linkseal.run_in(a, agent.restore, linkseal.agent_settings(a))
            to_a = sent((b.pods[0], a.pods[0], a.pods[0].address4), (c, a, a.address6))
            from_a = sent((a.pods[1], c.pods[1], c.pods[1].address6), (a, b, b.address4))
            hidden.rename(linkseal.directory)
            with watched(a) as touched, loss_probe(b.pods[0], a.pods[0], str(a.pods[0].address4), pps=100) as adopted:
                linkseal.start()
                linkseal.wait_sealed()
        assert [str(probe) for probe in (*to_a, *from_a, adopted) if probe.lost] == []
        assert touched.besides(TRIAL) == []
        assert wire.plaintext() == []
        assert wire.count("wireguard") >= sum(probe.sent for probe in (*to_a, *from_a, adopted))
        linkseal.stop(a)
        removed = linkseal.run_in(a, lambda: agent.cleanup(linkseal.agent_settings(a), withdraw=True))
        assert dump(a) == before, removed
        assert not (linkseal.directory / "nodes" / a.name / "announcement.json").exists()
        assert (linkseal.state(a) / "generations.json").exists(), "the keys stay"
