"""What else of this host a report must say: connections that a move would reset, and what no tunnel covers.

In the worker's thread. Counting connections is paced: it may cost a fiftieth of the time, and less when nobody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

from linkseal.keys.values import Prefix
from linkseal.tunnels.agent.clock import steady_now
from linkseal.tunnels.agent.worker import Worker
from linkseal.tunnels.host.conntrack import masqueraded
from linkseal.tunnels.host.multicast import groups
from linkseal.tunnels.model import Stage
from linkseal.tunnels.plan import protected
from linkseal.tunnels.statusparts import GuardStatus
from linkseal.tunnels.uncovered import uncovered
from linkseal.tunnels.world import World

EVERY: Final = 30.0
"""Seconds between two counts nobody asked for."""

PACE: Final = 50.0
"""A count that took t seconds is not repeated before this many times t."""


class Surroundings:
    """Remembers its last count."""

    def __init__(self, count: Callable[[Iterable[Prefix]], int | None] = masqueraded) -> None:
        self._count = count
        self._last: int | None = None
        self._at: float | None = None
        """When it was counted last; None: never."""
        self._took = 0.0

    def added(self, guard: GuardStatus, worker: Worker, *, fresh: bool) -> GuardStatus:
        """Return `guard` with the connections counted and what is not covered. `fresh`: somebody asks."""
        world = worker.world
        if world is None:
            return guard
        lines = uncovered(worker.observed, world.underlay.interface, groups())
        return replace(guard, masqueraded=self._masqueraded(world, fresh=fresh), uncovered=lines)

    def _masqueraded(self, world: World, *, fresh: bool) -> int | None:
        """Return the count; None where there is nothing to announce any more, or it cannot be counted."""
        if world.layout.stage is Stage.ENFORCE:
            return None
        began = steady_now()
        pause = max(0.0 if fresh else EVERY, PACE * self._took)
        if self._at is None or began - self._at >= pause:
            self._last = self._count(_prefixes(world))
            self._at = steady_now()
            self._took = self._at - began
        return self._last


def _prefixes(world: World) -> Iterator[Prefix]:
    for peer in world.peers.values():
        yield from protected(world.layout.scope, peer.addresses, peer.prefixes)
