"""The chart's pods where kernels have no WireGuard: wireguard-go in pods of its own outlives those of the agents.

And a CA that moves out of the cluster, into an SSH agent beside the controller.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from ground.charts import NAMESPACE, left_in_the_api, until
from ground.podcluster import PodCluster, pod_cluster
from ground.probes import loss_probe
from ground.sshagents import Keys
from linkseal.tunnels.cli.main import main

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
    with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as loss:
        pods.helm("uninstall")
        pods.until(lambda: not pods.pods_of("agent") + pods.pods_of("controller"), "no pods but those of wireguard-go")
        time.sleep(2)
        pods.install(*USERSPACE)
        until(lambda: ready("agent") and ready("controller"))
        assert pods.linkseal("status", "--wait=60s") == 0, pods.failed(capfd)
    assert loss.lost == [], f"tunnels end with wireguard-go\n{loss}\n{pods.failed(capfd)}"
    assert pods.uids("daemons") == daemons
    (old,) = (one for one in pods.pods_of("daemons") if one["spec"]["nodeName"] == a.name)
    pods.plane.admin.delete(f"{SPACE}/pods/{old['metadata']['name']}")
    until(lambda: old["metadata"]["uid"] not in pods.uids("daemons") and ready("daemons"))
    assert pods.linkseal("status", "--wait=120s") == 0, pods.failed(capfd)
    assert pods.linkseal("disable", "--wait=180s") == 0, pods.failed(capfd)
    pods.helm("uninstall")
    pods.until(lambda: not any(map(pods.pods_of, ("agent", "controller", "daemons"))), "no pods, also of wireguard-go")
    made = {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")}  # for every namespace
    assert left_in_the_api(pods.plane) - made == {("Namespace", NAMESPACE)}, pods.logs("uninstall")


def test_the_ca_moves_to_an_ssh_agent_beside_the_controller_and_nothing_is_lost(
    pods: PodCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    a, b = pods.cluster
    socket = "/run/ca-agent/sock"
    beside = {
        "name": "ca-agent", "image": "linkseal",
        "command": ["sh", "-c", "rm -f $SSH_AUTH_SOCK; exec ssh-agent -D -a $SSH_AUTH_SOCK"],
        "env": [{"name": "SSH_AUTH_SOCK", "value": socket}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "ca-agent", "mountPath": "/run/ca-agent"}],
    }  # fmt: skip
    values = tmp_path / "values.yaml"
    values.write_text(
        yaml.safe_dump({"controller": {"replicas": 1, "sshAgent": {"socket": socket, "containers": [beside]}}})
    )
    pods.install(*USERSPACE, "--values", str(values))
    pods.until(lambda: pods.ready("agent") == 2 and pods.ready("controller") == 1, "pods that are ready")
    assert pods.linkseal("enable", "--to", "prefer", "--wait=180s") == 0, pods.failed(capfd)
    (there,) = pods.folder.glob("**/volumes/ca-agent/sock")
    capfd.readouterr()
    with TemporaryDirectory() as short:  # a socket's path has 107 characters at most
        held = Path(short) / "sock"
        held.symlink_to(there)
        Keys(tmp_path, held).holds_file("ca")
        assert main(["controller", "ca", "--ssh-agent", str(held)]) == 0
    data = {"tls.crt": b64encode(capfd.readouterr().out.encode()).decode(), "tls.key": b64encode(b"ssh-agent").decode()}
    pods.plane.admin.post(f"{SPACE}/secrets", {"metadata": {"name": "linkseal-ca-next"}, "data": data})
    with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as loss:
        pods.plane.admin.patch(pods.encryption, {"spec": {"ca": {"rotate": "out"}}})
        pods.until(lambda: ca_phase(pods) == ("out", "steady"), "a CA that is replaced")
        assert pods.linkseal("status", "--wait=60s") == 0, pods.failed(capfd)
    assert loss.lost == [], f"{loss}\n{pods.failed(capfd)}"
    secret = pods.plane.admin.get(f"{SPACE}/secrets/linkseal-ca-key")["data"]
    assert b64decode(secret["tls.key"]) == b"ssh-agent"
    assert not any(b"PRIVATE KEY" in b64decode(value) for value in secret.values())


def ca_phase(pods: PodCluster) -> tuple[str, str]:
    """What the last replacement of the CA was asked for by, and how far it is."""
    found = pods.plane.admin.get(pods.encryption)["status"]["ca"]
    return found["asked"], found["phase"]
