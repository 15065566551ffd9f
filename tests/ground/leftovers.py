"""Processes that a suite left behind: what was forked by a test that was killed goes on, and holds its output open."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

SUITE = "LINKSEAL_SUITE"
"""Variable by which a suite's processes are known: children inherit it, forked or started."""


def left_behind(suite: str) -> list[int]:
    """Processes, this one not, that were started with `SUITE` set to this."""
    wanted = f"{SUITE}={suite}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has just ended, or is somebody else's
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def end(suite: str) -> int:
    """Kill what a suite left behind; returns how many that were."""
    ended = 0
    while left := left_behind(suite):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                ended += 1
    return ended
