"""Address providers on a real API server, each with the rights that the chart gives the controller for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ground.charts import (
    CLUSTER_ENCRYPTIONS,
    CONTROLLER,
    DEFINITIONS,
    NAMESPACE,
    NODE_ENCRYPTIONS,
    chart_installed,
    cluster_encryption,
    exists,
)
from ground.charts import granted as rights
from ground.cniobjects import BLOCKS, CALICO, CILIUM, block, defined
from ground.controllers import granted, running, until
from ground.controlplane import ControlPlane
from ground.kubeapi import Api, Object, Recorder
from ground.kubeobjects import create_node, create_service_account
from linkseal.keys import grant as grants
from linkseal.keys.grant import Grant
from linkseal.tunnels.controller.land import common, spans
from linkseal.tunnels.controller.providers.choice import Granting, granting
from linkseal.tunnels.controller.providers.names import BY_THE_NODE
from linkseal.tunnels.directory.kube import NODES
from linkseal.tunnels.directory.kubeapi import Access, KubeApi
from linkseal.tunnels.directory.kubedocs import GRANT
from linkseal.tunnels.directory.mirror import Mirror

pytestmark = [pytest.mark.kube, pytest.mark.timeout(180)]

CILIUM_NODES = "/apis/cilium.io/v2/ciliumnodes"
PODS = "/api/v1/namespaces/default/pods"
NAMES = ("n1", "n2", "n3")


@pytest.fixture
def nodes(kube: Recorder) -> Iterator[Recorder]:
    for number, name in enumerate(NAMES, 1):
        create_node(kube, name, addresses=[f"192.0.2.{number}"])
    yield kube
    for name in NAMES:
        kube.delete(f"{NODE_ENCRYPTIONS}/{name}", missing_ok=True)  # nobody collects garbage here
    for kind, name in (
        ("secrets", "linkseal-ca-key"),
        *(("configmaps", f"linkseal-{one}") for one in ("ca", "policy", "stage")),
    ):
        kube.delete(f"/api/v1/namespaces/{NAMESPACE}/{kind}/{name}", missing_ok=True)


@pytest.fixture(scope="module", params=["podCIDRs", "calico", "cilium", "ovn", "pods"])
def provider(request: pytest.FixtureRequest, plane: ControlPlane) -> Iterator[str]:
    """The chart with one provider after the other."""
    name = str(request.param)
    needed = ("--set", "controller.podNetworks={10.0.0.0/8}") if name in BY_THE_NODE else ()
    with chart_installed(plane, "--set", f"controller.addressProvider={name}", *needed):
        yield name


def only(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("provider", names, indirect=True, scope="module")


def put(kube: Api, path: str, item: Object) -> None:
    """Replace an object, whoever has changed it meanwhile."""
    name = item["metadata"]["name"]
    version = kube.get(f"{path}/{name}")["metadata"]["resourceVersion"]
    kube.put(f"{path}/{name}", {**item, "metadata": {**item["metadata"], "resourceVersion": version}})


def prefixes(kube: Api, name: str) -> tuple[str, ...] | None:
    found = granted(kube, name)
    return None if found is None else found.prefixes


def addresses(kube: Api, name: str) -> tuple[str, ...]:
    found = granted(kube, name)
    return () if found is None else found.addresses


@asynccontextmanager
async def never_twice(plane: ControlPlane, folder: Path) -> AsyncIterator[None]:
    """Fail if ever, by the order in which the API server took the writes, an address was in two grants."""
    found: list[str] = []
    api = KubeApi(Access(plane.kubeconfig(folder / "watcher")))

    def grant_in(item: Mapping[str, Any], before: Grant | None) -> Grant | None:
        name, text = item["metadata"]["name"], (item["metadata"].get("annotations") or {}).get(GRANT)
        return None if text is None else grants.parse(grants.unwrap(text, node=name).text, node=name)

    def look() -> None:
        seen = [(one.node, spans(one.protected())) for one in watched.objects.values()]
        for at, (one, mine) in enumerate(seen):
            found.extend(f"{one} and {other}" for other, theirs in seen[at + 1 :] if common(mine, theirs))

    watched: Mirror[Grant] = Mirror(api, NODES, grant_in, changed=look)
    task = asyncio.ensure_future(watched.run())
    try:
        await watched.first(10)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()
    assert found == []
    assert watched.objects, "nothing was watched"


def test_the_chart_gives_the_rights_of_the_chosen_provider_alone(plane: ControlPlane, provider: str) -> None:
    mine = {
        "calico": {(verb, "crd.projectcalico.org/ipamblocks") for verb in ("list", "watch")},
        "cilium": {(verb, "cilium.io/ciliumnodes") for verb in ("list", "watch")},
        "pods": {(verb, "pods") for verb in ("list", "watch")},
    }
    foreign = {right for one in mine.values() for right in one}
    assert rights(plane, CONTROLLER) & foreign == mine.get(provider, set())


@only("podCIDRs")
async def test_addresses_that_two_nodes_swap_are_never_granted_twice(
    plane: ControlPlane, nodes: Recorder, provider: str, tmp_path: Path
) -> None:
    async with never_twice(plane, tmp_path), running(plane, nodes, tmp_path):
        await until(lambda: all(granted(nodes, name) for name in NAMES))
        for _ in range(3):
            before = {name: addresses(nodes, name) for name in ("n1", "n2")}
            for name, other in (("n1", "n2"), ("n2", "n1")):
                found = nodes.get(f"{NODES}/{name}")
                found["status"]["addresses"] = [{"type": "InternalIP", "address": before[other][0]}]
                nodes.put(f"{NODES}/{name}/status", found)
            await until(lambda old=before: (addresses(nodes, "n1"), addresses(nodes, "n2")) == (old["n2"], old["n1"]))


@only("podCIDRs")
async def test_nodes_of_another_ipam_are_told_in_the_status_with_the_provider_to_choose(
    plane: ControlPlane, nodes: Recorder, provider: str, tmp_path: Path
) -> None:
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
    nodes.patch(f"{NODES}/n1", {"metadata": {"annotations": {"projectcalico.org/IPv4VXLANTunnelAddr": "10.42.0.1"}}})

    def condition() -> Object:
        found = nodes.get(f"{CLUSTER_ENCRYPTIONS}/default").get("status", {}).get("conditions", [])
        return next((one for one in found if one["type"] == "Granted"), {})

    async with running(plane, nodes, tmp_path):
        told = await until(condition)
        assert (told["status"], told["reason"]) == ("False", "ProviderMisfit")
        assert "it seems calico" in told["message"]


@only("calico")
async def test_calicos_blocks_and_borrowed_addresses_are_granted_and_move(
    plane: ControlPlane, nodes: Recorder, provider: str, tmp_path: Path
) -> None:
    await defined(nodes, *CALICO)
    nodes.post(BLOCKS, block("10.0.0.0/29", "n1", {0: "n1"}))
    nodes.post(BLOCKS, block("10.0.0.8/29", "n2", {}))
    async with never_twice(plane, tmp_path), running(plane, nodes, tmp_path, chosen=granting("calico")):
        held = [("10.0.0.0/29",), ("10.0.0.8/29",), ()]
        await until(lambda: [prefixes(nodes, name) for name in NAMES] == held)
        split = ("10.0.0.0/30", "10.0.0.4/32", "10.0.0.6/31")
        for borrower in ("n3", "n2"):
            put(nodes, BLOCKS, block("10.0.0.0/29", "n1", {0: "n1", 5: borrower}))
            await until(lambda who=borrower: "10.0.0.5/32" in (prefixes(nodes, who) or ()))
            assert prefixes(nodes, "n1") == split
        assert prefixes(nodes, "n3") == ()
        broken = block("10.0.0.0/29", "n3", {})
        broken["spec"]["cidr"] = "10.0.0.1/29"
        put(nodes, BLOCKS, broken)
        put(nodes, BLOCKS, block("10.0.0.8/29", "n3", {}))
        await until(lambda: prefixes(nodes, "n3") == ("10.0.0.8/29",))
        assert prefixes(nodes, "n1") == split, "what cannot be read makes no grant smaller"
        assert prefixes(nodes, "n2") == ("10.0.0.5/32",)
        put(nodes, BLOCKS, block("10.0.0.0/29", "n1", {0: "n1"}))
        await until(lambda: prefixes(nodes, "n1") == ("10.0.0.0/29",) and prefixes(nodes, "n2") == ())
        nodes.delete(f"{BLOCKS}/10-0-0-8-29")
        nodes.post(BLOCKS, block("10.0.0.16/29", "n1", {}))
        await until(lambda: prefixes(nodes, "n1") == ("10.0.0.0/29", "10.0.0.16/29"))
        assert prefixes(nodes, "n3") == ("10.0.0.8/29",), "nobody else claims it"
        nodes.post(BLOCKS, block("10.0.0.8/29", "n2", {}))
        await until(lambda: prefixes(nodes, "n2") == ("10.0.0.8/29",) and prefixes(nodes, "n3") == ())


@only("calico")
async def test_without_the_providers_kind_nothing_new_is_granted_and_all_else_goes_on(
    plane: ControlPlane, nodes: Recorder, provider: str, tmp_path: Path
) -> None:
    await until(lambda: not exists(nodes, BLOCKS))  # of the test before
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
    async with running(plane, nodes, tmp_path, chosen=granting("calico")):
        status = await until(lambda: nodes.get(f"{CLUSTER_ENCRYPTIONS}/default").get("status"))
        told = {one["type"]: one for one in status["conditions"]}
        assert told["Accepted"]["status"] == "True"
        assert told["Granted"]["status"] == "False"
        assert "the address provider calico" in told["Granted"]["message"]
        assert [granted(nodes, name) for name in NAMES] == [None, None, None]
        await defined(nodes, *CALICO)
        nodes.post(BLOCKS, block("10.0.0.0/29", "n1", {}))
        await until(lambda: prefixes(nodes, "n1") == ("10.0.0.0/29",), 60)
    await without_the_kind(plane, nodes, tmp_path)


async def without_the_kind(plane: ControlPlane, nodes: Recorder, folder: Path) -> None:
    """A controller that starts while nothing can be read of the provider takes nothing away."""
    nodes.delete(f"{DEFINITIONS}/ipamblocks.crd.projectcalico.org")
    await until(lambda: not exists(nodes, BLOCKS))
    found = nodes.get(f"{NODES}/n1")
    found["status"]["addresses"] = [{"type": "InternalIP", "address": "192.0.2.11"}]
    nodes.put(f"{NODES}/n1/status", found)
    async with running(plane, nodes, folder, chosen=granting("calico")):
        await until(lambda: addresses(nodes, "n1") == ("192.0.2.11",))
        assert prefixes(nodes, "n1") == ("10.0.0.0/29",)


@only("cilium")
async def test_a_cilium_nodes_networks_and_pools_are_granted(
    plane: ControlPlane, nodes: Recorder, provider: str, tmp_path: Path
) -> None:
    await defined(nodes, *CILIUM)

    def cilium_node(name: str, ipam: Any) -> Object:
        kind = {"apiVersion": "cilium.io/v2", "kind": "CiliumNode"}
        return {**kind, "metadata": {"name": name}, "spec": {"ipam": ipam}}

    nodes.post(CILIUM_NODES, cilium_node("n1", {"podCIDRs": ["10.1.0.0/24"]}))
    pools = {"allocated": [{"pool": "a", "cidrs": ["10.2.0.0/27"]}, {"pool": "b", "cidrs": ["10.3.0.0/27"]}]}
    nodes.post(CILIUM_NODES, cilium_node("n2", {"pools": pools}))
    async with never_twice(plane, tmp_path), running(plane, nodes, tmp_path, chosen=granting("cilium")):
        await until(lambda: prefixes(nodes, "n2") == ("10.2.0.0/27", "10.3.0.0/27"))
        assert prefixes(nodes, "n1") == ("10.1.0.0/24",)
        await until(lambda: prefixes(nodes, "n3") == ())  # its node addresses are granted before it has a CiliumNode
        put(nodes, CILIUM_NODES, cilium_node("n1", {"podCIDRs": ["10.1.0.9/24"]}))
        nodes.post(CILIUM_NODES, cilium_node("n3", {"pool": {"10.1.0.7": {}, "10.4.0.7": {}}}))
        await until(lambda: prefixes(nodes, "n3") == ("10.4.0.7/32",))
        assert prefixes(nodes, "n1") == ("10.1.0.0/24",), "who holds it keeps it"
        nodes.delete(f"{CILIUM_NODES}/n2")
        put(nodes, CILIUM_NODES, cilium_node("n1", {"podCIDRs": ["10.5.0.0/24"]}))
        await until(lambda: prefixes(nodes, "n3") == ("10.1.0.7/32", "10.4.0.7/32"))
        assert prefixes(nodes, "n2") == ("10.2.0.0/27", "10.3.0.0/27"), "its CiliumNode may be made anew"


@only("ovn")
async def test_ovns_subnets_are_granted_within_the_pods_networks(
    plane: ControlPlane, nodes: Recorder, provider: str, tmp_path: Path
) -> None:
    def annotate(name: str, text: str) -> None:
        nodes.patch(f"{NODES}/{name}", {"metadata": {"annotations": {"k8s.ovn.org/node-subnets": text}}})

    annotate("n1", '{"default": ["10.128.0.0/23", "fd01::/64"]}')
    chosen = granting("ovn", pod_networks=frozenset({"10.128.0.0/14"}))
    async with never_twice(plane, tmp_path), running(plane, nodes, tmp_path, chosen=chosen):
        await until(lambda: prefixes(nodes, "n1") == ("10.128.0.0/23",))
        annotate("n2", '{"default": ["8.8.8.0/24", "10.128.0.0/24", "10.128.2.0/23"]}')
        await until(lambda: prefixes(nodes, "n2") == ("10.128.2.0/23",))
        annotate("n2", "nonsense")
        annotate("n3", '{"default": "10.128.4.0/23"}')
        await until(lambda: prefixes(nodes, "n3") == ("10.128.4.0/23",))
        assert prefixes(nodes, "n2") == ("10.128.2.0/23",)


@only("pods")
async def test_addresses_of_pods_are_granted_while_they_run(
    plane: ControlPlane, nodes: Recorder, provider: str, tmp_path: Path
) -> None:
    account = create_service_account(nodes, "default", "default")
    assert account

    def start(name: str, node: str, *given: str, host_network: bool = False) -> None:
        spec = {"nodeName": node, "containers": [{"name": "a", "image": "i"}], "hostNetwork": host_network}
        nodes.post(PODS, {"metadata": {"name": name}, "spec": spec})
        status = {"phase": "Running", "podIP": given[0], "podIPs": [{"ip": one} for one in given]}
        nodes.patch(f"{PODS}/{name}/status", {"status": status})

    chosen: Granting = granting("pods", pod_networks=frozenset({"10.0.0.0/8", "fd00::/8"}))
    start("a", "n1", "10.0.0.1", "fd00::1")
    start("host", "n1", "192.0.2.1", host_network=True)
    async with never_twice(plane, tmp_path), running(plane, nodes, tmp_path, chosen=chosen):
        await until(lambda: prefixes(nodes, "n1") == ("10.0.0.1/32", "fd00::1/128"))
        start("b", "n1", "10.0.0.2")
        start("c", "n2", "10.0.0.3")
        start("thief", "n3", "10.0.0.1")
        await until(lambda: prefixes(nodes, "n2") == ("10.0.0.3/32",))
        await until(lambda: prefixes(nodes, "n1") == ("10.0.0.1/32", "10.0.0.2/32", "fd00::1/128"))
        assert prefixes(nodes, "n3") == ()
        nodes.patch(f"{PODS}/b/status", {"status": {"phase": "Succeeded"}})
        await until(lambda: prefixes(nodes, "n1") == ("10.0.0.1/32", "fd00::1/128"))
        nodes.delete(f"{PODS}/a?gracePeriodSeconds=0")
        await until(lambda: prefixes(nodes, "n3") == ("10.0.0.1/32",))
        assert prefixes(nodes, "n1") == ("fd00::1/128",), "of its last pod, until another node claims it"


@only("podCIDRs", "calico", "pods")
async def test_a_controller_that_starts_again_grants_nothing_anew(
    plane: ControlPlane, nodes: Recorder, provider: str, tmp_path: Path
) -> None:
    if provider == "calico":
        await defined(nodes, *CALICO)
        nodes.post(BLOCKS, block("10.0.0.0/29", "n1", {5: "n2"}))
    pod_networks = frozenset({"10.0.0.0/8"}) if provider in BY_THE_NODE else frozenset[str]()
    chosen = granting(provider, pod_networks=pod_networks)
    texts: list[list[str]] = []
    for _ in range(2):
        async with running(plane, nodes, tmp_path, chosen=chosen):
            await until(lambda: all(granted(nodes, name) for name in NAMES))
            if provider == "calico":
                await until(lambda: prefixes(nodes, "n2") == ("10.0.0.5/32",))
            await asyncio.sleep(2)
            texts.append([nodes.get(f"{NODES}/{name}")["metadata"]["annotations"][GRANT] for name in NAMES])
    assert texts[0] == texts[1]
