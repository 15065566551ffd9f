"""The API server's store put back to an older state, or lost, while encrypted traffic flows: nothing is removed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ground.charts import CLUSTER_ENCRYPTIONS, NAMESPACE, cluster_encryption, install
from ground.controlplane import ControlPlane
from ground.kubemesh import KubeDeployment, assert_encrypted, deployed
from ground.kubeobjects import create_node
from ground.net import Cluster, Node
from ground.probes import loss_probe
from linkseal.keys import codes as documents
from linkseal.keys import grant as grants
from linkseal.keys.errors import DirectoryError
from linkseal.tunnels import codes
from linkseal.tunnels.agent import main as agent
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.directory.kubedocs import GRANT

pytestmark = [pytest.mark.kube, pytest.mark.timeout(420)]

ENCRYPTION = f"{CLUSTER_ENCRYPTIONS}/default"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"


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


def lose_all(plane: ControlPlane, linkseal: KubeDeployment, *, ca: Mapping[str, Any] | None = None) -> None:
    """Wipe the store and install the chart again, with the CA's Secret if it was kept; agents start anew."""
    plane.wipe()
    linkseal.until(lambda: codes.DIRECTORY_UNREADABLE in linkseal.all_codes(), "a finding")
    encrypted(linkseal, linkseal.cluster)
    plane.admin.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    if ca is not None:
        plane.admin.post(SECRETS, dict(ca))
    install(plane)
    plane.admin.post(CLUSTER_ENCRYPTIONS, cluster_encryption(stage="prepare"))
    first = "/api/v1/nodes/a-first"  # and soon gone: so nodes have other indexes than before
    create_node(plane.admin, "a-first", addresses=["192.0.2.99"], pod_cidrs=["10.244.99.0/24"])
    linkseal.join_anew()
    linkseal.until(lambda: [index_of(plane, node) for node in linkseal.cluster] == [2, 3, 4], "grants")
    plane.admin.delete(first)
    for node in linkseal.cluster:  # their pods went with the store, and so did the tokens
        linkseal.stop(node)
    linkseal.start()
    changed = "agents that know it for another cluster"
    linkseal.until(lambda: all(documents.CLUSTER_CHANGED in linkseal.codes(n) for n in linkseal.cluster), changed, 90)
    encrypted(linkseal, linkseal.cluster)


def index_of(plane: ControlPlane, node: Node) -> int:
    """The index that a node is granted; 0: none yet."""
    found = plane.admin.get(f"/api/v1/nodes/{node.name}")["metadata"].get("annotations", {}).get(GRANT)
    return grants.parse(grants.unwrap(found, node=node.name).text, node=node.name).index if found else 0


def conditions(plane: ControlPlane) -> str:
    return str(plane.admin.get(ENCRYPTION)["status"]["conditions"])


def came_over(linkseal: KubeDeployment) -> bool:
    try:
        return documents.CLUSTER_CHANGED not in linkseal.all_codes()
    except DirectoryError:  # it begins anew for that
        return False


def test_a_wiped_store_whose_ca_was_kept_goes_on_at_the_operator_s_word(cluster: Cluster, tmp_path: Path) -> None:
    """Nothing is done on nodes, no stage falls, and the keys are those of before."""
    a, b, _ = cluster
    with deployed(cluster, tmp_path) as (plane, linkseal, at):
        linkseal.to_prefer(at)
        linkseal.to_enforce(at)
        assert linkseal.rotate(a) == 2
        linkseal.until(linkseal.settled, "the new generation everywhere")
        found = plane.admin.get(f"{SECRETS}/linkseal-ca-key")
        kept = {"metadata": {"name": "linkseal-ca-key"}, "type": found["type"], "data": found["data"]}
        before, keys = linkseal.cluster_uid(), [linkseal.status(node).generations for node in cluster]
        with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as loss:
            lose_all(plane, linkseal, ca=kept)
            assert linkseal.cluster_uid() != before
            plane.admin.patch(ENCRYPTION, {"spec": {"formerClusters": [before]}})
            linkseal.until(lambda: "are at enforce already" in conditions(plane), "what the spec is to say")
            encrypted(linkseal, cluster)
            plane.admin.patch(ENCRYPTION, {"spec": {"stage": "enforce"}})
            linkseal.until(lambda: came_over(linkseal), "agents that are of the new cluster", 90)
            linkseal.until(lambda: main([*at, "status"]) == 0, "everything encrypted", 90)
            encrypted(linkseal, cluster)
        assert [linkseal.status(node).generations for node in cluster] == keys
        assert plane.admin.get(ENCRYPTION)["status"]["stage"] == "enforce"
        assert [index_of(plane, node) for node in cluster] == [1, 2, 3], "as before: peers know probe addresses by them"
        assert linkseal.rotate(b) == 2, "they work together, as they did before"
        linkseal.until(linkseal.settled, "the new generation everywhere")
    assert loss.lost == [], loss


def test_a_wiped_store_without_its_ca_needs_a_word_on_each_node(cluster: Cluster, tmp_path: Path) -> None:
    """Who has the new store is not believed until root on the nodes names the CA; nothing is plaintext meanwhile."""
    a, b, _ = cluster
    with deployed(cluster, tmp_path) as (plane, linkseal, at):
        linkseal.to_prefer(at)
        linkseal.to_enforce(at)
        before = linkseal.cluster_uid()
        with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as loss:
            lose_all(plane, linkseal)
            plane.admin.patch(ENCRYPTION, {"spec": {"stage": "enforce", "formerClusters": [before]}})
            signed = "a policy for which nobody falls"
            linkseal.until(lambda: plane.admin.get(ENCRYPTION)["status"].get("stage") == "enforce", signed)
            encrypted(linkseal, cluster)
            assert all(documents.CLUSTER_CHANGED in linkseal.codes(node) for node in cluster)
            fingerprint = plane.admin.get(ENCRYPTION)["status"]["ca"]["fingerprint"]
            for node in cluster:
                linkseal.run_in(node, lambda node=node: agent.trust_ca(linkseal.agent_settings(node), fingerprint))
            linkseal.until(lambda: came_over(linkseal), "agents that are of the new cluster", 90)
            linkseal.until(lambda: main([*at, "status"]) == 0, "everything encrypted", 90)
            encrypted(linkseal, cluster)
        assert documents.CA_NOT_VOUCHED not in linkseal.all_codes()
    assert loss.lost == [], loss
