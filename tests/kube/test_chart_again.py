"""The chart where a cluster has more than installed it once: dry runs, rollbacks, CRDs of another version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ground.charts import CHART, CLUSTER_ENCRYPTIONS, CREATED, DEFINITIONS, NAMESPACE, chart_installed, exists
from ground.controlplane import ControlPlane
from ground.daemons import DaemonError
from ground.suites import ROOT

pytestmark = pytest.mark.kube

DEFAULT = f"{CLUSTER_ENCRYPTIONS}/default"
SPACE = ("--namespace", NAMESPACE)


def helm(plane: ControlPlane, verb: str, *options: str) -> str:
    return plane.helm(verb, "linkseal", str(CHART), *SPACE, *options)


def stage(plane: ControlPlane) -> object:
    return plane.admin.get(DEFAULT)["spec"]["stage"]


def test_a_dry_run_by_the_server_passes_before_the_first_install(plane: ControlPlane) -> None:
    """Where it does not know our kinds yet: to look for one of them would be an error."""
    said = helm(plane, "install", "--dry-run=server", "--create-namespace", *CREATED)
    assert "Nothing is encrypted yet" in said
    assert "kind: ClusterEncryption" in said


@pytest.mark.parametrize(("namespace", "words"), [("linkseal", ""), ("another", " --namespace another")])
def test_the_notes_name_the_namespace_where_commands_would_not_find_it(
    plane: ControlPlane, namespace: str, words: str
) -> None:
    notes = plane.helm("install", "linkseal", str(CHART), "--namespace", namespace, "--dry-run=client")
    for command in ("enable --dry-run", "check --pre", "disable"):
        name, _, rest = command.partition(" ")
        assert f"linkseal {name}{words}{rest and f' {rest}'}" in notes


def test_the_crds_of_another_version_are_taken_by_the_command_that_is_documented(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """Helm made them, and owns all of their fields."""
    text = (ROOT / "docs/kubernetes.md").read_text()
    (command,) = re.findall(r"    kubectl (apply .*) -f charts/linkseal/crds/\n", text)
    with chart_installed(plane):
        for file in (CHART / "crds").iterdir():
            (tmp_path / file.name).write_text(file.read_text().replace("description: ", "description: Newer. ", 1))
        with pytest.raises(DaemonError, match="conflict"):
            plane.kubectl("apply", "--server-side", "-f", str(tmp_path))
        plane.kubectl(*command.split(), "-f", str(tmp_path))
        assert "Newer." in str(plane.admin.get(f"{DEFINITIONS}/clusterencryptions.linkseal.io")["spec"])


def test_a_rollback_finds_all_that_it_looks_for_and_leaves_the_stage(plane: ControlPlane) -> None:
    with chart_installed(plane, *CREATED):
        assert stage(plane) == "prepare"
        plane.admin.patch(DEFAULT, {"spec": {"stage": "enforce"}})
        helm(plane, "upgrade", *CREATED)
        plane.helm("rollback", "linkseal", "1", *SPACE)
        assert stage(plane) == "enforce"
        assert "kind: ClusterEncryption" not in plane.helm("get", "manifest", "linkseal", *SPACE)


def test_the_clusterencryption_is_made_by_an_upgrade_too(plane: ControlPlane) -> None:
    with chart_installed(plane):
        assert not exists(plane.admin, DEFAULT)
        helm(plane, "upgrade", *CREATED)
        assert stage(plane) == "prepare"


def test_what_is_kept_for_the_day_when_the_store_is_lost_can_be_put_back(plane: ControlPlane, tmp_path: Path) -> None:
    """As docs/kubernetes.md has it: what kubectl printed of the CA's Secret and the ClusterEncryption."""
    secret = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    with chart_installed(plane, *CREATED):
        made = {"metadata": {"name": "linkseal-ca-key"}, "stringData": {"tls.key": "k", "tls.crt": "c"}}
        plane.admin.post(secret, made)
        plane.admin.patch(f"{DEFAULT}/status", {"status": {"stage": "prepare"}})
        try:
            key = plane.kubectl("-n", NAMESPACE, "get", "secret", "linkseal-ca-key", "-o", "yaml")
            encryption = yaml.safe_load(plane.kubectl("get", "clusterencryption", "default", "-o", "yaml"))
            for path in (f"{secret}/linkseal-ca-key", DEFAULT):
                plane.admin.delete(path)
            plane.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=key)
            encryption["spec"]["formerClusters"] = ["7d1f0e3c-0000-4000-8000-000000000000"]
            plane.kubectl("create", "-f", "-", stdin=yaml.safe_dump(encryption))
            assert set(plane.admin.get(f"{secret}/linkseal-ca-key")["data"]) == {"tls.key", "tls.crt"}
            assert plane.admin.get(DEFAULT)["spec"] == encryption["spec"]
        finally:
            plane.admin.delete(f"{secret}/linkseal-ca-key", missing_ok=True)
