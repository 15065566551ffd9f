"""What the operator writes for a file directory: the cluster's policy and every node with what it owns.

    apiVersion: linkseal.io/v1alpha1
    kind: Inventory
    spec: {scope: overlay, stage: prefer}
    nodes:
      - {name: n1, uid: 5f0e…, index: 1, addresses: [192.0.2.1], prefixes: [10.244.1.0/24]}

A value with a small function that reads it; conflicts between nodes are errors that name both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal, TypeVar

from linkseal.keys.documents import canonical_address, canonical_prefix
from linkseal.keys.grant import MAX_ADDRESSES, MAX_PREFIXES, address_prefix
from linkseal.keys.values import Prefix, check_identity
from linkseal.tunnels.addressing import MAX_INDEX
from linkseal.tunnels.policy import Policy, parse_policy
from linkseal.tunnels.settings import read_yaml
from linkseal.tunnels.validation import Edge, parse_address, parse_network, refuse, validate
from pydantic import Field, field_validator

ParsedT = TypeVar("ParsedT")


@dataclass(frozen=True, slots=True)
class InventoryNode:
    """A node and what it owns; addresses and prefixes as canonical text."""

    name: str
    uid: str
    index: int
    addresses: tuple[str, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    opted_out: bool = False


@dataclass(frozen=True, slots=True)
class Inventory:
    """The cluster. `uid` None: the one the directory has, or a new one. `spec`: what `policy` was read from."""

    nodes: tuple[InventoryNode, ...]
    spec: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    uid: str | None = None


def load_inventory(path: Path | str) -> Inventory:
    """Read an inventory file. Raises ConfigError, with every problem on a line of its own."""
    return parse_inventory(read_yaml(Path(path)), str(path))


def parse_inventory(data: object, source: str) -> Inventory:
    """Return the inventory in `data` (parsed YAML). Raises ConfigError."""
    found = validate(InventoryFile, data, source)
    policy = parse_policy(found.spec, f"{source}: spec")
    nodes = tuple(
        InventoryNode(
            node.name,
            node.uid,
            node.index,
            tuple(node.addresses),
            tuple(Prefix(prefix) for prefix in node.prefixes),
            node.opted_out,
        )
        for node in found.nodes
    )
    problems = [*_conflicts(nodes), *_in_probe_range(nodes, policy)]
    if problems:
        refuse(source, problems)
    return Inventory(nodes, found.spec, policy, found.uid)


# --- the edge ------------------------------------------------------------------------------------------------------


class NodeEntry(Edge):
    """An entry of `nodes`."""

    name: str
    uid: str
    index: int = Field(ge=1, le=MAX_INDEX)
    addresses: list[str] = Field(default_factory=list, max_length=MAX_ADDRESSES)
    prefixes: list[str] = Field(default_factory=list, max_length=MAX_PREFIXES)
    opted_out: bool = False

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        check_identity(name, "u")
        return name

    @field_validator("uid")
    @classmethod
    def _uid(cls, uid: str) -> str:
        check_identity("n", uid)
        return uid

    @field_validator("addresses")
    @classmethod
    def _addresses(cls, texts: list[str]) -> list[str]:
        return _distinct([canonical_address(_named(parse_address, text)) for text in texts])

    @field_validator("prefixes")
    @classmethod
    def _prefixes(cls, texts: list[str]) -> list[str]:
        return _distinct([canonical_prefix(str(_named(parse_network, text))) for text in texts])


class InventoryFile(Edge):
    """The file."""

    api_version: Literal["linkseal.io/v1alpha1"]
    kind: Literal["Inventory"]
    uid: str | None = None
    spec: dict[str, Any] = Field(default_factory=dict)
    nodes: list[NodeEntry]

    @field_validator("uid")
    @classmethod
    def _uid(cls, uid: str | None) -> str | None:
        if uid is not None:
            check_identity("n", uid)
        return uid


def _named(parse: Callable[[str], ParsedT], text: str) -> ParsedT:
    """Return what one entry of a list says; the error names the entry."""
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"`{text[:80]}` {error}") from None


def _distinct(texts: Sequence[str]) -> list[str]:
    if len(set(texts)) != len(texts):
        raise ValueError("must not have an entry twice")
    return list(texts)


# --- conflicts -----------------------------------------------------------------------------------------------------


def _conflicts(nodes: Sequence[InventoryNode]) -> Iterator[str]:
    names: dict[str, int] = {}
    uids: dict[str, str] = {}
    indexes: dict[int, str] = {}
    for position, node in enumerate(nodes):
        if node.name in names:
            yield f"nodes[{names[node.name]}] and nodes[{position}]: both are named {node.name}"
        if node.uid in uids:
            yield f"{uids[node.uid]} and {node.name}: both have UID {node.uid}"
        if node.index in indexes:
            yield f"{indexes[node.index]} and {node.name}: both have index {node.index}; it must be of one node only"
        names[node.name] = position
        uids[node.uid] = indexes[node.index] = node.name
    yield from _overlaps(nodes)


def _overlaps(nodes: Sequence[InventoryNode]) -> Iterator[str]:
    """Yield every property that overlaps one of another node; a wider one sorts before what lies in it."""
    owned = sorted(
        (network.version, int(network[0]), -int(network[-1]), node.name, str(network))
         for node in nodes for network in _owned(node)
    )  # fmt: skip
    around: list[tuple[int, int, str, str]] = []
    for version, first, minus_last, name, text in owned:
        around = [other for other in around if other[0] == version and other[1] >= first]
        for _, _, other_name, other_text in around:
            if other_name != name:
                yield f"{other_name} and {name}: {other_text} and {text} overlap"
                break
        around.append((version, -minus_last, name, text))


def _in_probe_range(nodes: Sequence[InventoryNode], policy: Policy) -> Iterator[str]:
    ranges: tuple[IPv4Network | IPv6Network, ...] = (policy.probe.range.v4, policy.probe.range.v6)
    for node in nodes:
        for network in _owned(node):
            for reserved in ranges:
                if network.version == reserved.version and network.overlaps(reserved):
                    yield f"{node.name}: {network} lies in the probe range {reserved}; choose another under spec.probe"


def _owned(node: InventoryNode) -> Iterator[IPv4Network | IPv6Network]:
    for text in (*(address_prefix(address) for address in node.addresses), *node.prefixes):
        yield ip_network(text)
