"""A change of keys is a new generation beside the old one: nothing is lost, nothing reset, and no number used twice."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Node
from ground.traffic import assert_no_drift, of_peer, probe_addresses, steady_traffic, watched
from linkseal.keys.errors import HostError
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.codes import ROTATION_HELD as HELD
from linkseal.tunnels.directory.files import FileDirectory
from linkseal.tunnels.findings import CATALOGUE
from linkseal.tunnels.status import Request

pytestmark = pytest.mark.kernel

DUAL = ("4", "6")


def slots(node: Node) -> list[str]:
    return sorted(re.findall(r"\blsl[01]{2}\b(?=:)", node.run("ip -o link show")))


def live(linkseal: Deployment, node: Node) -> list[int]:
    return [generation.number for generation in linkseal.status(node).generations]


def used(linkseal: Deployment, node: Node, peer: Node) -> tuple[int, int] | None:
    """The pair of generations, own first, by which a node sends to a peer."""
    pairs = linkseal.status(node).pairs
    return next(((pair.own, pair.remote) for pair in pairs if pair.peer == peer.name and pair.carries), None)


def held_by(linkseal: Deployment, node: Node) -> set[str]:
    """Peers that a node says hold its rotation."""
    return {finding.subject for finding in linkseal.status(node).findings if finding.code == HELD}


def key_files(linkseal: Deployment, node: Node) -> list[str]:
    return sorted(path.name for path in (linkseal.state(node) / "keys").iterdir())


@pytest.mark.parametrize(
    ("scope", "cni", "delay_ms"), [("overlay", "none", 0), ("transparent", "host-gw", 10)], ids=["overlay", "delayed"]
)
def test_one_node_and_then_all_at_once_change_their_keys(nodes: Nodes, scope: str, cni: str, delay_ms: int) -> None:
    cluster = nodes(3, families=DUAL, cni=cni, delay_ms=delay_ms)
    a, b, c = cluster
    with Deployment(cluster, scope=scope) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        with steady_traffic(a, b, c) as traffic:
            with watched(c) as at_c:
                traffic.note("a raises a generation")
                assert linkseal.rotate(a) == 2
                linkseal.until(lambda: slots(a) == ["lsl00", "lsl01", "lsl10", "lsl11"], "four slots")
                linkseal.until(lambda: slots(a) == ["lsl00", "lsl01"], "two slots")
                linkseal.until(linkseal.settled, "one live generation everywhere")
            assert (live(linkseal, a), key_files(linkseal, a)) == ([2], ["gen-2.key"])
            assert at_c.besides(*a.pod_cidrs, *a.addresses, *probe_addresses(a)) == []
            assert of_peer(at_c.peers_after, b) == of_peer(at_c.peers_before, b)
            traffic.note("all raise a generation")
            for node in cluster:
                linkseal.rotate(node)
            linkseal.until(linkseal.settled, "one live generation everywhere", 60)
            assert [live(linkseal, node) for node in cluster] == [[3], [2], [2]]
            assert [len(slots(node)) for node in cluster] == [2, 2, 2]
        traffic.assert_unharmed()
        assert_no_drift(linkseal)


def test_a_rotation_waits_for_a_stopped_agent_and_can_be_aborted(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """c's tunnels work, but nobody there moves to new keys: the old stay until c is back, and its packets cross.

    The second rotation is asked for in the directory while a is down.
    """
    monkeypatch.setitem(CATALOGUE, HELD, replace(CATALOGUE[HELD], hold=2))
    cluster = nodes(3)
    a, b, c = cluster
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        with steady_traffic(a, b, c) as traffic:
            linkseal.stop(c)
            traffic.note("a raises a generation, c has no agent")
            assert linkseal.rotate(a) == 2
            with pytest.raises(HostError, match=r"generation.*abort|not announced yet"):
                linkseal.rotate(a)
            linkseal.until(lambda: used(linkseal, a, b) == (2, 1) and used(linkseal, b, a) == (1, 2), "moved to 2")
            linkseal.until(lambda: held_by(linkseal, a) == {c.name}, "held by c")
            assert live(linkseal, a) == [1, 2]
            traffic.note("a aborts")
            ask(linkseal.run_folder(a), {"do": "abort"})
            linkseal.until(lambda: slots(a) == ["lsl10", "lsl11"], "aborted")
            assert (live(linkseal, a), key_files(linkseal, a)) == ([1], ["gen-1.key"])
            assert used(linkseal, b, a) == (1, 1)
            traffic.note("a is restarted and finds a request to rotate")
            linkseal.stop(a)
            asyncio.run(FileDirectory(linkseal.directory).request(a.name, Request("again", "rotate", time.time())))
            linkseal.start(a)
            linkseal.until(lambda: used(linkseal, a, b) == (4, 1), "moved to 4: 2 was aborted, 3 has the parity of 1")
            linkseal.until(lambda: held_by(linkseal, a) == {c.name}, "held by c")
            traffic.note("the agent of c starts")
            linkseal.start(c)
            linkseal.until(linkseal.settled, "one live generation everywhere")
            assert (live(linkseal, a), key_files(linkseal, a)) == ([4], ["gen-4.key"])
            assert held_by(linkseal, a) == set()
            answer = linkseal.status(a).requests["again"]
            assert (answer.type, answer.state) == ("rotate", "done"), answer
        traffic.assert_unharmed()
        assert_no_drift(linkseal)
