"""Pools on a cluster: `linkseal enable --nodes` from anywhere, and what is asked for in the ClusterEncryption."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ground.charts import CLUSTER_ENCRYPTIONS, NODE_ENCRYPTIONS, cluster_encryption, node_encryption, told
from ground.controlplane import ControlPlane
from ground.kubeapi import Recorder
from ground.kubemesh import KubeDeployment, deployed
from ground.kubeobjects import create_node
from ground.net import Cluster
from ground.probes import loss_probe
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.clusterobject import ClusterStatus, PoolStatus, status_object
from linkseal.tunnels.model import Stage

pytestmark = [pytest.mark.kube, pytest.mark.timeout(420)]

ENCRYPTION = f"{CLUSTER_ENCRYPTIONS}/default"


class Site:
    """A cluster of three nodes with NodeEncryptions, and nobody who acts."""

    def __init__(self, plane: ControlPlane, kube: Recorder, folder: Path) -> None:
        self.kube = kube
        self.at = ["--kubeconfig", str(plane.kubeconfig(folder / "operator"))]
        for name in ("n1", "n2", "n3"):
            create_node(kube, name)
            kube.post(NODE_ENCRYPTIONS, node_encryption(name))
        kube.patch("/api/v1/nodes/n2", {"metadata": {"labels": {"pool": "first"}}})

    def is_at(self, stage: Stage, pool: PoolStatus | None = None) -> None:
        """As its controller would say it; who is there was asked to be there."""
        self.kube.delete(ENCRYPTION, missing_ok=True)
        wish: dict[str, Any] = {} if pool is None else {"pool": {"stage": pool.stage.value, "nodes": list(pool.nodes)}}
        body = cluster_encryption(stage=stage.value, **wish)
        self.kube.apply(ENCRYPTION, body, manager="linkseal-cli")
        status = {**body, "status": status_object(ClusterStatus(stage=stage, pool=pool))}
        del status["spec"]
        self.kube.apply(f"{ENCRYPTION}/status", status, manager="linkseal-controller")

    def run(self, *words: str) -> int:
        return int(main([*self.at, *words]))

    @property
    def spec(self) -> dict[str, Any]:
        found: dict[str, Any] = self.kube.get(ENCRYPTION)["spec"]
        assert found.pop("askedAt", "-")
        return found


@pytest.fixture
def site(chart: None, plane: ControlPlane, kube: Recorder, tmp_path: Path) -> Iterator[Site]:
    yield Site(plane, kube, tmp_path)
    kube.delete(ENCRYPTION, missing_ok=True)


@pytest.mark.parametrize(
    ("selector", "nodes"),
    [("n1", ["n1"]), ("n[13]", ["n1", "n3"]), ("pool=first", ["n2"]), ("pool notin (first)", ["n1", "n3"])],
)
def test_a_pool_is_asked_for_by_names_patterns_or_labels(site: Site, selector: str, nodes: list[str]) -> None:
    assert site.run("enable", "--to", "prefer", "--nodes", selector, "--timeout", "5m", "--detach") == 0
    assert site.spec["pool"] == {"stage": "prefer", "nodes": nodes}
    assert (site.spec["stage"], site.spec["stepTimeout"]) == ("off", "300s")


def test_who_opted_out_is_in_no_pool(site: Site) -> None:
    site.kube.post(CLUSTER_ENCRYPTIONS, cluster_encryption(optOut={"nodes": ["n2"]}))
    assert site.run("enable", "--to", "prefer", "--nodes", "*", "--detach") == 0
    assert site.spec["pool"]["nodes"] == ["n1", "n3"]
    label = "node-restriction.kubernetes.io/traffic"
    site.kube.patch(ENCRYPTION, {"spec": {"optOut": {"labels": [f"{label}=plain"]}}})
    site.kube.patch("/api/v1/nodes/n3", {"metadata": {"labels": {label: "plain"}}})
    assert site.run("enable", "--to", "prefer", "--nodes", "*", "--detach") == 0
    assert site.spec["pool"]["nodes"] == ["n1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--nodes", "m1"), "no node in scope is called 'm1'; there are: n1, n2, n3"),
        (("--nodes", "pool=second"), "--nodes pool=second: no node in scope has these labels"),
        (("--nodes", "a=b=c"), "--nodes a=b=c: "),
        (("--timeout", "9s"), "--timeout: stepTimeout: must be 10 to 86400 seconds"),
    ],
)
def test_what_cannot_be_asked_for_is_told(
    site: Site, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert site.run("enable", "--to", "prefer", *words, "--detach") == 2
    assert said in capfd.readouterr().err
    assert site.kube.get(CLUSTER_ENCRYPTIONS)["items"] == []


def test_what_is_asked_of_a_pool_goes_by_where_it_is(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        before = site.spec
        assert site.run(*words, "--detach") == 2
        assert site.spec == before
        return capfd.readouterr().err

    site.is_at(Stage.PREPARE, PoolStatus(Stage.PREFER, ("n1", "n2")))
    assert "there is a pool already" in refused("enable", "--to", "prefer", "--nodes", "n3")
    assert "use `linkseal disable` to go back" in refused("enable", "--to", "prepare", "--nodes", "n1,n2")
    assert "a pool cannot be behind them" in refused("disable", "--nodes", "n1,n2")
    assert site.run("enable", "--to", "enforce", "--nodes", "n1,n2", "--dry-run") == 1, "no agent reports"
    assert "stage prepare (n1, n2: prefer) → prepare (n1, n2: enforce)" in capfd.readouterr().out
    assert site.run("enable", "--to", "enforce", "--nodes", "n1,n2", "--detach", "--yes") == 0
    assert site.spec["pool"] == {"stage": "enforce", "nodes": ["n1", "n2"]}
    assert site.run("disable", "--to", "prepare", "--nodes", "n1,n2", "--detach") == 0
    assert site.spec["pool"] == {"stage": "prepare", "nodes": ["n1", "n2"], "lowerTo": "prepare"}
    site.is_at(Stage.PREPARE, PoolStatus(Stage.ENFORCE, ("n1", "n2")))
    assert site.run("enable", "--to", "prefer", "--detach") == 0
    assert site.spec["pool"]["stage"] == "enforce", "it stays ahead of the others"
    said = refused("enable", "--to", "enforce", "--nodes", "n1,n2", "--yes")
    assert "all nodes were asked to go from stage prepare to prefer, and are not there" in said
    assert site.run("disable", "--detach") == 0
    down = {"stage": "off", "lowerTo": "off"}
    assert site.spec == {"protocol": "wireguard", "scope": "overlay", **down, "pool": {"nodes": ["n1", "n2"], **down}}


def test_a_pool_that_nobody_asks_for_any_more_is_asked_for_with_the_others(site: Site) -> None:
    """It is there all the same, and stays."""
    site.is_at(Stage.OFF, PoolStatus(Stage.PREFER, ("n1", "gone")))
    site.kube.patch(ENCRYPTION, {"spec": {"pool": None}})
    assert site.run("enable", "--to", "prepare", "--detach") == 0
    assert site.spec["pool"] == {"stage": "prefer", "nodes": ["gone", "n1"]}
    site.is_at(Stage.OFF, PoolStatus(Stage.PREFER, ("n1", "gone")))
    assert site.run("enable", "--to", "enforce", "--nodes", "gone,n1", "--detach", "--yes") == 0
    assert site.spec["pool"] == {"stage": "enforce", "nodes": ["gone", "n1"]}


def test_who_breaks_off_before_a_controller_has_said_where_the_cluster_is_lowers_nothing(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    assert site.run("enable", "--to", "prefer", "--wait=1s") == 4
    assert "what was asked for stands" in capfd.readouterr().err
    assert site.spec["stage"] == "prefer"


def stands(plane: ControlPlane, linkseal: KubeDeployment, cluster: Cluster) -> bool:
    """Whether every node has applied what was signed last, which has the interval in it."""
    found = plane.admin.get(ENCRYPTION)
    status, policies = found["status"], [linkseal.status(node).policy for node in cluster]
    told = status["observedGeneration"] == found["metadata"]["generation"]
    return told and all(one.applied and one.serial == status["policySerial"] for one in policies)


def test_what_was_taken_back_is_begun_again_by_the_same_command(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with deployed(cluster, tmp_path) as (plane, linkseal, at):
        assert main([*at, "enable", "--to", "prepare"]) == 0
        plane.admin.patch(ENCRYPTION, {"spec": {"verify": {"interval": 0}}})
        linkseal.start()
        linkseal.until(lambda: all(linkseal.status(node).links.proven == 2 for node in cluster), "proven")
        linkseal.until(
            lambda: stands(plane, linkseal, cluster), "the policy applied everywhere"
        )  # else it is waited for
        linkseal.stop(cluster[2], 9)
        words = [*at, "enable", "--to", "prefer", "--timeout"]
        assert main([*words, "10s"]) == 1
        why = rf"was not applied everywhere within 10 s: the present stage has not reached .*\b{cluster[2].name}\b"
        assert re.search(why, capfd.readouterr().out)
        linkseal.start(cluster[2])
        assert main([*words, "120s"]) == 0, f"{capfd.readouterr()}\n{linkseal.report()}"
        linkseal.wait_sealed()


def test_a_pool_goes_first_the_others_follow_and_all_come_back(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    a, b, c = cluster
    with deployed(cluster, tmp_path) as (plane, linkseal, at):

        def run(*words: str) -> str:
            assert main([*at, *words]) == 0, f"{capfd.readouterr().err}\n{linkseal.report()}"
            return capfd.readouterr().out

        def position() -> tuple[str, Any]:
            status = plane.admin.get(ENCRYPTION)["status"]
            return status["stage"], status["pool"]

        run("enable", "--to", "prepare")
        plane.admin.patch(ENCRYPTION, {"spec": {"verify": {"interval": 0}}})
        linkseal.start()
        pair = f"{a.name},{b.name}"
        with (
            loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as within,
            loss_probe(a.pods[0], c.pods[0], str(c.pods[0].address4), pps=100) as across,
        ):
            said = run("enable", "--to", "prefer", "--nodes", pair, "--timeout", "90s")
            assert f"the cluster is at stage prepare ({a.name}, {b.name}: prefer)" in said
            assert position() == ("prepare", {"stage": "prefer", "nodes": [a.name, b.name]})
            linkseal.until(lambda: linkseal.status(a).links.sealed == 1, "one sealed link")
            assert [linkseal.status(node).stage for node in cluster] == [Stage.PREFER, Stage.PREFER, Stage.PREPARE]
            wide = plane.kubectl("get", "clusterencryption", "-o", "wide")
            assert f"prepare ({a.name}, {b.name}: prefer)" in wide
            assert "on the way to" not in wide
            assert {"Valid", "AllGranted", "Steady"} <= set(wide.split())
            assert main([*at, "enable", "--to", "enforce", "--nodes", pair, "--yes", "--wait=2s"]) == 4
            assert f"the cluster stays at stage prepare ({a.name}, {b.name}: prefer)" in capfd.readouterr().err
            assert plane.admin.get(ENCRYPTION)["spec"]["pool"] == {"stage": "prefer", "nodes": [a.name, b.name]}
            run("disable", "--to", "prepare", "--nodes", pair)
            assert position() == ("prepare", None)
            assert "pool" not in plane.admin.get(ENCRYPTION)["spec"], "nothing is left that lowers"
            run("enable", "--to", "prefer", "--nodes", pair)
            run("enable", "--to", "prefer")
            assert position() == ("prefer", None)
            assert set(plane.admin.get(ENCRYPTION)["spec"]) & {"pool", "lowerTo"} == set()
            linkseal.wait_sealed()
            old = {"pool": {"stage": "prepare", "nodes": [a.name]}}
            plane.admin.patch(ENCRYPTION, {"spec": old})
            plane.kubectl("wait", "--for=condition=Reached", "clusterencryption/default", "--timeout=30s")
            assert position() == ("prefer", None), "an old file lowers nothing"
            run("disable")
            assert position() == ("off", None)
            assert "pool" not in plane.admin.get(ENCRYPTION)["spec"], "whoever asked for it"
            linkseal.until(lambda: "lsl0" not in a.run("ip -br link"), "nothing of ours")
        assert (within.lost, across.lost) == ([], [])
        assert {"StageChanged", "StageReached"} <= told(plane)
