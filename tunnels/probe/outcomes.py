"""What is to be proven of a link, and what came out: plain values. No I/O. The codes are in tunnels/codes.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from linkseal.tunnels.model import Family, LinkKey
from linkseal.tunnels.probe.packet import MAX_SIZE, MAX_SOURCES

SMALLEST_FULL: Final[Mapping[Family, int]] = {4: 576, 6: 1280}
"""What every path carries (RFC 791 and RFC 8200): no tunnel can have a smaller MTU, and the bisection starts there."""


class Source(NamedTuple):
    """An address within a protected prefix of this node, to send probes from, and the prefix it stands for."""

    address: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Way:
    """What to prove of one family: the largest inner packet (bytes) and the addresses to send from, the best first.

    Without sources the probes come from the node's probe address: forwarding and size are proven, no prefix is.
    """

    full_size: int
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """A link to prove. Its generations are in the LinkKey that names it; ValueError if it could prove nothing."""

    peer_index: int
    handshake: bool
    """Whether the kernel has a session with the peer on this link; before that nothing is sent."""
    ways: Mapping[Family, Way]
    """The families to prove, at least one."""

    def __post_init__(self) -> None:
        if not self.ways:
            raise ValueError("a link without families to prove can never be proven")
        for family, way in self.ways.items():
            if not SMALLEST_FULL[family] <= way.full_size <= MAX_SIZE or len(way.sources) > MAX_SOURCES:
                raise ValueError(f"IPv{family}: full size {way.full_size}, {len(way.sources)} sources cannot be proven")


class Proof(NamedTuple):
    """The link carries what it must, both ways. Emitted after every round that passed."""

    key: LinkKey
    at: float
    """When the last reply of the round was judged, by the clock the caller gives (the engine: CLOCK_MONOTONIC)."""
    sizes: Mapping[Family, int]
    """Largest packet that crossed, bytes, for each family."""
    rtt: float
    """Seconds a full-size probe took there and back, the slowest family's."""
    uses: tuple[int, int] | None
    """Generations (peer's, ours) by which the peer sends its traffic to us, as it said last."""
    rewritten: frozenset[str] = frozenset()
    """Protected addresses that arrived as another one (masqueraded on the way): AllowedIPs for them are not proven."""


class Diagnosis(NamedTuple):
    """Why a round failed."""

    key: LinkKey
    code: str
    detail: str
    size: int | None = None
    """With MTU_HOLE (LS2004): the largest packet seen to cross, bytes."""


class Lost(NamedTuple):
    """A link that was proven has failed three rounds in a row."""

    key: LinkKey
    diagnosis: Diagnosis


Outcome = Proof | Diagnosis | Lost
