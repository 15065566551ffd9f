"""The guard's nftables as plain values, and the one kind of step that changes them. No I/O.

A table of one name in two families, `inet` and `netdev`. Chains are constant but for exemptions; sets hold prefixes
from grants. Prefixes and addresses are canonical text; a rule is the canonical JSON text of its `expr` list, as nft
lists it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Family = Literal["inet", "netdev"]
Place = tuple[Family, str]
"""Family of the table, and the name in it."""


class GuardChain(NamedTuple):
    """A chain; without `hook` one that others go to. Its rules can be replaced, its hook only by making it anew."""

    family: Family
    name: str
    hook: str | None
    priority: int
    device: str | None
    rules: tuple[str, ...]

    @property
    def place(self) -> Place:
        """Its identity."""
        return self.family, self.name


class GuardSet(NamedTuple):
    """A set: `key` are nft's type names, `counted` its elements have counters each, `dynamic` packets fill it."""

    family: Family
    name: str
    key: tuple[str, ...]
    interval: bool = False
    counted: bool = False
    dynamic: bool = False

    @property
    def place(self) -> Place:
        """Its identity."""
        return self.family, self.name


class Element(NamedTuple):
    """A prefix, or an address of full length, in a set; `first-last` where addresses are no one prefix."""

    family: Family
    set: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Guard:
    """All of it, as it should be or as it is. `elements` are of the sets that are not dynamic."""

    table: str
    chains: Mapping[Place, GuardChain] = field(default_factory=dict)
    sets: Mapping[Place, GuardSet] = field(default_factory=dict)
    counters: frozenset[Place] = frozenset()
    elements: frozenset[Element] = frozenset()
    foreign: bool = False
    """Seen: a table of our name that holds nothing of ours; it is left alone."""


class GuardTransaction(NamedTuple):
    """One atomic nft transaction on the guard's tables, in the order of its fields."""

    table: str
    renew: bool = False
    """Delete both tables and make them anew, in the same instant: what is there cannot be mended piece by piece."""
    families: tuple[Family, ...] = ()
    """Tables to add (adding what exists is no change)."""
    sets: tuple[GuardSet, ...] = ()
    counters: tuple[Place, ...] = ()
    take: tuple[Element, ...] = ()
    put: tuple[Element, ...] = ()
    chains: tuple[GuardChain, ...] = ()
    rehook: tuple[Place, ...] = ()
    """Chains among these whose hook differs: deleted first."""
    drop_chains: tuple[Place, ...] = ()
    drop_sets: tuple[Place, ...] = ()
    drop_counters: tuple[Place, ...] = ()
    drop_tables: bool = False
