"""One CPU for each lab kernel.

A lab kernel is two host processes that hand over to each other by ptrace at every system call and page fault. Where the
scheduler puts them on different CPUs, each handover wakes an idle CPU; in a virtual machine that made page faults of
commands inside 12 times as slow.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PLACES: Final = 8
"""Lab kernels that are counted on each CPU."""


@contextlib.contextmanager
def on_one_cpu(locks: Path) -> Iterator[tuple[int, ...]]:
    """Confine the calling thread to one CPU while the context lasts; what is started in it stays there.

    Yields file descriptors to pass on: as long as a process has one open it counts, and the next takes the CPU that
    has fewest. There are none where all places are taken or the folder is read-only: then it is a CPU at random.
    """
    before = os.sched_getaffinity(0)
    cpu, lock = _take(locks, sorted(before))
    os.sched_setaffinity(0, {cpu})
    try:
        yield () if lock is None else (lock,)
    finally:
        os.sched_setaffinity(0, before)
        if lock is not None:
            os.close(lock)


def _take(locks: Path, cpus: list[int]) -> tuple[int, int | None]:
    """A CPU with a free place, with the lock on it; or any, without."""
    for place, cpu in itertools.product(range(PLACES), cpus):
        lock = None
        try:
            locks.mkdir(parents=True, exist_ok=True)
            lock = os.open(locks / f"{cpu}-{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if lock is not None:
                os.close(lock)
        else:
            return cpu, lock
    return random.choice(cpus), None  # noqa: S311 - spreads load, no secret
