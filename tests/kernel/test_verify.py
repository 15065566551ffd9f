"""Proof on the wire: healthy pairs are proven in every scope and family, and planted faults are never called proven."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Node
from linkseal.tunnels.directory.files import FileDirectory
from linkseal.tunnels.status import Request
from linkseal.tunnels.statusparts import Verification

pytestmark = pytest.mark.kernel

_serial = itertools.count(1)


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
