"""Proof on the wire: healthy pairs are proven in every scope and family, and planted faults are never called proven."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Cluster, Node
from linkseal.tunnels import codes
from linkseal.tunnels.directory.files import FileDirectory
from linkseal.tunnels.status import Request
from linkseal.tunnels.statusparts import Verification
from linkseal.tunnels.verify.packet import CANARY_SIZE, CIPHERTEXT_SIZE

pytestmark = pytest.mark.kernel

_serial = itertools.count(1)

CONTROL, TUNNELLED = CANARY_SIZE - 20, CIPHERTEXT_SIZE + 8
"""UDP lengths of the control and of a canary inside the tunnel."""


def egress(node: Node, rule: str) -> None:
    chain = f'chain it {{ type filter hook egress device "eth0" priority 0; policy accept; {rule}; }}'
    node.run(f"echo 'table netdev wall {{ {chain}; }}' | nft -f /proc/self/fd/0")


def firewall(node: Node, hook: str, rule: str) -> None:
    table = f"table inet wall {{ chain it {{ type filter hook {hook} priority 0; policy accept; {rule}; }}; }}"
    node.run(f"echo '{table}' | nft -f /proc/self/fd/0")


def wall_off(node: Node) -> None:
    for family in ("inet", "netdev"):
        node.run(f"nft delete table {family} wall", check=False)


def on_the_wire(cluster: Cluster, rule: str) -> None:
    table = f"table bridge wall {{ chain it {{ type filter hook forward priority 0; policy accept; {rule}; }}; }}"
    cluster.wire.run(f"echo '{table}' | nft -f /proc/self/fd/0")


def ask(linkseal: Deployment, node: Node, *peers: Node) -> str:
    """Ask an agent to verify its traffic to these peers (all without any); returns the request's id."""
    request = Request(f"v{next(_serial)}", "verify", time.time(), tuple(peer.name for peer in peers))

    async def put() -> None:
        directory = FileDirectory(linkseal.directory)
        try:
            await directory.request(node.name, request)
        finally:
            await directory.close()

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(put())
    return request.id


def verify(linkseal: Deployment, node: Node, *peers: Node) -> dict[str, Verification]:
    """Verify and return what came out, by peer."""
    request = ask(linkseal, node, *peers)

    def done() -> bool:
        found = linkseal.status(node).requests.get(request)
        return found is not None and found.state not in ("accepted", "running")

    linkseal.until(done, f"an answer to {request}", 60)
    status = linkseal.status(node)
    assert status.requests[request].state == "done", status.requests
    return {found.peer: found for found in status.verified}


def results(linkseal: Deployment, node: Node, *peers: Node) -> dict[str, tuple[str, str]]:
    return {peer: (found.result, found.message) for peer, found in verify(linkseal, node, *peers).items()}


def test_a_healthy_overlay_is_proven_between_all_pairs(nodes: Nodes) -> None:
    cluster = nodes(2)
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        for node, peer in (cluster, cluster[::-1]):
            found = verify(linkseal, node)
            assert {name: (one.result, one.message) for name, one in found.items()} == {peer.name: ("proven", "")}
            assert found[peer.name].ciphertext > 0


def test_every_scope_family_and_path_is_proven_and_planted_faults_are_not(nodes: Nodes) -> None:
    """One dual-stack cluster in scope transparent, with a CNI that would carry everything in clear by itself."""
    cluster = nodes(3, families=("4", "6"), cni="host-gw")
    a, b, c = cluster
    with Deployment(cluster, scope="transparent") as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        for node in cluster:
            assert {one.result for one in verify(linkseal, node).values()} == {"proven"}, linkseal.report()

        # Somebody else's rule takes the traffic to b's pods past the door.
        a.ip(f"rule add pref 50 to {b.pod_cidr4} lookup main")
        found = results(linkseal, a, b, c)
        assert (found[b.name][0], found[c.name][0]) == ("leaked", "proven"), found
        assert b.pods[0].address4 is not None
        assert b.pod_cidr4 is not None
        assert b.pod_cidr4.removesuffix(".0/24") in found[b.name][1]
        codes_shown = {(one.code, one.subject) for one in linkseal.status(a).findings}
        assert (codes.VERIFY_LEAKED, b.name) in codes_shown
        a.ip(f"rule del pref 50 to {b.pod_cidr4} lookup main")
        assert results(linkseal, a, b)[b.name] == ("proven", "")
        assert (codes.VERIFY_LEAKED, b.name) not in {(one.code, one.subject) for one in linkseal.status(a).findings}

        # The same for what the host itself sends, in IPv6.
        a.run(f"ip -6 rule add pref 50 to {b.address6} lookup main")
        assert results(linkseal, a, b)[b.name][0] == "leaked"
        a.run(f"ip -6 rule del pref 50 to {b.address6} lookup main")


def test_a_blinded_capture_is_blind_and_a_path_broken_one_way_is_unreachable_that_way(nodes: Nodes) -> None:
    cluster = nodes(2)
    a, b = cluster
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()

        egress(a, f"udp length {CONTROL} drop")
        found = results(linkseal, a)[b.name]
        assert found[0] == "blind", found
        assert f"capture at {a.name}" in found[1]
        assert (codes.VERIFY_BLIND, b.name) in {(one.code, one.subject) for one in linkseal.status(a).findings}
        wall_off(a)

        on_the_wire(cluster, f"udp length {CONTROL} drop")
        found = results(linkseal, a)[b.name]
        assert found[0] == "blind", found
        assert f"capture at {b.name}" in found[1]
        cluster.wire.run("nft delete table bridge wall")

        firewall(b, "forward", 'iifname "lsl*" ip saddr 10.244.0.0/16 drop')
        found = results(linkseal, a)[b.name]
        assert found[0] == "unreachable", found
        assert "did not arrive" in found[1]
        assert results(linkseal, b)[a.name] == ("proven", "")
        wall_off(b)

        on_the_wire(cluster, f"ip saddr {a.address4} udp length {TUNNELLED} drop")
        found = results(linkseal, a)[b.name]
        assert found[0] == "unreachable", found
        cluster.wire.run("nft delete table bridge wall")
        assert results(linkseal, a) == {b.name: ("proven", "")}


def test_nodes_behind_nat_are_proven(nodes: Nodes) -> None:
    cluster = nodes(3, nat=[3])
    with Deployment(cluster) as linkseal:
        linkseal.settings[cluster[2].name] = {"endpoints": []}
        linkseal.start()
        linkseal.wait_sealed()
        for node in cluster:
            assert {one.result for one in verify(linkseal, node).values()} == {"proven"}, linkseal.report()
