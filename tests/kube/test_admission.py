"""Who may write what of a Node and of a NodeEncryption: attacks with real tokens, and what has to go through."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator

import pytest
from ground.charts import (
    AGENT,
    BINDINGS,
    CHART,
    CONTROLLER,
    NAMESPACE,
    NODE_ENCRYPTIONS,
    agent_pod,
    agent_token,
    as_controller,
    guards_nodes,
    may,
    node_encryption,
    until,
)
from ground.controlplane import ControlPlane
from ground.kubeapi import Api, ApiError, Object, Recorder
from ground.kubeobjects import bound_token, create_node, heartbeat, node, unbound_token
from linkseal.keys.ca import generate_identity, make_csr

pytestmark = [pytest.mark.kube, pytest.mark.usefixtures("chart")]

OURS = ("linkseal.io/announcement", "linkseal.io/signature", "linkseal.io/certificate")
GRANT = "linkseal.io/grant"

NODES = "/api/v1/nodes"

KUBELET = ("system:nodes", "system:authenticated")

Write = Callable[[Api], object]


@pytest.fixture
def nodes(kube: Recorder) -> None:
    for name in ("a", "b"):
        create_node(kube, name)
        kube.post(NODE_ENCRYPTIONS, node_encryption(name))


@pytest.fixture
def agent(plane: ControlPlane, kube: Recorder, nodes: None) -> Iterator[Api]:
    """The agent of node a."""
    with plane.admin.with_token(agent_token(kube, "a")) as api:
        yield api


@pytest.fixture
def controller(plane: ControlPlane, kube: Recorder, nodes: None) -> Iterator[Api]:
    with plane.admin.with_token(bound_token(kube, agent_pod(kube, "b", CONTROLLER))) as api:
        yield api


def look_at(api: Api, name: str) -> Object:
    """A Node, as whoever may list them sees it: not all here may get one."""
    [found] = [one for one in api.get(NODES)["items"] if one["metadata"]["name"] == name]
    return dict(found)


def annotate(api: Api, name: str, **annotations: str | None) -> Object:
    """A merge patch; the names are without `linkseal.io/`."""
    found = {f"linkseal.io/{key}": value for key, value in annotations.items()}
    return api.patch(f"{NODES}/{name}", {"metadata": {"annotations": found}})


def announce(api: Api, name: str, text: str = "1") -> Object:
    """As the agent does it (tunnels/directory/kube.py)."""
    uid = look_at(api, name)["metadata"]["uid"]
    metadata = {"name": name, "uid": uid, "annotations": dict.fromkeys(OURS, text)}
    body = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
    return api.apply(f"{NODES}/{name}", body, manager="linkseal-agent", force=True)


def report(api: Api, name: str, stage: str = "prefer") -> Object:
    body = {**node_encryption(name), "status": {"stage": stage}}
    return api.apply(f"{NODE_ENCRYPTIONS}/{name}/status", body, manager="linkseal-agent", force=True)


def refused(write: Write, api: Api) -> str:
    """The refusal's words; that it is by one of the chart's policies, and changes nothing."""
    before = look_at(api, "a"), look_at(api, "b")
    with pytest.raises(ApiError) as caught:
        write(api)
    assert caught.value.status == 403
    assert "ValidatingAdmissionPolicy 'linkseal-" in str(caught.value)
    assert (look_at(api, "a"), look_at(api, "b")) == before
    return str(caught.value)


# --- what has to go through


def test_an_agent_announces_itself_changes_that_and_takes_it_back(agent: Api) -> None:
    for text in ("1", "2"):
        announce(agent, "a", text)
        assert agent.get(f"{NODES}/a")["metadata"]["annotations"] == dict.fromkeys(OURS, text)
    bare = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "annotations": {}}}
    assert "annotations" not in agent.apply(f"{NODES}/a", bare, manager="linkseal-agent", force=True)["metadata"]


def test_an_announcement_as_large_as_it_may_be_on_a_node_as_large_as_they_get_goes_through(
    agent: Api, kube: Recorder
) -> None:
    """What a policy may cost the API server is limited, and grows with what is compared."""
    found = kube.get(f"{NODES}/a")
    found["status"]["images"] = [
        {"names": [f"registry.invalid/{number}/{'x' * 100}@sha256:{'0' * 64}"] * 2, "sizeBytes": 1}
        for number in range(50)
    ]
    kube.put(f"{NODES}/a/status", found)
    kube.patch(f"{NODES}/a", {"metadata": {"labels": {f"label-{number}": "x" * 60 for number in range(100)}}})
    assert announce(agent, "a", "x" * 60_000)


def test_an_agent_reports_about_its_own_node(agent: Api) -> None:
    assert report(agent, "a")["status"] == {"stage": "prefer"}
    assert report(agent, "a", "enforce")["status"] == {"stage": "enforce"}


def test_the_controller_grants_and_takes_announcements_away(agent: Api, controller: Api) -> None:
    announce(agent, "a")
    annotate(controller, "a", grant="1")
    annotate(controller, "a", grant="2", announcement=None, signature=None, certificate=None)
    assert agent.get(f"{NODES}/a")["metadata"]["annotations"] == {GRANT: "2"}
    annotate(controller, "a", grant=None)


def test_kubelets_and_others_go_on_with_nodes_that_have_our_annotations(
    plane: ControlPlane, kube: Recorder, agent: Api, controller: Api
) -> None:
    announce(agent, "a")
    annotate(controller, "a", grant="1")
    with plane.admin.impersonating("system:node:a", *KUBELET) as kubelet:
        heartbeat(kubelet, "a")
        kubelet.patch(f"{NODES}/a", {"metadata": {"annotations": {"kubelet/x": "1"}, "labels": {"x": "1"}}})
    kube.patch(f"{NODES}/a", {"spec": {"unschedulable": True}})
    with plane.admin.impersonating("system:node:c", *KUBELET) as kubelet:
        kubelet.post(NODES, node("c"))
        heartbeat(kubelet, "c")
    kube.delete(f"{NODES}/c")


# --- an agent that was taken over


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda api: announce(api, "b"), id="another node's announcement"),
        pytest.param(lambda api: annotate(api, "b", x="1"), id="another node's annotation"),
        pytest.param(lambda api: annotate(api, "a", grant="1"), id="its own grant"),
        pytest.param(lambda api: annotate(api, "a", x="1"), id="an annotation that looks like ours"),
        pytest.param(
            lambda api: api.patch(f"{NODES}/a", {"metadata": {"annotations": {"x": "1"}}}), id="a foreign annotation"
        ),
        pytest.param(lambda api: api.patch(f"{NODES}/a", {"metadata": {"labels": {"x": "1"}}}), id="a label"),
        pytest.param(
            lambda api: api.patch(f"{NODES}/a", {"metadata": {"labels": {"kubernetes.io/os": None}}}), id="less labels"
        ),
        pytest.param(
            lambda api: api.patch(f"{NODES}/a", {"spec": {"taints": [{"key": "x", "effect": "NoExecute"}]}}),
            id="a taint",
        ),
        pytest.param(lambda api: api.patch(f"{NODES}/a", {"spec": {"unschedulable": True}}), id="cordon"),
        pytest.param(
            lambda api: api.patch(f"{NODES}/a", {"metadata": {"finalizers": ["linkseal.io/x"]}}), id="a finalizer"
        ),
        pytest.param(
            lambda api: api.patch(f"{NODES}/a", {"metadata": {"ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "b", "uid": api.get(f"{NODES}/b")["metadata"]["uid"]}
            ]}}),
            id="an owner",
        ),
    ],
)  # fmt: skip
def test_an_agent_writes_nothing_else_of_any_node(agent: Api, write: Write) -> None:
    assert f"system:serviceaccount:{NAMESPACE}:{AGENT}" in refused(write, agent)


def test_what_others_wrote_on_its_node_an_agent_cannot_take_away(agent: Api, kube: Recorder) -> None:
    kube.patch(f"{NODES}/a", {"metadata": {"annotations": {"theirs": "1"}}})
    said = refused(lambda api: api.patch(f"{NODES}/a", {"metadata": {"annotations": {"theirs": None}}}), agent)
    assert "may not change the annotations theirs of Node a" in said


def test_with_more_rights_than_the_chart_gives_an_agent_still_cannot_write_a_status(
    agent: Api, plane: ControlPlane, kube: Recorder
) -> None:
    binding = {
        "metadata": {"name": "too-much"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": AGENT, "namespace": NAMESPACE}],
    }
    kube.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    until(lambda: may(agent, "patch", "nodes/status"))
    refused(lambda api: api.patch(f"{NODES}/a/status", {"status": {"addresses": []}}), agent)
    refused(lambda api: api.post(NODES, node("made")), agent)


def test_reports_about_other_nodes_are_refused(agent: Api) -> None:
    said = refused(lambda api: report(api, "b"), agent)
    assert "may not write the status of NodeEncryption b" in said


def test_a_token_that_is_bound_to_no_pod_announces_and_reports_nothing(
    plane: ControlPlane, kube: Recorder, nodes: None
) -> None:
    with plane.admin.with_token(unbound_token(kube, NAMESPACE, AGENT)) as stolen:
        refused(lambda api: announce(api, "a"), stolen)
        assert "its token is not bound to a pod on this Node" in refused(lambda api: report(api, "a"), stolen)


def test_a_token_of_a_node_that_was_made_anew_is_no_longer_its_agent_s(
    plane: ControlPlane, kube: Recorder, agent: Api
) -> None:
    kube.delete(f"{NODES}/a")
    create_node(kube, "a")
    refused(lambda api: announce(api, "a"), agent)
    assert report(agent, "a"), "of an object that nobody owns"
    owner = {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": look_at(kube, "a")["metadata"]["uid"]}
    kube.patch(f"{NODE_ENCRYPTIONS}/a", {"metadata": {"ownerReferences": [owner]}})
    refused(lambda api: report(api, "a", "enforce"), agent)


def test_an_agent_asks_no_other_signer(agent: Api, plane: ControlPlane) -> None:
    csr = b64encode(make_csr(generate_identity(), "a", "uid").encode()).decode()
    spec = {"request": csr, "usages": ["digital signature"]}
    path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"

    def ask(signer: str) -> Object:
        return agent.post(f"{path}?dryRun=All", {"metadata": {"name": "x"}, "spec": {**spec, "signerName": signer}})

    assert ask("linkseal.io/node")["spec"]["extra"]["authentication.kubernetes.io/node-name"] == ["a"]
    assert "linkseal.io/node" in refused(lambda _: ask("kubernetes.io/kube-apiserver-client"), agent)


# --- everybody else


@pytest.mark.parametrize("key", [GRANT, *OURS])
def test_a_kubelet_writes_neither_grant_nor_announcement(plane: ControlPlane, nodes: None, key: str) -> None:
    body = {"metadata": {"annotations": {key: "x"}}}
    with plane.admin.impersonating("system:node:a", *KUBELET) as kubelet:
        with pytest.raises(ApiError, match="system:node:a may not change"):
            kubelet.patch(f"{NODES}/a", body)
        with pytest.raises(ApiError, match="system:node:a may not change"):
            kubelet.patch(f"{NODES}/a/status", body)


def test_a_kubelet_that_registers_brings_neither_along(plane: ControlPlane) -> None:
    with plane.admin.impersonating("system:node:c", *KUBELET) as kubelet:
        for key in (GRANT, *OURS):
            made = node("c")
            made["metadata"]["annotations"] = {key: "x"}
            with pytest.raises(ApiError, match=f"system:node:c may not change .*{key}"):
                kubelet.post(NODES, made)


@pytest.mark.parametrize("value", ["other", None])
@pytest.mark.parametrize("key", ["grant", "announcement"])
def test_a_cluster_admin_neither_changes_nor_removes_them(
    plane: ControlPlane, agent: Api, controller: Api, key: str, value: str | None
) -> None:
    announce(agent, "a")
    annotate(controller, "a", grant="1")
    assert f"may not change{' the annotation' if key == 'grant' else ''} linkseal.io/{key} of Node a" in refused(
        lambda api: annotate(api, "a", **{key: value}), plane.admin
    )


def test_a_cluster_admin_reports_nothing(plane: ControlPlane, agent: Api) -> None:
    report(agent, "a")
    refused(lambda api: report(api, "a", "enforce"), plane.admin)


def test_nobody_but_the_controller_writes_down_where_the_walk_is(
    plane: ControlPlane, kube: Recorder, nodes: None
) -> None:
    """It is not signed, and whoever may write ConfigMaps could take a step back by it."""
    maps, record = f"/api/v1/namespaces/{NAMESPACE}/configmaps", {"metadata": {"name": "linkseal-stage"}}
    with as_controller(plane) as controller:
        controller.post(maps, record)
        try:
            assert "may not write the ConfigMap linkseal-stage" in refused(
                lambda api: api.patch(f"{maps}/linkseal-stage", {"data": {"stage.json": "{}"}}), plane.admin
            )
            controller.patch(f"{maps}/linkseal-stage", {"data": {"stage.json": "{}"}})
        finally:
            plane.admin.delete(f"{maps}/linkseal-stage")
    assert "may not write" in refused(lambda api: api.post(maps, record), plane.admin)
    kube.post(maps, {"metadata": {"name": "another"}})
    kube.post("/api/v1/namespaces/default/configmaps", record)


def test_the_controller_announces_and_reports_nothing_and_changes_nothing_else(controller: Api, agent: Api) -> None:
    announce(agent, "a")
    refused(lambda api: announce(api, "a", "other"), controller)
    refused(lambda api: annotate(api, "b", announcement="x"), controller)
    for body in (
        {"metadata": {"annotations": {"x": "1"}}},
        {"metadata": {"labels": {"x": "1"}}},
        {"spec": {"unschedulable": True}},
    ):
        refused(lambda api, body=body: api.patch(f"{NODES}/a", body), controller)


def test_without_the_option_the_controller_lifts_no_taint(controller: Api, kube: Recorder) -> None:
    kube.patch(f"{NODES}/a", {"spec": {"taints": [{"key": "linkseal.io/not-sealed", "effect": "NoSchedule"}]}})
    refused(lambda api: api.patch(f"{NODES}/a", {"spec": {"taints": []}}), controller)


def test_breaking_the_glass_is_deleting_a_binding_and_helm_mends_it(plane: ControlPlane, nodes: None) -> None:
    plane.admin.delete(f"{BINDINGS}/linkseal-node-annotations")
    until(lambda: not guards_nodes(plane.admin))
    annotate(plane.admin, "a", grant="x")
    annotate(plane.admin, "a", grant=None)
    plane.helm("upgrade", "linkseal", str(CHART), "--namespace", NAMESPACE)
    until(lambda: guards_nodes(plane.admin))
