"""Answers probes of other nodes: pure, sockets and clock are the caller's.

A request is taken only from an address of the node it names (WireGuard has checked that the packet came from the node
that owns the address), so that nobody uses up another's replies. A reply goes only to a probe address that follows from
that node's index, never to where the request says it came from, is never larger than the request, and leaves at most
50 times a second for each node: nobody can make this node a reflector.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple

from linkseal.tunnels.addressing import ProbeRange
from linkseal.tunnels.model import Family
from linkseal.tunnels.probe.bucket import TokenBucket
from linkseal.tunnels.probe.packet import MAX_SOURCES, PROBE_SLOT, SMALL_SIZE, Datagram, Probe, Reply, Request, Rung

REPLIES_PER_SECOND: Final = 50.0
"""For each peer: a round asks at most some 40 (two families, 17 each, and their repetition)."""

MAX_BUCKETS: Final = 16384
"""As many as there can be nodes (`addressing.MAX_INDEX`); past that all are forgotten, for names that are gone."""


_PARITIES: Final = ((0, 0), (0, 1), (1, 0), (1, 1))


class Outgoing(NamedTuple):
    """A probe to be sent: `by_host` from an ordinary UDP socket, else injected at the probe device."""

    by_host: bool
    family: Family
    source: str
    destination: str
    size: int
    probe: Probe


class Responder:
    """One node's answers.

    `uses` tells by which generations (ours, the peer's) we send to that peer now, `peer_index` the index of its grant,
    None for a stranger, `owner` the addresses besides its probe addresses that its probes come from.
    """

    def __init__(
        self,
        node: str,
        index: int,
        ranges: ProbeRange,
        uses: Callable[[str], tuple[int, int] | None],
        peer_index: Callable[[str], int | None],
        owner: Callable[[str], Collection[str]],
    ) -> None:
        self._node = node
        self._index = index
        self._ranges = ranges
        self._uses = uses
        self._peer_index = peer_index
        self._owner = owner
        self._sources: Mapping[Family, tuple[str, ...]] = {}
        self._buckets: dict[str, TokenBucket] = {}

    def set_own_sources(self, sources: Mapping[Family, tuple[str, ...]]) -> None:
        """Set this node's protected addresses, to answer from."""
        self._sources = {family: addresses[:MAX_SOURCES] for family, addresses in sources.items()}

    def answer(self, datagram: Datagram, request: Request, now: float, *, by_host: bool) -> Outgoing | None:
        """Return the reply to a request that came in, or None if it deserves none."""
        family = datagram.family
        address = self._ranges.local if by_host else self._ranges.forwarded
        here = address(family, self._index, request.remote, request.own)
        if by_host != request.rung.answered_by_host or datagram.destination != here:
            return None
        index = self._peer_index(request.node)
        if index is None or not self._is_from(datagram, request.node, index):
            return None
        if datagram.size < SMALL_SIZE or not self._bucket(request.node, now).take(now):
            return None  # what is smaller than any probe would have a reply that does not fit
        own = self._sources.get(family, ())
        named = own[request.slot] if request.slot < len(own) else None
        from_slot = named is not None and request.rung is not Rung.NAME and not by_host
        reply = Reply(
            request.nonce,
            self._node,
            request.remote,
            request.own,
            request.rung,
            min(request.size, datagram.size),
            request.slot if from_slot else PROBE_SLOT,
            datagram.source,
            named,
            self._uses(request.node),
            len(own),
        )
        source = named if from_slot and named else here
        return Outgoing(by_host, family, source, address(family, index, request.own, request.remote), reply.size, reply)

    def _is_from(self, datagram: Datagram, node: str, index: int) -> bool:
        """Whether a probe of this node can come from there: from all its probe addresses, since masquerading picks."""
        probes = (
            address(datagram.family, index, own, remote)
            for address in (self._ranges.forwarded, self._ranges.local)
            for own, remote in _PARITIES
        )
        return datagram.source in probes or datagram.source in self._owner(node)

    def _bucket(self, node: str, now: float) -> TokenBucket:
        if node not in self._buckets:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.clear()
            self._buckets[node] = TokenBucket(REPLIES_PER_SECOND, REPLIES_PER_SECOND, now)
        return self._buckets[node]
