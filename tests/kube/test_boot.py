"""All nodes lose power at once; what brings them back is on their disks: no agent runs, no API server answers."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from ground.boot import lose_power, start
from ground.charts import CLUSTER_ENCRYPTIONS, chart_installed
from ground.kubemesh import API, KubeDeployment, control_plane_on
from ground.namespaces import ForkedProcess
from ground.net import Cluster, Node
from ground.probes import loss_probe
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.lab.namespaces import processes_in
from linkseal.tunnels.lab.reset import DAEMON

pytestmark = [pytest.mark.kube, pytest.mark.timeout(420)]


def test_a_cluster_that_lost_power_comes_back_encrypted_by_its_disks_alone(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    a, b, _ = cluster
    with (
        control_plane_on(cluster, tmp_path) as plane,
        chart_installed(plane),
        KubeDeployment(cluster, plane, wireguard={"driver": "userspace"}) as linkseal,
    ):
        at = ["--kubeconfig", str(plane.kubeconfig(tmp_path / "operator"))]
        assert main([*at, "enable", "--to", "prepare"]) == 0
        linkseal.start()
        plane.admin.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"verify": {"interval": 0}}})
        assert main([*at, "enable", "--to", "enforce", "--wait=240s", "--yes"]) == 0, capfd.readouterr().err
        linkseal.until(lambda: all(linkseal.status(n).boot.state == "installed" for n in cluster), "boot units")
        plane.stop_api(kill=True)
        for node in cluster:
            cluster.wire.ip(f"link set up{node.index} down")
            linkseal.stop(node, signal.SIGKILL)
            lose_power(cluster, node)
        assert [len(node.run("nft list tables").split()) for node in cluster] == [0, 0, 0]
        began = time.monotonic()
        with cluster.capture() as wire, loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as loss:
            for node in cluster:
                said = linkseal.hosts[node.name].boot(node, "sysinit.target")
                assert "not on this host yet" in said
            late = [late_unit(linkseal, node) for node in cluster]  # which waits for an address
            time.sleep(1)
            for node in cluster:
                cluster.new_nic(node)
            assert [process.wait(120) for process in late] == [0, 0, 0], [process.text() for process in late]
            back = time.monotonic() - began
            time.sleep(8)
        assert [DAEMON in running(node) for node in cluster] == [True] * 3, "it outlives the unit's command"
        plain = [text for text in wire.plaintext() if API not in text]
        assert plain == []
        assert wire.count("wireguard") > 500
        assert loss.sent > 500
        assert [lost for lost in loss.lost if lost.at > back + 3] == [], "it flows again"
        plane.start_api()
        linkseal.start()
        linkseal.wait_sealed(120)


def running(node: Node) -> set[str]:
    return {Path(f"/proc/{pid}/comm").read_text().strip() for pid in processes_in([node.ns])}


def late_unit(linkseal: KubeDeployment, node: Node) -> ForkedProcess:
    (unit,) = linkseal.hosts[node.name].enabled("multi-user.target")
    return start(node, unit)
