"""The main job: agents find each other, exchange keys, build tunnels, and everything between the nodes is encrypted."""

from __future__ import annotations

import time

import pytest
from ground.agents import Deployment, Nodes
from ground.probes import loss_probe

pytestmark = pytest.mark.kernel


def test_pods_of_three_nodes_talk_encrypted_in_an_overlay(nodes: Nodes) -> None:
    cluster = nodes(3)
    a, b, c = cluster
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        with (
            cluster.capture() as wire,
            loss_probe(a.pods[0], b.pods[0], b.pods[0].address4, pps=200) as ab,
            loss_probe(c.pods[0], a.pods[0], a.pods[0].address4, pps=200) as ca,
        ):
            time.sleep(2)
        assert not ab.lost, ab
        assert not ca.lost, ca
        assert wire.plaintext() == []
        assert wire.count("wireguard") >= ab.sent + ca.sent
