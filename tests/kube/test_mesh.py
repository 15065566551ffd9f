"""Nodes that find each other through a real API server, encrypted by wireguard-go: any kernel with TUN does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from ground.charts import (
    CLUSTER_ENCRYPTIONS,
    CONTROLLER,
    NODE_ENCRYPTIONS,
    called,
    cluster_encryption,
    granted,
    told,
)
from ground.controlplane import ControlPlane
from ground.kubemesh import KubeDeployment, assert_encrypted, deployed
from ground.net import Cluster
from ground.probes import loss_probe
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.model import Stage

pytestmark = [pytest.mark.kube, pytest.mark.timeout(420)]

ENCRYPTION = f"{CLUSTER_ENCRYPTIONS}/default"


def test_from_off_to_enforce_through_an_outage_of_the_api_server_and_back(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By `linkseal enable` and `disable`, which find no ClusterEncryption at first."""
    a, b, c = cluster
    with deployed(cluster, tmp_path) as (plane, linkseal, at):
        linkseal.to_prefer(at)
        with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as loss:
            linkseal.until(lambda: main([*at, "enable", "--dry-run"]) == 0, "nothing in the way")
            assert "stage prefer → enforce" in capfd.readouterr().out
            assert main([*at, "enable", "--to", "enforce"]) != 0, "nobody was asked"
            assert main([*at, "enable", "--to", "enforce", "--wait=120s", "--yes"]) == 0, capfd.readouterr().err
            said = capfd.readouterr()
            assert "the cluster is at stage enforce" in said.out
            assert "links sealed" in said.err
            linkseal.wait_guarded()
            assert_encrypted(cluster, 2)
            capfd.readouterr()
            assert main([*at, "plan", "--node", c.name]) == 0, "no access to nodes is needed"
            planned = capfd.readouterr()
            assert "ip link add lsl11 " in planned.out
            assert "nothing to do" in planned.err

            settings_change_as_agents_run(plane, linkseal)
            an_old_file_lowers_nothing(plane, linkseal)
            assert main([*at, "enable", "--to", "enforce", "--yes"]) == 0, capfd.readouterr().err

            plane.stop_api(kill=True)
            linkseal.stop(c)
            linkseal.start(c)
            try:
                linkseal.wait_sealed(60)
            finally:
                plane.start_api()
            linkseal.until(lambda: "LS4001" not in linkseal.all_codes(), "no finding about the directory", 60)
            assert linkseal.rotate(a) == 3
            linkseal.until(linkseal.settled, "the new generation everywhere")
            shown = plane.kubectl("get", "clusterencryption", "default").splitlines()[1].split()
            assert shown[:3] == ["default", "enforce", "enforce"]
            assert main([*at, "enable", "--to", "prefer"]) == 2, "that would be a way back"
            assert main([*at, "disable", "--to", "prefer"]) == 0, capfd.readouterr().err
            assert main([*at, "disable"]) == 0, capfd.readouterr().err
            assert main([*at, "disable"]) == 0, "it is there already"
            assert "lowerTo" not in plane.admin.get(ENCRYPTION)["spec"], "a copy of it lowers nothing one day"
            linkseal.until(lambda: "lsl0" not in a.run("ip -br link"), "nothing of ours")
            assert called(plane) == needed(plane)
            assert {"StageChanged", "StageReached", "Sealed", "Granted", "Certified", "LinksSealed"} <= told(plane)
        assert "LS5001" not in linkseal.all_codes(), f"sealed, and yet plaintext left\n{linkseal.report()}"
        assert loss.lost == [], loss
        assert loss.sent > 500


def settings_change_as_agents_run(plane: ControlPlane, linkseal: KubeDeployment) -> None:
    """An exemption and an MTU reach the kernel, and a request a key, and no agent is another process for that."""
    a = next(iter(linkseal.cluster))
    processes = {name: agent.pid for name, agent in linkseal.agents.items()}
    exemption = {
        "name": "ntp", "protocol": "udp", "port": 123, "cidr": "203.0.113.0/24", "owner": "ops", "reason": "time",
        "expires": "2099-01-01T00:00:00Z",
    }  # fmt: skip
    plane.admin.patch(ENCRYPTION, {"spec": {"exemptions": [exemption], "wireguard": {"mtu": 1400}}})
    linkseal.until(lambda: "mtu 1400" in a.run("ip -o link show lsl11"), "the new MTU")
    linkseal.until(lambda: "203.0.113.0/24" in a.run("nft list ruleset"), "the exemption")
    plane.admin.patch(ENCRYPTION, {"spec": {"exemptions": None}})
    linkseal.until(lambda: "203.0.113.0/24" not in a.run("nft list ruleset"), "no exemption")
    linkseal.wait_sealed()
    asked = {"id": "new-key", "type": "rotate", "requestedAt": "2026-11-02T10:00:00Z"}
    plane.admin.patch(f"{NODE_ENCRYPTIONS}/{a.name}", {"spec": {"requests": [asked]}})

    def answer() -> Any:
        status = plane.admin.get(f"{NODE_ENCRYPTIONS}/{a.name}")["status"]
        return status["requests"].get("new-key", {}).get("state")

    linkseal.until(lambda: answer() == "done", "a new key", 60)
    assert {name: agent.pid for name, agent in linkseal.agents.items()} == processes


def an_old_file_lowers_nothing(plane: ControlPlane, linkseal: KubeDeployment) -> None:
    """Nor does deleting the object, after which the API server has nothing to compare the file with."""
    plane.admin.delete(ENCRYPTION)
    time.sleep(3)
    linkseal.wait_guarded()
    plane.admin.post(CLUSTER_ENCRYPTIONS, cluster_encryption(stage="prepare", verify={"interval": 0}))

    def reached() -> Any:
        status = plane.admin.get(ENCRYPTION).get("status", {})
        said = {one["type"]: one["reason"] for one in status.get("conditions", ())}
        return status.get("stage"), said.get("Reached")

    linkseal.until(lambda: reached() == ("enforce", "NotAsked"), "a controller that says so")
    linkseal.wait_guarded()


def needed(plane: ControlPlane) -> set[tuple[str, str]]:
    """What the chart lets it do, but for rights no request names: the signer's.

    And that to change the CA's Secret, which test_ca.py has it do.
    """
    signers = "certificates.k8s.io/signers"
    unnamed = {("approve", signers), ("sign", signers)}
    return granted(plane, CONTROLLER) - unnamed - {("update", "secrets")}


def test_a_walk_that_is_broken_off_stays_where_it_is(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Here nothing is ever proven, since no agent runs on one of the nodes that others have heard of."""
    with deployed(cluster, tmp_path) as (plane, linkseal, at):
        assert main([*at, "enable", "--to", "prepare"]) == 0
        plane.admin.patch(ENCRYPTION, {"spec": {"probe": {"interval": 6}}})
        linkseal.start()
        linkseal.until(lambda: all(linkseal.status(node).links.proven == 2 for node in cluster), "proven")
        linkseal.stop(cluster[2], 9)
        cluster.wire.run("ip link set up3 down")
        linkseal.until(lambda: linkseal.status(cluster[0]).links.proven < 2, "one that is not", 240)
        assert main([*at, "enable", "--to", "prefer", "--wait=5s"]) == 4
        assert "the cluster stays at stage prepare" in capfd.readouterr().err
        spec = plane.admin.get(ENCRYPTION)["spec"]
        assert (spec["stage"], spec.get("lowerTo")) == ("prepare", None), "a copy of it lowers nothing"
        cluster.wire.run("ip link set up3 up")
        linkseal.start(cluster[2])
        linkseal.until(lambda: all(linkseal.status(node).links.proven == 2 for node in cluster), "proven again")
        time.sleep(3)
        found = plane.admin.get(ENCRYPTION)
        assert found["status"]["stage"] == "prepare", "nobody asks for more"
        conditions = {one["type"]: (one["status"], one["reason"]) for one in found["status"]["conditions"]}
        assert conditions == {
            "Accepted": ("True", "Valid"), "Reached": ("True", "AtTarget"),
            "Granted": ("True", "AllGranted"), "Bounded": ("True", "Named"), "Sealed": ("False", "NotEncrypting"),
            "CASteady": ("True", "Steady"),
        }  # fmt: skip
        assert found["status"]["links"]["total"] == 6


def test_a_node_joins_an_enforced_cluster_and_is_deleted_again(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The others lose nothing by it, neither when it comes nor when it goes."""
    a, b, c = cluster
    with deployed(cluster, tmp_path) as (plane, linkseal, at):
        assert main([*at, "enable", "--to", "prepare"]) == 0
        plane.admin.patch(ENCRYPTION, {"spec": {"verify": {"interval": 0}}})
        linkseal.start(a, b)
        assert main([*at, "enable", "--to", "prefer"]) == 0, capfd.readouterr().err
        linkseal.until(lambda: all(linkseal.status(node).links.sealed == 1 for node in (a, b)), "a sealed link")
        with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as loss:
            assert main([*at, "enable", "--to", "enforce", "--wait=120s", "--yes"]) == 0, capfd.readouterr().err
            linkseal.start(c)
            linkseal.wait_sealed(60)
            linkseal.wait_guarded()
            joined = linkseal.status(c)
            assert joined.stage is Stage.ENFORCE
            assert joined.guard.unguarded is not None
            linkseal.until(lambda: "GuardedSince" in told(plane), "an Event that says so")
            linkseal.until(lambda: main([*at, "status"]) == 0, "reports of that", 60)
            linkseal.stop(c)
            plane.admin.delete(f"/api/v1/nodes/{c.name}")
            linkseal.until(lambda: all(linkseal.status(node).links.total == 1 for node in (a, b)), "one peer each", 60)
            assert c.name not in a.run("nft list ruleset; wg show all allowed-ips 2>/dev/null || true")
            assert "10.244.3.0/24" not in a.run("nft list ruleset")
        assert loss.lost == [], f"{loss}\n{linkseal.report()}"
