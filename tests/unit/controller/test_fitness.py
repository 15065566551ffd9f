"""Whether a cluster is fit: from what was found out to what is fine, what is not, and what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from linkseal.tunnels import codes
from linkseal.tunnels.checks import Result
from linkseal.tunnels.cluster import cluster_status
from linkseal.tunnels.controller.fitness import ClusterFacts, Cover, Machine, cover, fitness, health
from linkseal.tunnels.controller.providers.base import Offered, PerNode, prefix_of
from linkseal.tunnels.policy import Policy, parse_policy
from linkseal.tunnels.status import FindingStatus
from unit.cli import samples

DEBIAN = Machine("6.1.0-26-amd64", "linux", "Debian GNU/Linux 12 (bookworm)")
ALL = Cover(40, 40)
GOOD = ClusterFacts(
    "v1.37.2",
    {"n1": DEBIAN, "n2": DEBIAN},
    {"podCIDRs": ALL, "pods": ALL},
    "podCIDRs",
    (True, True),
    ("flannel",),
    decided=True,
)  # fmt: skip
FINDINGS = (FindingStatus("LS3007", "host", "too large", 1.0), FindingStatus("LS9999", "host", "new", 1.0))
POLICY = parse_policy({"stage": "prefer"})
TRANSPARENT = parse_policy({"scope": "transparent"})


def wrong(facts: ClusterFacts, policy: Policy | None = None) -> dict[str | None, Result]:
    return {one.code: one for one in fitness(facts, policy or Policy()) if one.status != "ok"}


def test_a_good_cluster_is_fine_and_everything_is_said() -> None:
    found = fitness(GOOD, Policy())
    assert {one.status for one in found} == {"ok"}
    assert [one.name for one in found] == [
        "Kubernetes", "CNI", "addresses of pods", "claims of nodes", "operating system", "WireGuard", "door",
    ]  # fmt: skip


@pytest.mark.parametrize("version", ["v1.29.14", "v1.9.0", "v0.30.1"])
def test_an_old_kubernetes_is_refused(version: str) -> None:
    found = wrong(replace(GOOD, version=version))[codes.KUBERNETES_TOO_OLD]
    assert (found.status, found.seen) == ("error", f"{version}; 1.30 is the oldest")


@pytest.mark.parametrize("version", ["v1.30.0", "v1.34.2+k3s1", "v1.31.5-gke.1", "v2.0.0", "of a fork"])
def test_another_is_not(version: str) -> None:
    assert wrong(replace(GOOD, version=version)) == {}


@pytest.mark.parametrize("cni", ["OVN-Kubernetes", "Kube-OVN", "Cilium, in tunnels of its own"])
def test_a_cni_that_wraps_before_us_is_for_scope_transparent(cni: str) -> None:
    facts = replace(GOOD, cnis=(cni,))
    assert wrong(facts)[codes.CNI_WRAPS].status == "error"
    assert wrong(facts, TRANSPARENT) == {}
    undecided = wrong(replace(facts, decided=False))[codes.CNI_WRAPS]
    assert (undecided.status, "the default" in undecided.seen) == ("warning", True)


@pytest.mark.parametrize("cni", ["AWS VPC CNI", "Azure CNI"])
def test_our_rules_come_before_those_of_a_cni(cni: str) -> None:
    facts = replace(GOOD, cnis=(cni,))
    assert wrong(facts) == {}
    late = parse_policy({"routing": {"rulePriority": 512}})
    assert "ours is 512" in wrong(facts, late)[codes.FOREIGN_RULE].seen
    assert wrong(GOOD, late) == {}


def test_a_provider_that_leaves_pods_out_is_told_with_the_one_that_does_not() -> None:
    covers = {"podCIDRs": Cover(1, 40, ("web/a on n1",)), "calico": ALL, "pods": ALL}
    found = wrong(replace(GOOD, covers=covers))[codes.PROVIDER_MISFIT]
    assert found.status == "error"
    assert found.seen == "podCIDRs covers 1 of 40, not web/a on n1; choose controller.addressProvider=calico"
    assert wrong(replace(GOOD, covers=covers, provider="calico")) == {}
    assert wrong(replace(GOOD, covers=covers, provider="cilium"))[codes.PROVIDER_MISFIT].seen.startswith(
        "the cluster has no objects for the address provider cilium"
    )


def test_before_it_is_installed_the_provider_to_choose_is_said() -> None:
    covers = {"podCIDRs": Cover(1, 40, ("web/a on n1",)), "cilium": ALL, "pods": ALL}
    facts = replace(GOOD, covers=covers, provider=None, decided=False)
    (found,) = [one for one in fitness(facts, Policy()) if one.name == "addresses of pods"]
    assert (found.status, found.seen) == (
        "ok", "cilium and pods cover all of 40 pods: choose controller.addressProvider=cilium",
    )  # fmt: skip
    none = replace(facts, covers={name: Cover(0, 0) for name in covers})
    (found,) = [one for one in fitness(none, Policy()) if one.name == "addresses of pods"]
    assert (found.status, found.seen) == ("ok", "no pods yet to judge by")
    lost = replace(facts, covers={"podCIDRs": Cover(1, 40, ("web/a on n1",))})
    assert "no address provider covers them all" in wrong(lost)[codes.PROVIDER_MISFIT].seen


@pytest.mark.parametrize(
    ("bounds", "named"),
    [
        ((False, True), "controller.nodeNetworks;"),
        ((True, False), "controller.podNetworks;"),
        ((False, False), "controller.nodeNetworks and controller.podNetworks;"),
    ],
)
def test_that_nodes_may_claim_anything_is_a_warning(bounds: tuple[bool, bool], named: str) -> None:
    found = wrong(replace(GOOD, bounds=bounds))[codes.UNBOUNDED]
    assert (found.status, named in found.seen) == ("warning", True)
    assert wrong(replace(GOOD, bounds=(True, True))) == {}


def test_a_pod_is_covered_by_what_its_own_node_is_given_with_all_its_addresses() -> None:
    offered = Offered({"n1": (prefix_of("10.0.1.0/24"), prefix_of("fd00:1::/64")), "n2": (prefix_of("10.0.2.0/24"),)})
    pods = {
        "a/both": PerNode("n1", (prefix_of("10.0.1.7/32"), prefix_of("fd00:1::7/128"))),
        "a/half": PerNode("n1", (prefix_of("10.0.1.8/32"), prefix_of("fd00:2::8/128"))),
        "a/elsewhere": PerNode("n2", (prefix_of("10.0.1.9/32"),)),
        "a/nowhere": PerNode("n3", (prefix_of("10.0.3.9/32"),)),
        "a/without": PerNode("n3"),
    }
    assert cover(offered, pods) == Cover(2, 5, ("a/elsewhere on n2", "a/half on n1", "a/nowhere on n3"))


def test_hosts_are_judged_by_what_their_kubelets_say() -> None:
    machines = {
        "n1": DEBIAN,
        "old": Machine("5.4.0-150-generic", "linux", "Ubuntu 20.04"),
        "rhel": Machine("5.14.0-427.el9.x86_64", "linux", "Red Hat Enterprise Linux 9.4"),
        "talos": Machine("6.12.1-talos", "linux", "Talos (v1.9.0)"),
        "win": Machine("10.0.20348.2700", "windows", "Windows Server 2022"),
    }
    found = wrong(replace(GOOD, machines=machines))
    assert {code: one.seen for code, one in found.items()} == {
        codes.NO_AGENT_THERE: "no Linux: win",
        codes.NO_WIREGUARD: "not kernels 5.6 or newer: old (5.4.0-150-generic)",
        codes.NO_DOOR: "not kernels 5.16 or newer: old (5.4.0-150-generic), rhel (5.14.0-427.el9.x86_64)",
        codes.NO_BOOT_UNIT: "cannot be had on talos: they go to no stage enforce",
    }
    assert {one.status for one in found.values()} == {"warning"}, "a distributor may have put it into an older kernel"


def test_where_the_controller_is_not_seen_nobody_says_that_its_provider_fits() -> None:
    covers = {"podCIDRs": Cover(1, 40, ("web/a on n1",)), "pods": ALL}
    hidden = replace(GOOD, covers=covers, provider=None, decided=False, unknown={"controller": "403 Forbidden"})
    elsewhere = replace(GOOD, covers=covers, provider=None)
    for facts, words in ((hidden, "403 Forbidden"), (elsewhere, "name its --namespace")):
        (found,) = [one for one in fitness(facts, Policy()) if one.name == "addresses of pods"]
        assert (found.status, words in found.seen) == ("skipped", True)


@pytest.mark.parametrize("topic", ["version", "policy", "cni", "pods", "nodes", "provider podCIDRs"])
def test_what_may_not_be_read_is_not_known_and_not_fine(topic: str) -> None:
    facts = replace(GOOD, unknown={topic: "403 Forbidden"})
    if topic == "version":
        facts = replace(facts, version="")
    if topic == "provider podCIDRs":
        facts = replace(facts, covers={"pods": ALL})
    (found,) = [one for one in fitness(facts, Policy()) if one.status != "ok"]
    assert (found.status, found.seen) == ("skipped", "not known: 403 Forbidden")


def test_what_agents_report_is_a_line_a_code() -> None:
    names = samples.names(3)
    reports = {name: samples.report(name, names, {}) for name in names}
    status = cluster_status({**reports, "n4": None}, POLICY, samples.NOW, nodes=[*names, "n4"])
    found = health(status)
    silent = next(one for one in found if one.code == codes.AGENT_SILENT)
    assert silent.seen == "none lately from n4"
    (sealed,) = [one for one in found if one.name == "sealed"]
    assert sealed.status == "warning"
    whole = health(cluster_status(reports, POLICY, samples.NOW, nodes=names))
    assert {one.status for one in whole if one.category == "links"} == {"ok"}
    assert next(one.seen for one in whole if one.name == "reports") == "fresh from all of 3"


def test_findings_of_many_nodes_are_said_once() -> None:
    names = samples.names(7)
    reports = {name: samples.report(name, names, {}) for name in names}
    status = cluster_status(reports, POLICY, samples.NOW, nodes=names)
    nodes = tuple(
        replace(one, status=replace(one.status, findings=FINDINGS)) for one in status.nodes if one.status is not None
    )
    found = {one.code: one for one in health(replace(status, nodes=nodes)) if one.code}
    assert found["LS3007"].seen.startswith("on n1, n2, n3, n4, n5 and 2 more: ")
    assert (found["LS9999"].name, found["LS9999"].status) == ("of a later version", "warning")
