"""`calico`: the blocks of Calico's IPAM, less the addresses in them that other nodes borrowed. No I/O.

    IPAMBlock 10-244-1-0-26:  spec.cidr 10.244.1.0/26, spec.affinity host:n1
        spec.allocations[i]  number of the attributes of the block's i-th address, null if it is free
        spec.attributes[k]   secondary.node: the node whose pod (or tunnel) has it

A block belongs to the node that it is affine to. An address in it that another node has is that node's: it is cut out
of the block, since grants must not overlap. Of a block without a node only the addresses that are in use are granted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Final

from linkseal.keys.values import Prefix
from linkseal.tunnels.controller.land import without
from linkseal.tunnels.controller.nodefacts import NodeFacts
from linkseal.tunnels.controller.providers.base import Offered, Provider, Source, address_of, in_order, prefix_of

PATH: Final = "/apis/crd.projectcalico.org/v1/ipamblocks"

_HOST: Final = "host:"

MOST: Final = 4096
"""Addresses in use of one block that are looked at: Calico's blocks have 4,096 at most (/20, /116)."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block. `cidr` None: nothing of it was ever read. `taken`: addresses that others have, and who."""

    cidr: Prefix | None
    owner: str = ""
    taken: tuple[tuple[Prefix, str], ...] = ()
    unread: str = ""


def block(item: Mapping[str, Any], before: Block | None) -> Block | None:
    """Return a block; of one that cannot be read, what it was before. None: it is being deleted, and empty."""
    spec = item.get("spec") or {}
    try:
        if spec.get("deleted"):
            return None
        cidr = prefix_of(spec.get("cidr"))
        affinity = spec.get("affinity") or ""
        owner = affinity.removeprefix(_HOST) if affinity.startswith(_HOST) else ""
        found = Block(cidr, owner, _taken(cidr, owner, spec.get("allocations") or [], spec.get("attributes") or []))
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        known = before or Block(None)
        found = Block(known.cidr, known.owner, known.taken, str(error)[:200] or type(error).__name__)
    return before if before is not None and before == found else found


def _taken(cidr: Prefix, owner: str, allocations: list[Any], attributes: list[Any]) -> tuple[tuple[Prefix, str], ...]:
    """Return the addresses that other nodes than the owner have. Raises ValueError, TypeError, LookupError."""
    network = ip_network(cidr)
    if len(allocations) > min(network.num_addresses, MOST):
        raise ValueError(f"{len(allocations)} allocations in {cidr}")
    found = []
    for ordinal, number in enumerate(allocations):
        if number is None:
            continue
        if not 0 <= number < len(attributes):
            raise ValueError(f"allocation {ordinal} has no attributes")
        node = (attributes[number].get("secondary") or {}).get("node") or ""
        if node and node != owner:
            found.append((address_of(str(network[ordinal])), str(node)))
    return tuple(found)


def _offer(nodes: Mapping[str, NodeFacts], objects: Mapping[str, Block]) -> Offered:
    found: defaultdict[str, set[Prefix]] = defaultdict(set)
    problems: list[str] = []
    unknown = False
    for name, one in sorted(objects.items()):
        if one.unread:
            problems.append(f"Calico's block {name} cannot be read, what it said before stays: {one.unread}")
        if one.cidr is None:
            unknown = True
            continue
        lent = [(address, node) for address, node in one.taken if node in nodes]
        for address, node in lent:
            found[node].add(address)
        if one.owner in nodes:
            found[one.owner].update(without(one.cidr, (address for address, _ in lent)))
    return Offered(
        {name: in_order(found[name]) for name in nodes}, frozenset(nodes if unknown else ()), tuple(problems)
    )


CALICO: Final = Provider("calico", _offer, Source(PATH, block))
