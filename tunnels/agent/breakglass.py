"""Break-glass: the operator of this host lifts the guard, until it is ended or its time is over.

    STATE/break-glass.json   {"reason": …, "since": …, "until": … or null, "by": …}     times in Unix seconds

The file is the switch: the agent, `agent restore` and the command read it. One that cannot be read lifts nothing.
"""

from __future__ import annotations

import getpass
import json
import logging
from pathlib import Path
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.keys.files import atomic_write, erase_file, read_file
from pydantic import BaseModel, ConfigDict, Field, ValidationError

_LOG: Final = logging.getLogger("linkseal.agent")
FILE: Final = "break-glass.json"


class Broken(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    reason: str = Field(min_length=1, max_length=300)
    since: float
    until: float | None = None
    by: str = Field(default="", max_length=100)

    def holds(self, now: float) -> bool:
        """Whether it is in force at `now`; its beginning does not matter, as clocks step."""
        return self.until is None or now < self.until


class BreakGlass:
    """The file of one state directory."""

    def __init__(self, state_directory: Path) -> None:
        self._path = state_directory / FILE
        self._told: Broken | None = None

    def in_force(self, now: float) -> Broken | None:
        """What lifts the guard now, and why; None: nothing. Each change is told in the log."""
        found = self._read()
        if found is not None and not found.holds(now):
            found = None
        if found != self._told:
            if found is None:
                _LOG.warning("break-glass is over: the guard closes again")
            else:
                _LOG.error("break-glass is in force, the guard is lifted: %s (%s)", found.reason, found.by)
            self._told = found
        return found

    def begin(self, reason: str, now: float, seconds: float | None) -> None:
        """Lift the guard. HostError if the disk refuses, ValueError for an empty or too long reason."""
        broken = Broken(reason=reason, since=now, until=None if seconds is None else now + seconds, by=_who())
        atomic_write(self._path, broken.model_dump_json(indent=1).encode() + b"\n")

    def end(self) -> bool:
        """Let the guard close; whether it had been lifted. HostError."""
        there = self._path.exists()
        erase_file(self._path)
        return there

    def _read(self) -> Broken | None:
        try:
            data = read_file(self._path)
            return None if data is None else Broken.model_validate(json.loads(data))
        except (HostError, ValidationError, ValueError) as error:
            _LOG.warning("%s cannot be used, so it lifts nothing: %s", self._path, type(error).__name__)
            return None


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
