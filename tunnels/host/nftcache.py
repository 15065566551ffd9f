"""What tables held when they were read last, good until the kernel's ruleset changes.

Two runs of nft a table family are most of a look at the host, and most looks find what the last one found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from linkseal.tunnels.host.nfnetlink import generation

ValueT = TypeVar("ValueT")


class Remembered(Generic[ValueT]):
    """One reading. `interfaces`: names and numbers; chains and map elements go with them without a new generation."""

    def __init__(self) -> None:
        self._last: tuple[int, object, ValueT] | None = None

    def get(self, interfaces: object, read: Callable[[], ValueT]) -> ValueT:
        """Return what was read last if neither the kernel's ruleset nor `interfaces` has changed since, else read."""
        now = generation()  # before the reading: what changes meanwhile is read again next time
        if now is not None and self._last is not None and self._last[:2] == (now, interfaces):
            return self._last[2]
        found = read()
        self._last = None if now is None else (now, interfaces, found)
        return found

    def outlasts(self, before: int | None, after: int | None) -> None:
        """Take in that one transaction of ours on other tables was all that happened between two generations."""
        if self._last is not None and before is not None and self._last[0] == before and after == before + 1:
            self._last = (after, *self._last[1:])
