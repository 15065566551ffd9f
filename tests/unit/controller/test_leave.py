"""What is taken from the API when a cluster is left, and in what order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any, cast

import pytest
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.controller import leave
from linkseal.tunnels.directory.kube import CSRS, NODE_ENCRYPTIONS, NODES
from linkseal.tunnels.directory.kubeapi import ApiError, KubeApi
from linkseal.tunnels.leaving import Trace
from linkseal.tunnels.model import Stage
from unit.keys.cluster import policy

SPACE = "/api/v1/namespaces/here"
APPS = "/apis/apps/v1/namespaces/here"


class Server:
    """Objects by path. `refusals`: answers to the next patches. `lasting`: looks for which a CRD stays."""

    def __init__(self) -> None:
        self.nodes = {name: self._node(name) for name in ("a", "b")}
        self.there = {f"{leave.DEFINITIONS}/{name}" for name in leave.KINDS} | {f"{SPACE}/secrets/linkseal-ca-key"}
        self.requests: list[dict[str, Any]] = []
        self.lists: dict[str, list[dict[str, Any]]] = {}
        self.found: dict[str, dict[str, Any]] = {}
        self.refusals: list[ApiError] = []
        self.lasting = 2
        self.done: list[str] = []

    def _node(self, name: str) -> dict[str, Any]:
        return {"metadata": {"name": name, "uid": f"uid-{name}", "annotations": {"linkseal.io/grant": "x"}}}

    async def get(self, path: str, query: dict[str, str] | None = None, *, accept: str = "") -> dict[str, Any]:
        del accept
        named = (query or {}).get("fieldSelector", "")
        if path == NODES and named:
            return {"items": [one for name, one in self.nodes.items() if named == f"metadata.name={name}"]}
        if path == NODES:  # in pages of one
            names = sorted(self.nodes)
            at = int((query or {}).get("continue", 0))
            rest = str(at + 1) if at + 1 < len(names) else ""
            return {"items": [self.nodes[name] for name in names[at : at + 1]], "metadata": {"continue": rest}}
        return {"items": self.requests if path == CSRS else self.lists.get(path, [])}

    async def find(self, path: str, **_: Any) -> dict[str, Any] | None:
        if path.startswith(leave.DEFINITIONS):
            self.lasting -= 1
            return {} if self.lasting > 0 else None
        return self.found.get(path)

    async def patch(self, path: str, patch: list[dict[str, Any]]) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        name = path.rpartition("/")[2]
        assert patch[0]["value"] == f"uid-{name}"
        self.done.append(f"patch {name}")

    async def delete(self, path: str) -> bool:
        self.done.append(path)
        return path in self.there or path.startswith(CSRS)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(leave, "LOOK", 0.001)
    return Server()


def forget(server: Server, seconds: float = 60, kept: Collection[str] = ()) -> list[str]:
    async def act() -> list[str]:
        deadline = time.monotonic() + seconds
        return [line async for line in leave.forget(cast("KubeApi", server), "here", deadline, kept)]

    return asyncio.run(act())


def test_what_tells_of_the_nodes_goes_last(server: Server) -> None:
    ours = {"metadata": {"name": "linkseal-a"}, "spec": {"signerName": "linkseal.io/node"}}
    server.requests = [ours, {"metadata": {"name": "other"}, "spec": {"signerName": "example.com/x"}}]
    assert forget(server) == [
        "annotations and taints of Node a", "annotations and taints of Node b",
        "CertificateSigningRequest linkseal-a", "Secret linkseal-ca-key",
        "CRD nodeencryptions.linkseal.io, with its objects", "CRD clusterencryptions.linkseal.io, with its objects",
    ]  # fmt: skip
    assert server.done == [
        "patch a", "patch b", f"{CSRS}/linkseal-a", f"{APPS}/daemonsets/linkseal-daemons",
        *(f"{SPACE}/configmaps/linkseal-{name}" for name in ("stage", "ca", "policy")),
        f"{SPACE}/secrets/linkseal-ca-key",
        "/apis/coordination.k8s.io/v1/namespaces/here/leases/linkseal-controller",
        *(f"{leave.DEFINITIONS}/{name}" for name in leave.KINDS),
    ]  # fmt: skip


def test_what_is_to_stay_is_not_touched(server: Server) -> None:
    kept = ("Secret linkseal-ca-key", "CRD clusterencryptions.linkseal.io")
    assert not set(kept) & {line.partition(",")[0] for line in forget(server, kept=kept)}
    assert [path for path in server.done if "secrets" in path or "clusterencryptions" in path] == []
    assert f"{leave.DEFINITIONS}/nodeencryptions.linkseal.io" in server.done


@pytest.mark.parametrize(
    "refusal",
    [
        ApiError("ValidatingAdmissionPolicy 'linkseal-node-annotations' denied request", 403),
        ApiError("the test failed", 422),
        ApiError("changed", 409),
    ],
)
def test_policies_that_are_about_to_end_and_nodes_that_change_are_waited_for(server: Server, refusal: ApiError) -> None:
    server.refusals = [refusal] * 3
    assert "annotations and taints of Node a" in forget(server)
    server.refusals = [refusal] * 3
    with pytest.raises(ConfigError, match="the API server refuses this"):
        forget(server, -1)


def test_a_node_that_goes_meanwhile_is_forgotten(server: Server) -> None:
    server.refusals = [ApiError("not found", 404)]
    assert "annotations and taints of Node a" not in forget(server)
    server.refusals = [ApiError("forbidden", 403)]
    with pytest.raises(ApiError):
        forget(server)


def test_a_definition_that_does_not_go_is_said(server: Server) -> None:
    server.lasting = 1000
    with pytest.raises(ConfigError, match="still there"):
        forget(server, -1)


# --- reading


def read(server: Server, *, workloads: bool = True) -> Any:
    return asyncio.run(leave.traces(cast("KubeApi", server), "here", workloads=workloads))


def test_what_is_there_is_read(server: Server) -> None:
    found = read(server)
    assert found.nodes == {"a": Trace(), "b": Trace()}, "also where there are no CRDs any more"
    assert (found.policy, found.unread, dict(found.encryption), found.installed, found.ending) == (None, "", {}, (), ())
    owned = {"ownerReferences": [{"kind": "Node", "name": "b", "uid": "uid-b"}]}
    server.found[NODE_ENCRYPTIONS] = {"items": [{"metadata": {"name": "b", **owned}, "status": {"stage": "off"}}]}
    assert read(server).nodes["b"].reported


def test_a_policy_that_cannot_be_read_is_none_of_stage_off(server: Server) -> None:
    for data in ({"policy": "{}"}, {"policy": "{}", "signature": "x"}):
        server.lists[f"{SPACE}/configmaps"] = [{"metadata": {"name": "linkseal-policy"}, "data": data}]
        found = read(server)
        assert found.policy is None
        assert "here/linkseal-policy" in found.unread


def test_the_policy_is_read_with_its_serial(server: Server) -> None:
    signed = policy(5, stage="off")
    data = {"policy": signed.text, "signature": signed.signature}
    server.lists[f"{SPACE}/configmaps"] = [{"metadata": {"name": "linkseal-policy"}, "data": data}]
    found = read(server)
    assert (found.policy.stage, found.serial, found.unread) == (Stage.OFF, 5, "")


def test_what_runs_and_what_is_about_to_end_is_told_apart(server: Server) -> None:
    server.found[f"{APPS}/daemonsets/linkseal-agent"] = {"metadata": {}}
    server.found[f"{APPS}/deployments/linkseal-controller"] = {
        "metadata": {"deletionTimestamp": "2026-11-05T10:00:00Z"}
    }
    server.lists[f"{SPACE}/pods"] = [{"metadata": {"name": "linkseal-agent-x"}}]
    found = read(server)
    assert found.installed == ("DaemonSet linkseal-agent",)
    assert found.ending == ("Deployment linkseal-controller", "pod linkseal-agent-x")
    assert read(server, workloads=False).ending == ()
