"""Processes that a suite left behind: what was forked by a test that was killed goes on, and holds its output open."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

SUITE = "LINKSEAL_SUITE"
"""Variable by which a suite's processes are known: children inherit it, forked or started."""


GRACE_SECONDS = 2.0
"""For workers of pytest that clean up when it is interrupted."""

KILL_SECONDS = 10.0
"""After this a process that was killed hangs in the kernel."""


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
    """Kill what a suite left behind and what does not end by itself; returns how many that were."""
    deadline = time.monotonic() + GRACE_SECONDS
    while (left := left_behind(suite)) and time.monotonic() < deadline:
        time.sleep(0.05)
    ended: set[int] = set()
    deadline += KILL_SECONDS
    while left and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended.update(left)
        time.sleep(0.05)  # one that was killed is seen until the kernel has taken it apart
        left = left_behind(suite)
    return len(ended)
