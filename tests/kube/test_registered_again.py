"""A Node that was deleted and registered again on the same disk, as clouds do: it comes back encrypted, by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from ground.charts import NODE_ENCRYPTIONS
from ground.kubemesh import API, KubeDeployment, assert_encrypted, deployed
from ground.net import Cluster, Node
from ground.probes import loss_probe
from linkseal.keys.errors import DirectoryError
from linkseal.tunnels.cli.main import main

pytestmark = [pytest.mark.kube, pytest.mark.timeout(420)]


def uid(linkseal: KubeDeployment, node: Node) -> str:
    found: str = linkseal.plane.admin.get(f"/api/v1/nodes/{node.name}")["metadata"]["uid"]
    return found


def keys(linkseal: KubeDeployment, node: Node) -> dict[int, str]:
    return {one.number: one.fingerprint for one in linkseal.status(node).generations}


def is_renewed(linkseal: KubeDeployment, node: Node, number: int) -> bool:
    """Whether the agent has the keys of this generation and its guard in place; not while it begins anew."""
    try:
        status = linkseal.status(node)
    except DirectoryError:
        return False
    return [one.number for one in status.generations] == [number] and status.guard.mode == "drop"


def reported(linkseal: KubeDeployment, node: Node) -> list[int]:
    """Numbers of the generations that the API server knows by its report."""
    found = linkseal.plane.admin.get(f"{NODE_ENCRYPTIONS}/{node.name}").get("status", {})
    return [one["number"] for one in found.get("generations", ())]


def test_it_comes_back_with_new_keys_and_nothing_is_plaintext(cluster: Cluster, tmp_path: Path) -> None:
    """Under a running agent, and while the machine was stopped; the others take it back without a word of anybody."""
    a, _, c = cluster
    with deployed(cluster, tmp_path) as (_, linkseal, at):
        linkseal.to_prefer(at)
        linkseal.to_enforce(at)
        first, old = uid(linkseal, c), keys(linkseal, c)

        def encrypted(number: int) -> None:
            linkseal.wait_sealed(90)
            linkseal.wait_guarded()
            linkseal.until(lambda: reported(linkseal, c) == [number], "a report of the new Node", 60)
            linkseal.until(lambda: main([*at, "status"]) == 0, "everything encrypted", 60)
            assert_encrypted(cluster, 1)

        with cluster.capture() as wire, loss_probe(c.pods[0], a.pods[0], str(a.pods[0].address4), pps=50) as loss:
            linkseal.delete_node(c)
            linkseal.register_again(c)
            assert uid(linkseal, c) != first
            linkseal.until(lambda: is_renewed(linkseal, c, 2), "an agent that knows of it and has new keys", 90)
            assert "was deleted and registered again" in linkseal.log(c)
            linkseal.stop(c)
            linkseal.start(c)  # its new pod, with a token for this Node
            encrypted(2)
            assert old[1] not in keys(linkseal, c).values()

            linkseal.stop(c)
            linkseal.delete_node(c)
            linkseal.until(lambda: linkseal.status(a).links.total == 1, "agents that have removed it", 60)
            linkseal.register_again(c)
            linkseal.start(c)
            linkseal.until(lambda: is_renewed(linkseal, c, 3), "new keys once more", 90)
            encrypted(3)
        assert [text for text in wire.plaintext() if API not in text] == []
        assert loss.lost, "it was cut off meanwhile, and none of these was sent in plaintext"
        assert loss.sent - 1 not in loss.lost, loss
