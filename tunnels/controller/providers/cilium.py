"""`cilium`: what the CiliumNode of each node has, in every mode of Cilium's IPAM. No I/O.

    spec.ipam.podCIDRs                     cluster-pool, kubernetes
    spec.ipam.pools.allocated[].cidrs      multi-pool
    spec.ipam.pool, .ipv6-pool             eni, azure, alibabacloud, crd: single addresses that are the node's
    status.ipam.used, .ipv6-used           those of them that pods have

A CiliumNode has the name of its Node. In the modes of single addresses a node has them before a pod does, so few grants
change when pods come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from linkseal.keys.values import Prefix
from linkseal.tunnels.controller.nodefacts import NodeFacts
from linkseal.tunnels.controller.providers.base import (
    Offered,
    PerNode,
    Provider,
    Source,
    address_of,
    in_order,
    prefix_of,
)

PATH: Final = "/apis/cilium.io/v2/ciliumnodes"


def cilium_node(item: Mapping[str, Any], before: PerNode | None) -> PerNode:
    """Return what a CiliumNode gives its node; of one that cannot be read, what it gave before."""
    name = str(item["metadata"].get("name", ""))
    try:
        found = PerNode(name, in_order(set(_prefixes(item))))
    except (ValueError, TypeError, AttributeError) as error:
        found = PerNode(name, () if before is None else before.prefixes, str(error)[:200])
    return before if before is not None and before == found else found


def _prefixes(item: Mapping[str, Any]) -> Iterator[Prefix]:
    """Yield every prefix and address. Raises ValueError, TypeError, AttributeError: something has another shape."""
    ipam = _part(_part(item, "spec"), "ipam")
    yield from map(prefix_of, ipam.get("podCIDRs") or [])
    for pool in _part(ipam, "pools").get("allocated") or []:
        yield from map(prefix_of, pool.get("cidrs") or [])
    used = _part(_part(item, "status"), "ipam")
    for addresses in (ipam.get("pool"), ipam.get("ipv6-pool"), used.get("used"), used.get("ipv6-used")):
        yield from map(_either, addresses or {})


def _part(item: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return item.get(name) or {}


def _either(text: str) -> Prefix:
    """Return an address, or the prefix that was delegated in its place."""
    parse: Callable[[str], Prefix] = prefix_of if "/" in text else address_of
    return parse(text)


def _offer(nodes: Mapping[str, NodeFacts], objects: Mapping[str, PerNode]) -> Offered:
    keeps: set[str] = set()
    problems: list[str] = []
    for name in sorted(nodes):
        found = objects.get(name)
        why = "there is none" if found is None else found.unread or ("" if found.prefixes else "it has no address yet")
        if why:
            keeps.add(name)
            problems.append(f"{name}: its CiliumNode gives not all prefixes: {why}")
    return Offered(
        {name: objects[name].prefixes for name in nodes if name in objects}, frozenset(keeps), tuple(problems)
    )


CILIUM: Final = Provider("cilium", _offer, Source(PATH, cilium_node))
