"""All nodes lose power at once, and the API server lives behind the guard of one of them: no agent without it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground.boot import boot_inside, lose_power
from ground.podcluster import PodCluster, pod_cluster
from ground.probes import loss_probe
from linkseal.tunnels.lab.kube.cluster import serve_api
from linkseal.tunnels.lab.kube.lab import is_with

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(1500)]


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[PodCluster]:
    with pod_cluster(tmp_path, on_a_node=True) as made:
        yield made


def test_pods_that_only_the_api_server_starts_find_it_behind_the_guard(
    pods: PodCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    """Scope transparent, stage enforce; agents come up at last, and only through the API server on the first node."""
    a, b, _ = pods.cluster

    pods.install()
    pods.until(lambda: pods.ready("agent") == 3, "agents that are ready")
    assert pods.linkseal("enable", "--to", "prepare", "--scope", "transparent", "--wait=180s") == 0, pods.failed(capfd)
    pods.plane.admin.patch(pods.encryption, {"spec": {"verify": {"interval": 0}}})  # its controls are plaintext
    assert pods.linkseal("enable", "--to", "enforce", "--wait=240s", "--yes") == 0, pods.failed(capfd)

    pods.leave()
    pods.plane.lose_power()
    for node in pods.cluster:
        lose_power(pods.cluster, node)
        assert node.run("nft list tables; ip -br link | grep lsl || true").strip() == ""
    began = time.monotonic()
    with pods.cluster.capture() as wire, loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=50) as loss:
        for node in pods.cluster:
            early = boot_inside(node, "sysinit.target")
            assert early.wait(120) == 0, early.text()
        for node in pods.cluster:
            pods.cluster.new_nic(node)
        for node in pods.cluster:
            late = boot_inside(node, "multi-user.target")
            assert late.wait(200) == 0, late.text()
        back = time.monotonic() - began
        ping = f"ping -c1 -W1 {b.pods[0].address4}"
        pods.until(lambda: "1 received" in a.pods[0].run(ping, check=False), "packets that cross, by the disks alone")
        pods.plane.boot()
        for node in pods.cluster:
            serve_api(node, pods.plane.address, pods.plane.port)
            pods.start(node)
        pods.until(lambda: pods.ready("agent") == 3, "agents that the API server has started")
        pods.until(lambda: pods.linkseal("status") == 0, "everything encrypted")
        time.sleep(2)
    api = pods.plane.address, pods.plane.port  # exempt: without it no node could come in
    assert [text for text in wire.plaintext() if not is_with(text, *api)] == []
    assert wire.count("wireguard") > 100
    assert [lost for lost in loss.lost if lost.at > back + 5] == [], (
        f"{loss}, booted after {back:.0f} s\n{pods.failed(capfd)}"
    )
