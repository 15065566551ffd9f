"""A link whose handshake is fine but whose path is broken is never proven, and a finding says which part is broken."""

from __future__ import annotations

import dataclasses
import re
import time

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Node
from linkseal.tunnels import codes
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.findings import CATALOGUE
from linkseal.tunnels.model import LinkState
from linkseal.tunnels.probe import ladder

pytestmark = pytest.mark.kernel

SLOT = "lsl11"

LEAST = 1
"""Seconds a finding must last here before it shows; 15 in the product, which tests in virtual time hold it to."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents (forked from here) wait as often as ever, but less long each time."""
    monkeypatch.setattr(ladder, "HANDSHAKE_PATIENCE", 4.0)
    monkeypatch.setattr(ladder, "FIRST_WAIT", 0.1)
    monkeypatch.setattr(ladder, "FIRST_PAUSE", 1.0)
    for code, entry in CATALOGUE.items():
        if entry.hold > LEAST:
            monkeypatch.setitem(CATALOGUE, code, dataclasses.replace(entry, hold=LEAST))  # type: ignore[arg-type]


def firewall(node_or_router: object, hook: str, rule: str) -> None:
    table = f"table inet wall {{ chain it {{ type filter hook {hook} priority 0; {rule}; }}; }}"
    node_or_router.run(f"echo '{table}' | nft -f /proc/self/fd/0")  # type: ignore[attr-defined]


def shut_out(here: Node, other: Node) -> None:
    """Take the other node's prefixes out of the AllowedIPs it has here, by hand."""
    peers = [line.split("\t") for line in here.run(f"wg show {SLOT} allowed-ips").splitlines()]
    key, allowed = next((key, ips.split()) for key, ips in peers if other.pod_cidr4 in ips)
    left = ",".join(prefix for prefix in allowed if prefix != other.pod_cidr4)
    here.run(f"wg set {SLOT} peer {key} allowed-ips {left}")


def is_quiet(linkseal: Deployment, node: Node) -> bool:
    """Whether an agent does nothing for a second."""
    before = ask(linkseal.run_folder(node), {"do": "status"})["passes"]
    time.sleep(1)
    return bool(ask(linkseal.run_folder(node), {"do": "status"})["passes"] == before)


def states(linkseal: Deployment, node: Node) -> dict[str, tuple[LinkState, str | None]]:
    return {peer.name: (peer.state, peer.code) for peer in linkseal.status(node).unsealed}


def findings(linkseal: Deployment, node: Node) -> dict[tuple[str, str], str]:
    return {(found.code, found.subject): found.message for found in linkseal.status(node).findings}


def test_each_broken_path_is_told_apart_from_the_cold_start_on_and_none_is_ever_proven(nodes: Nodes) -> None:
    cluster = nodes(5, narrow={4: 1500})
    hub, walled, frozen, holed, deaf = cluster
    firewall(walled, "forward", 'iifname "lsl*" drop')
    firewall(cluster.routers[holed.index], "forward", "meta length > 1300 drop")  # and no ICMP about it
    firewall(deaf, "input", "udp dport 51820-51823 drop")
    expected = {
        walled.name: codes.NOT_FORWARDED,
        frozen.name: codes.NOTHING_CROSSES,
        holed.name: codes.MTU_HOLE,
        deaf.name: codes.NO_HANDSHAKE,
    }
    with Deployment(cluster) as linkseal:
        linkseal.start(hub, frozen)
        linkseal.until(lambda: linkseal.status(hub).links.sealed == 1, "the link that will be frozen")
        linkseal.stop(frozen)
        shut_out(frozen, hub)
        linkseal.stop(hub)
        linkseal.start(hub, walled, holed, deaf)
        linkseal.until(lambda: {n: code for n, (_, code) in states(linkseal, hub).items()} == expected, str(expected))
        linkseal.until(lambda: {(c, n) for n, c in expected.items()} <= findings(linkseal, hub).keys(), "findings")
        said = findings(linkseal, hub)
        found = {name: state for name, (state, _) in states(linkseal, hub).items()}
        links = linkseal.status(hub).links
        pairs = linkseal.status(hub).pairs
    assert "FORWARD policy at node2" in said[codes.NOT_FORWARDED, "node2"]
    size = re.search(r"the largest seen to cross has (\d+)", said[codes.MTU_HOLE, "node4"])
    assert size is not None
    assert 1200 < int(size[1]) <= 1300 - 60
    assert (links.sealed, links.proven) == (0, 0)
    assert all(pair.last_proof is None for pair in pairs)
    assert found == {
        "node2": LinkState.PENDING, "node3": LinkState.STALE, "node4": LinkState.PENDING, "node5": LinkState.PENDING
    }  # fmt: skip


def test_a_proven_link_that_breaks_is_stale_soon_and_sealed_again_when_repaired(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soon: three failed rounds, each of all its tries."""
    monkeypatch.setattr(ladder, "FIRST_WAIT", 0.03)
    cluster = nodes(2)
    a, b = cluster
    with Deployment(cluster, probe={"interval": 2}) as linkseal:
        linkseal.start(a)
        linkseal.start(b, poll=3600)  # it answers probes, and does not see what is done to its device
        linkseal.wait_sealed()
        linkseal.until(lambda: is_quiet(linkseal, b), "nothing more to do at b, which would find out")
        shut_out(b, a)
        linkseal.until(
            lambda: states(linkseal, a) == {b.name: (LinkState.STALE, codes.PREFIX_NOT_CARRIED)}, "stale", 90
        )
        linkseal.until(lambda: (codes.PREFIX_NOT_CARRIED, b.name) in findings(linkseal, a), "told")
        assert "10.244.1.0/24" in findings(linkseal, a)[codes.PREFIX_NOT_CARRIED, b.name]
        linkseal.stop(b)
        linkseal.start(b, poll=2)
        linkseal.wait_sealed()
        linkseal.until(lambda: (codes.PREFIX_NOT_CARRIED, b.name) not in findings(linkseal, a), "over")
