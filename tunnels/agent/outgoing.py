"""What an agent writes into the directory: its announcement and its report, again until they are there.

A write is not waited for longer than a moment, since the loop heals the data path as well. One that fails after that is
told later, and what had been taken for written is not any more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.errors import DirectoryError
from linkseal.tunnels import codes
from linkseal.tunnels.agent.cadence import REFRESH, Cadence
from linkseal.tunnels.agent.clock import steady_now, unix_now
from linkseal.tunnels.agent.published import compare, published
from linkseal.tunnels.agent.retry import Retry
from linkseal.tunnels.agent.trouble import Trouble
from linkseal.tunnels.agent.worker import Worker
from linkseal.tunnels.directory.base import Directory, DirectoryView
from linkseal.tunnels.findings import HOST_SUBJECT
from linkseal.tunnels.status import NodeStatus, to_json

_LOG: Final = logging.getLogger("linkseal.agent")

PUBLISHING, REPORTING = "publishing", "reporting"

WRITTEN: Final = 0.03
"""Seconds until the turn after a publication: the pass has more to say then."""

InWorker = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs something in the worker's thread."""


class Outgoing:
    """Lives in the event loop. `late` is called when a write has failed whose answer was not waited for."""

    def __init__(
        self, worker: Worker, directory: Directory, trouble: Trouble, in_worker: InWorker, late: Callable[[], None]
    ) -> None:
        self._worker = worker
        self._directory = directory
        self._trouble = trouble
        self._in_worker = in_worker
        self._late = late
        self._node = worker.settings.node
        self._cadence = Cadence(worker.settings.status_interval)
        self._publishing, self._reporting = Retry(), Retry()
        self._lost: str | None = None
        """Why an announcement that was taken for published is not."""
        self.serial = 0
        """Of the announcement that the directory holds; 0: another than was signed last, or none."""

    async def compare(self, view: DirectoryView) -> float:
        """Have the announcement published again where the directory does not hold it."""
        self.serial = await self._in_worker(lambda: compare(self._worker, view, self.serial))
        return 0.0

    async def publish(self, signed: SignedAnnouncement | None) -> float:
        """Publish what is to be published; returns the seconds until it is worth another turn."""
        if self._lost is not None:
            lost, self._lost = self._lost, None
            await self._tell(lost)
        if signed is None:
            return REFRESH
        if paused := self._trouble.paused(PUBLISHING) or self._publishing.wait(steady_now()):
            return paused
        try:
            await self._directory.publish(self._node, signed, self._not_published)
        except DirectoryError as error:
            await self._tell(str(error))
            return self._publishing.failed(steady_now(), error.after)
        self.serial = await self._in_worker(lambda: published(self._worker, signed))
        return WRITTEN

    async def report(self, status: Callable[[float], NodeStatus]) -> float:
        """Write the report when it says something new, at most once in the interval; returns when to come back.

        `status` makes it, in the worker's thread, for a time in Unix seconds.
        """
        now, steady = unix_now(), steady_now()
        if paused := self._trouble.paused(REPORTING) or self._reporting.wait(steady) or self._cadence.early(steady):
            return paused
        found = await self._in_worker(lambda: status(now))
        if wait := self._cadence.wait(found, steady):
            return wait
        try:
            await self._directory.publish_status(self._node, to_json(self._node, found), self._not_reported)
        except DirectoryError as error:
            _LOG.debug("status not written: %s", error)
            return self._reporting.failed(steady_now(), error.after)
        self._cadence.written(found, steady)
        return REFRESH

    async def _tell(self, why: str) -> None:
        await self._in_worker(lambda: self._worker.findings.raise_(codes.NOT_PUBLISHED, HOST_SUBJECT, why, unix_now()))

    def _not_published(self, error: Exception) -> None:
        """It was taken for published. The look that `late` leads to finds that it is not there."""
        self._lost = str(error) or type(error).__name__
        self._publishing.failed(steady_now(), _after(error))
        self._late()

    def _not_reported(self, error: Exception) -> None:
        _LOG.debug("status not written after all: %s", error)
        self._cadence.lost()
        self._reporting.failed(steady_now(), _after(error))
        self._late()


def _after(error: Exception) -> float:
    return error.after if isinstance(error, DirectoryError) else 0.0
