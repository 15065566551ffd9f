"""The two clocks of the agent: the wall's, in which documents are dated, and one that never jumps.

WireGuard's kernel dates handshakes by the wall clock; how long something has lasted is measured by the steady one.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

_STEADY: Final = time.time() - time.monotonic()


def unix_now() -> float:
    """The clock of jobs."""
    return time.time()


def steady_now() -> float:
    """A clock that reads as `unix_now` did when this process started, and never jumps."""
    return time.monotonic() + _STEADY


def utc(seconds: float) -> datetime:
    """Unix seconds as a datetime."""
    return datetime.fromtimestamp(seconds, UTC)
