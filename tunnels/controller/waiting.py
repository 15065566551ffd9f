"""How controllers wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

Item = TypeVar("Item")

TURN: Final = 50
"""Nodes between two turns of the event loop: to check a node's signatures takes one to three milliseconds."""


async def in_turns(items: Iterable[Item]) -> AsyncIterator[Item]:
    """Yield the items, and let others work in between: with thousands of nodes the Lease would run out meanwhile."""
    for number, item in enumerate(items, 1):
        yield item
        if number % TURN == 0:
            await asyncio.sleep(0)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for `stop`, at most `seconds`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
