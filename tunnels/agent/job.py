"""What a pass of the agent starts from, and what it comes to. Values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from linkseal.keys.announcement import SignedAnnouncement
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.host.host import ALL, Aspect, Failure
from linkseal.tunnels.model import LinkKey, Step
from linkseal.tunnels.probe.outcomes import Outcome, Target


@dataclass(frozen=True, slots=True)
class Job:
    """What a pass starts from. `now` in Unix seconds."""

    now: float
    aspects: frozenset[Aspect] = ALL
    view: DirectoryView | None = None
    """None: the directory has not changed."""
    outcomes: Sequence[Outcome] = ()
    path_mtus: Mapping[str, int] = field(default_factory=dict)
    steady: float | None = None
    """The same instant by a clock that never jumps; None: `now`."""
    speak: bool = True
    """Whether generations may be raised and retired, and announcements signed: not in `agent restore`."""
    yields: Callable[[], bool] = bool
    """Whether something more urgent has come up: a pass that has found the host as it should be ends there."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a pass came to."""

    steps: tuple[Step, ...] = ()
    failures: tuple[Failure, ...] = ()
    targets: Mapping[LinkKey, Target] = field(default_factory=dict)
    poke: tuple[LinkKey, ...] = ()
    """Links to prove again now: a rotation waits for their replies."""
    publish: SignedAnnouncement | None = None
    again: frozenset[Aspect] = frozenset()
    """What the pass touched and nobody reports: to be looked at once more."""
    wake_in: float = 60.0
    """Seconds until the next pass at the latest."""
    yielded: bool = False
    """It found the host as it should be, which the next pass need not look at again, and ended there."""
