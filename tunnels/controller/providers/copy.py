"""The chosen address provider's objects, kept by list-then-watch beside the other copies of a controller.

Where they cannot be read (no such kind, no right, no answer) all else goes on: nodes keep what they were granted, a new
node waits, and it is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from linkseal.tunnels.controller.nodefacts import NodeFacts
from linkseal.tunnels.controller.providers.base import Offered, Provider
from linkseal.tunnels.directory.kubeapi import KubeApi
from linkseal.tunnels.directory.mirror import Mirror


class ProviderCopy:
    """What one provider gives. `changed` is called when that may have changed, at most once in `settle` seconds."""

    def __init__(self, api: KubeApi, provider: Provider[Any], changed: Callable[[], None]) -> None:
        self._provider, self._changed = provider, changed
        self._due: asyncio.TimerHandle | None = None
        source = provider.source
        self._mirror: Mirror[Any] | None = None
        if source is not None:
            told = self._soon if source.settle else changed
            self._mirror = Mirror(api, source.path, source.parse, changed=told, query=source.query, namespaced=True)

    async def run(self) -> None:
        """Keep the copy until cancelled."""
        try:
            if self._mirror is not None:
                await self._mirror.run()
        finally:
            if self._due is not None:
                self._due.cancel()

    async def first(self, seconds: float) -> None:
        """Wait until the first try has succeeded or failed, at most this long."""
        if self._mirror is not None:
            await self._mirror.first(seconds)

    def offer(self, nodes: Mapping[str, NodeFacts]) -> Offered | None:
        """Return what nodes have; None while nothing has been read yet."""
        if self._mirror is None:
            return self._provider.offer(nodes, {})
        return self._provider.offer(nodes, dict(self._mirror.objects)) if self._mirror.lists else None

    @property
    def trouble(self) -> str | None:
        """Why what is given may be old."""
        trouble = None if self._mirror is None else self._mirror.trouble
        return trouble and f"the address provider {self._provider.name}: {trouble}; nodes keep what they were granted"

    def _soon(self) -> None:
        source = self._provider.source
        if self._due is None and source is not None:
            self._due = asyncio.get_running_loop().call_later(source.settle, self._settled)

    def _settled(self) -> None:
        self._due = None
        self._changed()
