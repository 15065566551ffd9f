"""`linkseal check` and its kin from an operator's desk: a real API server, a kubeconfig, and no access to any node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ground import controlbuild
from ground.charts import (
    CLUSTER_ENCRYPTIONS,
    NAMESPACE,
    NODE_ENCRYPTIONS,
    agent_token,
    chart_installed,
    cluster_encryption,
    granted,
    node_encryption,
    until,
)
from ground.cniobjects import BLOCKS, CALICO, block, defined
from ground.controlplane import ControlPlane
from ground.kubeapi import Recorder
from ground.kubeobjects import create_node, create_service_account, unbound_token
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.directory.kube import KubeDirectory
from linkseal.tunnels.directory.kubeapi import Access, KubeApi
from linkseal.tunnels.directory.kubedocs import POLICY_KEY, POLICY_MAP, POLICY_SIGNATURE, config_map
from linkseal.tunnels.status import Request, to_json
from unit.keys.cluster import policy
from unit.test_status import status

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
    for name in ("default", "auditor", "operator"):
        create_service_account(kube, "default", name)
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
    assert "error" not in error, error
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
    as_nobody(plane, config)
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


def test_that_health_cannot_be_read_is_no_pass(plane: ControlPlane, nodes: Recorder, config: Path) -> None:
    """A pipeline that asks must not go on."""
    with chart_installed(plane):
        served(config)
        code, found = checked(config)
        assert (code, found["sealed"]["status"], found["sealed"]["code"]) == (1, "error", "LS4001")
        assert "holds no signed policy" in found["sealed"]["seen"]
        code, found = checked(config, "--namespace", "elsewhere")
        assert (code, found["sealed"]["status"]) == (1, "error"), "the kinds are there, so it is somewhere"
        as_nobody(plane, config)
        code, found = checked(config)
        assert (code, found["sealed"]["status"]) == (1, "error")
        code, _, error = linkseal(config, "status", "--context", "prod")
        assert (code, "linkseal-view and linkseal-operate" in error) == (3, True), error
        as_nobody(plane, config, "no.token.atall")
        code, _, error = linkseal(config, "status", "--context", "prod")
        assert (code, "log in again" in error) == (3, True), error


def test_without_the_chart_or_a_policy_it_says_what_is_missing(
    plane: ControlPlane, nodes: Recorder, config: Path
) -> None:
    code, _, error = linkseal(config, "status", "--context", "prod")
    assert (code, "install its chart" in error) == (3, True), error
    with chart_installed(plane):
        served(config)
        code, _, error = linkseal(config, "links", "--context", "prod")
        assert (code, "linkseal enable --to prepare" in error, "--namespace" in error) == (2, True, True), error


async def test_what_the_api_server_does_not_know_is_laid_to_old_crds(
    plane: ControlPlane, nodes: Recorder, config: Path
) -> None:
    with chart_installed(plane):
        nodes.post(NODE_ENCRYPTIONS, node_encryption("n1"))
        directory = KubeDirectory(KubeApi(Access(config, "prod")), NAMESPACE)
        with pytest.raises(ConfigError, match="kubectl apply --server-side --force-conflicts -f charts/linkseal/crds/"):
            await directory.request("n1", Request("x", "novelty", 1793613600.0))
        await directory.close()


def test_roles_for_people_have_what_their_commands_ask_for_and_no_more(
    plane: ControlPlane, nodes: Recorder, config: Path
) -> None:
    people = {f"userRoles.{role}[0].{key}": value for role, name in (("view", "auditor"), ("operate", "operator"))
              for key, value in (("kind", "ServiceAccount"), ("name", name), ("namespace", "default"))}  # fmt: skip
    daemon_set(nodes, "cilium")
    with chart_installed(plane, *(word for key, value in people.items() for word in ("--set", f"{key}={value}"))):
        served(config)
        reported(plane, nodes)

        def run(*words: str) -> tuple[int, str]:
            code, _, error = linkseal(config, *words, "--context", "prod")
            return code, error

        as_nobody(plane, config, unbound_token(plane.admin, "default", "auditor"))
        for words in (("status",), ("links",), ("showconf", "n1")):
            code, error = run(*words)
            assert code in (0, 1, 2), error
            assert "403" not in error, error
        mine = plane.requests(user="system:serviceaccount:default:auditor")
        asked, ours = {(one.verb, one.resource) for one in mine}, "linkseal.io"
        with_kubectl = {(verb, f"{ours}/clusterencryptions") for verb in ("list", "watch")}
        with_kubectl |= {(verb, f"{ours}/nodeencryptions") for verb in ("get", "watch")}
        assert asked & with_kubectl == set()
        assert asked | with_kubectl == granted(plane, "linkseal-view")
        for words in (("enable", "--detach", "--to", "prepare"), ("verify",), ("plan", "--node", "n1")):
            code, error = run(*words)
            assert (code, "linkseal-view and linkseal-operate" in error) == (3, True), (words, code, error)
        as_nobody(plane, config, unbound_token(plane.admin, "default", "operator"))
        assert run("enable", "--detach", "--to", "prepare")[0] == 0
        assert run("enable", "--detach", "--to", "prefer")[0] == 0
        assert run("plan", "--node", "n1", "--timeout", "1s")[0] == 4
        assert "at stage prefer: run `linkseal disable` first" in run("remove")[1]
        code, found = checked(config, "--pre")
        assert code in (0, 1)
        assert [one for one in found.values() if one["status"] == "skipped"] == []
        mine = plane.requests(user="system:serviceaccount:default:operator")
        asked = {(one.verb, one.resource) for one in mine}
        asked |= {("create", f"{ours}/clusterencryptions")}  # an apply that makes the object needs both rights
        assert asked - granted(plane, "linkseal-view") == granted(plane, "linkseal-operate") | {("get", "")}


def reported(plane: ControlPlane, kube: Recorder) -> None:
    """A policy, and two nodes that report."""
    signed = policy(stage="prefer")
    data = {POLICY_KEY: signed.text, POLICY_SIGNATURE: signed.signature}
    kube.post(f"/api/v1/namespaces/{NAMESPACE}/configmaps", config_map(POLICY_MAP, data))
    for name in POD_NETWORKS:
        kube.post(NODE_ENCRYPTIONS, node_encryption(name))
        said = json.loads(to_json(name, status(observed_at=time.time())))["status"]
        body = {"apiVersion": "linkseal.io/v1alpha1", "kind": "NodeEncryption", "metadata": {"name": name}}
        agent = plane.admin.with_token(agent_token(kube, name))
        agent.apply(f"{NODE_ENCRYPTIONS}/{name}/status", {**body, "status": said}, manager="linkseal-agent")
        agent.close()


def served(config: Path) -> None:
    """Wait until the kinds, which were just defined, can be listed."""
    until(lambda: "429" not in linkseal(config, "links", "--context", "prod")[2])


def as_nobody(plane: ControlPlane, config: Path, token: str = "") -> None:
    """Give the kubeconfig the token of an account without rights, or this one."""
    made = yaml.safe_load(config.read_text(encoding="utf-8"))
    made["users"][0]["user"] = {"token": token or unbound_token(plane.admin, "default", "default")}
    config.write_text(yaml.safe_dump(made), encoding="utf-8")


def test_kubectl_finds_the_commands(plane: ControlPlane, nodes: Recorder, config: Path) -> None:
    kubectl = controlbuild.build() / "kubectl"
    environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "KUBECONFIG": str(config)}
    environment.pop("LINKSEAL_DIRECTORY", None)
    listed = subprocess.run([kubectl, "plugin", "list"], capture_output=True, text=True, env=environment, check=True)
    assert str(PROGRAMS / "kubectl-linkseal") in listed.stdout
    words = [kubectl, "linkseal", "check", "--pre", "--context", "prod", "-o", "json"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert json.loads(done.stdout)["kind"] == "CheckResult"
    words = [kubectl, "__complete", "linkseal", "enable", "--to", "pre"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines() == ["prepare", "prefer", ":4"]
