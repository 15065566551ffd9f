"""Keep the agent small, and what it holds its own: it runs on every node of the cluster.

The C library keeps freed pages and an arena for each thread; reading 1,000 documents leaves some MiB of both behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from typing import Final

BURST: Final = 100
"""Changed nodes in one look at the directory from which giving back pays."""

_M_ARENA_MAX: Final = -8  # malloc.h
_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


def one_arena() -> None:
    """Let all threads share one arena: there is one that works. Call before any is started."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def settle() -> None:
    """Collect garbage, and never look through what stays again.

    With a thousand nodes a collection of all takes as long as a pass, and came every few passes. Nodes that change or
    go are freed all the same: nothing of theirs refers to itself.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """As `settle`, and return free pages to the kernel; that does nothing where the C library has no malloc_trim."""
    settle()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def no_core() -> None:
    """Leave no core file, and let no other process of this user read our memory: it holds the seeds of keys.

    No failure where that is refused. Programs we start are as they were: exec makes them dumpable again.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
