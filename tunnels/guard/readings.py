"""What the guard has counted, and how totals grow while elements come and go. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from linkseal.tunnels.guard.model import Family, Place


class Count(NamedTuple):
    """Packets and their bytes."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: tuple[int, ...]) -> Count:  # type: ignore[override]  # a sum, not a longer tuple
        return Count(self.packets + other[0], self.bytes + other[1])

    def since(self, before: Count | None) -> Count:
        """What came after `before`; all of it, if it was begun anew meanwhile."""
        if before is None or before.packets > self.packets:
            return self
        return Count(self.packets - before.packets, self.bytes - before.bytes)


class Spot(NamedTuple):
    """An element that counts, by the first address of its prefix: elements of one set do not overlap."""

    family: Family
    set: str
    address: str


class Flow(NamedTuple):
    """A flow; `port` is the destination's, 0 where there is none."""

    direction: str
    address: str
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Readings:
    """All counters at one instant."""

    spots: Mapping[Spot, Count] = field(default_factory=dict)
    counters: Mapping[Place, Count] = field(default_factory=dict)
    flows: Mapping[Flow, Count] = field(default_factory=dict)
