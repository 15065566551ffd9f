"""What tables held when they were read last, good until the kernel's ruleset changes.

Two runs of nft a table family are most of a look at the host, and most looks find what the last one found. After a
transaction of ours the next look would find what it wrote: that is taken for granted, but not for long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from linkseal.tunnels.host.nfnetlink import generation

ValueT = TypeVar("ValueT")

GRANTED: Final = 2.0
"""Seconds for which what a transaction wrote is taken for granted: the looks that follow it at once, and no other."""


class Remembered(Generic[ValueT]):
    """One reading. `interfaces`: names and numbers; chains and map elements go with them without a new generation."""

    def __init__(self) -> None:
        self._last: tuple[int, object, ValueT] | None = None
        self._granted = 0.0
        """Until when (monotonic) it counts though it was not read; 0.0: it was."""

    def get(self, interfaces: object, read: Callable[[], ValueT]) -> ValueT:
        """Return what was read last if neither the kernel's ruleset nor `interfaces` has changed since, else read."""
        now = generation()  # before the reading: what changes meanwhile is read again next time
        if self._granted and time.monotonic() > self._granted:
            self._last = None
        if now is not None and self._last is not None and self._last[:2] == (now, interfaces):
            return self._last[2]
        found = read()
        self._granted = 0.0
        self._last = None if now is None else (now, interfaces, found)
        return found

    def outlasts(self, before: int | None, after: int | None) -> None:
        """Take in that one transaction of ours on other tables was all that happened between two generations."""
        if self._last is not None and before is not None and self._last[0] == before and after == before + 1:
            self._last = (after, *self._last[1:])

    def becomes(self, before: int | None, after: int | None, change: Callable[[ValueT], ValueT | None]) -> None:
        """Take in that one transaction of ours on these tables was all that happened between two generations.

        `change` returns what it made of what was there, None if that has to be read.
        """
        if self._last is None or before is None or self._last[0] != before or after != before + 1:
            return
        made = change(self._last[2])
        if made is not None:
            self._last = (after, self._last[1], made)
            self._granted = time.monotonic() + GRANTED
