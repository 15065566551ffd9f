"""Proof on the wire: healthy pairs are proven in every scope and family, and planted faults are never called proven."""

from __future__ import annotations

import asyncio
import itertools
import json
import time

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Cluster, Node
from linkseal.tunnels import codes
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.directory.files import FileDirectory
from linkseal.tunnels.status import Request
from linkseal.tunnels.statusparts import Verification
from linkseal.tunnels.verify.packet import CANARY_SIZE, CIPHERTEXT_SIZE

pytestmark = pytest.mark.kernel

_serial = itertools.count(1)

BUSY = 150.0
"""Seconds: the lab kernel may have a tenth of a CPU."""

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


def on_the_wire(cluster: Cluster, node: Node, rule: str) -> None:
    """Drop something on its way to a node, before its NIC."""
    chain = f'chain it {{ type filter hook egress device "up{node.index}" priority 0; policy accept; {rule}; }}'
    cluster.wire.run(f"echo 'table netdev wall {{ {chain}; }}' | nft -f /proc/self/fd/0")


def wire_off(cluster: Cluster) -> None:
    cluster.wire.run("nft delete table netdev wall")


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


def test_the_command_proves_an_overlay_and_sees_what_the_cni_carries_in_vxlan_past_it(
    nodes: Nodes, capfd: pytest.CaptureFixture[str]
) -> None:
    """The CNI's own tunnel would carry everything if a rule sent packets there: a canary inside VXLAN is in clear."""
    cluster = nodes(2, cni="vxlan")
    a, b = cluster
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.wait_sealed(BUSY)
        arguments = ["verify", "--directory", str(linkseal.directory), "-o", "json"]
        assert main(arguments) == 0, linkseal.report()
        answer = json.loads(capfd.readouterr().out)
        assert answer["counts"] == {"proven": 2, "unanswered": 0, "unreachable": 0, "blind": 0, "leaked": 0}
        assert all(pair["ciphertext"] > 0 for pair in answer["pairs"])

        b.ip(f"rule add pref 50 to {a.pod_cidr4} lookup main")
        assert main([*arguments, "--pair", f"{a.name},{b.name}"]) == 0
        assert main(arguments) == 1
        answer = json.loads(capfd.readouterr().out.partition("\n}\n")[2])
        assert {(pair["source"], pair["result"]) for pair in answer["pairs"]} == {
            (a.name, "proven"), (b.name, "leaked")
        }  # fmt: skip
        linkseal.until(lambda: main(["status", "--directory", str(linkseal.directory)]) == 1, "the verdict")
        assert codes.VERIFY_LEAKED in capfd.readouterr().out


def test_by_schedule_peers_are_verified_unasked(nodes: Nodes) -> None:
    cluster = nodes(2)
    with Deployment(cluster, verify={"interval": "10s", "sample": 1}) as linkseal:
        linkseal.start()
        linkseal.wait_sealed(BUSY)
        for node in cluster:
            linkseal.until(lambda node=node: bool(linkseal.status(node).verified), "verified", 60)  # type: ignore[misc]
            assert [one.result for one in linkseal.status(node).verified] == ["proven"], linkseal.report()
            assert linkseal.status(node).requests == {}


def test_every_scope_family_and_path_is_proven_and_planted_faults_are_not(nodes: Nodes) -> None:
    """One dual-stack cluster in scope transparent, with a CNI that would carry everything in clear by itself."""
    cluster = nodes(3, families=("4", "6"), cni="host-gw")
    a, b, c = cluster
    with Deployment(cluster, scope="transparent") as linkseal:
        linkseal.start()
        linkseal.wait_sealed(BUSY)
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
        linkseal.wait_sealed(BUSY)

        egress(a, f"udp length {CONTROL} drop")
        found = results(linkseal, a)[b.name]
        assert found[0] == "blind", found
        assert f"capture at {a.name}" in found[1]
        assert (codes.VERIFY_BLIND, b.name) in {(one.code, one.subject) for one in linkseal.status(a).findings}
        wall_off(a)

        on_the_wire(cluster, b, f"udp length {CONTROL} drop")
        found = results(linkseal, a)[b.name]
        assert found[0] == "blind", found
        assert f"capture at {b.name}" in found[1]
        wire_off(cluster)

        firewall(b, "forward", 'iifname "lsl11" drop')
        found = results(linkseal, a)[b.name]
        assert found[0] == "unreachable", found
        assert "did not arrive" in found[1]
        assert results(linkseal, b)[a.name] == ("proven", "")
        wall_off(b)

        on_the_wire(cluster, b, f"ip saddr {a.address4} udp length {TUNNELLED} drop")
        found = results(linkseal, a)[b.name]
        assert found[0] == "unreachable", found
        wire_off(cluster)
        assert results(linkseal, a) == {b.name: ("proven", "")}


def test_on_an_underlay_of_ipv6_alone_pairs_are_proven_and_what_leaks_is_seen(nodes: Nodes) -> None:
    cluster = nodes(2, families=("6",), cni="host-gw")
    a, b = cluster
    with Deployment(cluster, scope="transparent") as linkseal:
        linkseal.start()
        linkseal.wait_sealed(BUSY)
        for node in cluster:
            assert {one.result for one in verify(linkseal, node).values()} == {"proven"}, linkseal.report()
        a.run(f"ip -6 rule add pref 50 to {b.pod_cidr6} lookup main")
        assert results(linkseal, a, b)[b.name][0] == "leaked"
        assert results(linkseal, b, a)[a.name] == ("proven", "")


def test_nodes_behind_nat_are_proven(nodes: Nodes) -> None:
    cluster = nodes(3, nat=[3])
    with Deployment(cluster) as linkseal:
        linkseal.settings[cluster[2].name] = {"endpoints": []}
        linkseal.start()
        linkseal.wait_sealed(BUSY)
        for node in cluster:
            assert {one.result for one in verify(linkseal, node).values()} == {"proven"}, linkseal.report()


def test_what_a_session_puts_on_the_wire_in_clear_is_the_control_alone(nodes: Nodes) -> None:
    cluster = nodes(2)
    a, b = cluster
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.wait_sealed(BUSY)
        with cluster.capture() as wire:
            assert results(linkseal, a) == {b.name: ("proven", "")}
        assert wire.plaintext() == []
        assert wire.count("control") > 0


def test_in_enforce_pairs_are_proven_and_a_way_past_the_door_leaks_nothing(nodes: Nodes) -> None:
    cluster = nodes(2, families=("4", "6"), cni="host-gw")
    a, b = cluster
    with Deployment(cluster, scope="transparent", stage="enforce") as linkseal:
        linkseal.start()
        linkseal.wait_sealed(BUSY)
        assert results(linkseal, a) == {b.name: ("proven", "")}, linkseal.report()
        assert results(linkseal, b) == {a.name: ("proven", "")}, linkseal.report()
        a.ip(f"rule add pref 50 to {b.pod_cidr4} lookup main")
        with cluster.capture() as wire:
            assert results(linkseal, a)[b.name][0] == "unreachable"
        assert wire.plaintext() == []
