"""What nodes own, from what the API server says of them: the address provider `podCIDRs`. Pure.

A Node's pod CIDRs are written by the cluster, and its addresses by its own kubelet, which may lie: what another node
holds already, or what lies outside the networks that the cluster's nodes are in, is not granted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from linkseal.keys.documents import canonical_address, canonical_prefix
from linkseal.keys.grant import Grant
from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import MAX_INDEX
from linkseal.tunnels.directory.inventory import InventoryNode
from linkseal.tunnels.intervals import sharing
from linkseal.tunnels.world import host_prefix


@dataclass(frozen=True, slots=True)
class SeenNode:
    """A Node as the API server has it. `grant`: the one it carries that is by our CA, for this very Node."""

    name: str
    uid: str
    addresses: tuple[str, ...]
    prefixes: tuple[Prefix, ...]
    grant: Grant | None = None


@dataclass(frozen=True, slots=True)
class Owned:
    """What is to be granted. `problems`: what was not, and why, as lines."""

    claims: tuple[InventoryNode, ...] = ()
    problems: tuple[str, ...] = ()


def seen_addresses(status: Mapping[str, object]) -> tuple[str, ...]:
    """Return the InternalIP addresses of a Node's status, canonical; what is none is left out."""
    found: list[str] = []
    entries = status.get("addresses")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("type") == "InternalIP":
            found += _canonical(canonical_address, str(entry.get("address", "")))
    return tuple(dict.fromkeys(found))


def seen_prefixes(spec: Mapping[str, object]) -> tuple[Prefix, ...]:
    """Return the pod CIDRs of a Node's spec, canonical; what is none is left out."""
    listed = spec.get("podCIDRs")
    texts = listed if isinstance(listed, list) else []
    found = [prefix for text in texts for prefix in _canonical(canonical_prefix, str(text))]
    return tuple(Prefix(prefix) for prefix in dict.fromkeys(found))


def owned(nodes: Sequence[SeenNode], opted_out: Collection[str], networks: Collection[str] = ()) -> Owned:
    """Return what each node is to be granted; `networks`: where node addresses may be, all if empty.

    Who holds something and still claims it keeps it; of new claims the first node by name gets it. Indexes stay.
    """
    ordered = sorted(nodes, key=lambda node: node.name)
    taken: dict[Prefix, str] = {}
    indexes: dict[int, str] = {}
    for node in ordered:
        for prefix in _held(node):
            taken.setdefault(prefix, node.name)
        if node.grant is not None:
            indexes.setdefault(node.grant.index, node.name)
    free = iter(sorted(set(range(1, MAX_INDEX + 1)) - set(indexes)))
    problems: list[str] = []
    claims: list[InventoryNode] = []
    for node in ordered:
        holds = node.grant is not None and indexes[node.grant.index] == node.name
        index = node.grant.index if holds and node.grant is not None else next(free, 0)
        if not index:
            problems.append(f"{node.name}: there are more than {MAX_INDEX} nodes; it gets no grant")
            continue
        kept = _allowed(node, taken, networks, problems)
        taken |= dict.fromkeys(_whole(kept), node.name)
        out = node.name in opted_out
        claims.append(InventoryNode(node.name, node.uid, index, kept.addresses, kept.prefixes, out))
    return Owned(tuple(claims), tuple(problems))


def _held(node: SeenNode) -> frozenset[Prefix]:
    """What a node claims and has been granted already."""
    return frozenset() if node.grant is None else frozenset(_whole(node)) & node.grant.protected()


def _allowed(node: SeenNode, taken: Mapping[Prefix, str], networks: Collection[str], problems: list[str]) -> SeenNode:
    """Return the node without what it may not have."""
    inside = tuple(one for one in node.addresses if not networks or _inside(one, networks))
    problems += [
        f"{node.name}: its address {address} is in none of the nodes' networks ({', '.join(sorted(networks))})"
        for address in node.addresses
        if address not in inside
    ]
    wanted = _whole(replace(node, addresses=inside))
    if all(taken.get(prefix) == node.name for prefix in wanted):
        return replace(node, addresses=inside)
    others = frozenset(prefix for prefix, name in taken.items() if name != node.name)
    lost = sharing(frozenset(wanted), others)
    problems += [
        f"{node.name} claims {prefix}, which {_holder(prefix, others, taken)} holds: not granted"
        for prefix in sorted(lost)
    ]
    return replace(
        node,
        addresses=tuple(address for address in inside if host_prefix(address) not in lost),
        prefixes=tuple(prefix for prefix in node.prefixes if prefix not in lost),
    )


def _whole(node: SeenNode) -> tuple[Prefix, ...]:
    return (*map(host_prefix, node.addresses), *node.prefixes)


def _holder(prefix: Prefix, others: Collection[Prefix], taken: Mapping[Prefix, str]) -> str:
    return next(taken[other] for other in others if sharing(frozenset({prefix}), frozenset({other})))


def _inside(address: str, networks: Collection[str]) -> bool:
    parsed = ip_address(address)
    return any(parsed in network for network in map(ip_network, networks) if network.version == parsed.version)


def _canonical(parse: Callable[[str], str], text: str) -> Iterator[str]:
    try:
        yield parse(text)
    except ValueError:
        return
