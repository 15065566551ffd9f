"""The taint `linkseal.io/not-sealed` on a real API server: lifted by the controller, by nobody else."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from ground.charts import (
    AGENT,
    CLUSTER_ENCRYPTIONS,
    CONTROLLER,
    NAMESPACE,
    NODE_ENCRYPTIONS,
    agent_pod,
    agent_token,
    chart_installed,
    cluster_encryption,
)
from ground.controllers import running, until
from ground.controlplane import ControlPlane
from ground.kubeapi import Api, ApiError, Object, Recorder
from ground.kubeobjects import bound_token, create_node, unbound_token
from linkseal.tunnels.controller import kube as controllers
from linkseal.tunnels.controller import lifter
from linkseal.tunnels.controller.taint import TAINT, placed_taints, removal
from linkseal.tunnels.directory.kubeapi import Access, KubeApi
from linkseal.tunnels.directory.kubeapi import ApiError as Refusal
from linkseal.tunnels.model import LinkState, Scope, Stage
from linkseal.tunnels.status import LinkCounts, NodeStatus, PairStatus, to_json
from linkseal.tunnels.statusparts import AppliedStatus, GuardStatus

pytestmark = [pytest.mark.kube, pytest.mark.timeout(180), pytest.mark.usefixtures("lifting")]

NODES = "/api/v1/nodes"
OURS = {"key": TAINT, "effect": "NoSchedule"}
GPU = {"key": "gpu", "value": "1", "effect": "NoExecute"}
NAMES = ("n1", "n2")
DEFAULT = f"{CLUSTER_ENCRYPTIONS}/default"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens every five or ten seconds does so within one."""
    monkeypatch.setattr(controllers, "LOOK", 0.5)
    monkeypatch.setattr(lifter, "LOOK", 0.1)


@pytest.fixture(scope="module")
def lifting(plane: ControlPlane) -> Iterator[None]:
    with chart_installed(plane, "--set", "controller.liftTaint=true"):
        yield


@pytest.fixture
def nodes(kube: Recorder) -> Iterator[Recorder]:
    for number, name in enumerate(NAMES, 1):
        create_node(kube, name, addresses=[f"192.0.2.{number}"], pod_cidrs=[f"10.244.{number}.0/24"])
        taint(kube, name, GPU, OURS)
    yield kube
    for name in NAMES:
        kube.delete(f"{NODE_ENCRYPTIONS}/{name}", missing_ok=True)
    space = f"/api/v1/namespaces/{NAMESPACE}"
    for path in ("secrets/linkseal-ca-key", *(f"configmaps/linkseal-{name}" for name in ("ca", "policy", "stage"))):
        kube.delete(f"{space}/{path}", missing_ok=True)


@pytest.fixture
def controller(plane: ControlPlane, nodes: Recorder) -> Iterator[Api]:
    with plane.admin.with_token(bound_token(nodes, agent_pod(nodes, "n2", CONTROLLER))) as api:
        yield api


def taint(kube: Api, name: str, *taints: Object) -> None:
    kube.patch(f"{NODES}/{name}", {"spec": {"taints": list(taints)}})


def taints(kube: Api, name: str) -> list[Object]:
    return list(kube.get(f"{NODES}/{name}")["spec"].get("taints", []))


def status(peer: str, stage: Stage, serial: int, state: LinkState) -> NodeStatus:
    now, door, applied = time.time(), True, True
    link = PairStatus(peer, 1, 1, "lsl11", state, now, last_handshake=now, carries=True)
    return NodeStatus(
        now, stage, Scope.OVERLAY, "wireguard", "kernel", door, "1", "6", 1420, 1, 1, (), LinkCounts(1), (), (link,),
        policy=AppliedStatus(serial, applied), guard=GuardStatus(mode="count", redirects="none"),
    )  # fmt: skip


class Agents:
    """Report what they are told to, as the cluster's policy is."""

    def __init__(self, plane: ControlPlane, kube: Recorder, stack: ExitStack) -> None:
        self._kube = kube
        self._apis = {name: stack.enter_context(plane.admin.with_token(agent_token(kube, name))) for name in NAMES}

    def report(self, *names: str, state: LinkState = LinkState.SEALED) -> None:
        found = self._kube.get(DEFAULT)["status"]
        for name in names:
            peer = next(one for one in NAMES if one != name)
            said = status(peer, Stage(found["stage"]), found["policySerial"], state)
            body = json.loads(to_json(name, said))
            self._apis[name].apply(f"{NODE_ENCRYPTIONS}/{name}/status", body, manager=AGENT, force=True)


def told(kube: Api) -> dict[str, str]:
    """Node → note of our Events about its taint."""
    events = kube.get("/apis/events.k8s.io/v1/namespaces/default/events")["items"]
    return {one["regarding"]["name"]: one["note"] for one in events if one["reason"] == "TaintLifted"}


def refused(api: Api, body: Object) -> str:
    """The words of the refusal of a merge patch of n1."""
    with pytest.raises(ApiError) as caught:
        api.patch(f"{NODES}/n1", body)
    assert caught.value.status == 403
    assert "linkseal-own-writes" in str(caught.value)
    return str(caught.value)


async def test_it_is_lifted_when_the_links_are_sealed_at_both_ends_and_never_set_again(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, quick: None
) -> None:
    for name in NAMES:
        taint(nodes, name)
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(stage="prefer"))
    with ExitStack() as stack:
        agents = Agents(plane, nodes, stack)
        async with running(plane, nodes, tmp_path, lift_taint=True):
            await until(lambda: nodes.get(DEFAULT).get("status", {}).get("stage") == "prefer")
            for name in NAMES:
                taint(nodes, name, OURS, GPU, {**OURS, "effect": "NoExecute", "value": "x"})
            agents.report("n1")
            agents.report("n2", state=LinkState.STALE)
            await asyncio.sleep(3)
            assert [len(taints(nodes, name)) for name in NAMES] == [3, 3]
            agents.report("n2")
            await until(lambda: all(taints(nodes, name) == [GPU] for name in NAMES))
            await until(lambda: len(told(nodes)) == 2)
            assert set(told(nodes).values()) == {f"{TAINT}: sealed at both ends with every live node: 1"}
            agents.report("n2", state=LinkState.STALE)
            await asyncio.sleep(2)
            assert [taints(nodes, name) for name in NAMES] == [[GPU], [GPU]]


async def test_a_cluster_that_encrypts_nothing_has_nothing_to_wait_for(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, quick: None
) -> None:
    async with running(plane, nodes, tmp_path, lift_taint=True):
        await until(lambda: all(taints(nodes, name) == [GPU] for name in NAMES))


async def test_a_controller_that_is_not_told_to_leaves_it(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, quick: None
) -> None:
    async with running(plane, nodes, tmp_path):
        await asyncio.sleep(3)
        assert [taints(nodes, name) for name in NAMES] == [[GPU, OURS], [GPU, OURS]]


async def test_a_patch_that_comes_too_late_takes_nothing(plane: ControlPlane, nodes: Recorder, tmp_path: Path) -> None:
    api = KubeApi(Access(plane.kubeconfig(tmp_path / "c", unbound_token(nodes, NAMESPACE, CONTROLLER))))
    found = nodes.get(f"{NODES}/n1")
    uid, seen = found["metadata"]["uid"], placed_taints(found["spec"])
    try:
        for body in ([OURS, GPU], [GPU, {**OURS, "value": "x"}], [GPU]):
            taint(nodes, "n1", *body)
            with pytest.raises(Refusal) as caught:
                await api.patch(f"{NODES}/n1", removal(uid, seen))
            assert caught.value.status == 422
            assert taints(nodes, "n1") == body
        taint(nodes, "n1", GPU, OURS)
        with pytest.raises(Refusal):
            await api.patch(f"{NODES}/n1", removal("another", seen))
        await api.patch(f"{NODES}/n1", removal(uid, seen))
        assert taints(nodes, "n1") == [GPU]
    finally:
        await api.close()


def test_the_controller_takes_this_taint_and_changes_nothing_else(controller: Api, nodes: Recorder) -> None:
    for taken in (
        {"taints": [OURS]},
        {"taints": []},
        {"taints": [GPU, {**OURS, "effect": "NoExecute"}]},
        {"taints": [GPU, {**OURS, "value": "x"}]},
        {"taints": [GPU, OURS, {"key": "more", "effect": "NoSchedule"}]},
        {"taints": [GPU], "unschedulable": True},
        {"unschedulable": True},
        {"taints": [GPU], "providerID": "x://y"},
    ):
        said = refused(controller, {"spec": taken})
        assert "may take away the taint linkseal.io/not-sealed" in said
    refused(controller, {"spec": {"taints": [GPU]}, "metadata": {"labels": {"x": "1"}}})
    controller.patch(f"{NODES}/n1", {"metadata": {"annotations": {"linkseal.io/grant": "1"}}})
    controller.patch(f"{NODES}/n1", {"spec": {"taints": [GPU]}})
    assert taints(nodes, "n1") == [GPU]
    assert "may take away" in refused(controller, {"spec": {"taints": [GPU, OURS]}}), "and never sets it"


def test_an_agent_does_not_take_it(plane: ControlPlane, nodes: Recorder) -> None:
    with plane.admin.with_token(agent_token(nodes, "n1")) as agent:
        refused(agent, {"spec": {"taints": [GPU]}})
