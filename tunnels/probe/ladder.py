"""The state machine of one link: when a round of probes starts, when it is repeated, what its end means. No I/O.

    new ─ no handshake for 15 s ─► Diagnosis LS2001
     │ handshake
     ▼
    round ─ every family passed ─► Proof ─ after `interval` ─► round (a full-size probe a family, if all is well)
     │ a family failed
     ├─ never proven, or no longer: Diagnosis; again after 5, 10, 20, 40, 60, 60 … s
     └─ proven: silence; again after 5 and 10 s; the third failure in a row is Lost

Time and randomness are arguments. Asks leave only by `tick`, so that whoever drives the machine paces it by calling
later; `answer` only notes and makes the machine due. IPv4 and IPv6 climb side by side, each by the rules of climb.py.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from linkseal.tunnels.codes import NO_HANDSHAKE
from linkseal.tunnels.model import LinkKey
from linkseal.tunnels.probe.climb import Answer, Ask, Climb, Failed, Passed, Round, Verdict, Volley, climb
from linkseal.tunnels.probe.outcomes import Diagnosis, Lost, Outcome, Proof, Target

DEFAULT_INTERVAL: Final = 60.0
"""Seconds between rounds: at 5,000 links some 83 rounds a second, and a broken path is known within two minutes."""

HANDSHAKE_PATIENCE: Final = 15.0
"""Seconds: three of WireGuard's handshake retries (REKEY_TIMEOUT, whitepaper §6.1: 5 s)."""

FIRST_WAIT: Final = 0.2
"""Seconds until an ask is repeated, doubled each time: above the round trip of nearly all clusters, and late answers
count."""

LONGEST_FIRST_WAIT: Final = 2.0
"""Seconds: the first wait is twice the last round trip on slow paths, up to this."""

FIRST_PAUSE: Final = 5.0
"""Seconds from a failed round to the next, doubled each time."""

LONGEST_PAUSE: Final = 60.0
"""Seconds: a dead link costs as little as one that works."""

ROUNDS_UNTIL_LOST: Final = 3
"""One failed round is a flap, two a reload of somebody's firewall; three, about a minute, are a fault."""

NEVER: Final = float("inf")


class Beat(NamedTuple):
    """What a tick gave: asks to send now, and what came out, if a round ended."""

    asks: tuple[Ask, ...] = ()
    outcome: Outcome | None = None


class Ladder:
    """One link. Call `tick` when `due` (by the clock of `now`) has come."""

    __slots__ = ("_failures", "_interval", "_proven", "_rtt", "_runs", "_turn", "due", "key", "target")

    def __init__(self, key: LinkKey, target: Target, now: float, interval: float = DEFAULT_INTERVAL) -> None:
        self.key = key
        self.target = target
        self.due = now if target.handshake else now + HANDSHAKE_PATIENCE
        self._interval = interval
        self._proven = False
        self._failures = 0
        self._turn = 0
        self._rtt = 0.0
        self._runs: tuple[_Run, ...] = ()

    @property
    def climbing(self) -> bool:
        """Whether a round is under way."""
        return bool(self._runs)

    def retarget(self, target: Target, now: float) -> None:
        """Take another target: a new round at once, or, without handshake, patience; a proof stands until lost."""
        if target == self.target:
            return
        self.target = target
        if not self._proven:
            self._failures = 0
        self._runs = ()
        self.due = now if target.handshake else now + HANDSHAKE_PATIENCE

    def poke(self, now: float) -> None:
        """Start a round now instead of later, unless one is under way or there is no handshake."""
        if not self._runs and self.target.handshake:
            self.due = min(self.due, now)

    def restart(self, now: float) -> None:
        """Forget the round under way and begin it anew: what it sent may never have left."""
        if self._runs:
            self._runs = ()
            self.due = now

    def answer(self, ask: Ask, answer: Answer, now: float) -> None:
        """Take an answer; one nobody waits for (any more) is ignored."""
        for run in self._runs:
            if run.answer(ask, answer):
                self._rtt = answer.rtt
                if run.complete:
                    self.due = min(self.due, now)

    def tick(self, now: float, spread: float) -> Beat:
        """Do what is due. `spread` is random in [0, 1): it moves the next round by up to 10 % either way."""
        if now < self.due:
            return Beat()
        if not self._runs:
            if not self.target.handshake:
                reason = Failed(NO_HANDSHAKE, f"there is no handshake with {self.key.peer}")
                return Beat(outcome=self._end_failed([reason], now, spread))
            self._runs = tuple(self._begin())
        wait = min(max(FIRST_WAIT, 2 * self._rtt), LONGEST_FIRST_WAIT)
        asks = tuple(ask for run in self._runs for ask in run.tick(now, wait))
        self.due = min(run.due for run in self._runs)
        verdicts = [run.verdict for run in self._runs if run.verdict is not None]
        if len(verdicts) < len(self._runs):
            return Beat(asks)
        return Beat(asks, self._end(verdicts, now, spread))

    def _begin(self) -> list[_Run]:
        return [
            _Run(climb(Round(self.key.peer, family, way, self._turn, self._proven)))
            for family, way in sorted(self.target.ways.items())
        ]

    def _end(self, verdicts: list[Verdict], now: float, spread: float) -> Outcome | None:
        failed = [verdict for verdict in verdicts if isinstance(verdict, Failed)]
        if failed:
            return self._end_failed(failed, now, spread)
        passed = [verdict for verdict in verdicts if isinstance(verdict, Passed)]
        sizes = dict(zip(sorted(self.target.ways), (verdict.size for verdict in passed), strict=True))
        self._runs = ()
        self._proven = True
        self._failures = 0
        self._turn += 1
        self.due = now + self._interval * (0.9 + 0.2 * spread)
        rewritten = frozenset[str]().union(*(verdict.rewritten for verdict in passed))
        return Proof(self.key, now, sizes, max(verdict.rtt for verdict in passed), passed[-1].uses, rewritten)

    def _end_failed(self, failed: list[Failed], now: float, spread: float) -> Outcome | None:
        """One diagnosis a round: the most basic fault's code (the lowest), and what every family had to say."""
        self._runs = ()
        self._failures += 1
        pause = min(FIRST_PAUSE * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE)
        self.due = now + pause * (0.9 + 0.2 * spread)
        worst = min(failed, key=lambda one: one.code)
        size = min((one.size for one in failed if one.size is not None), default=None)
        diagnosis = Diagnosis(self.key, worst.code, "; ".join(one.detail for one in failed), size)
        if not self._proven:
            return diagnosis
        if self._failures < ROUNDS_UNTIL_LOST:
            return None
        self._proven = False
        return Lost(self.key, diagnosis)


class _Run:
    """Drives one climb: sends its volleys, repeats what is unanswered, hands the answers in."""

    __slots__ = ("_answers", "_climb", "_tries", "_volley", "due", "verdict")

    def __init__(self, climbing: Climb) -> None:
        self._climb = climbing
        self._volley: Volley = next(climbing)
        self._answers: dict[Ask, Answer] = {}
        self._tries = 0
        self.due = -NEVER
        self.verdict: Verdict | None = None

    @property
    def complete(self) -> bool:
        """Whether every ask of the volley is answered."""
        return len(self._answers) == len(self._volley.asks)

    def answer(self, ask: Ask, answer: Answer) -> bool:
        """Note an answer; False if this volley did not ask for it."""
        if self.verdict is not None or self._tries == 0 or ask not in self._volley.asks:
            return False
        self._answers.setdefault(ask, answer)
        return True

    def tick(self, now: float, wait: float) -> list[Ask]:
        """Go on as far as possible; return what is to be sent."""
        if self.complete or (now >= self.due and self._tries >= self._volley.tries):
            self._advance()
        if self.verdict is not None or now < self.due:
            return []
        self.due = now + wait * 2**self._tries
        self._tries += 1
        return [ask for ask in self._volley.asks if ask not in self._answers]

    def _advance(self) -> None:
        answers, self._answers, self._tries, self.due = self._answers, {}, 0, -NEVER
        try:
            self._volley = self._climb.send(answers)
        except StopIteration as end:
            self.verdict = end.value
            self.due = NEVER
