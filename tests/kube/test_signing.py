"""The controller on a real API server, with its own rights and the chart's admission in force."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ground.charts import (
    AGENT,
    CLUSTER_ENCRYPTIONS,
    CONTROLLER,
    NAMESPACE,
    NODE_ENCRYPTIONS,
    agent_pod,
    cluster_encryption,
)
from ground.controllers import granted, running, until
from ground.controlplane import ControlPlane
from ground.kubeapi import Api, ApiError, Recorder
from ground.kubeobjects import bound_token, create_node, unbound_token
from ground.kubesigning import agent_directory as agent
from ground.kubesigning import certificate
from linkseal.keys import policydoc
from linkseal.keys.ca import Trust, make_csr
from linkseal.keys.errors import LinksealError
from linkseal.keys.policydoc import PolicyDocument
from linkseal.tunnels.controller import kube as controller
from linkseal.tunnels.controller import lease
from linkseal.tunnels.controller.lease import NAME, Lease, while_leading
from linkseal.tunnels.controller.providers.choice import Granting
from linkseal.tunnels.directory.kube import CSRS, NODES
from linkseal.tunnels.directory.kubeapi import Access, KubeApi
from linkseal.tunnels.directory.kubedocs import signed_policy
from unit.keys.cluster import ONE

pytestmark = [pytest.mark.kube, pytest.mark.timeout(180), pytest.mark.usefixtures("chart")]


@pytest.fixture
def nodes(kube: Recorder) -> Iterator[Recorder]:
    for number in (1, 2, 3):
        create_node(kube, f"n{number}", addresses=[f"192.0.2.{number}"], pod_cidrs=[f"10.244.{number}.0/24"])
    yield kube
    for name in ("n1", "n2", "n3"):
        kube.delete(f"{NODE_ENCRYPTIONS}/{name}", missing_ok=True)  # nobody collects garbage here
    for request in kube.get(CSRS)["items"]:
        kube.delete(f"{CSRS}/{request['metadata']['name']}")
    for kind, name in (
        ("secrets", "linkseal-ca-key"),
        *(("configmaps", f"linkseal-{n}") for n in ("ca", "policy", "stage")),
    ):
        kube.delete(f"/api/v1/namespaces/{NAMESPACE}/{kind}/{name}", missing_ok=True)


def uid(kube: Api, name: str) -> str:
    return str(kube.get(f"/api/v1/nodes/{name}")["metadata"]["uid"])


def policy_spec(kube: Api) -> dict[str, Any]:
    """What the signed policy says, nothing while there is none."""
    found = policy(kube)
    return {} if found is None else dict(found.spec)


def policy(kube: Api) -> PolicyDocument | None:
    maps = kube.get(f"/api/v1/namespaces/{NAMESPACE}/configmaps")["items"]
    found = [one for one in maps if one["metadata"]["name"] == "linkseal-policy"]
    signed = signed_policy(found[0]["data"]) if found else None
    return None if signed is None else policydoc.parse(signed.text)


def policy_readable(kube: Api) -> bool:
    """Whether the policy that is there says anything."""
    try:
        return policy(kube) is not None
    except LinksealError:
        return False


async def test_an_agent_gets_its_certificate_and_every_node_its_grant(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path
) -> None:
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
    maps = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
    async with running(plane, nodes, tmp_path), agent(plane, nodes, tmp_path, "n1") as directory:
        await until(lambda: all(granted(nodes, name) for name in ("n1", "n2", "n3")))
        await until(lambda: "linkseal-policy" in {one["metadata"]["name"] for one in nodes.get(maps)["items"]})
        view = await directory.view("n1")
        assert view.uid == uid(nodes, "n1")
        await directory.request_certificate("n1", make_csr(ONE.identity, "n1", view.uid))
        issued = await certificate(directory, "n1")
        trust = Trust.from_pem(view.ca_bundle)
        known = trust.verify_certificate(issued, "n1", view.uid, datetime.now(UTC))
        assert known.node == "n1"
        seen = {name: granted(nodes, name) for name in ("n1", "n2", "n3")}
        assert {name: (g.addresses, g.prefixes) for name, g in seen.items() if g} == {
            f"n{i}": ((f"192.0.2.{i}",), (f"10.244.{i}.0/24",)) for i in (1, 2, 3)
        }
        assert len({g.index for g in seen.values() if g}) == 3
        await until(lambda: {one["metadata"]["name"] for one in nodes.get(NODE_ENCRYPTIONS)["items"]} >= set(seen))
        owner = nodes.get(f"{NODE_ENCRYPTIONS}/n2")["metadata"]["ownerReferences"]
        assert [(one["kind"], one["uid"]) for one in owner] == [("Node", uid(nodes, "n2"))]


async def test_a_controller_that_starts_again_writes_nothing_and_keeps_the_ca(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path
) -> None:
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
    maps = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
    async with running(plane, nodes, tmp_path):
        await until(lambda: all(granted(nodes, name) for name in ("n1", "n2", "n3")))
        await until(lambda: "linkseal-policy" in {one["metadata"]["name"] for one in nodes.get(maps)["items"]})
        await until(lambda: nodes.get(f"{CLUSTER_ENCRYPTIONS}/default").get("status", {}).get("stage") == "off")
    before = nodes.get(f"{maps}/linkseal-ca")["data"]
    mark = plane.audit_mark()
    async with running(plane, nodes, tmp_path):
        await asyncio.sleep(5)
    wrote = [
        (one.verb, one.resource)
        for one in plane.requests(user=f"system:serviceaccount:{NAMESPACE}:{CONTROLLER}", since=mark)
        if one.verb not in {"get", "list", "watch"}
    ]
    assert wrote == []
    assert nodes.get(f"{maps}/linkseal-ca")["data"] == before


async def test_what_another_node_holds_is_not_granted_to_who_claims_it_later(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path
) -> None:
    async with running(plane, nodes, tmp_path, chosen=Granting(networks=frozenset({"192.0.2.0/24"}))):
        await until(lambda: granted(nodes, "n2"))
        thief = nodes.get("/api/v1/nodes/n1")
        thief["status"]["addresses"] += [
            {"type": "InternalIP", "address": "192.0.2.2"}, {"type": "InternalIP", "address": "203.0.113.9"},
            {"type": "InternalIP", "address": "192.0.2.99"},
        ]  # fmt: skip
        nodes.put("/api/v1/nodes/n1/status", thief)
        await until(lambda: "192.0.2.99" in getattr(granted(nodes, "n1"), "addresses", ()))
        mine, theirs = granted(nodes, "n1"), granted(nodes, "n2")
        assert mine is not None
        assert theirs is not None
        assert (mine.addresses, theirs.addresses) == (("192.0.2.1", "192.0.2.99"), ("192.0.2.2",))


async def test_at_the_operator_s_word_that_the_store_was_restored_all_is_signed_again_once(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path
) -> None:
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
    names = ("n1", "n2", "n3")

    def serials() -> dict[str, int]:
        found = {name: granted(nodes, name) for name in names}
        return {name: one.serial for name, one in found.items() if one is not None}

    async with running(plane, nodes, tmp_path):
        before = await until(lambda: len(found := serials()) == len(names) and found)
        await until(lambda: policy_spec(nodes))
        await asyncio.sleep(1.1)
        word = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        nodes.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"restoredAt": word}})
        await until(lambda: all(serial > before[name] for name, serial in serials().items()))
        await until(lambda: policy_spec(nodes).get("restoredAt") == word)
        again = serials()
        await asyncio.sleep(2)
        nodes.patch("/api/v1/nodes/n1", {"metadata": {"labels": {"x": "y"}}})
        await asyncio.sleep(1)
        assert serials() == again


@pytest.mark.parametrize("case", ["another node", "no pod", "another account", "the pod is gone", "another UID"])
async def test_who_is_not_the_agent_of_the_node_gets_no_certificate(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, case: str
) -> None:
    async with running(plane, nodes, tmp_path):
        await until(lambda: granted(nodes, "n1"))
        pod = agent_pod(nodes, "n1", CONTROLLER if case == "another account" else AGENT)
        token = unbound_token(nodes, NAMESPACE, AGENT) if case == "no pod" else bound_token(nodes, pod)
        asker = nodes.with_token(token)
        if case == "another account":
            asker = nodes  # the admin may make requests too, in nobody's pod
        node = "n2" if case == "another node" else "n1"
        named = "00000000-0000-0000-0000-000000000000" if case == "another UID" else uid(nodes, node)
        request = {
            "metadata": {"name": "linkseal-attack"},
            "spec": {
                "request": b64encode(make_csr(ONE.identity, node, named).encode()).decode(),
                "signerName": "linkseal.io/node",
                "usages": ["digital signature"],
            },
        }
        if case == "the pod is gone":
            nodes.delete(f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}")
            asker = plane.admin.with_token(token)
            with pytest.raises(Exception, match="401"):  # the server itself no longer takes the token
                asker.post(CSRS, request)
            return
        try:
            asker.post(CSRS, request)
            answered = await until(lambda: nodes.get(f"{CSRS}/linkseal-attack").get("status", {}).get("conditions"))
            assert [one["type"] for one in answered] == ["Denied"]
            assert "certificate" not in nodes.get(f"{CSRS}/linkseal-attack")["status"]
        finally:
            asker.close()


async def test_the_stage_that_is_asked_for_is_walked_to_and_signed(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "LOOK", 1.0)
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off", optOut={"nodes": ["n2", "n3"]}))
    async with running(plane, nodes, tmp_path):
        await until(lambda: granted(nodes, "n3"))
        assert getattr(granted(nodes, "n3"), "opted_out", False)
        nodes.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"stage": "prepare"}})
        await until(lambda: policy_spec(nodes).get("stage") == "prepare")
        status = await until(lambda: nodes.get(f"{CLUSTER_ENCRYPTIONS}/default").get("status"))
        assert status["observedGeneration"] >= 1
        said = {one["type"]: one for one in status["conditions"]}
        assert (said["Bounded"]["status"], said["Bounded"]["reason"]) == ("False", "Anywhere"), "as the chart has it"


async def test_a_label_that_no_kubelet_may_set_takes_a_node_out(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path
) -> None:
    label, out = "node-restriction.kubernetes.io/traffic", {"labels": ["node-restriction.kubernetes.io/traffic=plain"]}
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(optOut=out))
    for wrong in ("traffic=plain", "linkseal.io/opt-out=true"):
        with pytest.raises(ApiError, match="should match"):
            nodes.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"optOut": {"labels": [wrong]}}})
    nodes.patch(f"{NODES}/n2", {"metadata": {"labels": {label: "plain"}}})
    nodes.patch(f"{NODES}/n3", {"metadata": {"labels": {label: "sealed"}}})
    async with running(plane, nodes, tmp_path):
        await until(lambda: granted(nodes, "n3"))

        def are_out() -> list[str]:
            return [name for name in ("n1", "n2", "n3") if getattr(granted(nodes, name), "opted_out", False)]

        await until(lambda: are_out() == ["n2"])
        nodes.patch(f"{NODES}/n3", {"metadata": {"labels": {label: "plain"}}})
        await until(lambda: are_out() == ["n2", "n3"])
        nodes.patch(f"{NODES}/n2", {"metadata": {"labels": {label: None}}})
        await until(lambda: are_out() == ["n3"])


async def test_where_the_api_server_is_on_nodes_its_endpoints_are_exempt_and_nothing_else(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path
) -> None:
    """Only in scope transparent: node addresses are protected there, and a new node must be able to come in."""
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    made = {
        "metadata": {"name": "kubernetes-more", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.2"]}, {"addresses": ["203.0.113.7"]}],  # the second is no node's
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}, {"name": "odd", "port": 53, "protocol": "UDP"}],
    }
    own = {
        "name": "ssh", "protocol": "tcp", "port": 22, "cidr": "192.0.2.0/24", "owner": "ops", "reason": "rescue",
        "expires": "2030-01-01T00:00:00Z",
    }  # fmt: skip
    nodes.post(slices, made)
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="transparent", stage="off", exemptions=[own]))
    try:
        async with running(plane, nodes, tmp_path):
            found = (await until(lambda: policy_spec(nodes).get("exemptions")))[1:]
            assert [(one["name"], one["protocol"], one["cidr"], one["port"]) for one in found] == [
                ("kube-apiserver-1", "tcp", "192.0.2.2/32", 6443)
            ]
            taken = {**own, "name": "kube-apiserver-2"}
            nodes.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"exemptions": [taken]}})
            await asyncio.sleep(2)
            assert len(policy_spec(nodes)["exemptions"]) == 2, "a name that is not free is refused, and told"
            nodes.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"exemptions": [own]}})
            nodes.delete(f"{slices}/kubernetes-more")  # this API server names no endpoint of its own
            await asyncio.sleep(1)
            assert len(policy_spec(nodes)["exemptions"]) == 2, "what nobody says any more is not taken back"
            nodes.post(slices, {**made, "endpoints": [{"addresses": ["192.0.2.3"]}]})
            await until(lambda: "192.0.2.3/32" in {one["cidr"] for one in policy_spec(nodes)["exemptions"]})
            assert len(policy_spec(nodes)["exemptions"]) == 2
            nodes.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"scope": "overlay"}})
            await until(lambda: policy_spec(nodes)["scope"] == "overlay")
            assert [one["name"] for one in policy_spec(nodes)["exemptions"]] == ["ssh"]
    finally:
        nodes.delete(f"{slices}/kubernetes-more", missing_ok=True)


async def test_two_that_lead_at_once_sign_no_policy_past_each_other(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path
) -> None:
    """Each follows the one before: a node that has taken up one takes up the next."""
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
    seen: list[PolicyDocument] = []

    def interval() -> int | None:
        if (present := policy(nodes)) is not None and present not in seen:
            seen.append(present)
        return None if present is None else present.spec.get("verify", {}).get("interval")

    one, two = (tmp_path / name for name in ("one", "two"))
    one.mkdir()
    two.mkdir()
    async with running(plane, nodes, one), running(plane, nodes, two):
        for seconds in range(600, 610):
            nodes.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"verify": {"interval": seconds}}})
            await until(lambda seconds=seconds: interval() == seconds, pause=0.01)
        await asyncio.sleep(3)
        interval()
    assert len(seen) >= 10
    broken = [(a, b) for a, b in pairwise(seen) if b.after is None or b.after < a.serial]
    assert broken == []


async def test_the_first_policy_is_made_and_replaces_none_that_another_has_made_meanwhile(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that has taken up another's first would refuse what follows nothing."""
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
    maps, found = f"/api/v1/namespaces/{NAMESPACE}/configmaps", KubeApi.find
    another = {"metadata": {"name": "linkseal-policy"}, "data": {"policy": "another's", "signature": "another's"}}

    async def overtaken(api: KubeApi, path: str, **options: Any) -> dict[str, Any] | None:
        present = await found(api, path, **options)
        if path.endswith("linkseal-policy") and present is None:
            await asyncio.to_thread(nodes.post, maps, another)
        return present

    monkeypatch.setattr(KubeApi, "find", overtaken)
    mark = plane.audit_mark()
    async with running(plane, nodes, tmp_path):
        await until(lambda: policy_readable(nodes))
    user = f"system:serviceaccount:{NAMESPACE}:{CONTROLLER}"
    written = [
        (one.verb, one.code)
        for one in plane.requests(user=user, since=mark, resource="configmaps")
        if one.name == "linkseal-policy" and one.verb in {"create", "patch"}
    ]
    assert written == [("create", 409), ("patch", 200)]


async def test_a_policy_that_another_has_signed_is_followed_though_the_walk_was_not_seen(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path
) -> None:
    """The copy is newer than what this controller remembers of the stages: it begins anew."""
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/linkseal-policy"
    async with running(plane, nodes, tmp_path) as controller:
        ours = await until(lambda: policy(nodes))
        spec = {**ours.spec, "verify": {"interval": 777}}
        theirs = replace(ours, serial=ours.serial + 600, issued=datetime.now(UTC), spec=spec, after=ours.serial)
        signed = policydoc.sign(controller._ca.keys.signer, theirs)
        nodes.patch(path, {"data": {"policy": signed.text, "signature": signed.signature}})
        await asyncio.sleep(1)
        nodes.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"verify": {"interval": 778}}})
        found = await until(lambda: policy_spec(nodes).get("verify") == {"interval": 778} and policy(nodes))
        assert found.after >= theirs.serial


async def test_one_of_two_controllers_works_and_the_other_takes_over(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RETRY_SECONDS", 0.2)
    api = KubeApi(Access(plane.kubeconfig(tmp_path / "controller", unbound_token(nodes, NAMESPACE, CONTROLLER))))
    leading: list[str] = []
    stops = {name: asyncio.Event() for name in ("one", "two")}

    def candidate(name: str) -> asyncio.Future[None]:
        async def work(ending: asyncio.Event) -> None:
            leading.append(name)
            await ending.wait()
            leading.remove(name)

        return asyncio.ensure_future(while_leading(Lease(api, NAMESPACE, name), work, stops[name]))

    try:
        one = candidate("one")
        await until(lambda: leading == ["one"])
        two = candidate("two")
        await asyncio.sleep(1)
        assert leading == ["one"]
        stops["one"].set()
        await one
        await until(lambda: leading == ["two"], 5)
        plane.pause_api()
        monkeypatch.setattr(lease, "RENEW_SECONDS", 1)
        await until(lambda: leading == [], 20)
        plane.resume_api()
        await until(lambda: leading == ["two"], 20)
        stops["two"].set()
        await two
        assert leading == []
    finally:
        plane.resume_api()
        await api.close()
        nodes.delete(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{NAME}", missing_ok=True)
