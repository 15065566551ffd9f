"""Nodes that find each other through a real API server, encrypted by wireguard-go: any kernel with TUN does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ground.charts import CLUSTER_ENCRYPTIONS, chart_installed, cluster_encryption
from ground.kubemesh import API, KubeDeployment, control_plane_on
from ground.net import Cluster
from ground.probes import loss_probe

pytestmark = [pytest.mark.kube, pytest.mark.timeout(420)]

USERSPACE = {"wireguard": {"driver": "userspace"}}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(3, cni="host-gw")
    try:
        yield made
    finally:
        made.remove()


def test_from_off_to_enforce_and_through_an_outage_of_the_api_server(cluster: Cluster, tmp_path: Path) -> None:
    a, b, c = cluster
    with (
        control_plane_on(cluster, tmp_path) as plane,
        chart_installed(plane),
        KubeDeployment(cluster, plane, **USERSPACE) as linkseal,
    ):
        plane.admin.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", verify={"interval": 0}))
        linkseal.start()
        ask(plane.admin, stage="prefer")
        linkseal.wait_sealed()
        with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as loss:
            ask(plane.admin, stage="enforce")
            linkseal.until(lambda: stage(plane.admin) == "enforce", "enforce", 120)
            linkseal.until(
                lambda: all(linkseal.status(n).guard.mode == "drop" for n in cluster), "guards that drop", 60
            )
            with cluster.capture() as wire:
                time.sleep(2)
            assert wire.count("wireguard")
            assert [text for text in wire.plaintext() if API not in text] == []

            plane.stop_api(kill=True)
            linkseal.stop(c)
            linkseal.start(c)
            try:
                linkseal.wait_sealed(60)
            finally:
                plane.start_api()
            linkseal.until(lambda: "LS4001" not in codes(linkseal, cluster), "no finding about the directory", 60)
            assert linkseal.rotate(a) == 2
            linkseal.until(linkseal.settled, "the new generation everywhere")
        assert "LS5001" not in codes(linkseal, cluster), f"sealed, and yet plaintext left\n{linkseal.report()}"
        assert loss.lost == [], loss
        assert loss.sent > 500


def codes(linkseal: KubeDeployment, cluster: Cluster) -> set[str]:
    return {code for node in cluster for code in linkseal.codes(node)}


def ask(admin: Any, **spec: Any) -> None:
    admin.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": spec})


def stage(admin: Any) -> object:
    return admin.get(f"{CLUSTER_ENCRYPTIONS}/default").get("status", {}).get("stage")
