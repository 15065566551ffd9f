"""What tables held when they were read last, good until the kernel's ruleset changes.

Two runs of nft a table family are most of a look at the host, and most looks find what the last one found. After a
transaction of ours the next look would find what it wrote: that is taken for granted, but not for long, and is read
then. A number that has risen by one says that there was one transaction, and not whose: another's may have come while
ours did nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final, Generic, TypeVar

from linkseal.tunnels.host.nfnetlink import generation

ValueT = TypeVar("ValueT")

GRANTED: Final = 2.0
"""Seconds for which what was written is taken for granted: the looks that follow at once, however much is written."""


class Remembered(Generic[ValueT]):
    """One reading. `interfaces`: names and numbers; chains and map elements go with them without a new generation."""

    def __init__(self) -> None:
        self._last: tuple[int, object, ValueT] | None = None
        self._until: float | None = None
        """Until when (monotonic) what was not read counts; None: it was read."""

    @property
    def is_granted(self) -> bool:
        """Whether what is remembered has not been read since it was written."""
        return self._until is not None

    def get(self, interfaces: object, read: Callable[[], ValueT]) -> ValueT:
        """Return what was read last if neither the kernel's ruleset nor `interfaces` has changed since, else read."""
        now = generation()  # before the reading: what changes meanwhile is read again next time
        if self._until is not None and monotonic() > self._until:
            self.forget()
        if now is not None and self._last is not None and self._last[:2] == (now, interfaces):
            return self._last[2]
        found = read()
        self.forget()
        self._last = None if now is None else (now, interfaces, found)
        return found

    def forget(self) -> None:
        """Have it read again."""
        self._last = self._until = None

    def becomes(self, before: int | None, after: int | None, change: Callable[[ValueT], ValueT | None]) -> None:
        """Take in that one transaction of ours was all that happened between two generations.

        `after` None: it was not, or nobody knows. `change` returns what the transaction made of what was there, None if
        that has to be read.
        """
        last = self._last
        if last is None or last[0] != before or after != last[0] + 1 or (made := change(last[2])) is None:
            self.forget()
            return
        self._last = (after, last[1], made)
        if self._until is None:
            self._until = monotonic() + GRANTED
