"""The verifier in its agent: what it needs of the worker's state, and where its results go."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from linkseal.tunnels.agent.clock import steady_now, unix_now
from linkseal.tunnels.agent.prober import Picture
from linkseal.tunnels.agent.requests import RequestDesk
from linkseal.tunnels.agent.verifier import VERIFY_CODES, Results, Verifier, current_findings
from linkseal.tunnels.agent.worker import Worker
from linkseal.tunnels.model import LinkKey
from linkseal.tunnels.statusparts import Verification
from linkseal.tunnels.verify.agenda import Progress
from linkseal.wireguard.model import Endpoint


class Proofs:
    """`in_worker` runs something in the worker's thread; `wake` makes the agent report."""

    def __init__(
        self,
        worker: Worker,
        desk: RequestDesk,
        in_worker: Callable[[Callable[[], Any]], Awaitable[Any]],
        wake: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._desk = desk
        self._in_worker = in_worker
        self._wake = wake
        self._verifier = Verifier(self._roamed, self._told, steady_now, random.Random())  # noqa: S311 - a sample
        self.run = self._verifier.run
        self.close = self._verifier.close

    def show(self, picture: Picture) -> None:
        """Take the state after a pass, and what was asked for."""
        self._verifier.show(picture)
        self._verifier.ask(self._desk.verifications())

    def results(self) -> tuple[Verification, ...]:
        """The last result for each peer; for any thread."""
        return tuple(self._verifier.results.values())

    async def _roamed(self, key: LinkKey) -> Endpoint | None:
        record = await self._in_worker(lambda: self._worker.book.records.get(key))
        return None if record is None else record.endpoint

    async def _told(self, results: Results, progress: Progress | None) -> None:
        def enter() -> None:
            self._worker.findings.replace(VERIFY_CODES, current_findings(results), unix_now())
            if progress is not None:
                self._desk.verified(progress.request, progress.message, over=progress.over)

        await self._in_worker(enter)
        self._wake()
