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
PACE: Final = 0.02
"""Seconds between two peers of a round: at most 50 datagrams a second."""


class PathMeter:
    """Measures each peer when it is new or its endpoint changed, and all of them every PAUSE."""

    def __init__(self, on_path: Callable[[str, int], None]) -> None:
        self._on_path = on_path
        self._world: World | None = None
        self._known: dict[str, tuple[str, int]] = {}
        self._new = asyncio.Event()

    def set_world(self, world: World) -> None:
        """Take the present peers."""
        self._world = world
        if any(name not in self._known or self._known[name][0] != host for name, host, _ in self._endpoints()):
            self._new.set()

    async def run(self) -> None:
        """Measure for ever."""
        while True:
            self._new.clear()
            for name, host, port in self._endpoints():
                await self._measure(name, host, port)
                await asyncio.sleep(PACE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self._new.wait()

    def _endpoints(self) -> list[tuple[str, str, int]]:
        world = self._world
        if world is None:
            return []
        found = ((name, endpoint_of(world, peer)) for name, peer in world.peers.items() if peer.generations)
        return [(name, endpoint.host, endpoint.port) for name, endpoint in found if endpoint is not None]

    async def _measure(self, name: str, host: str, port: int) -> None:
        world = self._world
        if world is None:
            return
        full = world.underlay.mtu
        mtu = await path_mtu(host, port, mark=world.layout.fwmark)
        known = self._known.get(name)
        value = full if mtu is None else min(mtu, full)
        self._known[name] = (host, value)
        if known is None and value == full:
            return
        if known is None or known[1] != value:
            self._on_path(name, value)
