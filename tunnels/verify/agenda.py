"""What is to be verified next: what was asked for first, then what is due by the schedule, then what failed lately.

No I/O; times are seconds of a clock that never jumps, and arguments, as is randomness.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from linkseal.tunnels.statusparts import WORST_RESULT, VerifyResult
from linkseal.tunnels.verify.chance import Chance

FIRST_AFTER: Final = 600.0
"""Seconds after a start within which the first sample is taken, however long the interval: an upgrade may break what
only `verify` sees."""

JITTER: Final = 0.1
"""Of an interval: nodes that start together drift apart."""

FIRST_RECHECK: Final = 60.0
LAST_RECHECK: Final = 3600.0
"""Seconds until a peer that was not proven is looked at again: doubled from the first to the last."""

MAX_RECHECKS: Final = 64
"""Peers: with more failing, something larger is wrong, and requests and samples must have their turn."""

MAX_TRIES: Final = 15
"""For a peer that says it is busy."""


class Task(NamedTuple):
    """One session to hold: `request` None: by schedule."""

    peer: str
    request: str | None = None
    not_before: float = 0.0
    tries: int = 0


class Progress(NamedTuple):
    """Of a request, for its answer."""

    request: str
    over: bool
    message: str


@dataclass(slots=True)
class _Asked:
    left: int
    total: int
    results: Counter[VerifyResult] = field(default_factory=Counter)


class Agenda:
    """One node's list of what to do."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._interval = 0.0
        self._sample = 0
        self._next: float | None = None
        self._queue: list[Task] = []
        self._asked: dict[str, _Asked] = {}
        self._rechecks: dict[str, tuple[float, float]] = {}
        """Peer → when, and the pause before that."""

    def policy(self, interval: float, sample: int, now: float) -> None:
        """Set how often and how many; interval 0: only what is asked for."""
        self._sample = sample
        if interval == self._interval:
            return
        self._interval = interval
        self._next = now + self._chance.uniform(0.1, 1.0) * min(interval, FIRST_AFTER) if interval else None
        if not interval:
            self._rechecks.clear()

    def ask(self, request: str, peers: Sequence[str]) -> Progress | None:
        """Take a request; its end at once if there is nobody to verify."""
        if not peers:
            return Progress(request, over=True, message="there is no other node to verify")
        self._asked[request] = _Asked(len(peers), len(peers))
        self._queue += [Task(peer, request) for peer in peers]
        return None

    def due(self, candidates: Callable[[], Collection[str]], now: float) -> float | None:
        """Return when there is something to do; None: never. `candidates`: asked for the peers to take a sample of."""
        if self._next is not None and now >= self._next:
            peers = sorted(candidates())
            chosen = self._chance.sample(peers, min(self._sample, len(peers)))
            waiting = {task.peer for task in self._queue}
            self._queue += [Task(peer) for peer in chosen if peer not in waiting]
            self._next = now + self._interval * self._chance.uniform(1 - JITTER, 1 + JITTER)
        times = [task.not_before for task in self._queue]
        times += [at for at, _ in self._rechecks.values()]
        times += [] if self._next is None else [self._next]
        return min(times, default=None)

    def take(self, now: float) -> Task | None:
        """Return what to do now and forget it; None: nothing."""
        ready = [task for task in self._queue if task.not_before <= now]
        if ready:
            task = next((task for task in ready if task.request is not None), ready[0])
            self._queue.remove(task)
            return task
        for peer, (at, pause) in sorted(self._rechecks.items(), key=lambda entry: entry[1]):
            if at <= now:
                self._rechecks[peer] = now + pause, pause  # should it not come to a result
                return Task(peer)
        return None

    def postpone(self, task: Task, until: float) -> bool:
        """Put back what the peer had no time for; False: often enough."""
        if task.tries + 1 >= MAX_TRIES:
            return False
        self._queue.append(task._replace(not_before=until, tries=task.tries + 1))
        return True

    def learned(self, peer: str, result: VerifyResult, now: float) -> None:
        """Take in a result."""
        known = self._rechecks.pop(peer, None)
        if result == "proven" or not self._interval or (known is None and len(self._rechecks) >= MAX_RECHECKS):
            return
        pause = FIRST_RECHECK if known is None else min(LAST_RECHECK, 2 * known[1])
        self._rechecks[peer] = now + pause, pause

    def forget(self, peer: str) -> None:
        """Look at a peer no more, unless it is asked for."""
        self._rechecks.pop(peer, None)

    def finished(self, task: Task, result: VerifyResult) -> Progress | None:
        """Return what the task's request is told, if it has one."""
        if task.request is None or task.request not in self._asked:
            return None
        asked = self._asked[task.request]
        asked.left -= 1
        asked.results[result] += 1
        if not asked.left:
            del self._asked[task.request]
        counts = ", ".join(f"{name} {asked.results[name]}" for name in reversed(WORST_RESULT))
        return Progress(task.request, not asked.left, f"{asked.total - asked.left} of {asked.total}: {counts}")
