"""The chart's own pods on a cluster with everything but images: bound by the scheduler, run by a kubelet's stand-in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground.charts import HOOKS, NAMESPACE, called, hook_rights, left_in_the_api
from ground.podcluster import PodCluster, pod_cluster
from ground.probes import loss_probe
from linkseal.tunnels.lab.kube.cluster import API

SENT = 1000
"""Encrypted packets at least: the probe's alone are a hundred a second."""

KEPT = {
    *(("CustomResourceDefinition", f"{kind}.linkseal.io") for kind in ("clusterencryptions", "nodeencryptions")),
    *(("ConfigMap", f"linkseal-{name}") for name in ("ca", "policy", "stage")),
    ("Secret", "linkseal-ca-key"),
    ("ClusterEncryption", "default"),
}
"""What an uninstall leaves in the API while anything is encrypted, beside what Nodes carry."""

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(1500)]


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[PodCluster]:
    with pod_cluster(tmp_path) as made:
        yield made


def test_installed_encrypted_upgraded_and_uninstalled(pods: PodCluster, capfd: pytest.CaptureFixture[str]) -> None:
    """With traffic all the while: helm install, enable, new agents by helm upgrade, disable, helm uninstall.

    And helm uninstall while all is encrypted, and the chart installed again.
    """
    a, b, _ = pods.cluster
    began = time.monotonic()

    def say(what: str) -> None:
        with capfd.disabled():
            print(f"{time.monotonic() - began:6.1f} {what}", flush=True)

    pods.install()
    pods.until(lambda: pods.ready("agent") == 3 and pods.ready("controller") == 2, "pods that are ready")
    say("ready")
    with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as loss:
        assert pods.linkseal("enable", "--to", "prefer", "--wait=180s") == 0, pods.failed(capfd)
        say("prefer")
        pods.plane.admin.patch(pods.encryption, {"spec": {"verify": {"interval": 0}}})  # its controls are plaintext
        assert pods.linkseal("enable", "--to", "enforce", "--wait=180s", "--yes") == 0, pods.failed(capfd)
        say("enforce")
        capfd.readouterr()
        assert pods.linkseal("status") == 0, pods.failed(capfd)
        assert "3 of 3 links sealed at both ends" in capfd.readouterr().out
        with pods.cluster.capture() as wire:  # all the while
            before = pods.uids("agent")
            pods.helm("upgrade", "--set", "agent.config.poll=9")
            pods.until(
                lambda: pods.ready("agent") == 3 and not before & pods.uids("agent"), "new agents that are ready"
            )
            say("upgraded")
            uninstall(pods)
            assert "nothing is changed on nodes: the cluster is at stage enforce" in pods.logs(HOOKS[0])
            assert "all is left as it is in the API" in pods.logs(HOOKS[1])
            left = left_in_the_api(pods.plane)
            assert left >= KEPT | {("Node", node.name) for node in pods.cluster}
            assert [name for _, name in left if name.startswith(HOOKS)] == []
            time.sleep(2)  # nobody is there, and all is as it was
            pods.install()
            pods.until(lambda: pods.ready("agent") == 3 and pods.ready("controller") == 2, "pods that are ready again")
            assert pods.linkseal("status", "--wait=120s") == 0, pods.failed(capfd)
            say("installed again")
        assert wire.count("wireguard") > SENT
        assert [text for text in wire.plaintext() if API not in text] == []
        assert pods.linkseal("disable", "--wait=180s") == 0, pods.failed(capfd)
        say("disabled")
        logs = pods.logs()
        uninstall(pods)
        say("uninstalled")
        assert_nothing_on_nodes(pods)
        made = {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")}  # for every namespace
        assert left_in_the_api(pods.plane) - made == {("Namespace", NAMESPACE)}
    assert loss.lost == [], f"{loss}\n{logs}"
    for hook in HOOKS:
        assert called(pods.plane, hook) == hook_rights(pods.plane, hook)


def uninstall(pods: PodCluster) -> None:
    pods.helm("uninstall")
    pods.until(lambda: not pods.pods_of("agent") + pods.pods_of("controller"), "no pods")


def assert_nothing_on_nodes(pods: PodCluster) -> None:
    """In the kernel, on the disk, among the units."""
    for node in pods.cluster:
        found = "ip -o link; ip rule; ip route show table all; nft list tables; ls /sys/fs/bpf; tc qdisc"
        assert "lsl" not in node.run(found, check=False)
        assert "linkseal" not in node.run(found, check=False)
        left = "find /var/lib/linkseal /run/linkseal -mindepth 1; find /etc/systemd/system -name 'linkseal*'"
        assert node.run(left) == "", node.name
