"""When a write that the directory refused or lost is tried again: pauses that grow, with jitter. Times are arguments.

All agents fail at once where the API server is away or overloaded, and must not all come back at once, or ever faster
than it wants. That a write went well is not always known: its answer may be late. So it is time that forgets failures.
"""

from __future__ import annotations

import random
from typing import Final

FIRST: Final = 2.0
LAST: Final = 30.0
"""Seconds: the bound of the pause is doubled from the first to the last; at least half of it is waited."""

FORGIVEN: Final = 60.0
"""Seconds without another failure after a pause, until the next one is the first again: a request takes 20 at most."""


class Retry:
    """For one kind of write."""

    def __init__(self) -> None:
        self._bound = 0.0
        self._due = 0.0

    def wait(self, now: float) -> float:
        """Seconds until it may be tried, 0.0 for now."""
        return max(0.0, self._due - now)

    def failed(self, now: float, after: float = 0.0) -> float:
        """Note a failure; returns the seconds until the next try. `after`: what the directory asks for, in seconds."""
        again = now - self._due <= FORGIVEN
        self._bound = min(LAST, 2 * self._bound) if again and self._bound else FIRST
        pause = after + self._bound * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._due = now + pause
        return pause
