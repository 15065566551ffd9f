"""Idle means idle: agents that find nothing to do write nothing, to the kernel or to a disk (law 8)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Node
from ground.traffic import watched
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.agent.loop import FULL_LOOK_EVERY
from linkseal.tunnels.status import is_loud

pytestmark = pytest.mark.kernel

STATUS = "status.json"
"""The one file that is written now and then: the report, when it says something new, and every five minutes."""


def counts(linkseal: Deployment, node: Node) -> tuple[int, int]:
    """How many passes the agent has made, and how many operations that change the kernel."""
    answer = ask(linkseal.run_folder(node), {"do": "status"})
    return answer["passes"], answer["writes"]


def settled(linkseal: Deployment) -> bool:
    """Whether nothing is written for a while."""
    before = [counts(linkseal, node)[1] for node in linkseal.members]
    time.sleep(2)
    return before == [counts(linkseal, node)[1] for node in linkseal.members]


def passes_after(linkseal: Deployment, before: dict[str, tuple[int, int]]) -> Iterator[bool]:
    """Asks every agent for a pass, and says of each whether it has made ten since `before`."""
    for node in linkseal.members:
        ask(linkseal.run_folder(node), {"do": "reconcile"})
        yield counts(linkseal, node)[0] - before[node.name][0] >= 10


def quiet(linkseal: Deployment) -> bool:
    """Whether no node has seen plaintext for half a minute: that it begins and ends is worth a report."""
    return not any(is_loud(linkseal.status(node)) for node in linkseal.members)


def report(linkseal: Deployment, node: Node) -> Path:
    return linkseal.directory / "nodes" / node.name / STATUS


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with what changes when it is written or replaced, reports left out."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        if path.name != STATUS and not (path.parent.name == "nodes" and path.is_dir()):  # reports are renamed there
            seen = path.stat()
            found[str(path.relative_to(folder))] = (seen.st_ino, seen.st_mtime_ns)
    return found


def test_passes_that_find_nothing_to_do_write_nothing(nodes: Nodes) -> None:
    """Polls, requests to reconcile, and events that concern nobody; the probes go on meanwhile."""
    cluster = nodes(3, families=("4", "6"), cni="host-gw")
    a, b, c = cluster
    with Deployment(cluster, scope="transparent", probe={"interval": 1}) as linkseal:
        linkseal.start(poll=1)
        linkseal.wait_sealed()
        linkseal.until(lambda: quiet(linkseal), "the end of what was plaintext before, reported")
        linkseal.until(lambda: settled(linkseal), "an idle cluster")
        before = {node.name: counts(linkseal, node) for node in cluster}
        files = stamps(linkseal.folder)
        reports = {node.name: report(linkseal, node).stat().st_mtime_ns for node in cluster}
        with watched(a) as at_a, watched(b) as at_b, watched(c) as at_c:
            a.run("ip address add 203.0.113.7/32 dev cni0; ip address del 203.0.113.7/32 dev cni0")
            time.sleep(FULL_LOOK_EVERY + 1)  # polls: everything is looked at once
            linkseal.until(lambda: all(list(passes_after(linkseal, before))), "ten passes more of every agent", 120)
        after = {node.name: counts(linkseal, node) for node in cluster}
        for node in cluster:
            assert after[node.name][1] == before[node.name][1]
            assert report(linkseal, node).stat().st_mtime_ns == reports[node.name]
        assert stamps(linkseal.folder) == files
        assert at_a.besides("203.0.113.7") == []
        assert (at_b.besides(), at_c.besides()) == ([], [])
