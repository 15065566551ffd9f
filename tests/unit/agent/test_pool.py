"""A pool goes first: its members have links among themselves, and nothing with those that are still off."""

from __future__ import annotations

from pathlib import Path

from linkseal.keys import policydoc
from linkseal.keys.policydoc import PolicyDocument
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.model import Stage
from linkseal.tunnels.register import Snapshot
from linkseal.tunnels.statusparts import AppliedStatus

from .pair import CA, NOW, Node, T

POOL = {"stage": "prefer", "nodes": ["n1", "n2"]}


def view(serial: int, *nodes: Node, **spec: object) -> DirectoryView:
    policy = policydoc.sign(CA, PolicyDocument("cluster", serial, NOW, {"scope": "transparent", **spec}))
    return DirectoryView(Snapshot("cluster", {n.name: n.documents() for n in nodes}), policy, CA.certificate_pem())


def settle(serial: int, *nodes: Node, **spec: object) -> None:
    for _ in range(3):
        seen = view(serial, *nodes, **spec)
        for node in nodes:
            node.run(T, view=seen)
            if node.keyring.last is not None:
                node.published()
    for node in nodes:
        node.handshakes(T)
        for peer in nodes:
            if peer is not node and node.worker.book.records:
                node.prove(peer.name, 1, 1, T)
        node.run(T)
        node.run(T)


def test_members_are_sealed_among_themselves_and_the_others_are_left_alone(tmp_path: Path) -> None:
    a, b, c = nodes = [Node(tmp_path / str(i), i) for i in (1, 2, 3)]
    settle(1, *nodes, stage="off", pool=POOL)
    assert [node.status(T).policy for node in nodes] == [AppliedStatus(1, applied=True)] * 3
    assert [node.status(T).stage for node in nodes] == [Stage.PREFER, Stage.PREFER, Stage.OFF]
    assert (a.status(T).links.sealed, a.status(T).links.total) == (1, 1)
    assert a.routed(b)
    assert not a.routed(c)
    assert c.host.kernel.devices == {}


def test_one_that_has_gone_less_far_gets_links_and_no_traffic(tmp_path: Path) -> None:
    a, b, c = nodes = [Node(tmp_path / str(i), i) for i in (1, 2, 3)]
    settle(1, *nodes, stage="prepare", pool=POOL)
    assert a.routed(b)
    assert not a.routed(c)
    assert not c.routed(a)
    links = a.status(T).links
    assert (links.sealed, links.proven, links.total) == (1, 1, 2)
