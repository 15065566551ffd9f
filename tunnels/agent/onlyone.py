"""One agent on a host: a lock in its run directory, held as long as the process lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.agent.removal import LOCK

LOCK_SECONDS: Final = 3.0
"""How long who starts waits for the lock of an agent that is ending."""


class AgentRuns(HostError):  # noqa: N818 - for `restore` that is no failure
    """The lock of this host's agent is held."""


@contextlib.contextmanager
def only_one(run_directory: Path) -> Iterator[None]:
    """Hold the lock of this host's agent. HostError if another has it, and does not end in a moment."""
    try:
        run_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(run_directory / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"cannot use {run_directory}: {error.strerror}", errno=error.errno) from error
    try:
        if not _locked(file):
            raise AgentRuns(f"another agent runs on this host ({run_directory}/{LOCK} is held): stop it first")
        yield
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    """Take the lock, waiting a moment: a child of an agent that was just killed may not have begun its own program."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOCK_SECONDS / 50)
