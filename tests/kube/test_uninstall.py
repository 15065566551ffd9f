"""What `helm uninstall` does beside deleting: the chart's hooks, and the command that they run, on a real API server.

The whole of it, with pods that run, is in test_pods.py.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from ground.charts import (
    CHART,
    CLUSTER_ENCRYPTIONS,
    CONTROLLER,
    HOOKS,
    NAMESPACE,
    NODE_ENCRYPTIONS,
    as_controller,
    chart_installed,
    cluster_encryption,
    guards_nodes,
    hook_objects,
    install,
    left_in_the_api,
    node_encryption,
    remove,
    until,
)
from ground.controlplane import ControlPlane
from ground.kubeapi import Object
from ground.kubeobjects import create_node
from linkseal.keys.ca import generate_identity, make_csr
from linkseal.tunnels.cli.main import cli, main
from linkseal.tunnels.clusterobject import CaStatus, ClusterStatus, status_object
from linkseal.tunnels.directory.kubedocs import SIGNER
from linkseal.tunnels.status import NodeStatus, to_json
from unit.keys.cluster import policy
from unit.test_leaving import gone, status

pytestmark = pytest.mark.kube

SPACE = f"/api/v1/namespaces/{NAMESPACE}"
CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


def rendered(plane: ControlPlane, *options: str) -> list[Object]:
    text = plane.helm("template", "linkseal", str(CHART), "--namespace", NAMESPACE, *options)
    return [one for one in yaml.safe_load_all(text) if one]


# --- the hooks


def test_there_are_two_and_they_do_what_the_command_does(plane: ControlPlane) -> None:
    annotation, kept = "helm.sh/hook-delete-policy", "before-hook-creation,hook-succeeded"
    words: dict[str, list[str]] = {}
    for one in hook_objects(plane):
        notes = one["metadata"]["annotations"]
        if one["kind"] != "Job":  # there before it, and gone with it whatever becomes of it
            assert (notes["helm.sh/hook-weight"], notes[annotation]) == ("-5", f"{kept},hook-failed")
            continue
        assert (notes["helm.sh/hook-weight"], notes[annotation]) == ("0", kept)
        pod = one["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert (pod["serviceAccountName"], pod["restartPolicy"]) == (one["metadata"]["name"], "Never")
        words[notes["helm.sh/hook"]] = [*container["command"], *container.get("args", ())][1:]
    assert {hook: "--objects" in said for hook, said in words.items()} == {"pre-delete": False, "post-delete": True}
    for said in words.values():
        assert {"--yes", "--uninstalling", "--timeout"} <= set(said)
        assert CliRunner().invoke(cli, [*said, "--help"]).exit_code == 0
    assert {one["metadata"]["name"] for one in hook_objects(plane)} == set(HOOKS)


def test_their_pods_are_where_the_controllers_are_and_may_as_little(plane: ControlPlane) -> None:
    (found,) = (one for one in rendered(plane) if (one["kind"], one["metadata"]["name"]) == ("Deployment", CONTROLLER))
    controller = found["spec"]["template"]["spec"]
    jobs = [one["spec"] for one in hook_objects(plane) if one["kind"] == "Job"]
    assert len(jobs) == 2
    for job in jobs:
        pod = job["template"]["spec"]
        assert 120 < job["activeDeadlineSeconds"] < 300, "longer than the command waits, and less long than Helm does"
        assert pod["affinity"]["nodeAffinity"] == controller["affinity"]["nodeAffinity"]
        for same in ("tolerations", "nodeSelector", "securityContext"):
            assert pod[same] == controller[same]
        assert pod["containers"][0]["securityContext"] == controller["containers"][0]["securityContext"]
        assert "volumes" not in pod


def test_what_is_rendered_to_be_applied_has_none(plane: ControlPlane) -> None:
    """They would run at once, on a cluster that nobody leaves, and what they may do would stay."""
    assert not any("uninstall" in one["metadata"]["name"] for one in rendered(plane))


@pytest.mark.parametrize(("clean", "hooks"), [("true", set(HOOKS)), ("false", set())])
def test_what_is_installed_has_them(plane: ControlPlane, clean: str, hooks: set[str]) -> None:
    with chart_installed(plane, "--set", f"uninstall.clean={clean}"):
        text = plane.helm("get", "hooks", "linkseal", "--namespace", NAMESPACE)
    assert {one["metadata"]["name"] for one in yaml.safe_load_all(text) if one} == hooks


def test_they_can_be_left_out_and_the_notes_say_what_to_do_then(plane: ControlPlane) -> None:
    without = ("--set", "uninstall.clean=false")
    for options, by_hand in (((), False), (without, True)):
        shown = plane.helm("install", "linkseal", str(CHART), "--dry-run=client", "--namespace", NAMESPACE, *options)
        notes = shown.rpartition("NOTES:")[2]
        assert "helm uninstall" in notes
        assert ("linkseal remove --objects" in notes) is by_hand


# --- the command


@pytest.fixture
def left(plane: ControlPlane) -> Iterator[ControlPlane]:
    """The chart on two nodes that were encrypted and are no longer, and what agents and controller made."""
    admin = plane.admin
    with plane.recorder() as recorder:
        recorder.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        for name in ("n1", "n2"):
            create_node(recorder, name)
        grant = {"metadata": {"annotations": {"linkseal.io/grant": "g", "example.com/kept": "k"}}}
        taints = [{"key": key, "effect": "NoSchedule"} for key in ("gpu", "linkseal.io/not-sealed")]
        admin.patch("/api/v1/nodes/n1", {**grant, "spec": {"taints": taints}})
        try:
            install(plane)
            made(plane)
            yield plane
        finally:
            remove(plane, recorder)
            ours = (CSRS, "linkseal-n1-0"), (f"{SPACE}/secrets", "linkseal-ca-key")
            maps = ((f"{SPACE}/configmaps", f"linkseal-{name}") for name in ("ca", "policy", "stage"))
            for path, name in (*ours, *maps):  # nobody collects garbage here
                admin.delete(f"{path}/{name}", missing_ok=True)


def made(plane: ControlPlane) -> None:
    admin = plane.admin
    signed = policy(stage="off")
    maps = {"ca": {"ca.crt": "x"}, "stage": {"stage.json": "{}"}}
    maps["policy"] = {"policy": signed.text, "signature": signed.signature}
    with as_controller(plane) as controller:
        for name, data in maps.items():
            controller.post(f"{SPACE}/configmaps", {"metadata": {"name": f"linkseal-{name}"}, "data": data})
    admin.post(f"{SPACE}/secrets", {"metadata": {"name": "linkseal-ca-key"}})
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
    admin.post(leases, {"metadata": {"name": "linkseal-controller"}})
    admin.post(CLUSTER_ENCRYPTIONS, cluster_encryption(stage="off"))
    ca_was_made(plane, made=True)
    for name in ("n1", "n2"):
        uid = admin.get(f"/api/v1/nodes/{name}")["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
        made_for = {"name": name, "ownerReferences": [owner]}
        admin.post(NODE_ENCRYPTIONS, {**node_encryption(name), "metadata": made_for})
    admin.post(CSRS, csr())


def ca_was_made(plane: ControlPlane, *, made: bool) -> None:
    """As the controller says."""
    status = status_object(ClusterStatus(ca=CaStatus(made=made)))
    plane.admin.patch(f"{CLUSTER_ENCRYPTIONS}/default/status", {"status": status})


def csr() -> Object:
    request = b64encode(make_csr(generate_identity(), "n1", "uid-1").encode()).decode()
    spec = {"request": request, "signerName": SIGNER, "usages": ["digital signature"]}
    return {"metadata": {"name": "linkseal-n1-0", "labels": {"app.kubernetes.io/name": "linkseal"}}, "spec": spec}


def report(plane: ControlPlane, node: str, found: NodeStatus) -> None:
    """As the node's agent would; admission is no longer in the way."""
    path = f"{NODE_ENCRYPTIONS}/{node}/status"
    until(lambda: not guards_nodes(plane.admin))
    plane.admin.patch(path, {"status": None})
    plane.admin.patch(path, {"status": json.loads(to_json(node, found))["status"]})


def test_what_helm_leaves_goes_once_every_agent_has_said_its_last_word(
    left: ControlPlane, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    at = ["--kubeconfig", str(left.kubeconfig(tmp_path / "operator"))]
    objects = [*at, "remove", "--objects", "--yes", "--timeout", "60s"]
    assert main(objects) == 2
    assert "DaemonSet linkseal-agent, Deployment linkseal-controller: the chart is installed" in capfd.readouterr().err
    left.helm("uninstall", "linkseal", "--namespace", NAMESPACE, "--no-hooks")
    before = left_in_the_api(left)
    report(left, "n1", gone())
    report(left, "n2", status())
    assert main([*objects, "--uninstalling"]) == 0
    assert capfd.readouterr().out == "n2: its agent has not said that it removed everything\n"
    report(left, "n2", gone())
    left.admin.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"stage": "prepare"}})
    assert main(objects) == 2
    left.admin.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"stage": "off", "lowerTo": "off"}})
    assert left_in_the_api(left) == before, "nothing went"
    assert main(objects) == 0
    assert left_in_the_api(left) == {("Namespace", NAMESPACE)}
    node = left.admin.get("/api/v1/nodes/n1")
    assert node["metadata"]["annotations"] == {"example.com/kept": "k"}
    assert [one["key"] for one in node["spec"]["taints"]] == ["gpu"]
    assert main(objects) == 0, "once more there is nothing to do"


def test_it_goes_at_once_though_the_policies_of_the_chart_are_in_force_for_a_moment(
    left: ControlPlane, tmp_path: Path
) -> None:
    at = ["--kubeconfig", str(left.kubeconfig(tmp_path / "operator"))]
    left.helm("uninstall", "linkseal", "--namespace", NAMESPACE, "--no-hooks")
    cleaned = ["--cleaned", "n1", "--cleaned", "n2"]
    ca_was_made(left, made=False)
    assert main([*at, "remove", "--objects", "--yes", *cleaned]) == 0
    assert left_in_the_api(left) == {("Namespace", NAMESPACE), ("Secret", "linkseal-ca-key")}, "which was brought"
