"""Path MTU of the underlay to every peer, measured again and again at little cost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from linkseal.tunnels.probe.pmtu import path_mtu
from linkseal.tunnels.world import World, endpoint_of

PAUSE: Final = 300.0
"""Seconds between two rounds: half of what the kernel remembers a path MTU for (net.ipv4.route.mtu_expires, 600 s)."""
RETRY: Final = 30.0
"""Seconds until the next round after one in which some peer had no way (no route, the NIC down)."""
PACE: Final = 0.02
"""Seconds between two peers of a round: at most 50 datagrams a second."""


class PathMeter:
    """Measures each peer when it is new or its endpoint changed, and all of them every PAUSE."""

    def __init__(self, on_path: Callable[[str, int], None]) -> None:
        self._on_path = on_path
        self._world: World | None = None
        self._known: dict[str, tuple[str, int | None]] = {}
        """Peer → the host measured, and what was reported of it last; None: nothing, so the full size holds."""
        self._new = asyncio.Event()

    def set_world(self, world: World) -> None:
        """Take the present peers; one that left and comes back is measured and reported anew."""
        self._world = world
        for name in self._known.keys() - world.peers.keys():
            del self._known[name]
        if any(name not in self._known or self._known[name][0] != host for name, host, _ in self._endpoints()):
            self._new.set()

    async def run(self) -> None:
        """Measure for ever."""
        while True:
            self._new.clear()
            pause = PAUSE
            for name, host, port in self._endpoints():
                if not await self._measure(name, host, port):
                    pause = RETRY
                await asyncio.sleep(PACE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._new.wait()

    def _endpoints(self) -> list[tuple[str, str, int]]:
        world = self._world
        if world is None:
            return []
        found = ((name, endpoint_of(world, peer)) for name, peer in world.peers.items() if peer.generations)
        return [(name, endpoint.host, endpoint.port) for name, endpoint in found if endpoint is not None]

    async def _measure(self, name: str, host: str, port: int) -> bool:
        """Measure one peer and report what differs from what was reported; False: there is no way to it now."""
        world = self._world
        if world is None:
            return True
        mtu = await path_mtu(host, port, mark=world.layout.fwmark)
        if self._world is None or name not in self._world.peers:
            return True
        full = self._world.underlay.mtu
        reported = self._known[name][1] if name in self._known else None
        if mtu is None:  # silence says nothing about the path: what was known of it stays
            self._known[name] = (host, reported)
            return False
        value = min(mtu, full)
        if value != (full if reported is None else reported):
            self._on_path(name, value)
            reported = value
        self._known[name] = (host, reported)
        return True
