"""Whether a cluster is fit for Linkseal, by what its API server says: `linkseal check` from anywhere. Pure.

    look() in clusterlook.py ──► ClusterFacts ──► fitness(facts, policy), health(status) ──► Result …

What only a host can say of itself (ports, rules, MTU) its agent says in its report, or `linkseal check` there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from linkseal.tunnels import codes
from linkseal.tunnels.checks import Result
from linkseal.tunnels.cluster import ClusterStatus
from linkseal.tunnels.controller.land import minus, span, spans
from linkseal.tunnels.controller.providers.base import Offered, PerNode
from linkseal.tunnels.findings import CATALOGUE
from linkseal.tunnels.model import Scope
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.wording import listed

OLDEST: Final = (1, 30)
"""The first Kubernetes whose tokens name a pod's node (ServiceAccountTokenPodNodeInfo) by default."""

DOOR_KERNEL: Final = (5, 16)
WIREGUARD_KERNEL: Final = (5, 6)
"""Kernels from which nftables has egress hooks with `fwd`, and WireGuard is built in."""

EARLY_RULES: Final = 512
"""Priority of the first rule of the AWS VPC CNI (main table by mark; aws/amazon-vpc-cni-k8s, networkutils)."""

CNIS: Final[Mapping[str, str]] = {
    "antrea-agent": "Antrea",
    "aws-node": "AWS VPC CNI",
    "azure-cns": "Azure CNI",
    "calico-node": "Calico",
    "canal": "Canal",
    "cilium": "Cilium",
    "kindnet": "kindnet",
    "kube-flannel": "flannel",
    "kube-flannel-ds": "flannel",
    "kube-ovn-cni": "Kube-OVN",
    "kube-router": "kube-router",
    "ovnkube-node": "OVN-Kubernetes",
    "weave-net": "Weave Net",
}
"""What a DaemonSet of this name belongs to."""

WRAPS: Final = frozenset({"OVN-Kubernetes", "Kube-OVN", "Cilium, in tunnels of its own"})
"""CNIs that take pods' packets into tunnels of their own before any route of ours is asked."""

SEALED_IMAGES: Final = re.compile(r"talos|bottlerocket", re.IGNORECASE)
"""Operating systems on which nothing can be put into /etc/systemd/system."""


class Machine(NamedTuple):
    """What a Node's kubelet says of its host."""

    kernel: str
    system: str
    image: str


@dataclass(frozen=True, slots=True)
class Cover:
    """How many of the pods that were looked at have all their addresses in what a provider gives their node."""

    covered: int
    pods: int
    outside: tuple[str, ...] = ()
    """Some of those that have not."""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What was found out about a cluster. Where something could not be found out, `unknown` says why, by topic."""

    version: str = ""
    machines: Mapping[str, Machine] = field(default_factory=dict)
    covers: Mapping[str, Cover] = field(default_factory=dict)
    """By provider, of those whose objects are there."""
    provider: str | None = None
    """The one that the installed controller takes; None: none is installed."""
    bounds: tuple[bool, bool] | None = None
    """Whether it says where nodes and pods may be; None: none is installed."""
    cnis: tuple[str, ...] = ()
    decided: bool = False
    """There is a ClusterEncryption."""
    unknown: Mapping[str, str] = field(default_factory=dict)


def cover(offered: Offered, pods: Mapping[str, PerNode]) -> Cover:
    """Return how far what a provider gives nodes covers their pods."""
    land = {node: spans(prefixes) for node, prefixes in offered.prefixes.items()}
    outside = [
        f"{name} on {one.node}"
        for name, one in sorted(pods.items())
        if any(minus((span(prefix),), land.get(one.node, ())) for prefix in one.prefixes)
    ]
    return Cover(len(pods) - len(outside), len(pods), tuple(outside[:5]))


def fitness(facts: ClusterFacts, policy: Policy) -> list[Result]:
    """Return the result of every check, in the order in which they are shown."""
    return [result for check in _CHECKS for result in check(facts, policy)]


def health(status: ClusterStatus) -> list[Result]:
    """Return what the nodes' reports say."""
    return [*_sealed(status), *_silent(status), *_findings(status)]


def _ok(category: str, name: str, seen: str) -> Result:
    return Result(category, name, "ok", seen)


def _bad(category: str, name: str, code: str, seen: str, *, mild: bool = False) -> Result:
    entry = CATALOGUE[code]
    return Result(category, name, "warning" if mild else entry.severity, seen, code, entry.fix)


def _unknown(facts: ClusterFacts, topic: str, name: str) -> Iterator[Result]:
    if topic in facts.unknown:
        yield Result("cluster", name, "skipped", f"not known: {facts.unknown[topic]}")


def _kubernetes(facts: ClusterFacts, _: Policy) -> Iterator[Result]:
    yield from _unknown(facts, "version", "Kubernetes")
    if not facts.version:
        return
    if (numbers := _numbers(facts.version)) is not None and numbers < OLDEST:
        seen = f"{facts.version}; {'.'.join(map(str, OLDEST))} is the oldest"
        yield _bad("cluster", "Kubernetes", codes.KUBERNETES_TOO_OLD, seen)
    else:
        yield _ok("cluster", "Kubernetes", facts.version)


def _settings(facts: ClusterFacts, _: Policy) -> Iterator[Result]:
    yield from _unknown(facts, "policy", "ClusterEncryption")


def _cni(facts: ClusterFacts, policy: Policy) -> Iterator[Result]:
    yield from _unknown(facts, "cni", "CNI")
    if "cni" in facts.unknown:
        return
    wraps = sorted(WRAPS & set(facts.cnis))
    early = [name for name in ("AWS VPC CNI", "Azure CNI") if name in facts.cnis]
    if wraps and policy.scope is Scope.OVERLAY:
        asked = "scope overlay" if facts.decided else "scope overlay, the default"
        seen = f"{listed(wraps)} and {asked}"
        yield _bad("cluster", "CNI", codes.CNI_WRAPS, seen, mild=not facts.decided)
    elif early and policy.routing.rule_priority >= EARLY_RULES:
        seen = f"{listed(early)} has rules from {EARLY_RULES} on, ours is {policy.routing.rule_priority}"
        yield _bad("cluster", "CNI", codes.FOREIGN_RULE, seen)
    else:
        yield _ok("cluster", "CNI", listed(facts.cnis) if facts.cnis else "none that is known here")


def _addresses(facts: ClusterFacts, _: Policy) -> Iterator[Result]:
    """What is in no grant is not encrypted: whether every pod is in what its node would be granted."""
    name = "addresses of pods"
    yield from _unknown(facts, "pods", name)
    if "pods" in facts.unknown:
        return
    if facts.provider is None and ("controller" in facts.unknown or facts.decided):
        why = facts.unknown.get("controller", "there is no Deployment linkseal-controller: name its --namespace")
        yield Result("cluster", name, "skipped", f"not known which provider is in use: {why}")
        return
    fitting = [provider for provider, one in facts.covers.items() if one.covered == one.pods]
    advice = f"choose controller.addressProvider={fitting[0]}" if fitting else "no address provider covers them all"
    found = None if facts.provider is None else facts.covers.get(facts.provider)
    if facts.provider is not None and found is None:
        yield from _unknown(facts, f"provider {facts.provider}", name)
        if f"provider {facts.provider}" not in facts.unknown:
            seen = f"the cluster has no objects for the address provider {facts.provider}; {advice}"
            yield _bad("cluster", name, codes.PROVIDER_MISFIT, seen)
    elif found is not None and found.covered < found.pods:
        seen = f"{facts.provider} covers {found.covered} of {found.pods}, not {listed(found.outside)}; {advice}"
        yield _bad("cluster", name, codes.PROVIDER_MISFIT, seen)
    elif found is not None:
        yield _ok("cluster", name, f"{facts.provider} covers all of {found.pods} pods")
    elif not fitting:
        yield _bad("cluster", name, codes.PROVIDER_MISFIT, advice)
    else:
        pods = next(iter(facts.covers.values())).pods
        said = "no pods yet to judge by" if not pods else f"{' and '.join(fitting)} cover{'s' * (len(fitting) == 1)}"
        rest = "" if not pods else f" all of {pods} pods: {advice}"
        yield _ok("cluster", name, said + rest)


def _bounds(facts: ClusterFacts, _: Policy) -> Iterator[Result]:
    if facts.bounds is None:
        return
    name, values = "claims of nodes", ("controller.nodeNetworks", "controller.podNetworks")
    if missing := [value for value, said in zip(values, facts.bounds, strict=True) if not said]:
        seen = f"not set: {' and '.join(missing)}; stage enforce is not entered without"
        yield _bad("cluster", name, codes.UNBOUNDED, seen)
    else:
        yield _ok("cluster", name, "it is said where nodes and pods may be")


def _machines(facts: ClusterFacts, _: Policy) -> Iterator[Result]:
    yield from _unknown(facts, "nodes", "nodes")
    if "nodes" in facts.unknown:
        return
    linux = {name: one for name, one in facts.machines.items() if one.system in ("linux", "")}
    others = sorted(set(facts.machines) - set(linux))
    if others:
        yield _bad("nodes", "operating system", codes.NO_AGENT_THERE, f"no Linux: {listed(others)}")
    else:
        yield _ok("nodes", "operating system", f"Linux on all of {len(linux)}")
    yield _kernels(linux, "WireGuard", codes.NO_WIREGUARD, WIREGUARD_KERNEL)
    yield _kernels(linux, "door", codes.NO_DOOR, DOOR_KERNEL)
    if sealed := sorted(name for name, one in linux.items() if SEALED_IMAGES.search(one.image)):
        seen = f"cannot be had on {listed(sealed)}: they go to no stage enforce"
        yield _bad("nodes", "boot unit", codes.NO_BOOT_UNIT, seen, mild=True)


def _kernels(machines: Mapping[str, Machine], name: str, code: str, since: tuple[int, int]) -> Result:
    """A distributor may have put it into an older kernel: what is there the agent of that node tells."""
    numbers = {node: _numbers(one.kernel) for node, one in machines.items()}
    older = sorted(f"{node} ({machines[node].kernel})" for node, found in numbers.items() if found and found < since)
    text = f"kernels {'.'.join(map(str, since))} or newer"
    return _bad("nodes", name, code, f"not {text}: {listed(older)}", mild=True) if older else _ok("nodes", name, text)


def _numbers(version: str) -> tuple[int, int] | None:
    """Return the first two numbers of a version, None if it has none.

    >>> _numbers("v1.30.14+k3s1"), _numbers("6.1.0-26-amd64"), _numbers("")
    ((1, 30), (6, 1), None)
    """
    found = re.match(r"v?(\d+)\.(\d+)", version, re.ASCII)
    return None if found is None else (int(found[1]), int(found[2]))


def _sealed(status: ClusterStatus) -> Iterator[Result]:
    seen = f"{status.sealed_both_ends} of {status.pairs} sealed at both ends"
    if status.everything_sealed:
        yield _ok("links", "sealed", seen)
    else:
        said = f"{seen}; {'; '.join(status.reasons)}"
        yield Result("links", "sealed", "warning", said, None, "See `linkseal status` and `linkseal links`.")


def _silent(status: ClusterStatus) -> Iterator[Result]:
    silent = sorted(one.name for one in status.nodes if one.evidence != "fresh")
    if silent:
        yield _bad("nodes", "reports", codes.AGENT_SILENT, f"none lately from {listed(silent)}")
    else:
        yield _ok("nodes", "reports", f"fresh from all of {len(status.nodes)}")


def _findings(status: ClusterStatus) -> Iterator[Result]:
    """One line a code: of a thousand nodes with the same finding the first few are named."""
    found: dict[str, dict[str, str]] = {}
    for node in status.nodes:
        for one in () if node.status is None else node.status.findings:
            found.setdefault(one.code, {}).setdefault(node.name, one.message)
    for code, by_node in sorted(found.items()):
        first = next(iter(by_node.values()))
        seen = f"on {listed(sorted(by_node))}: {first}"
        if code in CATALOGUE:
            yield _bad("nodes", CATALOGUE[code].title, code, seen)
        else:
            yield Result(
                "nodes", "of a later version", "warning", seen, code, "See `linkseal explain` of that version."
            )


_CHECKS: Final[tuple[Callable[[ClusterFacts, Policy], Iterator[Result]], ...]] = (
    _kubernetes,
    _settings,
    _cni,
    _addresses,
    _bounds,
    _machines,
)
