"""The chart of this repository on a control plane: installed by Helm, in force, and gone without a trace."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import yaml
from ground.controlplane import ControlPlane
from ground.kubeapi import Api, ApiError, Object, Recorder
from ground.kubeobjects import bound_token, create_pod

CHART = Path(__file__).parents[2] / "charts" / "linkseal"

NAMESPACE = "linkseal"

AGENT, CONTROLLER = "linkseal-agent", "linkseal-controller"
"""The chart's service accounts."""

HOOKS = ("linkseal-uninstall-nodes", "linkseal-uninstall-objects")
"""Those of its hooks: they are there while `helm uninstall` runs."""

CLUSTER_ENCRYPTIONS = "/apis/linkseal.io/v1alpha1/clusterencryptions"
NODE_ENCRYPTIONS = "/apis/linkseal.io/v1alpha1/nodeencryptions"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"

CREATED = ("--set", "clusterEncryption.create=true", "--set", "clusterEncryption.spec.stage=prepare")
"""Options of Helm: the ClusterEncryption is made."""

SECONDS = 90.0
"""Within them what is waited for comes on a busy machine; on an idle one within three."""

PROBE = {"metadata": {"name": "linkseal-probe", "annotations": {"linkseal.io/grant": "x"}}}
"""A Node that nobody may make while the policies are in force."""


def until(look: Callable[[], Any], want: Callable[[Any], bool] = bool) -> Any:
    """What `look` gives as soon as it is as wanted."""
    deadline = time.monotonic() + SECONDS
    while not want(found := look()):
        assert time.monotonic() < deadline, f"still {found!r}"
        time.sleep(0.1)
    return found


def as_controller(plane: ControlPlane) -> AbstractContextManager[Api]:
    """Requests by the controller's account."""
    return plane.admin.impersonating(f"system:serviceaccount:{NAMESPACE}:{CONTROLLER}")


@contextmanager
def chart_installed(plane: ControlPlane, *options: str) -> Iterator[None]:
    """The chart in its namespace, its admission policies in force; all of it is taken away again, CRDs included."""
    with plane.recorder() as recorder:
        recorder.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        try:
            install(plane, *options)
            yield
        finally:
            remove(plane, recorder)


def install(plane: ControlPlane, *options: str) -> None:
    """Install it in its namespace, which is there, and wait until the policies are in force."""
    plane.helm("install", "linkseal", str(CHART), "--namespace", NAMESPACE, *options)
    until(lambda: guards_nodes(plane.admin))


def remove(plane: ControlPlane, recorder: Recorder) -> None:
    """Uninstall, delete what Helm leaves on purpose, and wait until the policies are out of force."""
    plane.helm("uninstall", "linkseal", "--namespace", NAMESPACE, "--ignore-not-found", "--no-hooks")
    for plural in ("clusterencryptions", "nodeencryptions"):
        path = f"{DEFINITIONS}/{plural}.linkseal.io"
        plane.admin.delete(path, missing_ok=True)
        until(lambda path=path: not exists(plane.admin, path))
    recorder.remove()
    until(lambda: not guards_nodes(plane.admin))


def guards_nodes(admin: Api) -> bool:
    """Whether the policies are in force: they are a moment after they are there."""
    try:
        admin.post("/api/v1/nodes?dryRun=All", PROBE)
    except ApiError as error:
        if "ValidatingAdmissionPolicy" not in str(error):
            raise
        return True
    return False


def exists(api: Api, path: str) -> bool:
    try:
        api.get(path)
    except ApiError as error:
        if error.status != 404:
            raise
        return False
    return True


def may(api: Api, verb: str, resource: str, name: str = "", namespace: str = "") -> bool:
    """Whether RBAC lets these credentials do this; the resource as RBAC has it, `group/resource/subresource`.

    A group has a dot in its name, or is `apps`; without one it is the core group.
    """
    group, _, rest = resource.partition("/")
    if "." not in group and group != "apps":
        group, rest = "", resource
    kind, _, subresource = rest.partition("/")
    attributes = {
        "verb": verb, "group": group, "resource": kind, "subresource": subresource,
        "name": name, "namespace": namespace,
    }  # fmt: skip
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    answer = api.post(
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {**review, "spec": {"resourceAttributes": attributes}}
    )
    return bool(answer["status"]["allowed"])


def granted(plane: ControlPlane, account: str) -> set[tuple[str, str]]:
    """Verb and resource of every rule that the chart has for one of its service accounts."""
    return {(verb, resource) for verb, resource, _, _ in granted_exactly(plane, account)}


def granted_exactly(plane: ControlPlane, account: str) -> set[tuple[str, str, str, str]]:
    """And the name that a rule is limited to, and the namespace of its role; empty: any, and everywhere."""
    text = plane.kubectl("get", "clusterroles,roles", "--all-namespaces", "-o", "yaml", "-l",
                         "app.kubernetes.io/name=linkseal")  # fmt: skip
    return _rights(yaml.safe_load(text)["items"], account)


def hook_objects(plane: ControlPlane, *options: str) -> list[Object]:
    """What the chart has for its hooks."""
    shown = ("--show-only", "templates/uninstall.yaml", "--set", "uninstall.clean=always")
    text = plane.helm("template", "linkseal", str(CHART), "--namespace", NAMESPACE, *shown, *options)
    return [one for one in yaml.safe_load_all(text) if one]


def hook_rights(plane: ControlPlane, account: str) -> set[tuple[str, str]]:
    """Verb and resource of every rule that the chart has for the account of a hook."""
    return {(verb, resource) for verb, resource, _, _ in _rights(hook_objects(plane), account)}


def _rights(objects: list[Object], account: str) -> set[tuple[str, str, str, str]]:
    return {
        (verb, f"{group}/{resource}" if group else resource, name, role["metadata"].get("namespace", ""))
        for role in objects
        if "rules" in role and role["metadata"]["name"].startswith(account)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames") or [""]
    }


def called(plane: ControlPlane, account: str = CONTROLLER) -> set[tuple[str, str]]:
    """Verb and resource of all that the controller, or another account, has asked the API server for."""
    mine = plane.requests(user=f"system:serviceaccount:{NAMESPACE}:{account}")
    return {(one.verb, one.resource) for one in mine}


def left_in_the_api(plane: ControlPlane) -> set[tuple[str, str]]:
    """Kind and name of every object that names us, who wrote it included; but for Events: they end by themselves."""
    kinds = set(plane.kubectl("api-resources", "--verbs=list", "-o", "name").split())
    asked = ",".join(sorted(kinds - {"events", "events.events.k8s.io"}))
    options = ("--all-namespaces", "--show-managed-fields", "-o", "json")
    found = json.loads(plane.kubectl("get", asked, *options))["items"]
    return {(one["kind"], one["metadata"]["name"]) for one in found if "linkseal" in json.dumps(one)}


def told(plane: ControlPlane) -> set[str]:
    """Reasons of our Events."""
    events = plane.admin.get("/apis/events.k8s.io/v1/namespaces/default/events")["items"]
    return {one["reason"] for one in events if one.get("reportingController") == "linkseal.io/controller"}


def agent_token(kube: Api, node: str) -> str:
    """A token as the agent's pod on `node` has it. The Node has to be there."""
    return bound_token(kube, agent_pod(kube, node, AGENT))


def agent_pod(kube: Api, node: str, account: str) -> Object:
    return create_pod(kube, NAMESPACE, f"{account}-{node}", node=node, service_account=account)


def node_encryption(name: str) -> Object:
    return {"apiVersion": "linkseal.io/v1alpha1", "kind": "NodeEncryption", "metadata": {"name": name}}


def cluster_encryption(name: str = "default", **spec: Any) -> Object:
    return {
        "apiVersion": "linkseal.io/v1alpha1",
        "kind": "ClusterEncryption",
        "metadata": {"name": name},
        "spec": spec,
    }
