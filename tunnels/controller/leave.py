"""What is ours in a cluster's API: read, and taken away when a cluster is left (`linkseal.tunnels.leaving` says when).

Nodes lose annotations and taints first, and what tells of the nodes goes last, so that a removal that was broken off
can be made once more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from http import HTTPStatus
from typing import Any, Final

from linkseal.keys import policydoc
from linkseal.keys.errors import ConfigError, PeerError
from linkseal.tunnels.controller.cakeeper import CA_SECRET
from linkseal.tunnels.controller.kubecopies import STAGE_MAP
from linkseal.tunnels.controller.kubesigner import AGENT
from linkseal.tunnels.directory.kube import CSRS, NODE_ENCRYPTIONS, NODES
from linkseal.tunnels.directory.kubeapi import JSON, METADATA_LIST, ApiError, KubeApi
from linkseal.tunnels.directory.kubedocs import (
    CA_MAP,
    CLUSTER_ENCRYPTIONS,
    DEFAULT,
    POLICY_KEY,
    POLICY_MAP,
    SIGNER,
    signed_policy,
)
from linkseal.tunnels.leaving import SECRET, Traces, forgotten, trace
from linkseal.tunnels.policy import Policy, read_signed

DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
KINDS: Final = ("nodeencryptions.linkseal.io", "clusterencryptions.linkseal.io")

PAGE: Final = 500
"""Objects asked for at once."""

LOOK: Final = 0.5
"""Seconds between two looks at what is about to be gone."""

_LABEL: Final = "app.kubernetes.io/name=linkseal"
_PODS: Final = f"{_LABEL},app.kubernetes.io/component in (agent,controller)"

_ADMISSION: Final = "ValidatingAdmissionPolicy"
"""In the words of a refusal by an admission policy: those of the chart are in force for a moment after it is gone."""

_CHANGED: Final = frozenset({HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY})
"""A Node is not as it was read (a `test` of the patch failed)."""


async def traces(api: KubeApi, namespace: str, *, workloads: bool = False) -> Traces:
    """Read what the API has of us. `workloads`: also what the chart runs. Raises ApiError, ConfigError.

    Pods are looked at first: what is read after the last has ended is the last that they wrote.
    """
    installed, ending = await _running(api, namespace) if workloads else ([], [])
    policy, serial, unread = await _policy(api, namespace)
    reports = {
        str(one["metadata"].get("name")): one
        for one in (await api.find(NODE_ENCRYPTIONS) or {}).get("items") or ()  # none: there is no CRD
    }
    return Traces(
        {
            str(node["metadata"]["name"]): trace(node, reports.get(str(node["metadata"]["name"])))
            async for node in _listed(api, NODES, accept=METADATA_LIST)
        },
        policy,
        unread,
        serial,
        await api.find(f"{CLUSTER_ENCRYPTIONS}/{DEFAULT}") or {},
        tuple(installed),
        tuple(ending),
    )


async def _running(api: KubeApi, namespace: str) -> tuple[list[str], list[str]]:
    """What of the chart is installed, and what is about to end."""
    installed, ending = list[str](), list[str]()
    for kind, plural, name in (
        ("DaemonSet", "daemonsets", AGENT),
        ("Deployment", "deployments", "linkseal-controller"),
    ):
        found = await api.find(f"/apis/apps/v1/namespaces/{namespace}/{plural}/{name}")
        if found is not None:
            goes = found["metadata"].get("deletionTimestamp") is not None
            (ending if goes else installed).append(f"{kind} {name}")
    async for pod in _listed(api, f"/api/v1/namespaces/{namespace}/pods", _PODS, accept=METADATA_LIST):
        ending.append(f"pod {pod['metadata']['name']}")
    return installed, ending


async def _policy(api: KubeApi, namespace: str) -> tuple[Policy | None, int, str]:
    """The policy, its serial, and why it cannot be read. By a list: whoever may see the policy may do that.

    As signed: signatures are the agents' matter.
    """
    where = f"/api/v1/namespaces/{namespace}/configmaps"
    items = (await api.get(where, {"fieldSelector": f"metadata.name={POLICY_MAP}"})).get("items") or ()
    data: Mapping[str, str] = next((one.get("data") or {} for one in items), {})
    signed = signed_policy(data)
    if signed is None:
        return None, 0, f"the ConfigMap {namespace}/{POLICY_MAP} holds no signed policy" if data.get(POLICY_KEY) else ""
    try:
        document = policydoc.parse(signed.text)
        return read_signed(document.spec)[0], document.serial, ""
    except (PeerError, ConfigError) as error:
        return None, 0, f"the policy in the ConfigMap {namespace}/{POLICY_MAP} cannot be read: {error}"


async def forget(api: KubeApi, namespace: str, deadline: float, kept: Collection[str] = ()) -> AsyncIterator[str]:
    """Take away what is ours in the API, but for what Helm knows; yields what went. The steady clock's `deadline`.

    `kept`: what is not touched (`linkseal.tunnels.leaving.kept`). Raises ApiError, ConfigError: the API server
    refuses it.
    """
    async for node in _listed(api, NODES):
        if await _forget_node(api, node, deadline):
            yield f"annotations and taints of Node {node['metadata']['name']}"
    async for request in _listed(api, CSRS, _LABEL):
        if request["spec"].get("signerName") == SIGNER:
            name = str(request["metadata"]["name"])
            if await api.delete(f"{CSRS}/{name}"):
                yield f"CertificateSigningRequest {name}"
    for what, path in _namespaced(namespace).items():
        if what not in kept and await api.delete(path):
            yield what
    for name in KINDS:
        if f"CRD {name}" not in kept and await api.delete(f"{DEFINITIONS}/{name}"):
            while await api.find(f"{DEFINITIONS}/{name}") is not None:
                if time.monotonic() > deadline:
                    raise ConfigError(f"the CRD {name} is about to be deleted, and still there: look at it again")
                await asyncio.sleep(LOOK)
            yield f"CRD {name}, with its objects"


def _namespaced(namespace: str) -> dict[str, str]:
    """What there is in our namespace that Helm has not made, or keeps."""
    core, leases = f"/api/v1/namespaces/{namespace}", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    return {
        "DaemonSet linkseal-daemons": f"/apis/apps/v1/namespaces/{namespace}/daemonsets/linkseal-daemons",
        **{f"ConfigMap {name}": f"{core}/configmaps/{name}" for name in (STAGE_MAP, CA_MAP, POLICY_MAP)},
        SECRET: f"{core}/secrets/{CA_SECRET}",
        "Lease linkseal-controller": f"{leases}/linkseal-controller",
    }


async def _forget_node(api: KubeApi, node: Mapping[str, Any], deadline: float) -> bool:
    """Take our annotations and taints from a Node; whether there were any."""
    path, found = f"{NODES}/{node['metadata']['name']}", dict(node)
    while patch := forgotten(found):
        try:
            await api.patch(path, patch)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return False
            if error.status not in _CHANGED and _ADMISSION not in str(error):
                raise
            if time.monotonic() > deadline:
                raise ConfigError(f"the API server refuses this: {error}") from error
        else:
            return True
        await asyncio.sleep(LOOK)
        again = await api.get(NODES, {"fieldSelector": f"metadata.name={node['metadata']['name']}"})
        found = next(iter(again.get("items") or ()), {"metadata": {}})
    return False


async def _listed(api: KubeApi, path: str, selector: str = "", *, accept: str = JSON) -> AsyncIterator[dict[str, Any]]:
    """Yield the objects of a collection, in pages."""
    query = {"limit": str(PAGE), **({"labelSelector": selector} if selector else {})}
    while True:
        page = await api.get(path, query, accept=accept)
        for one in page.get("items") or ():
            yield one
        rest = str((page.get("metadata") or {}).get("continue") or "")
        if not rest:
            return
        query["continue"] = rest
