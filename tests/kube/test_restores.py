"""The API server's store put back to an older state, or lost, while encrypted traffic flows: nothing is removed."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ground.charts import CLUSTER_ENCRYPTIONS, NAMESPACE, cluster_encryption, install
from ground.kubemesh import KubeDeployment, assert_encrypted, deployed
from ground.net import Cluster, Node
from ground.probes import loss_probe
from linkseal.keys import codes as documents
from linkseal.tunnels import codes
from linkseal.tunnels.agent import main as agent
from linkseal.tunnels.cli.main import main

pytestmark = [pytest.mark.kube, pytest.mark.timeout(420)]

ENCRYPTION = f"{CLUSTER_ENCRYPTIONS}/default"


def encrypted(linkseal: KubeDeployment, cluster: Cluster) -> None:
    """Every agent has its links to all others, and lets nothing else pass."""
    linkseal.wait_sealed(60)
    assert {linkseal.status(node).guard.mode for node in cluster} == {"drop"}, linkseal.report()
    assert_encrypted(cluster, 1)


def refuses_what_follows_another(linkseal: KubeDeployment, node: Node) -> bool:
    found = linkseal.status(node).findings
    return any(one.code == codes.POLICY_OLDER and "does not know that one" in one.message for one in found)


def test_an_older_state_lowers_no_stage_and_takes_no_key_back(cluster: Cluster, tmp_path: Path) -> None:
    """Put back to before enforce, and before one node changed its keys."""
    a, b, _ = cluster
    with deployed(cluster, tmp_path) as (plane, linkseal, at):
        linkseal.to_prefer(at)
        plane.snapshot("before")
        linkseal.to_enforce(at)
        assert linkseal.rotate(a) == 2
        linkseal.until(linkseal.settled, "the new generation everywhere")
        serial = linkseal.status(a).policy.serial
        with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as loss:
            linkseal.stop_controller()
            plane.restore("before")
            linkseal.start_controller()  # nor does it remember what it signed
            older = "agents that are offered an older policy"
            linkseal.until(lambda: all(codes.POLICY_OLDER in linkseal.codes(node) for node in cluster), older, 90)
            plane.admin.patch(ENCRYPTION, {"spec": {"verify": {"interval": 300}}})
            branched = "agents that are offered a newer policy which knows nothing of theirs"
            linkseal.until(lambda: all(refuses_what_follows_another(linkseal, n) for n in cluster), branched, 90)
            encrypted(linkseal, cluster)
            assert plane.admin.get(ENCRYPTION)["spec"]["stage"] == "prefer"
            word = datetime.now(UTC).strftime("%FT%TZ")
            plane.admin.patch(ENCRYPTION, {"spec": {"stage": "enforce", "restoredAt": word, "verify": {"interval": 0}}})
            linkseal.until(lambda: all(linkseal.status(n).policy.serial > serial for n in cluster), "a new policy", 90)
            linkseal.until(lambda: codes.POLICY_OLDER not in linkseal.all_codes(), "no finding")
            linkseal.wait_guarded(90)
            linkseal.until(linkseal.settled, "one generation each")
            assert [g.number for g in linkseal.status(a).generations] == [2]
            linkseal.until(lambda: main([*at, "status"]) == 0, "everything encrypted", 60)
            encrypted(linkseal, cluster)
    assert loss.lost == [], loss


def test_a_wiped_store_is_another_cluster_and_removes_nobody(cluster: Cluster, tmp_path: Path) -> None:
    """Then the chart is installed again, and each node joins the new cluster when it is told to."""
    a, b, _ = cluster
    with deployed(cluster, tmp_path) as (plane, linkseal, at):
        linkseal.to_prefer(at)
        linkseal.to_enforce(at)
        with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as loss:
            plane.wipe()
            linkseal.until(lambda: codes.DIRECTORY_UNREADABLE in linkseal.all_codes(), "a finding")
            encrypted(linkseal, cluster)
            plane.admin.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            install(plane)
            plane.admin.post(CLUSTER_ENCRYPTIONS, cluster_encryption(stage="prepare"))
            linkseal.join_anew()
            for node in cluster:  # their pods went with the store, and so did the tokens
                linkseal.stop(node)
            linkseal.start()
            changed = "agents that know it for another cluster"
            linkseal.until(lambda: all(documents.CLUSTER_CHANGED in linkseal.codes(n) for n in cluster), changed, 90)
            encrypted(linkseal, cluster)
        for node in cluster:
            linkseal.stop(node)
            linkseal.run_in(node, lambda node=node: agent.cleanup(linkseal.agent_settings(node), withdraw=True))
            shutil.rmtree(linkseal.state(node))
        linkseal.to_prefer(at)
        assert linkseal.all_codes() & {documents.CLUSTER_CHANGED, codes.DIRECTORY_UNREADABLE} == set()
    assert loss.lost == [], loss
