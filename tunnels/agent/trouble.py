"""What goes wrong unforeseen: told once and now and then, tried again with growing pauses; it ends nothing.

The tunnels stand without the agent, so that an agent that goes on is always better than one that ends; but its log must
not fill a disk (law 8).
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from linkseal.keys.errors import LinksealError

_LOG: Final = logging.getLogger("linkseal.agent")

FIRST_RETRY: Final = 1.0
LAST_RETRY: Final = 60.0
"""Seconds until something that failed is tried again: doubled from the first to the last."""

FIRST_SILENCE: Final = 60.0
LONGEST_SILENCE: Final = 3600.0
"""Seconds in which the same complaint is not logged again: doubled from the first to the longest."""

MAX_COMPLAINTS: Final = 64
"""Distinct complaints that are remembered; then the oldest is forgotten."""

MAX_TEXT: Final = 500


class Pauses:
    """Seconds, each twice the one before, from the first to the last, until `reset`: by default 1, 2, 4 … 60."""

    def __init__(self, first: float | None = None, last: float | None = None) -> None:
        self._bounds = first or FIRST_RETRY, last or LAST_RETRY
        self._last = 0.0

    def next(self) -> float:
        """The next pause."""
        first, last = self._bounds
        self._last = min(last, max(first, 2 * self._last))
        return self._last

    def reset(self) -> None:
        """It went well: begin again."""
        self._last = 0.0


@dataclass(slots=True)
class _Told:
    at: float
    silence: float


class Trouble:
    """Tells and paces. `clock` in seconds that never jump. For one thread: the event loop's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told: dict[str, _Told] = {}
        self._pauses: dict[str, Pauses] = {}
        self._due: dict[str, float] = {}

    def failed(self, what: str, error: BaseException) -> float:
        """Tell that `what` failed; returns the seconds until it is to be tried again."""
        pause = self._pauses.setdefault(what, Pauses()).next()
        self._due[what] = self._clock() + pause
        if isinstance(error, LinksealError):
            self.warn(f"{what} failed and is tried again: {error}")
        elif self._is_new(f"{what}: {_place(error)}"):
            _LOG.error("%s failed by a bug of Linkseal and is tried again", what, exc_info=error)
        return pause

    def over(self, what: str) -> None:
        """Tell that `what` went well."""
        self._pauses.pop(what, None)
        self._due.pop(what, None)

    def paused(self, what: str) -> float:
        """Seconds for which this is not to be tried, because it failed; 0.0: it may be."""
        return max(0.0, self._due.get(what, 0.0) - self._clock())

    async def guard(self, what: str, work: Awaitable[float]) -> float:
        """Await what returns the seconds until it is wanted again; a failure is told, and is a pause."""
        try:
            again = await work
        except Exception as error:  # noqa: BLE001 - whatever it is, the agent goes on
            return self.failed(what, error)
        if not self.paused(what):
            self.over(what)
        return again

    def warn(self, text: str) -> None:
        """Log a line, unless it was logged not long ago."""
        text = text[:MAX_TEXT]
        if self._is_new(text):
            _LOG.error("%s", text)

    async def keep(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run what should run for ever, again whenever it ends."""
        while True:
            began = self._clock()
            try:
                await work()
                pause = FIRST_RETRY
            except Exception as error:  # noqa: BLE001 - whatever it is, it must run
                if self._clock() - began > LAST_RETRY:
                    self.over(what)
                pause = self.failed(what, error)
            await asyncio.sleep(pause)

    def _is_new(self, complaint: str) -> bool:
        now = self._clock()
        told = self._told.get(complaint)
        if told is not None and now - told.at < told.silence:
            return False
        silence = FIRST_SILENCE if told is None else min(LONGEST_SILENCE, 2 * told.silence)
        self._told.pop(complaint, None)
        if len(self._told) >= MAX_COMPLAINTS:
            del self._told[next(iter(self._told))]
        self._told[complaint] = _Told(now, silence)
        return True


def _place(error: BaseException) -> str:
    """Type and line of an exception: the same bug has the same."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__} {where}"


class Alarms:
    """Calls something later, for several purposes; asked for one of them again, at the earliest time, once."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._handles: dict[str, asyncio.TimerHandle] = {}

    def within(self, purpose: str, seconds: float) -> None:
        """Ring in `seconds` at the latest; 0.0: there is nothing to ring for."""
        if not seconds:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        known = self._handles.get(purpose)
        if known is not None:
            if known.when() <= at:
                return
            known.cancel()
        self._handles[purpose] = loop.call_at(at, self._now, purpose)

    def cancel(self) -> None:
        """Do not ring."""
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()

    def _now(self, purpose: str) -> None:
        del self._handles[purpose]
        self._ring()
