"""Keeps the boot unit on this host: at the start and, should somebody take it away, again; in a thread of its own.

No pass waits for it: it reads a hundred megabytes and tries what it made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels import codes
from linkseal.tunnels.agent.clock import unix_now
from linkseal.tunnels.agent.worker import Worker
from linkseal.tunnels.boot.install import install, stands
from linkseal.tunnels.findings import HOST_SUBJECT
from linkseal.tunnels.settings import AgentSettings, BootSettings, KubeDirectorySettings
from linkseal.tunnels.statusparts import BootStatus

_LOG: Final = logging.getLogger("linkseal.agent")

LOOK: Final = 300.0
"""Seconds between two looks whether the units are still there."""

FIRST: Final = 5.0
"""Seconds after the agent's start until it is installed: the tunnels come first."""

RETRY: Final = 60.0
"""Seconds until what failed is tried again."""

InWorker = Callable[[Callable[[], None]], Awaitable[None]]


def before(settings: AgentSettings) -> BootStatus:
    """Return what is said before the first attempt. A node of a Kubernetes cluster is always asked to have one."""
    if settings.boot is not None:
        return BootStatus("absent", "it has not been installed yet")
    if isinstance(settings.directory, KubeDirectorySettings):
        return BootStatus("absent", "the settings ask for none (`boot`; agent.bootUnit.enabled in the chart)")
    return BootStatus("notAsked")


class BootUnit:
    """One agent's. `run` for ever."""

    def __init__(self, worker: Worker, in_worker: InWorker) -> None:
        self._worker = worker
        self._in_worker = in_worker
        self._root: Path | None = None
        worker.boot = before(worker.settings)

    async def run(self) -> None:
        """Install, look, install again."""
        boot = self._worker.settings.boot
        if boot is None:
            await asyncio.get_running_loop().create_future()
            return
        await asyncio.sleep(FIRST)
        pool = ThreadPoolExecutor(1, "boot unit")
        try:
            while True:
                status = await asyncio.get_running_loop().run_in_executor(pool, self._look, boot)
                await self._in_worker(lambda status=status: self._tell(status))  # type: ignore[misc]
                await asyncio.sleep(LOOK if status.state == "installed" else RETRY)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _look(self, boot: BootSettings) -> BootStatus:
        """In a thread of its own."""
        settings = self._worker.settings
        try:
            if self._root is None or not stands(boot, self._root):
                self._root = None
                self._root = install(settings, boot)
        except HostError as error:
            return BootStatus("failed", str(error))
        return BootStatus("installed", root=self._root.name)

    def _tell(self, status: BootStatus) -> None:
        """In the worker's thread, whose reports say it."""
        worker = self._worker
        worker.boot = status
        if status.state == "installed":
            worker.findings.clear(codes.NO_BOOT_UNIT, HOST_SUBJECT)
        else:
            worker.findings.raise_(codes.NO_BOOT_UNIT, HOST_SUBJECT, status.reason, unix_now())
