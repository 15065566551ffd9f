"""The chart's pods where kernels have no WireGuard: wireguard-go in pods of its own outlives those of the agents."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground.charts import until
from ground.podcluster import PodCluster, pod_cluster
from ground.probes import loss_probe

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]

USERSPACE = ("--set", "agent.config.wireguard.driver=userspace")
SPACE = "/api/v1/namespaces/linkseal"


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[PodCluster]:
    with pod_cluster(tmp_path, 2) as made:
        yield made


def test_new_agents_lose_nothing_and_new_daemons_are_for_the_operator_to_start(
    pods: PodCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    def ready(component: str, count: int = 2) -> bool:
        return pods.ready(component) == count

    a, b = pods.cluster
    pods.install(*USERSPACE)
    until(lambda: ready("agent") and ready("daemons") and ready("controller"))
    assert pods.linkseal("enable", "--to", "prefer", "--wait=180s") == 0, pods.failed(capfd)
    pods.plane.admin.patch(pods.encryption, {"spec": {"verify": {"interval": 0}}})  # its controls are plaintext
    assert pods.linkseal("enable", "--to", "enforce", "--wait=180s", "--yes") == 0, pods.failed(capfd)
    agents, daemons = pods.uids("agent"), pods.uids("daemons")
    began = time.time()
    with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as loss:
        pods.helm("upgrade", *USERSPACE, "--set", "agent.config.poll=9", "--set", "image.tag=next")
        until(lambda: ready("agent") and not agents & pods.uids("agent"))
        assert pods.linkseal("status", "--wait=60s") == 0, pods.failed(capfd)
        time.sleep(2)
    assert pods.uids("daemons") == daemons, "an upgrade leaves them alone"
    assert loss.lost == [], f"{loss}, lost {[round(began + one.at, 2) for one in loss.lost][:3]}…\n{pods.failed(capfd)}"
    assert loss.sent > 200
    (old,) = (one for one in pods.pods_of("daemons") if one["spec"]["nodeName"] == a.name)
    pods.plane.admin.delete(f"{SPACE}/pods/{old['metadata']['name']}")
    until(lambda: old["metadata"]["uid"] not in pods.uids("daemons") and ready("daemons"))
    assert pods.linkseal("status", "--wait=120s") == 0, pods.failed(capfd)
