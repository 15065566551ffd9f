"""When this node's guard was loaded for the first time ever: a new node may have sent plaintext before.

    STATE/first-guard.json   {"uid": …, "at": … or null, "unguarded": … or null}     Unix seconds; seconds

Written once for each UID of the node. A guard that is there already when nothing is recorded was loaded by an agent
that kept no record: when is not known, and is not guessed.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.keys.files import atomic_write, read_file
from linkseal.tunnels import codes
from linkseal.tunnels.findings import HOST_SUBJECT, ActiveFindings
from linkseal.tunnels.guard.model import Guard
from linkseal.tunnels.model import Stage
from linkseal.tunnels.statusparts import MAX_UNGUARDED
from pydantic import BaseModel, ConfigDict, ValidationError

_LOG: Final = logging.getLogger("linkseal.agent")
FILE: Final = "first-guard.json"


class First(BaseModel):
    """The content of the file. `at`: when, None: not known."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    uid: str
    at: float | None = None
    unguarded: int | None = None
    """Seconds from the node's registration to then, rounded up, of a node that joined a cluster at stage enforce. None:
    it did not, or the directory does not say when nodes were registered."""


class FirstGuard:
    """The record of one state directory."""

    def __init__(self, state_directory: Path, findings: ActiveFindings) -> None:
        self._path = state_directory / FILE
        self._findings = findings
        self._kept = self._read()
        self._saved = True
        self._absent = False
        """This process has seen that no guard was there."""

    def of(self, uid: str) -> First:
        """Return what is known of the node of this UID."""
        return self._kept if self._kept is not None and self._kept.uid == uid else First(uid=uid)

    def look(self, guard: Guard | None, uid: str, stage: Stage, registered: float | None, now: float) -> None:
        """Take in a pass's look at the kernel. `registered`: when the node was, Unix seconds, if that is known."""
        if self._kept is not None and self._kept.uid == uid:
            self._save(now)
        elif guard is None or guard.foreign:
            self._absent = True
        else:
            self._kept, self._saved = self._found(uid, stage, registered, now), False
            self._save(now)

    def _found(self, uid: str, stage: Stage, registered: float | None, now: float) -> First:
        waited: int | None = None
        if self._absent and stage is Stage.ENFORCE and registered is not None:
            waited = min(MAX_UNGUARDED, max(0, math.ceil(now - registered)))
            _LOG.info("the first guard of this node, %d s after it was registered", waited)
        return First(uid=uid, at=now if self._absent else None, unguarded=waited)

    def _save(self, now: float) -> None:
        if self._saved or self._kept is None:
            return
        try:
            atomic_write(self._path, self._kept.model_dump_json(indent=1).encode() + b"\n")
            self._saved = True
        except HostError as error:
            self._findings.raise_(codes.STATE_NOT_SAVED, HOST_SUBJECT, str(error), now)

    def _read(self) -> First | None:
        try:
            data = read_file(self._path)
            return None if data is None else First.model_validate(json.loads(data))
        except (HostError, ValidationError, ValueError) as error:
            _LOG.warning("%s cannot be used and is passed over: %s", self._path, type(error).__name__)
            return None
