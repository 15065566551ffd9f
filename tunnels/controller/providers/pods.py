"""`pods`: the addresses of each pod on each node, for CNIs that give no node a network: AWS VPC CNI, Azure CNI. No I/O.

Each pod that comes or goes changes a grant, which every agent is told (docs/kubernetes.md has the cost), so changes are
gathered for a second. `status.podIPs` is written by the kubelet of the pod's node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from linkseal.keys.values import Prefix
from linkseal.tunnels.controller.nodefacts import NodeFacts
from linkseal.tunnels.controller.providers.base import Offered, PerNode, Provider, Source, address_of, in_order

PATH: Final = "/api/v1/pods"

LIVE: Final = {"fieldSelector": "spec.hostNetwork=false,spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"}
"""Pods that may have an address of their own. To whoever watches them, one that ends is deleted."""

SETTLE: Final = 1.0


def pod(item: Mapping[str, Any], before: PerNode | None) -> PerNode | None:
    """Return where a pod is and its addresses; None while it has none."""
    spec, status = item.get("spec") or {}, item.get("status") or {}
    node, listed = str(spec.get("nodeName") or ""), status.get("podIPs") or []
    if not node or spec.get("hostNetwork") or not listed:
        return None
    try:
        found = PerNode(node, tuple(dict.fromkeys(address_of(one.get("ip")) for one in listed)))
    except (ValueError, TypeError, AttributeError) as error:
        meta = item["metadata"]
        found = PerNode(node, (), f"pod {meta.get('namespace', '')}/{meta.get('name', '')}: {str(error)[:200]}")
    return before if before is not None and before == found else found


def _offer(nodes: Mapping[str, NodeFacts], objects: Mapping[str, PerNode]) -> Offered:
    found: defaultdict[str, set[Prefix]] = defaultdict(set)
    unread: dict[str, str] = {}
    for one in objects.values():
        found[one.node].update(one.prefixes)
        if one.unread:
            unread[one.node] = one.unread
    prefixes = {name: in_order(found[name]) for name in nodes}
    problems = tuple(f"{name}: not all addresses of its pods: {why}" for name, why in sorted(unread.items()))
    return Offered(prefixes, frozenset(unread), problems)


PODS: Final = Provider("pods", _offer, Source(PATH, pod, LIVE, SETTLE))
