"""The chart's life in a cluster with controllers and scheduler: installed, upgraded, uninstalled, installed again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from ground.charts import (
    AGENT,
    CHART,
    CLUSTER_ENCRYPTIONS,
    CONTROLLER,
    CREATED,
    NAMESPACE,
    cluster_encryption,
    exists,
    until,
)
from ground.controlplane import ControlPlane
from ground.daemons import DaemonError
from ground.kubeapi import Object
from ground.kubeobjects import create_node
from linkseal.tunnels.cli.main import cli
from linkseal.tunnels.settings import BootSettings, KubeDirectorySettings, parse_agent_settings, parse_endpoint

pytestmark = pytest.mark.kube

DEFAULT = f"{CLUSTER_ENCRYPTIONS}/default"
SPACE = f"/api/v1/namespaces/{NAMESPACE}"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}"
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"

CONTROL_PLANE = "node-role.kubernetes.io/control-plane"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Of its own, since what is left behind is part of the test: a control-plane node with a taint, and two workers."""
    with ControlPlane(tmp_path_factory.mktemp("whole"), controllers=True, scheduler=True) as running:
        create_node(running.admin, "m1", labels={CONTROL_PLANE: ""})
        taint = {"key": CONTROL_PLANE, "effect": "NoSchedule"}
        running.admin.patch("/api/v1/nodes/m1", {"spec": {"taints": [taint]}})
        for name in ("w1", "w2"):
            create_node(running.admin, name)
        running.admin.patch("/api/v1/nodes/w2", {"spec": {"taints": [{"key": "gpu", "effect": "NoExecute"}]}})
        yield running


@pytest.fixture
def installed(whole: ControlPlane) -> Iterator[ControlPlane]:
    helm(whole, "install", *CREATED)
    yield whole
    uninstall(whole)
    whole.admin.delete(DEFAULT, missing_ok=True)


def helm(plane: ControlPlane, verb: str, *options: str) -> str:
    space = ("--namespace", NAMESPACE, *(["--create-namespace"] if verb == "install" else []))
    return plane.helm(verb, "linkseal", str(CHART), *space, *options)


def uninstall(plane: ControlPlane) -> None:
    """And end the pods, as kubelets would."""
    plane.helm("uninstall", "linkseal", "--namespace", NAMESPACE, "--ignore-not-found", "--no-hooks")

    def gone() -> bool:
        for pod in pods(plane):
            plane.admin.delete(f"{SPACE}/pods/{pod['metadata']['name']}", missing_ok=True)
        return not pods(plane)

    until(gone)


def pods(plane: ControlPlane, component: str = "") -> list[Object]:
    found: list[Object] = plane.admin.get(f"{SPACE}/pods")["items"]
    label = "app.kubernetes.io/component"
    return [pod for pod in found if not component or pod["metadata"]["labels"][label] == component]


def rendered(plane: ControlPlane, *options: str) -> dict[tuple[str, str], Object]:
    text = plane.helm("template", "linkseal", str(CHART), "--namespace", NAMESPACE, *options)
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text) if one}


# --- installed


def test_every_node_gets_an_agent_and_control_plane_nodes_the_controllers(installed: ControlPlane) -> None:
    agents = until(lambda: pods(installed, "agent"), lambda found: len(found) == 3)
    assert all(pod["spec"]["priorityClassName"] == "system-node-critical" for pod in agents)
    until(
        lambda: {pod["spec"].get("nodeName") for pod in pods(installed, "agent")},
        lambda names: names == {"m1", "w1", "w2"},
    )
    until(lambda: [pod["spec"].get("nodeName") for pod in pods(installed, "controller")], lambda n: n == ["m1", "m1"])


def test_the_policies_are_well_typed(installed: ControlPlane) -> None:
    """The API server takes what has the wrong types, says so in the status, and fails when it comes to it."""
    helm(installed, "upgrade", "--set", "controller.liftTaint=true")
    policies = until(
        lambda: [
            one for one in installed.admin.get(POLICIES)["items"] if one["metadata"]["name"].startswith("linkseal")
        ],
        lambda found: found and all(judged(one) for one in found),
    )
    assert {one["metadata"]["name"]: one["status"]["typeChecking"] for one in policies} == {
        f"linkseal-{name}": {}
        for name in ("exemptions", "node-annotations", "node-reports", "own-requests", "own-writes", "stage-record")
    }


def judged(policy: Object) -> bool:
    status = policy.get("status", {})
    return "typeChecking" in status and status.get("observedGeneration") == policy["metadata"]["generation"]


def test_a_pod_asks_for_no_more_than_it_needs(installed: ControlPlane) -> None:
    (pod, *_) = until(lambda: pods(installed, "agent"))
    (container,) = pod["spec"]["containers"]
    assert "initContainers" not in pod["spec"]
    assert container["securityContext"]["capabilities"] == {
        "drop": ["ALL"],
        "add": ["NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_CHROOT"],
    }
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["privileged"] is False
    paths = {volume["hostPath"]["path"] for volume in pod["spec"]["volumes"] if "hostPath" in volume}
    assert paths == {"/var/lib/linkseal", "/run/linkseal", "/etc/systemd/system", "/run/systemd"}
    mounts = {mount["name"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts["systemd"]
    (pod, *_) = until(lambda: pods(installed, "controller"))
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert not pod["spec"].get("hostNetwork")
    assert not [volume for volume in pod["spec"].get("volumes", ()) if "hostPath" in volume]


def test_the_notes_say_what_comes_next(whole: ControlPlane) -> None:
    notes = helm(whole, "install", "--dry-run=client", *CREATED)
    assert "linkseal enable" in notes
    assert "Nothing is encrypted yet" in notes


def test_of_a_cluster_that_is_encrypted_they_say_nothing_else(installed: ControlPlane) -> None:
    assert "Nothing is encrypted yet" in helm(installed, "upgrade")
    installed.admin.patch(f"{DEFAULT}/status", {"status": {"stage": "enforce"}})
    notes = helm(installed, "upgrade")
    assert "The cluster stays at stage enforce" in notes
    assert "Nothing is encrypted yet" not in notes
    assert "linkseal-daemons" not in notes
    assert "linkseal-daemons" in helm(installed, "upgrade", "--set", "daemons.enabled=true")


# --- nothing lowers the stage


def stage(plane: ControlPlane) -> object:
    return plane.admin.get(DEFAULT)["spec"]["stage"]


def test_neither_upgrade_nor_uninstall_nor_a_new_install_lowers_the_stage(installed: ControlPlane) -> None:
    assert stage(installed) == "prepare"
    uid = installed.admin.get(DEFAULT)["metadata"]["uid"]
    installed.admin.patch(DEFAULT, {"spec": {"stage": "enforce"}})
    helm(installed, "upgrade", *CREATED)
    assert stage(installed) == "enforce"
    helm(
        installed, "upgrade", *CREATED[:2], "--set", "clusterEncryption.spec.stage=off", "--set", "agent.config.poll=5"
    )
    helm(installed, "upgrade")
    assert stage(installed) == "enforce"
    uninstall(installed)
    assert stage(installed) == "enforce"
    assert not exists(installed.admin, f"{DEPLOYMENTS}/daemonsets/linkseal-agent")
    helm(installed, "install", *CREATED)
    assert stage(installed) == "enforce"
    assert installed.admin.get(DEFAULT)["metadata"]["uid"] == uid


def test_what_is_rendered_without_a_cluster_does_not_lower_it_either(installed: ControlPlane) -> None:
    """As tools do that keep a cluster as a folder of files says."""
    installed.admin.patch(DEFAULT, {"spec": {"stage": "enforce"}})
    old = rendered(installed, *CREATED)["ClusterEncryption", "default"]
    with pytest.raises(DaemonError, match="would lower the stage"):
        installed.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(old))


def test_without_being_asked_the_chart_makes_no_cluster_encryption(whole: ControlPlane) -> None:
    assert ("ClusterEncryption", "default") not in rendered(whole)
    made = cluster_encryption(protocol="wireguard", scope="overlay", stage="prepare")
    assert rendered(whole, *CREATED)["ClusterEncryption", "default"]["spec"] == made["spec"]


# --- values


def test_a_change_of_the_agents_file_rolls_the_agents(whole: ControlPlane) -> None:
    def mark(*options: str) -> object:
        template = rendered(whole, *options)["DaemonSet", AGENT]["spec"]["template"]
        return template["metadata"]["annotations"]["linkseal.io/config"]

    assert mark() == mark()
    assert mark() != mark("--set", "agent.config.poll=5")


@pytest.mark.parametrize(
    ("address", "listen", "asked"),
    [
        ("127.0.0.1", "127.0.0.1:9586", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0:9586", "127.0.0.1"),  # noqa: S104
        ("::", "[::]:9586", "::1"),
    ],
)
def test_the_agents_file_is_one_that_the_agent_takes(
    whole: ControlPlane, address: str, listen: str, asked: str
) -> None:
    objects = rendered(whole, "--set", f"agent.metrics.address={address}", "--set", "agent.config.logFormat=json")
    file = yaml.safe_load(objects["ConfigMap", AGENT]["data"]["agent.yaml"])
    settings = parse_agent_settings(file, "agent.yaml", hostname="n1")
    assert settings.directory == KubeDirectorySettings(NAMESPACE)
    assert settings.log_format == "json"
    assert settings.metrics == parse_endpoint(listen)
    assert settings.boot == BootSettings(Path("/host/etc/systemd/system"), Path("/host/run/systemd"))
    (container,) = objects["DaemonSet", AGENT]["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["host"] == asked


def test_who_lifts_the_taint_is_told_to_and_does_not_wait_for_it(whole: ControlPlane) -> None:
    for options, told in (((), False), (("--set", "controller.liftTaint=true"), True)):
        spec = rendered(whole, *options)["Deployment", CONTROLLER]["spec"]["template"]["spec"]
        assert ("--lift-taint" in spec["containers"][0]["args"]) is told
        assert spec["tolerations"][0] == {"key": "linkseal.io/not-sealed", "operator": "Exists"}
        assert spec["tolerations"][1]["key"] == CONTROL_PLANE
    assert rendered(whole)["DaemonSet", AGENT]["spec"]["template"]["spec"]["tolerations"] == [{"operator": "Exists"}]


def test_a_tainted_node_gets_agent_and_controller_and_nothing_else(installed: ControlPlane) -> None:
    taint = {"key": "linkseal.io/not-sealed", "effect": "NoSchedule"}
    create_node(installed.admin, "m2", labels={CONTROL_PLANE: ""})
    installed.admin.patch("/api/v1/nodes/m2", {"spec": {"taints": [taint]}})
    try:
        until(lambda: "m2" in {pod["spec"].get("nodeName") for pod in pods(installed, "agent")})
        helm(installed, "upgrade", *CREATED, "--set", "controller.replicas=4")
        until(lambda: "m2" in {pod["spec"].get("nodeName") for pod in pods(installed, "controller")})
    finally:
        installed.admin.delete("/api/v1/nodes/m2")
        for pod in pods(installed):
            if pod["spec"].get("nodeName") == "m2":
                installed.admin.delete(f"{SPACE}/pods/{pod['metadata']['name']}", missing_ok=True)


DAEMONS = ("DaemonSet", "linkseal-daemons")


def test_wireguard_go_has_pods_of_its_own_where_it_is_wanted(whole: ControlPlane) -> None:
    assert DAEMONS not in rendered(whole, "--set", "agent.config.wireguard.driver=kernel")
    assert "wireguard" not in yaml.safe_load(rendered(whole)["ConfigMap", AGENT]["data"]["agent.yaml"])
    for option, driver in (("daemons.enabled=true", "auto"), ("agent.config.wireguard.driver=userspace", "userspace")):
        objects = rendered(whole, "--set", option)
        file = yaml.safe_load(objects["ConfigMap", AGENT]["data"]["agent.yaml"])
        settings = parse_agent_settings(file, "agent.yaml", hostname="n1")
        daemons, agent = (one["spec"]["template"]["spec"] for one in (objects[DAEMONS], objects["DaemonSet", AGENT]))
        (container,) = daemons["containers"]
        assert settings.driver == driver
        assert container["command"] == ["linkseal", "agent", "daemons", "--socket", str(settings.daemons)]
        assert CliRunner().invoke(cli, [*container["command"][1:], "--help"]).exit_code == 0
        assert objects[DAEMONS]["spec"]["updateStrategy"] == {"type": "OnDelete"}
        assert mounted(daemons) == {
            "/run/linkseal/daemons": "/run/linkseal/daemons",
            "/var/run/wireguard": "/run/linkseal/wireguard",
            "/dev/net/tun": "/dev/net/tun",
        }
        seen = mounted(agent)
        assert (seen["/var/run/wireguard"], seen["/run/linkseal"]) == ("/run/linkseal/wireguard", "/run/linkseal")
        assert "/dev/net/tun" in seen


def test_the_daemons_pod_asks_for_no_more_than_it_needs(whole: ControlPlane) -> None:
    spec = rendered(whole, "--set", "daemons.enabled=true")[DAEMONS]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["privileged"] is False
    assert spec["automountServiceAccountToken"] is False
    assert (spec["hostNetwork"], spec["tolerations"]) == (True, [{"operator": "Exists"}])


def mounted(spec: Object) -> dict[str, str]:
    """Path in the pod → path on the host."""
    hosts = {one["name"]: one["hostPath"]["path"] for one in spec["volumes"] if "hostPath" in one}
    mounts = spec["containers"][0]["volumeMounts"]
    return {one["mountPath"]: hosts[one["name"]] for one in mounts if one["name"] in hosts}


def test_without_the_boot_unit_the_agent_asks_for_less(whole: ControlPlane) -> None:
    objects = rendered(whole, "--set", "agent.bootUnit.enabled=false")
    file = yaml.safe_load(objects["ConfigMap", AGENT]["data"]["agent.yaml"])
    assert parse_agent_settings(file, "agent.yaml", hostname="n1").boot is None
    pod = objects["DaemonSet", AGENT]["spec"]["template"]["spec"]
    assert "SYS_CHROOT" not in pod["containers"][0]["securityContext"]["capabilities"]["add"]
    paths = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    assert paths == {"/var/lib/linkseal", "/run/linkseal"}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("agent.config.pol=3", "'pol' not allowed"),
        ("agent.config.node=x", "'node' not allowed"),
        ("agent.config.wireguard.driver=quick", "must be one of"),
        ("contoller.replicas=1", "'contoller' not allowed"),
        ("clusterEncryption.spec.scpoe=transparent", "'scpoe' not allowed"),
        ("clusterEncryption.spec.wireguard.prot=1", "'prot' not allowed"),
        ("monitoring.podMonitor.enabled=true", "nobody can scrape"),
        ("controller.addressProvider=weave", "must be one of"),
        ("controller.addressProvider=ovn", "podNetworks"),
        ("controller.sshAgent.socket=agent.sock", "does not match pattern"),
        ("controller.sshAgent.hostPath=/run/ca-agent", "name the agent's `socket`"),
    ],
)
def test_a_value_that_would_do_nothing_is_refused(whole: ControlPlane, option: str, words: str) -> None:
    with pytest.raises(DaemonError, match=words):
        rendered(whole, "--set", option)


def test_the_controllers_command_is_one_that_there_is(whole: ControlPlane) -> None:
    networks = "controller.nodeNetworks={192.0.2.0/24,2001:db8::/64},controller.podNetworks={10.0.0.0/8}"
    objects = rendered(whole, "--set", f"controller.addressProvider=pods,{networks}")
    (container,) = objects["Deployment", CONTROLLER]["spec"]["template"]["spec"]["containers"]
    program, *command = container["command"]
    assert program == "linkseal"
    assert container["args"] == [
        "--address-provider=pods", "--pod-network=10.0.0.0/8",
        "--node-network=192.0.2.0/24", "--node-network=2001:db8::/64",
    ]  # fmt: skip
    for words in ([*command, *container["args"], "--help"], [*agent_command(objects)[1:], "--help"]):
        assert CliRunner().invoke(cli, words).exit_code == 0


def test_an_ssh_agent_runs_beside_the_controller_or_on_its_host(whole: ControlPlane, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    beside = {"name": "ca-agent", "image": "x", "volumeMounts": [{"name": "ca-agent", "mountPath": "/run/ca-agent"}]}
    agent = {"socket": "/run/ca-agent/sock", "containers": [beside], "volumes": [{"name": "tokens", "emptyDir": {}}]}
    values.write_text(yaml.safe_dump({"controller": {"sshAgent": agent}}))
    pod = rendered(whole, "--values", str(values))["Deployment", CONTROLLER]["spec"]["template"]["spec"]
    ours, other = pod["containers"]
    assert ours["args"][-1] == "--ssh-agent=/run/ca-agent/sock"
    assert CliRunner().invoke(cli, [*ours["command"][1:], *ours["args"], "--help"]).exit_code == 0
    assert ours["volumeMounts"] == [{"name": "ca-agent", "mountPath": "/run/ca-agent", "readOnly": True}]
    assert other == beside
    assert pod["volumes"] == [{"name": "ca-agent", "emptyDir": {"medium": "Memory"}}, *agent["volumes"]]
    host = ("--set", "controller.sshAgent.socket=/run/ca-agent/sock,controller.sshAgent.hostPath=/run/hsm")
    pod = rendered(whole, *host)["Deployment", CONTROLLER]["spec"]["template"]["spec"]
    assert pod["volumes"] == [{"name": "ca-agent", "hostPath": {"path": "/run/hsm", "type": "Directory"}}]
    assert "volumes" not in rendered(whole)["Deployment", CONTROLLER]["spec"]["template"]["spec"]


def agent_command(objects: dict[tuple[str, str], Object]) -> list[str]:
    (container,) = objects["DaemonSet", AGENT]["spec"]["template"]["spec"]["containers"]
    command: list[str] = container["command"]
    return command
