"""Why a packet is plaintext, as the number of the counter that its drop is counted in. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from linkseal.tunnels.redirect.program import CONTROL, Way
from linkseal.tunnels.statusparts import PlaintextCount, Reason
from linkseal.tunnels.world import Peer, PeerLinks

MALFORMED: Final = 0
UNKNOWN: Final = 1
UNPROVEN: Final = 2
BYPASS: Final = 3

REASONS: Final[dict[int, Reason]] = {
    MALFORMED: "unknown",
    UNKNOWN: "unknown",
    UNPROVEN: "unproven",
    BYPASS: "bypass",
}
"""What a report calls it: a frame too short for its IP header is of nobody known."""


class Drops(NamedTuple):
    """What one counter says."""

    packets: int
    bytes: int


def counts_of(counters: Mapping[tuple[Way, int], Drops]) -> tuple[PlaintextCount, ...]:
    """Return the counters as a report has them: those of one reason together, without empty ones and `verify`'s own."""
    found: dict[tuple[Way, Reason], Drops] = {}
    for (way, number), drops in sorted(counters.items()):
        if number == CONTROL:
            continue
        key = (way, REASONS.get(number, "unknown"))
        have = found.get(key, Drops(0, 0))
        found[key] = Drops(have.packets + drops.packets, have.bytes + drops.bytes)
    return tuple(
        PlaintextCount(way, reason, "dropped", drops.packets, drops.bytes)
        for (way, reason), drops in found.items()
        if drops.packets
    )


def reason_of(peer: Peer, links: PeerLinks | None) -> int:
    """Return the counter for plaintext to or from a peer."""
    if not peer.generations:
        return UNKNOWN
    return BYPASS if links is not None and links.current is not None else UNPROVEN
