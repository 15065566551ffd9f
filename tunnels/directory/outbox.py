"""Requests that may take long, for somebody who must not wait long: the agent's loop heals the data path as well."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

from linkseal.keys.errors import DirectoryError
from linkseal.tunnels.directory.base import Failed, unheard

PATIENCE: Final = 1.0
"""Seconds that whoever asks waits; then the request goes on alone."""


class Outbox:
    """At most one request of each kind is under way."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[Any]] = {}
        self._late: set[str] = set()
        """Kinds whose answer somebody still wants."""

    async def send(self, kind: str, request: Coroutine[Any, Any, Any], failed: Failed = unheard) -> Any:
        """Begin a request; return its answer, or None if it takes longer than a moment: it goes on alone then.

        While one of this kind is under way no other is begun: DirectoryError, try again later. Raises what the request
        raises, if that comes in time; `failed` is told of what comes later.
        """
        before = self._under_way.get(kind)
        if before is not None and not before.done():
            await asyncio.wait({before}, timeout=PATIENCE)
        if before is not None and not before.done():
            request.close()
            raise DirectoryError(f"the directory has not answered yet ({kind})")
        task = self._under_way[kind] = asyncio.ensure_future(request)
        await asyncio.wait({task}, timeout=PATIENCE)
        if task.done():
            return task.result()
        task.add_done_callback(partial(_ended_late, failed))
        return None

    async def ask(self, kind: str, request: Coroutine[Any, Any, Any]) -> Any:
        """As `send`, for what is asked again and again: an answer, or error, that came too late is the next call's."""
        before = self._under_way.get(kind)
        if before is None or kind not in self._late:
            answer = await self.send(kind, request)
            if not self._under_way[kind].done():
                self._late.add(kind)
            return answer
        request.close()
        await asyncio.wait({before}, timeout=PATIENCE)
        if not before.done():
            raise DirectoryError(f"the directory has not answered yet ({kind})")
        self._late.discard(kind)
        return before.result()

    async def close(self) -> None:
        """Break off what is under way."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        self._under_way.clear()
        self._late.clear()


def _ended_late(failed: Failed, task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if isinstance(error, Exception):
        failed(error)
