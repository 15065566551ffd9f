"""When an agent's report is due: what is new soon, what is not every five minutes. No I/O; times are arguments.

Paces by a clock that never jumps, or a wall clock that was an hour ahead for a moment would keep reports back for an
hour; and a wall clock that stepped makes a report due, because the one that stands is dated wrong.
"""

from __future__ import annotations

import random
from typing import Final

from linkseal.tunnels.status import NodeStatus, significant

REFRESH: Final = 300.0
"""Seconds between two writes of an unchanged status (DESIGN 5), give or take a tenth."""

STEP: Final = 30.0
"""Seconds the wall clock must have stepped: half of what whoever reads a report lets clocks differ by."""


class Cadence:
    """Remembers what was written when; `interval`: seconds between two writes at least."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last: NodeStatus | None = None
        self._due = self._refresh = 0.0
        self._ahead = 0.0

    def early(self, steady: float) -> float:
        """Return the rest of the interval: till then no report need be made, for which the kernel is looked at."""
        return max(0.0, self._due - steady)

    def wait(self, status: NodeStatus, steady: float) -> float:
        """Return the seconds until `status` is to be written, 0.0 for now. It is dated by the wall clock."""
        stepped = abs(status.observed_at - steady - self._ahead) > STEP
        new = stepped or self._last is None or significant(status) != significant(self._last)
        if not new and steady < self._refresh:
            return self._refresh - steady
        return max(0.0, self._due - steady)

    def lost(self) -> None:
        """Note that what was written last never came there: it is due again."""
        self._last = None

    def written(self, status: NodeStatus, steady: float) -> None:
        """Note that it was written."""
        self._last, self._ahead = status, status.observed_at - steady
        self._due = steady + self._interval
        self._refresh = steady + REFRESH * random.uniform(0.9, 1.1)  # noqa: S311 - jitter
