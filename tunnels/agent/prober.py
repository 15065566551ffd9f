"""The probe engine as the agent needs it: made when there is a world, made anew when its settings change.

It answers peers from an immutable picture of the last pass, never from what the worker's thread is changing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Final

from linkseal.tunnels.agent.targets import sources_of
from linkseal.tunnels.model import LinkKey
from linkseal.tunnels.plan import protected
from linkseal.tunnels.policy import VerifyPolicy
from linkseal.tunnels.probe.engine import ProbeEngine, ProbeSettings
from linkseal.tunnels.probe.outcomes import Outcome, Target
from linkseal.tunnels.world import Peer, World

POKE_EVERY: Final = 1.0
"""Seconds between two requests for the replies that a rotation waits for."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What the loop may know of the worker's state: taken in the worker's thread, changed by nobody."""

    world: World
    uses: Mapping[str, tuple[int, int]]
    """Peer → pair of generations (ours, the peer's) that carries our traffic to it."""
    interval: float = 60.0
    """Seconds between the probes of a proven link."""
    targets: Mapping[LinkKey, Target] = field(default_factory=dict)
    poke: Sequence[LinkKey] = ()
    nics: tuple[str, ...] = ()
    """Interfaces with this node's granted addresses, and the one that carries the tunnels."""
    verify: VerifyPolicy = field(default_factory=VerifyPolicy)


class Prober:
    """Owned by the event loop. `clock` in seconds that never jump."""

    def __init__(self, on_outcome: Callable[[Outcome], None], clock: Callable[[], float]) -> None:
        self._on_outcome = on_outcome
        self._clock = clock
        self._engine: ProbeEngine | None = None
        self._settings: ProbeSettings | None = None
        self._picture: Picture | None = None
        self._origins: dict[str, tuple[Peer, frozenset[str]]] = {}
        self._poke_due = 0.0

    def show(self, picture: Picture) -> None:
        """Take the state after a pass. HostError: the sockets cannot be had now, so that nothing is proven."""
        world, before = picture.world, self._picture
        self._picture = picture
        if before is None or before.world.layout.scope is not world.layout.scope:
            self._origins.clear()
        for name in self._origins.keys() - world.peers.keys():
            del self._origins[name]
        engine = self._running(picture)
        mine = sources_of(protected(world.layout.scope, world.me.addresses, world.me.prefixes))
        engine.set_own_sources({family: tuple(s.address for s in found) for family, found in mine.items()})
        engine.set_targets(picture.targets)
        now = self._clock()
        if picture.poke and now >= self._poke_due:  # every proof wakes a pass: without a pause they would chase us
            self._poke_due = now + POKE_EVERY
            for key in picture.poke:
                engine.poke(key)

    def close(self) -> None:
        """Probe and answer no more."""
        if self._engine is not None:
            self._engine.close()
        self._engine = self._settings = None

    def _running(self, picture: Picture) -> ProbeEngine:
        me, layout = picture.world.me, picture.world.layout
        settings = ProbeSettings(me.name, me.index, layout.probe, layout.probe_port, picture.interval)
        if self._engine is not None and settings == self._settings:
            return self._engine
        self.close()
        engine = ProbeEngine(settings, self._on_outcome, self._uses, self._peer_index, self._origins_of)
        engine.start()
        self._engine, self._settings = engine, settings
        return engine

    def _uses(self, peer: str) -> tuple[int, int] | None:
        return None if self._picture is None else self._picture.uses.get(peer)

    def _peer_index(self, name: str) -> int | None:
        peer = self._peer(name)
        return None if peer is None else peer.index

    def _peer(self, name: str) -> Peer | None:
        return None if self._picture is None else self._picture.world.peers.get(name)

    def _origins_of(self, name: str) -> frozenset[str]:
        peer = self._peer(name)
        if peer is None or self._picture is None:
            return frozenset()
        known = self._origins.get(name)
        if known is None or known[0] != peer:
            known = self._origins[name] = peer, origins(self._picture.world, peer)
        return known[1]


def origins(world: World, peer: Peer) -> frozenset[str]:
    """Addresses besides its probe addresses that a peer's probes come from.

    Those it proves its prefixes with, and those that masquerading at its door may put in their place.
    """
    proving = sources_of(protected(world.layout.scope, peer.addresses, peer.prefixes)).values()
    door = (str(ip_network(prefix).network_address) for prefix in peer.prefixes)
    return frozenset((*(source.address for found in proving for source in found), *door, *peer.addresses))


def latest(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The last of each kind for each link, in their order: all that counts, and bounded."""
    found: dict[tuple[LinkKey, type], Outcome] = {}
    for outcome in outcomes:
        key = (outcome.key, type(outcome))
        found.pop(key, None)
        found[key] = outcome
    return list(found.values())
