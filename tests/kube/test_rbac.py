"""Least privilege: what the chart's service accounts may do is what they have to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ground.charts import AGENT, CONTROLLER, HOOKS, NAMESPACE, granted_exactly, hook_objects, may
from ground.controlplane import ControlPlane
from ground.kubeapi import Api
from ground.kubeobjects import unbound_token

pytestmark = [pytest.mark.kube, pytest.mark.usefixtures("chart")]

NS = NAMESPACE
CSR = "certificates.k8s.io/certificatesigningrequests"
SIGNERS = "certificates.k8s.io/signers"
CLUSTER, NODE = "linkseal.io/clusterencryptions", "linkseal.io/nodeencryptions"
LEASES = "coordination.k8s.io/leases"

AGENT_MAY = [
    *((verb, "nodes", "", "") for verb in ("get", "list", "watch", "patch")),
    *((verb, "namespaces", "kube-system", "") for verb in ("list", "watch")),
    *((verb, "configmaps", "", NS) for verb in ("list", "watch")),
    *((verb, CSR, "", "") for verb in ("create", "get")),
    *((verb, NODE, "", "") for verb in ("get", "list", "watch")),
    ("patch", f"{NODE}/status", "", ""),
]

AGENT_MAY_NOT = [
    *((verb, "nodes", "a", "") for verb in ("create", "update", "delete", "deletecollection")),
    *((verb, "nodes/status", "a", "") for verb in ("patch", "update")),
    ("get", "nodes/proxy", "a", ""),
    *((verb, "namespaces", "", "") for verb in ("list", "watch")),
    ("get", "namespaces", "default", ""),
    *((verb, "configmaps", "linkseal-ca", NS) for verb in ("create", "patch", "update", "delete")),
    ("get", "configmaps", "", "kube-system"),
    *((verb, "secrets", "linkseal-ca-key", NS) for verb in ("get", "list", "watch", "create", "patch")),
    *((verb, CSR, "", "") for verb in ("list", "watch", "update", "patch", "delete")),
    *(("update", f"{CSR}/{part}", "", "") for part in ("approval", "status")),
    *((verb, SIGNERS, "linkseal.io/node", "") for verb in ("approve", "sign")),
    *((verb, NODE, "a", "") for verb in ("create", "update", "patch", "delete")),
    ("update", f"{NODE}/status", "a", ""),
    *((verb, CLUSTER, "default", "") for verb in ("get", "list", "patch", "update", "create", "delete")),
    *((verb, "pods", "", NS) for verb in ("get", "list", "create", "delete")),
    ("create", "pods/exec", "", NS),
    ("create", "serviceaccounts/token", AGENT, NS),
    ("create", "serviceaccounts/token", CONTROLLER, NS),
    ("create", "events", "", NS),
    ("get", LEASES, "linkseal-controller", NS),
    ("impersonate", "serviceaccounts", CONTROLLER, NS),
]

CONTROLLER_MAY = [
    *((verb, "nodes", "", "") for verb in ("list", "watch", "patch")),
    ("get", "namespaces", "kube-system", ""),
    *((verb, CSR, "", "") for verb in ("get", "list", "watch")),
    *(("update", f"{CSR}/{part}", "", "") for part in ("approval", "status")),
    *((verb, SIGNERS, "linkseal.io/node", "") for verb in ("approve", "sign")),
    ("get", "pods", "", NS),
    *((verb, "configmaps", "", NS) for verb in ("list", "watch", "create")),
    *(("patch", "configmaps", f"linkseal-{name}", NS) for name in ("ca", "policy", "stage")),
    ("get", "configmaps", "linkseal-policy", NS),
    ("create", "secrets", "", NS),
    *(("get", "secrets", f"linkseal-ca-{name}", NS) for name in ("key", "next")),
    ("update", "secrets", "linkseal-ca-key", NS),
    *((verb, CLUSTER, "", "") for verb in ("list", "watch")),
    ("patch", f"{CLUSTER}/status", "default", ""),
    *((verb, NODE, "", "") for verb in ("list", "watch", "create")),
    *((verb, "discovery.k8s.io/endpointslices", "", "default") for verb in ("list", "watch")),
    ("create", LEASES, "", NS),
    *((verb, LEASES, "linkseal-controller", NS) for verb in ("get", "update")),
    ("create", "events.k8s.io/events", "", "default"),
]

CONTROLLER_MAY_NOT = [
    *((verb, "nodes", "a", "") for verb in ("create", "update", "delete")),
    ("patch", "nodes/status", "a", ""),
    *((verb, SIGNERS, "kubernetes.io/kube-apiserver-client", "") for verb in ("approve", "sign")),
    *((verb, CSR, "", "") for verb in ("create", "delete", "patch")),
    *((verb, "secrets", "", NS) for verb in ("get", "list", "watch", "delete", "update")),
    *((verb, "secrets", "linkseal-ca-key", NS) for verb in ("patch", "delete")),
    *((verb, "secrets", "linkseal-ca-next", NS) for verb in ("patch", "update", "delete")),
    *((verb, NODE, "a", "") for verb in ("get", "patch", "update", "delete")),
    ("create", "events.k8s.io/events", "", NS),
    ("get", "secrets", "another", NS),
    ("get", "secrets", "linkseal-ca-key", "kube-system"),
    ("patch", "configmaps", "linkseal-agent", NS),
    ("get", "configmaps", "linkseal-agent", NS),
    ("get", "configmaps", "", "kube-system"),
    *((verb, "pods", "", NS) for verb in ("list", "create", "delete")),
    ("get", "pods", "", "kube-system"),
    *((verb, CLUSTER, "default", "") for verb in ("create", "update", "patch", "delete")),
    ("patch", f"{CLUSTER}/status", "another", ""),
    *((verb, f"{NODE}/status", "a", "") for verb in ("patch", "update")),
    *((verb, "discovery.k8s.io/endpointslices", "", NS) for verb in ("list", "create", "patch")),
    ("update", LEASES, "another", NS),
    ("create", "serviceaccounts/token", AGENT, NS),
    ("create", "apps/daemonsets", "", NS),
    ("impersonate", "users", "admin", ""),
]


NODES_HOOK, OBJECTS_HOOK = HOOKS
DEFINITIONS = "apiextensions.k8s.io/customresourcedefinitions"

NODES_HOOK_MAY = [
    ("list", "nodes", "", ""),
    ("list", "configmaps", "linkseal-policy", NS),
    ("get", CLUSTER, "default", ""),
    *((verb, NODE, "", "") for verb in ("get", "list", "update")),
]

NODES_HOOK_MAY_NOT = [
    *((verb, "nodes", "a", "") for verb in ("get", "patch", "update", "delete")),
    *((verb, "configmaps", "linkseal-policy", NS) for verb in ("patch", "delete")),
    ("list", "configmaps", "", NS),
    *((verb, CLUSTER, "default", "") for verb in ("patch", "update", "delete")),
    *((verb, NODE, "a", "") for verb in ("create", "patch", "delete")),
    *((verb, f"{NODE}/status", "a", "") for verb in ("patch", "update")),
    ("get", "secrets", "linkseal-ca-key", NS),
    ("delete", "apps/daemonsets", "linkseal-daemons", NS),
    ("delete", DEFINITIONS, "nodeencryptions.linkseal.io", ""),
]

OBJECTS_HOOK_MAY = [
    *((verb, "nodes", "", "") for verb in ("list", "patch")),
    ("list", NODE, "", ""),
    ("get", CLUSTER, "default", ""),
    *((verb, CSR, "", "") for verb in ("list", "delete")),
    *((verb, DEFINITIONS, f"{one}.linkseal.io", "")
      for verb in ("get", "delete") for one in ("clusterencryptions", "nodeencryptions")),
    ("list", "pods", "", NS),
    ("get", "apps/daemonsets", AGENT, NS),
    ("get", "apps/deployments", CONTROLLER, NS),
    ("list", "configmaps", "linkseal-policy", NS),
    *(("delete", "configmaps", f"linkseal-{name}", NS) for name in ("ca", "policy", "stage")),
    ("delete", "secrets", "linkseal-ca-key", NS),
    ("delete", LEASES, "linkseal-controller", NS),
    ("delete", "apps/daemonsets", "linkseal-daemons", NS),
]  # fmt: skip

OBJECTS_HOOK_MAY_NOT = [
    *((verb, "nodes", "a", "") for verb in ("create", "update", "delete")),
    ("patch", "nodes/status", "a", ""),
    *((verb, "secrets", "linkseal-ca-key", NS) for verb in ("get", "list", "update")),
    ("delete", "secrets", "another", NS),
    ("delete", "secrets", "linkseal-ca-key", "kube-system"),
    *((verb, "configmaps", "", NS) for verb in ("list", "delete")),
    *((verb, DEFINITIONS, "others.example.com", "") for verb in ("get", "delete")),
    ("list", DEFINITIONS, "", ""),
    ("delete", "apps/daemonsets", AGENT, NS),
    *((verb, "pods", "a", NS) for verb in ("get", "create", "delete")),
    *((verb, CSR, "", "") for verb in ("create", "patch", "update", "deletecollection")),
    *((verb, NODE, "a", "") for verb in ("create", "patch", "update", "delete")),
    *((verb, CLUSTER, "default", "") for verb in ("patch", "update", "delete")),
    ("create", "serviceaccounts/token", CONTROLLER, NS),
]

PARTS = {"ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts"} | {
    kind: f"/apis/rbac.authorization.k8s.io/v1/{where}{kind.lower()}s"
    for kind, where in (
        *((kind, "") for kind in ("ClusterRole", "ClusterRoleBinding")),
        *((kind, "namespaces/{}/") for kind in ("Role", "RoleBinding")),
    )
}
"""Where what a hook has beside its Job is made."""


@pytest.fixture(scope="module")
def accounts(plane: ControlPlane, chart: None) -> Iterator[dict[str, Api]]:
    """With what the chart's hooks have, which Helm makes while it uninstalls."""
    with plane.recorder() as recorder:
        for one in hook_objects(plane):
            if one["kind"] in PARTS:
                recorder.post(PARTS[one["kind"]].format(NS), one)
        names = (AGENT, CONTROLLER, *HOOKS)
        found = {name: plane.admin.with_token(unbound_token(plane.admin, NS, name)) for name in names}
        yield found
        for api in found.values():
            api.close()
        recorder.remove()


MAY = [(AGENT, AGENT_MAY), (CONTROLLER, CONTROLLER_MAY), (NODES_HOOK, NODES_HOOK_MAY), (OBJECTS_HOOK, OBJECTS_HOOK_MAY)]

MAY_NOT = [
    (AGENT, AGENT_MAY_NOT),
    (CONTROLLER, CONTROLLER_MAY_NOT),
    (NODES_HOOK, NODES_HOOK_MAY_NOT),
    (OBJECTS_HOOK, OBJECTS_HOOK_MAY_NOT),
]


@pytest.mark.parametrize(("account", "rights"), MAY)
def test_they_may_do_all_they_have_to(accounts: dict[str, Api], account: str, rights: list[Any]) -> None:
    assert [right for right in rights if not may(accounts[account], *right)] == []


@pytest.mark.parametrize(("account", "rights"), MAY_NOT)
def test_they_may_do_nothing_else(accounts: dict[str, Api], account: str, rights: list[Any]) -> None:
    assert [right for right in rights if may(accounts[account], *right)] == []


@pytest.mark.parametrize(("account", "rights"), MAY)
@pytest.mark.usefixtures("accounts")
def test_every_rule_of_the_chart_is_one_that_is_tested(plane: ControlPlane, account: str, rights: list[Any]) -> None:
    """A right that is added to a template has to be added above, where somebody asks why."""
    assert granted_exactly(plane, account) == set(rights)
