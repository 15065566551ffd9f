"""Objects of a control plane: nodes as a kubelet would register them, pods, and their tokens."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from linkseal.tunnels.lab.kube.api import Api, Object

IMAGE = "registry.invalid/agent:1"
"""Nothing pulls it: there is no kubelet."""


def node(
    name: str, *, addresses: Sequence[str] = (), pod_cidrs: Sequence[str] = (),
    labels: Mapping[str, str] | None = None, ready: bool = True,
) -> Object:  # fmt: skip
    """A Node as its kubelet registers it: InternalIP addresses, pod networks, conditions, allocatable."""
    now = timestamp()
    resources = {"cpu": "4", "memory": "16Gi", "ephemeral-storage": "100Gi", "pods": "110"}
    conditions = [
        {"type": "MemoryPressure", "status": "False", "reason": "KubeletHasSufficientMemory"},
        {"type": "DiskPressure", "status": "False", "reason": "KubeletHasNoDiskPressure"},
        {"type": "PIDPressure", "status": "False", "reason": "KubeletHasSufficientPID"},
        {"type": "Ready", "status": "True" if ready else "False", "reason": "KubeletReady"},
    ]
    found: Object = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
            | dict(labels or {}),
        },
        "spec": {},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{**each, "lastHeartbeatTime": now, "lastTransitionTime": now} for each in conditions],
            "addresses": [
                *({"type": "InternalIP", "address": address} for address in addresses),
                {"type": "Hostname", "address": name},
            ],
            "nodeInfo": {
                "kubeletVersion": "v1.37.2", "kernelVersion": "6.1.0", "osImage": "Debian GNU/Linux 12 (bookworm)",
                "containerRuntimeVersion": "containerd://2.1.0", "architecture": "amd64", "operatingSystem": "linux",
                "bootID": "", "machineID": "", "systemUUID": "", "kubeProxyVersion": "",
            },
        },
    }  # fmt: skip
    if pod_cidrs:
        found["spec"] = {"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)}
    return found


def create_node(
    api: Api, name: str, *, addresses: Sequence[str] = (), pod_cidrs: Sequence[str] = (),
    labels: Mapping[str, str] | None = None, ready: bool = True,
) -> Object:  # fmt: skip
    """Create it; the object with its UID. A ready node has no `not-ready` taint, which nobody here would take away."""
    path = "/api/v1/nodes"
    made = api.post(path, node(name, addresses=addresses, pod_cidrs=pod_cidrs, labels=labels, ready=ready))
    return api.patch(f"{path}/{name}", {"spec": {"taints": None}}) if ready else made


def heartbeat(api: Api, name: str, *, ready: bool = True) -> Object:
    """What a kubelet does every five minutes: new times in the node's status, and whether it is Ready."""
    found = api.get(f"/api/v1/nodes/{name}")
    for condition in found["status"]["conditions"]:
        condition["lastHeartbeatTime"] = timestamp()
        if condition["type"] == "Ready":
            condition["status"] = "True" if ready else "False"
    return api.put(f"/api/v1/nodes/{name}/status", found)


def create_namespace(api: Api, name: str) -> Object:
    """Create it."""
    return api.post("/api/v1/namespaces", {"metadata": {"name": name}})


def create_service_account(api: Api, namespace: str, name: str) -> Object:
    """Create it."""
    return api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})


def create_pod(
    api: Api, namespace: str, name: str, *, node: str, service_account: str, labels: Mapping[str, str] | None = None
) -> Object:
    """A pod bound to a node, as a DaemonSet's are; the object with its UID. The service account has to be there."""
    return api.post(
        f"/api/v1/namespaces/{namespace}/pods",
        {
            "metadata": {"name": name, "labels": dict(labels or {})},
            "spec": {
                "nodeName": node,
                "serviceAccountName": service_account,
                "hostNetwork": True,
                "containers": [{"name": "agent", "image": IMAGE}],
            },
        },
    )


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod's kubelet says that it is."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def set_pod_ready(api: Api, pod: Object, *, ready: bool = True) -> Object:
    """Report readiness as the pod's kubelet would."""
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/status"
    conditions = [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": timestamp()}]
    return api.patch(path, {"status": {"phase": "Running", "conditions": conditions}})


def bound_token(api: Api, pod: Object, *, seconds: int = 3600, audiences: Sequence[str] = ()) -> str:
    """A token of the pod's service account, bound to that pod and so to its node; valid for 600 s or longer."""
    reference = {
        "kind": "Pod",
        "apiVersion": "v1",
        "name": pod["metadata"]["name"],
        "uid": pod["metadata"]["uid"],
    }
    account = pod["spec"]["serviceAccountName"]
    return _token(api, pod["metadata"]["namespace"], account, seconds, audiences, {"boundObjectRef": reference})


def unbound_token(api: Api, namespace: str, account: str, *, seconds: int = 3600) -> str:
    """A token of a service account that names no pod and no node."""
    return _token(api, namespace, account, seconds, (), {})


def _token(api: Api, namespace: str, account: str, seconds: int, audiences: Sequence[str], bound: Object) -> str:
    spec = {"expirationSeconds": seconds, "audiences": list(audiences), **bound}
    answer = api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", {"spec": spec})
    return str(answer["status"]["token"])


def timestamp() -> str:
    """Return the time as Kubernetes writes it."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
