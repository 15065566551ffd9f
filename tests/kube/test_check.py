"""`linkseal check` and its kin from an operator's desk: a real API server, a kubeconfig, and no access to any node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ground import controlbuild
from ground.charts import CLUSTER_ENCRYPTIONS, chart_installed, cluster_encryption
from ground.cniobjects import BLOCKS, CALICO, block, defined
from ground.controlplane import ControlPlane
from ground.kubeapi import Recorder
from ground.kubeobjects import create_node, create_service_account, unbound_token

pytestmark = pytest.mark.kube

PROGRAMS = Path(sys.executable).parent
POD_NETWORKS = {"n1": "10.244.1.0/24", "n2": "10.244.2.0/24"}
DAEMON_SETS = "/apis/apps/v1/namespaces/kube-system/daemonsets"


@pytest.fixture
def nodes(kube: Recorder) -> Iterator[Recorder]:
    for number, (name, network) in enumerate(POD_NETWORKS.items(), 1):
        create_node(kube, name, addresses=[f"192.0.2.{number}"], pod_cidrs=[network])
        info = {
            "kernelVersion": "5.15.0-130-generic" if name == "n2" else "6.1.0-26-amd64", "operatingSystem": "linux",
            "osImage": "Debian", "machineID": "", "systemUUID": "", "bootID": "", "containerRuntimeVersion": "",
            "kubeletVersion": "v1.37.2", "kubeProxyVersion": "", "architecture": "amd64",
        }  # fmt: skip
        kube.patch(f"/api/v1/nodes/{name}/status", {"status": {"nodeInfo": info}})
    create_service_account(kube, "default", "default")
    yield kube
    kube.remove()


@pytest.fixture
def config(plane: ControlPlane, tmp_path: Path) -> Path:
    """A kubeconfig whose current context leads nowhere, and another one to the cluster."""
    made = yaml.safe_load(plane.kubeconfig(tmp_path / "admin").read_text(encoding="utf-8"))
    made["clusters"].append({"name": "gone", "cluster": {"server": "https://127.0.0.1:1"}})
    made["contexts"][0]["name"] = "prod"
    made["contexts"].append({"name": "gone", "context": {"cluster": "gone", "user": "test"}})
    made["current-context"] = "gone"
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(made), encoding="utf-8")
    path.chmod(0o600)
    return path


def pod(kube: Recorder, name: str, node: str, address: str) -> None:
    spec = {"nodeName": node, "containers": [{"name": "a", "image": "a"}]}
    kube.post("/api/v1/namespaces/default/pods", {"metadata": {"name": name}, "spec": spec})
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    kube.patch(f"/api/v1/namespaces/default/pods/{name}/status", {"status": status})


def daemon_set(kube: Recorder, name: str) -> None:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    kube.post(DAEMON_SETS, {"metadata": {"name": name}, "spec": spec})


def linkseal(config: Path, *words: str) -> tuple[int, str, str]:
    """Run the command as it is installed, from where there is no agent."""
    environment = {**os.environ, "KUBECONFIG": str(config), "HOME": str(config.parent)}
    environment.pop("LINKSEAL_DIRECTORY", None)
    done = subprocess.run(
        [PROGRAMS / "linkseal", *words], capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def checked(config: Path, *words: str) -> tuple[int, dict[str, Any]]:
    code, out, error = linkseal(config, "check", "--context", "prod", "-o", "json", *words)
    assert not error, error
    return code, {one["name"]: one for one in json.loads(out)["checks"]}


def test_before_anything_is_installed_it_says_what_the_cluster_needs(
    plane: ControlPlane, nodes: Recorder, config: Path
) -> None:
    pod(nodes, "a", "n1", "10.244.1.7")
    daemon_set(nodes, "kube-flannel-ds")
    code, found = checked(config, "--pre")
    assert code == 0
    assert found["Kubernetes"]["seen"] == plane.admin.get("/version")["gitVersion"]
    assert found["CNI"]["seen"] == "flannel"
    assert found["addresses of pods"]["seen"].endswith("choose controller.addressProvider=podCIDRs")
    assert found["operating system"]["seen"] == "Linux on all of 2"
    assert (found["door"]["code"], "n2 (5.15.0-130-generic)" in found["door"]["seen"]) == ("LS3003", True)
    assert checked(config, "--pre", "--fail-on", "warning")[0] == 1
    code, everything = checked(config)
    assert (code, everything["sealed"]["status"]) == (0, "skipped"), "there is no policy yet"


async def test_the_address_provider_is_held_against_the_addresses_that_pods_have(
    plane: ControlPlane, nodes: Recorder, config: Path
) -> None:
    """Calico gave the pod on n2 an address of its own block: by podCIDRs it would not be encrypted."""
    pod(nodes, "a", "n1", "10.244.1.7")
    pod(nodes, "b", "n2", "10.244.1.9")
    await defined(nodes, *CALICO)
    nodes.post(BLOCKS, block("10.244.1.0/29", "n1", {7: "n1"}))
    nodes.post(BLOCKS, block("10.244.1.8/29", "n2", {1: "n2"}))
    code, found = checked(config, "--pre")
    assert (code, "choose controller.addressProvider=calico" in found["addresses of pods"]["seen"]) == (0, True)
    with chart_installed(plane):
        code, found = checked(config, "--pre")
        wrong = found["addresses of pods"]
        assert (code, wrong["status"], wrong["code"]) == (1, "error", "LS3025")
        assert "podCIDRs covers 1 of 2, not default/b on n2" in wrong["seen"]
    with chart_installed(plane, "--set", "controller.addressProvider=calico"):
        code, found = checked(config, "--pre")
        assert (code, found["addresses of pods"]["seen"]) == (0, "calico covers all of 2 pods")


def test_a_cni_with_tunnels_of_its_own_is_refused_for_the_scope_that_is_asked_for(
    plane: ControlPlane, nodes: Recorder, config: Path
) -> None:
    daemon_set(nodes, "ovnkube-node")
    assert checked(config, "--pre")[1]["CNI"]["status"] == "warning", "the scope is not decided"
    with chart_installed(plane):
        nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
        code, found = checked(config, "--pre")
        assert (code, found["CNI"]["status"], found["CNI"]["code"]) == (1, "error", "LS3026")
        nodes.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"scope": "transparent"}})
        assert checked(config, "--pre")[1]["CNI"]["seen"] == "OVN-Kubernetes"


def test_cilium_is_asked_whether_it_tunnels(plane: ControlPlane, nodes: Recorder, config: Path) -> None:
    daemon_set(nodes, "cilium")
    assert checked(config, "--pre")[1]["CNI"]["code"] == "LS3026", "it does, if it is not told otherwise"
    data = {"routing-mode": "native"}
    nodes.post("/api/v1/namespaces/kube-system/configmaps", {"metadata": {"name": "cilium-config"}, "data": data})
    assert checked(config, "--pre")[1]["CNI"]["seen"] == "Cilium"


def test_what_somebody_may_not_read_is_not_known_and_no_error(
    plane: ControlPlane, nodes: Recorder, config: Path, tmp_path: Path
) -> None:
    token = unbound_token(plane.admin, "default", "default")
    made = yaml.safe_load(config.read_text(encoding="utf-8"))
    made["users"][0]["user"] = {"token": token}
    config.write_text(yaml.safe_dump(made), encoding="utf-8")
    code, found = checked(config, "--pre")
    assert code == 0
    skipped = {name for name, one in found.items() if one["status"] == "skipped"}
    assert skipped == {"CNI", "addresses of pods", "nodes", "ClusterEncryption"}
    assert all("forbidden" in found[name]["seen"].lower() for name in skipped)


def test_a_server_that_does_not_answer_is_said_with_exit_code_3(config: Path) -> None:
    code, _, error = linkseal(config, "check", "--pre")
    assert code == 3
    assert "127.0.0.1:1" in error


def test_an_option_names_the_context_and_the_file(plane: ControlPlane, nodes: Recorder, config: Path) -> None:
    """The current context of the file leads nowhere: whoever does not heed the option finds nobody."""
    with chart_installed(plane):
        for words in (
            ("status",),
            ("links",),
            ("enable", "--dry-run"),
            ("verify", "--timeout", "1s"),
            ("showconf", "n1"),
        ):
            code, _, error = linkseal(config, *words, "--context", "prod")
            assert (code, "127.0.0.1:1" in error) != (3, True), words
            code, _, error = linkseal(config, *words)
            assert (code, "127.0.0.1:1" in error) == (3, True), words
        other = config.rename(config.with_name("other"))
        code, _, error = linkseal(config, "links", "--context", "prod", "--kubeconfig", str(other))
        assert "no signed policy" in error or code != 3, error


def test_kubectl_finds_the_commands(plane: ControlPlane, nodes: Recorder, config: Path) -> None:
    kubectl = controlbuild.build() / "kubectl"
    environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "KUBECONFIG": str(config)}
    environment.pop("LINKSEAL_DIRECTORY", None)
    listed = subprocess.run([kubectl, "plugin", "list"], capture_output=True, text=True, env=environment, check=True)
    assert str(PROGRAMS / "kubectl-linkseal") in listed.stdout
    words = [kubectl, "linkseal", "check", "--pre", "--context", "prod", "-o", "json"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert json.loads(done.stdout)["kind"] == "CheckResult"
