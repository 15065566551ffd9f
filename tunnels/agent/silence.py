"""Peers whose agent has not reported for long: asked only about those whose links are in trouble.

A link without handshake, or on which nothing answers, may mean a firewall or an agent that is gone: its report tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from linkseal.keys.errors import DirectoryError, PeerError
from linkseal.tunnels import codes
from linkseal.tunnels.agent.worker import Worker, unix_now
from linkseal.tunnels.cluster import STALE_AFTER
from linkseal.tunnels.directory.base import Directory
from linkseal.tunnels.links import LinkBook
from linkseal.tunnels.status import parse_report

LOOK_EVERY: Final = 60.0
"""Seconds: a report may be 15 minutes old before it says nothing."""

AT_ONCE: Final = 20
"""Reports read in one look; of more peers in trouble, others come next time."""

_UNANSWERED: Final = frozenset({codes.NO_HANDSHAKE, codes.NOTHING_CROSSES})

InWorker = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs something in the worker's thread."""


def in_trouble(book: LinkBook) -> list[str]:
    """Return the peers from which nothing comes by some link, by name."""
    return sorted({key.peer for key, record in book.records.items() if record.code in _UNANSWERED})


def silent(report: str | None, peer: str, now: float) -> str | None:
    """Return since when a peer's agent is silent, as its last `report` says; None: it is not, or nobody knows."""
    if report is None:
        return "it has never reported"
    try:
        status = parse_report(report, peer).status
    except PeerError:
        return None
    if status is None:
        return "it has never reported"
    age = now - status.observed_at
    return f"its last report is {age / 60:.0f} minutes old" if age > STALE_AFTER else None


class Silence:
    """Looks now and then; lives in the event loop."""

    def __init__(self, worker: Worker, directory: Directory, in_worker: InWorker) -> None:
        self._worker = worker
        self._directory = directory
        self._in_worker = in_worker
        self._known: dict[str, str] = {}
        self._next = 0

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self.look()

    async def look(self) -> None:
        """Read the reports of some peers in trouble and say whose agent is silent."""
        if self._worker.knowledge.abroad:
            return  # reports there are by other policies, and say nothing of peers
        names: list[str] = await self._in_worker(lambda: in_trouble(self._worker.book))
        self._known = {name: reason for name, reason in self._known.items() if name in names}
        start = self._next if self._next < len(names) else 0
        self._next = start + AT_ONCE
        for name in names[start : self._next]:
            try:
                reason = silent(await self._directory.report(name), name, unix_now())
            except DirectoryError:
                break  # what cannot be read is told by others, and says nothing about a peer
            self._known.pop(name, None)
            if reason is not None:
                self._known[name] = reason
        found = {(codes.AGENT_SILENT, name): reason for name, reason in self._known.items()}
        await self._in_worker(lambda: self._worker.findings.replace({codes.AGENT_SILENT}, found, unix_now()))
