"""Which address provider the operator chose, and whether it fits the cluster. No I/O.

None is guessed: a wrong one gives too few prefixes, and what is in none goes in plaintext.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from linkseal.keys.errors import ConfigError
from linkseal.keys.values import Prefix
from linkseal.tunnels.controller.land import minus, span, spans
from linkseal.tunnels.controller.nodefacts import NodeFacts
from linkseal.tunnels.controller.providers.base import Provider
from linkseal.tunnels.controller.providers.calico import CALICO
from linkseal.tunnels.controller.providers.cilium import CILIUM
from linkseal.tunnels.controller.providers.names import BY_THE_NODE
from linkseal.tunnels.controller.providers.ovn import OVN, subnets
from linkseal.tunnels.controller.providers.podcidrs import POD_CIDRS
from linkseal.tunnels.controller.providers.pods import PODS
from linkseal.tunnels.wording import listed
from linkseal.tunnels.world import host_prefix

PROVIDERS: Final[Mapping[str, Provider[Any]]] = {one.name: one for one in (POD_CIDRS, CALICO, CILIUM, OVN, PODS)}


NOT_READ: Final = "what the address provider gives nodes is not known yet"


@dataclass(frozen=True, slots=True)
class OwnPod:
    """The controller's own pod, as the API server told it when it was made: its node and its addresses."""

    node: str
    addresses: tuple[Prefix, ...]


@dataclass(frozen=True, slots=True)
class Granting:
    """From what grants are made. `networks`, `pod_networks`: where addresses and prefixes may be; empty: anywhere."""

    provider: Provider[Any] = POD_CIDRS
    networks: frozenset[str] = frozenset()
    pod_networks: frozenset[str] = frozenset()
    pod: OwnPod | None = None


def granting(
    provider: str,
    networks: frozenset[str] = frozenset(),
    pod_networks: frozenset[str] = frozenset(),
    pod: OwnPod | None = None,
) -> Granting:
    """Return what the operator chose. Raises ConfigError."""
    if provider not in PROVIDERS:
        raise ConfigError(f"there is no address provider {provider[:80]!r}: use one of {', '.join(PROVIDERS)}")
    if provider in BY_THE_NODE and not pod_networks:
        raise ConfigError(
            f"the address provider {provider} reads what a node may write of itself: say where pods may be with "
            "--pod-network CIDR (chart: controller.podNetworks)"
        )
    return Granting(PROVIDERS[provider], networks, pod_networks, pod)


def unbounded(chosen: Granting) -> Iterator[str]:
    """Yield, as lines, what nodes may claim of all the world: addresses and prefixes that nobody holds yet.

    A kubelet's credential is enough for that, and in the wrong hands draws traffic to a node.
    """
    for networks, what, option, value in (
        (chosen.networks, "addresses of nodes", "--node-network", "nodeNetworks"),
        (chosen.pod_networks, "prefixes of pods", "--pod-network", "podNetworks"),
    ):
        if not networks:
            yield (
                f"it is not said where {what} may be, so a node may claim any that no other holds: name the networks "
                f"with {option} CIDR (chart: controller.{value}); 0.0.0.0/0 and ::/0 if that is meant"
            )


def own_pod(node: str, addresses: str) -> OwnPod | None:
    """Return the controller's pod of what the chart puts into its environment; None: it is in none of its own."""
    found = tuple(host_prefix(one) for one in addresses.split(",") if one)
    return OwnPod(node, found) if node and found else None


def misfits(
    chosen: Granting, nodes: Mapping[str, NodeFacts], offered: Mapping[str, tuple[Prefix, ...]]
) -> Iterator[str]:
    """Yield, as lines, why the provider does not seem to be that of the cluster's CNI. Nodes say some of it."""
    for likely, what, names in _signs(chosen.provider.name, nodes, offered):
        yield (
            f"{what} ({listed(names)}): the address provider {chosen.provider.name} does not cover pods there; "
            f"choose another with --address-provider (chart: controller.addressProvider), it seems {likely}"
        )
    pod = chosen.pod
    if pod is not None and pod.node in nodes and not _covered(pod.addresses, offered.get(pod.node, ())):
        yield (
            f"the controller's own pod on {pod.node} has {', '.join(pod.addresses)}, which the address provider "
            f"{chosen.provider.name} does not give that node: it does not fit the CNI; choose another of "
            f"{', '.join(PROVIDERS)} with --address-provider (chart: controller.addressProvider)"
        )


def _signs(
    name: str, nodes: Mapping[str, NodeFacts], offered: Mapping[str, tuple[Prefix, ...]]
) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the likely provider, by what, and on which nodes."""
    if name != POD_CIDRS.name:
        return
    calico, ovn, empty = [], [], []
    for node, facts in sorted(nodes.items()):
        given = offered.get(node, ())
        if facts.tunnels and not _covered(tuple(map(host_prefix, facts.tunnels)), given):
            calico.append(node)
        elif facts.subnets and not _covered(_subnets(facts.subnets), given):
            ovn.append(node)
        elif not given and not facts.unread:
            empty.append(node)
    if calico:
        yield CALICO.name, "Calico's IPAM gave nodes addresses outside their podCIDRs", calico
    if ovn:
        yield OVN.name, "OVN-Kubernetes gave nodes subnets outside their podCIDRs", ovn
    if empty:
        cilium = any(nodes[node].network == "CiliumIsUp" for node in empty)
        likely = CILIUM.name if cilium else f"one of {', '.join(one for one in PROVIDERS if one != name)}"
        yield likely, "Nodes have no podCIDRs", empty


def _subnets(text: str) -> tuple[Prefix, ...]:
    try:
        return subnets(text)
    except ValueError:
        return ()


def _covered(prefixes: Sequence[Prefix], given: Sequence[Prefix]) -> bool:
    land = spans(given)
    return not any(minus((span(one),), land) for one in prefixes)
