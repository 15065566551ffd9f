"""What each address provider makes of its objects, and of those that cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.controller.nodefacts import NodeFacts, node_facts, read_prefixes, seen_addresses
from linkseal.tunnels.controller.providers.base import Offered, Provider
from linkseal.tunnels.controller.providers.calico import CALICO, Block
from linkseal.tunnels.controller.providers.choice import PROVIDERS, Granting, granting, misfits, own_pod, unbounded
from linkseal.tunnels.controller.providers.cilium import CILIUM
from linkseal.tunnels.controller.providers.names import PROVIDER_NAMES
from linkseal.tunnels.controller.providers.ovn import OVN
from linkseal.tunnels.controller.providers.podcidrs import POD_CIDRS
from linkseal.tunnels.controller.providers.pods import LIVE, PODS


def facts(item: dict[str, Any]) -> NodeFacts:
    found = node_facts({"metadata": {"name": "n1", "uid": "u1", **item.pop("metadata", {})}, **item}, None)
    assert found is not None
    return found


NODES = {name: facts({}) for name in ("n1", "n2")}


def offered(provider: Provider[Any], *items: dict[str, Any], before: dict[str, Any] | None = None) -> Offered:
    """What a provider makes of objects that the API server has."""
    assert provider.source is not None
    objects = dict(before or {})
    for item in items:
        name = item["metadata"]["name"]
        found = provider.source.parse(item, objects.get(name))
        if found is None:
            objects.pop(name, None)
        else:
            objects[name] = found
    return provider.offer(NODES, objects)


def parsed(provider: Provider[Any], item: dict[str, Any]) -> dict[str, Any]:
    assert provider.source is not None
    return {item["metadata"]["name"]: provider.source.parse(item, None)}


# --- Nodes


def test_nonsense_of_a_node_is_left_out_and_known_as_such() -> None:
    addresses = [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "InternalIP", "address": "x"}, 7,
                 {"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.0.2.1"}]  # fmt: skip
    assert seen_addresses({"addresses": addresses}) == ("192.0.2.1",)
    assert seen_addresses({}) == ()
    listed = ["10.244.1.0/24", "10.244.1.0/24", None, "fd00::/64"]
    assert read_prefixes(listed) == (("10.244.1.0/24", "fd00::/64"), "[null]")
    assert (read_prefixes(None), read_prefixes("x")) == (((), ""), ((), '"x"'))


def test_a_heartbeat_changes_nothing() -> None:
    item: dict[str, Any] = {
        "metadata": {"name": "n1", "uid": "u1", "annotations": {"projectcalico.org/IPv4VXLANTunnelAddr": "10.0.0.1"}},
        "spec": {"podCIDRs": ["10.244.1.0/24"]},
        "status": {"conditions": [{"type": "NetworkUnavailable", "reason": "CalicoIsUp", "lastHeartbeatTime": "1"}]},
    }
    before = node_facts(item, None)
    assert before is not None
    assert (before.tunnels, before.network) == (("10.0.0.1",), "CalicoIsUp")
    item["status"]["conditions"][0]["lastHeartbeatTime"] = "2"
    assert node_facts(item, before) is before


def test_pod_cidrs_that_are_none_are_told_and_nothing_is_taken_for_it() -> None:
    nodes = {
        "n1": facts({"spec": {"podCIDRs": ["10.244.1.0/24"]}}),
        "n2": facts({"spec": {"podCIDRs": ["10.244.2.7/24"]}}),
    }
    found = POD_CIDRS.offer(nodes, {})
    assert found.prefixes == {"n1": ("10.244.1.0/24",), "n2": ()}
    assert found.keeps == {"n2"}
    assert found.problems == ('n2: spec.podCIDRs holds what is no prefix: ["10.244.2.7/24"]',)


# --- Calico


def block(cidr: str, owner: str | None, taken: dict[int, str] | None = None, **spec: Any) -> dict[str, Any]:
    """An IPAMBlock: `taken` says which node has the address of that number."""
    names = sorted(set((taken or {}).values()))
    allocations: list[int | None] = [None] * 64
    for ordinal, node in (taken or {}).items():
        allocations[ordinal] = names.index(node)
    attributes = [{"handle_id": f"h-{name}", "secondary": {"node": name} if name else {}} for name in names]
    affinity = {} if owner is None else {"affinity": f"host:{owner}"}
    name = cidr.replace(".", "-").replace("/", "-").replace(":", "-")
    said = {"cidr": cidr, **affinity, "allocations": allocations, "attributes": attributes, **spec}
    return {"metadata": {"name": name}, "spec": said}


def test_a_block_is_its_nodes_less_what_others_borrowed() -> None:
    found = offered(
        CALICO, block("10.0.0.0/26", "n1", {1: "n1", 5: "n2", 9: "gone"}), block("fd00::40/122", "n2", {0: "n1"})
    )
    assert found.prefixes["n1"] == (
        "10.0.0.0/30", "10.0.0.4/32", "10.0.0.6/31", "10.0.0.8/29", "10.0.0.16/28", "10.0.0.32/27", "fd00::40/128",
    )  # fmt: skip
    assert found.prefixes["n2"][0] == "10.0.0.5/32"
    assert "fd00::40/128" not in found.prefixes["n2"]
    assert "fd00::60/123" in found.prefixes["n2"]
    assert (found.keeps, found.problems) == (frozenset(), ())


@pytest.mark.parametrize("affinity", [{}, {"affinity": "virtual:load-balancer"}, {"affinity": "host:gone"}])
def test_of_a_block_that_is_no_nodes_only_what_nodes_have_is_granted(affinity: dict[str, str]) -> None:
    found = offered(CALICO, block("10.0.0.0/26", None, {3: "n1", 4: "", 5: "gone"}, **affinity))
    assert found.prefixes == {"n1": ("10.0.0.3/32",), "n2": ()}


def test_a_block_that_is_being_deleted_is_nobodys() -> None:
    assert offered(CALICO, block("10.0.0.0/26", "n1", deleted=True)).prefixes == {"n1": (), "n2": ()}


BAD_BLOCKS = {
    "no cidr": {"cidr": None},
    "host bits": {"cidr": "10.0.0.1/26"},
    "a number": {"cidr": 167772160},
    "not the attributes": {"attributes": []},
    "not a list": {"allocations": 5},
    "not a number": {"allocations": ["x"]},
    "too many": {"allocations": [None] * 65},
    "an attribute that is none": {"attributes": [None]},
    "an affinity that is none": {"affinity": 7},
}


@pytest.mark.parametrize("case", BAD_BLOCKS)
def test_a_block_that_cannot_be_read_stays_what_it_was(case: str) -> None:
    before = parsed(CALICO, block("10.0.0.0/26", "n1", {0: "n2"}))
    item = block("10.0.0.0/26", "n2", {0: "n1"})
    item["spec"] |= BAD_BLOCKS[case]
    found = offered(CALICO, item, before=before)
    assert found.prefixes["n2"] == ("10.0.0.0/32",)
    assert "10.0.0.32/27" in found.prefixes["n1"]
    assert found.keeps == frozenset()
    assert "10-0-0-0-26 cannot be read" in found.problems[0]


def test_while_nothing_was_ever_read_of_a_block_every_node_keeps_what_it_has() -> None:
    found = offered(CALICO, block("x", "n1"), block("10.0.0.0/26", "n2"))
    assert found.prefixes["n2"] == ("10.0.0.0/26",)
    assert found.keeps == {"n1", "n2"}


def test_a_block_that_says_the_same_is_no_news() -> None:
    item = block("10.0.0.0/26", "n1", {0: "n1", 1: "n2"})
    assert CALICO.source is not None
    before: Block | None = CALICO.source.parse(item, None)
    item["spec"]["sequenceNumber"] = 8
    item["spec"]["attributes"][0]["handle_id"] = "another"
    assert CALICO.source.parse(item, before) is before


# --- Cilium


def cilium_node(name: str, ipam: Any, used: Any = None) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ipam": ipam}, "status": {"ipam": {"used": used}}}


@pytest.mark.parametrize(
    ("ipam", "used", "prefixes"),
    [
        ({"podCIDRs": ["10.0.1.0/24", "fd00::/64"]}, None, ("10.0.1.0/24", "fd00::/64")),
        (
            {"pools": {"requested": [{"pool": "a", "needed": {"ipv4-addrs": 8}}],
                       "allocated": [{"pool": "b", "cidrs": ["10.2.0.0/27"]}, {"pool": "a", "cidrs": ["10.1.0.0/27"]},
                                     {"pool": "c"}]}},
            None, ("10.1.0.0/27", "10.2.0.0/27"),
        ),
        (
            {"pool": {"10.0.0.9": {"resource": "eni-1"}, "10.0.0.8": {}}, "ipv6-pool": {"fd00::10/124": {}}},
            {"10.0.0.9": {"owner": "default/a"}, "10.0.0.7": {}},
            ("10.0.0.7/32", "10.0.0.8/32", "10.0.0.9/32", "fd00::10/124"),
        ),
    ],
    ids=["cluster-pool", "multi-pool", "eni"],
)  # fmt: skip
def test_a_cilium_node_gives_all_that_its_mode_has(ipam: Any, used: Any, prefixes: tuple[str, ...]) -> None:
    found = offered(CILIUM, cilium_node("n1", ipam, used), cilium_node("n2", {"podCIDRs": ["10.9.0.0/24"]}))
    assert found.prefixes == {"n1": prefixes, "n2": ("10.9.0.0/24",)}
    assert (found.keeps, found.problems) == (frozenset(), ())


@pytest.mark.parametrize(
    "ipam",
    [7, {"podCIDRs": ["10.0.1.7/24"]}, {"podCIDRs": 7}, {"podCIDRs": [7]}, {"pool": ["x"]},
     {"pools": {"allocated": [7]}}, {"pool": {"10.0.0.256": {}}}],
)  # fmt: skip
def test_a_cilium_node_that_cannot_be_read_gives_what_it_gave_and_is_told(ipam: Any) -> None:
    before = parsed(CILIUM, cilium_node("n1", {"podCIDRs": ["10.0.1.0/24"]}))
    found = offered(CILIUM, cilium_node("n1", ipam), before=before)
    assert found.prefixes["n1"] == ("10.0.1.0/24",)
    assert "n1" in found.keeps
    assert any(problem.startswith("n1: its CiliumNode") for problem in found.problems)


def test_a_node_without_cilium_node_or_address_keeps_what_it_has() -> None:
    found = offered(CILIUM, cilium_node("n1", {}))
    assert found.keeps == {"n1", "n2"}
    assert "it has no address yet" in found.problems[0]
    assert "there is none" in found.problems[1]


# --- OVN-Kubernetes


@pytest.mark.parametrize(
    ("text", "prefixes"),
    [
        ({"default": "10.130.0.0/23"}, ("10.130.0.0/23",)),
        ({"default": ["10.130.0.0/23", "fd01::/64"], "blue": ["10.130.0.0/23"]}, ("10.130.0.0/23", "fd01::/64")),
    ],
)
def test_the_subnet_of_the_default_network_is_the_nodes(text: object, prefixes: tuple[str, ...]) -> None:
    node = facts({"metadata": {"annotations": {"k8s.ovn.org/node-subnets": json.dumps(text)}}})
    assert OVN.offer({"n1": node}, {}) == Offered({"n1": prefixes})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"default": "10.0.0.1/24"}', '{"default": [7]}',
                                  '{"default": 167772160}', '{"blue": "10.0.0.0/24"}', "[" * 5000])  # fmt: skip
def test_an_annotation_that_cannot_be_read_leaves_the_node_what_it_has(text: str) -> None:
    found = OVN.offer({"n1": facts({"metadata": {"annotations": {"k8s.ovn.org/node-subnets": text}}})}, {})
    assert (found.prefixes, found.keeps) == ({}, {"n1"})
    assert found.problems[0].startswith("n1: the annotation k8s.ovn.org/node-subnets gives no prefixes")


# --- pods


def pod(name: str, node: str, *addresses: Any, **spec: Any) -> dict[str, Any]:
    status = {"podIPs": [{"ip": one} for one in addresses]}
    return {"metadata": {"name": name, "namespace": "a"}, "spec": {"nodeName": node, **spec}, "status": status}


def test_each_pod_gives_its_node_its_addresses() -> None:
    found = offered(
        PODS, pod("a", "n1", "10.0.0.9", "fd00::9"), pod("b", "n1", "10.0.0.8"), pod("c", "n2"),
        pod("d", "", "10.0.0.7"), pod("e", "n2", "192.0.2.2", hostNetwork=True), pod("f", "gone", "10.0.0.6"),
    )  # fmt: skip
    assert found == Offered({"n1": ("10.0.0.8/32", "10.0.0.9/32", "fd00::9/128"), "n2": ()})


def test_a_pod_whose_address_cannot_be_read_leaves_its_node_what_it_has() -> None:
    found = offered(PODS, pod("a", "n1", "10.0.0.9"), pod("b", "n1", "x"), pod("c", "n1", 7))
    assert (found.prefixes["n1"], found.keeps) == (("10.0.0.9/32",), {"n1"})


def test_only_pods_are_asked_for_that_may_have_an_address() -> None:
    assert LIVE["fieldSelector"].split(",") == [
        "spec.hostNetwork=false", "spec.nodeName!=", "status.phase!=Succeeded", "status.phase!=Failed",
    ]  # fmt: skip


# --- the choice


def test_every_name_is_a_provider() -> None:
    assert tuple(PROVIDERS) == PROVIDER_NAMES


def test_an_unknown_provider_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'weave': use one of podCIDRs, calico, cilium, ovn, pods"):
        granting("weave")


@pytest.mark.parametrize("name", ["ovn", "pods"])
def test_what_a_node_may_write_of_itself_is_read_only_within_networks_that_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match="--pod-network"):
        granting(name)
    assert granting(name, pod_networks=frozenset({"10.0.0.0/8"})).provider.name == name


CASES = {
    "calico": ({"projectcalico.org/IPv4VXLANTunnelAddr": "10.42.0.1"}, {}, "it seems calico"),
    "ovn": ({"k8s.ovn.org/node-subnets": '{"default": "10.130.0.0/23"}'}, {}, "it seems ovn"),
    "cilium": ({}, {"conditions": [{"type": "NetworkUnavailable", "reason": "CiliumIsUp"}]}, "it seems cilium"),
    "none": ({}, {}, "it seems one of calico, cilium, ovn, pods"),
}


@pytest.mark.parametrize("case", CASES)
def test_nodes_that_pod_cidrs_do_not_cover_are_told_with_what_would(case: str) -> None:
    annotations, status, hint = CASES[case]
    spec = {} if case in ("cilium", "none") else {"podCIDRs": ["10.244.1.0/24"]}
    nodes = {"n1": facts({"metadata": {"annotations": annotations}, "spec": spec, "status": status})}
    (told,) = misfits(Granting(), nodes, POD_CIDRS.offer(nodes, {}).prefixes)
    assert hint in told
    assert "(n1)" in told
    assert "--address-provider" in told


def test_calico_and_ovn_within_pod_cidrs_are_no_misfit() -> None:
    annotations = {
        "projectcalico.org/IPv4VXLANTunnelAddr": "10.244.1.1",
        "k8s.ovn.org/node-subnets": '{"default": "10.244.1.0/24"}',
    }
    nodes = {"n1": facts({"metadata": {"annotations": annotations}, "spec": {"podCIDRs": ["10.244.1.0/24"]}})}
    assert list(misfits(Granting(), nodes, POD_CIDRS.offer(nodes, {}).prefixes)) == []


def test_a_provider_that_does_not_cover_the_controllers_own_pod_is_told() -> None:
    """Whatever the CNI is: this pod is one of those that are to be covered."""
    pod_ = own_pod("n1", "10.42.0.7,fd00::7")
    nodes = {"n1": facts({"spec": {"podCIDRs": ["10.244.1.0/24"]}})}
    (told,) = misfits(Granting(pod=pod_), nodes, {"n1": ("10.42.0.0/24",)})
    assert "the controller's own pod on n1 has 10.42.0.7/32, fd00::7/128" in told
    assert list(misfits(Granting(pod=pod_), nodes, {"n1": ("10.42.0.0/24", "fd00::/64")})) == []
    assert list(misfits(Granting(pod=pod_), {}, {})) == [], "its Node has not been seen"
    assert (own_pod("", ""), own_pod("n1", "")) == (None, None)


def test_where_nodes_and_pods_may_be_is_to_be_said() -> None:
    """Or a kubelet's credential draws whatever no other node holds: 10.96.0.0/12, say, or another's network."""
    node, pod = unbounded(Granting())
    assert "controller.nodeNetworks" in node
    assert "controller.podNetworks" in pod
    (pod,) = unbounded(Granting(networks=frozenset({"192.0.2.0/24"})))
    assert "--pod-network" in pod
    assert [*unbounded(Granting(POD_CIDRS, frozenset({"0.0.0.0/0"}), frozenset({"::/0"})))] == []
