"""Both ends of a session as state machines: no I/O, time is an argument, every message may be lost, late or doubled.

    source   ARMING ──ready──► CROSSING ──► SETTLING ──► ASKING ──enough, or the last round──► OVER
               │ no answer,       ▲                        │ something is missing
               │ unable           └────────────────────────┘
               └──► CROSSING, SETTLING alone: a leak is seen at the own end, whatever the peer does

    target   ARM ─► watch, ready      ASK ─► report      BYE, or LIFETIME after ARM ─► watch no more

A message of a session that is not known is ignored. All that a peer can make this node do is bounded: so many
sessions at a time, one from each peer, each LIFETIME long, and so many from each in a minute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, NamedTuple

from linkseal.tunnels.probe.bucket import TokenBucket
from linkseal.tunnels.verify.packet import Answer, Arm, Armed, Ask, Bye, End, Message, Report

LIFETIME: Final = 10.0
"""Seconds a capture lives at most, whatever is lost."""

DEADLINE: Final = 9.5
"""Seconds after which the source ends, so that it never asks a capture that has ended."""

ARM_WAITS: Final = (0.2, 0.4, 0.8, 1.6, 1.6)
"""Seconds between ARMs; the last is how long its answer is waited for. 4.6 s in all: longer than one lost handshake."""

ASK_WAITS: Final = (0.2, 0.4, 0.8)

VOLLEYS: Final = 3
"""Each canary is sent so often in a round, as is the control."""

SPACING: Final = 0.05
"""Seconds between them: apart, or a device would join them into one packet (UDP GRO)."""

SETTLE: Final = 0.3
"""Seconds for what may go a longer way than the tunnel to arrive, before a report counts."""

ROUNDS: Final = 3

MAX_SESSIONS: Final = 3
"""Captures for others at a time."""

PEER_BURST: Final = 6.0
PEER_RATE: Final = 0.1
"""Sessions a peer may have at once, and a second: one each 10 s leaves the rest to others."""

MAX_PEERS: Final = 16384
"""As many buckets as there can be nodes; past that all are forgotten."""

_REMEMBERED: Final = 64
"""Sessions that are over, so that a late ARM begins none anew."""


class Phase(Enum):
    """Of the source."""

    ARMING = auto()
    CROSSING = auto()
    SETTLING = auto()
    ASKING = auto()
    OVER = auto()


class Volley(NamedTuple):
    """Send every canary and the control once."""


Action = Message | Volley


class Source:
    """The end that begins. Call `tick` when `due`; do what it returns, in order.

    `enough` says of a peer's report whether nothing more can be learned by another round. `reachable` False: there is
    no way to the peer, so only this end is looked at.
    """

    def __init__(self, arm: Arm, now: float, enough: Callable[[End], bool], *, reachable: bool = True) -> None:
        self._arm = arm
        self._enough = enough
        self._ends = now + DEADLINE
        self._phase = Phase.ARMING if reachable else Phase.CROSSING
        self._tries = 0
        self._round = 1
        self.due = now
        self.answer: Armed | None = None
        self.report: End | None = None

    @property
    def over(self) -> bool:
        """Nothing more will be sent."""
        return self._phase is Phase.OVER

    @property
    def busy(self) -> bool:
        """The peer has no time now."""
        return self.answer is not None and self.answer.answer is Answer.BUSY

    @property
    def _alone(self) -> bool:
        return self.answer is None or self.answer.answer is not Answer.READY

    def tick(self, now: float) -> tuple[Action, ...]:
        """Return what is to be sent now."""
        if self.over or now < self.due:
            return ()
        if now >= self._ends:
            return self._end(now)
        match self._phase:
            case Phase.ARMING:
                return self._tick_arming(now)
            case Phase.CROSSING:
                return self._tick_crossing(now)
            case Phase.SETTLING:
                return self._end(now) if self._alone else self._to(Phase.ASKING, now)
            case _:
                return self._tick_asking(now)

    def receive(self, message: Message, now: float) -> tuple[Action, ...]:
        """Take in a message of this session; what does not fit the phase is ignored."""
        if message.session != self._arm.session:
            return ()
        if isinstance(message, Armed) and self._phase is Phase.ARMING:
            self.answer = message
            return self._end(now) if self.busy else self._to(Phase.CROSSING, now)
        if isinstance(message, Report) and self._phase is Phase.ASKING and message.number == self._round:
            self.report = message.end
            if self._round == ROUNDS or self._enough(message.end):
                return self._end(now)
            self._round += 1
            return self._to(Phase.CROSSING, now)
        return ()

    def _to(self, phase: Phase, due: float) -> tuple[Action, ...]:
        self._phase, self._tries, self.due = phase, 0, due
        return ()

    def _tick_arming(self, now: float) -> tuple[Action, ...]:
        if self._tries == len(ARM_WAITS):
            return self._to(Phase.CROSSING, now)
        self.due = now + ARM_WAITS[self._tries]
        self._tries += 1
        return (self._arm,)

    def _tick_crossing(self, now: float) -> tuple[Action, ...]:
        self._tries += 1
        if self._tries == VOLLEYS:
            self._to(Phase.SETTLING, now + SETTLE)
        else:
            self.due = now + SPACING
        return (Volley(),)

    def _tick_asking(self, now: float) -> tuple[Action, ...]:
        if self._tries == len(ASK_WAITS):
            return self._end(now)
        self.due = now + ASK_WAITS[self._tries]
        self._tries += 1
        return (Ask(self._arm.session, self._arm.node, self._round),)

    def _end(self, now: float) -> tuple[Action, ...]:
        self._to(Phase.OVER, now)
        return () if self.answer is None or self.busy else (Bye(self._arm.session, self._arm.node),)


class _Guest(NamedTuple):
    node: str
    ends: float


class Begin(NamedTuple):
    """Watch for this; what `opened` is told decides the answer."""

    arm: Arm


class Look(NamedTuple):
    """Report what was seen."""

    ask: Ask


class Stop(NamedTuple):
    """Watch no more."""

    session: bytes


Order = Begin | Look | Stop | Armed


class Target:
    """The end that is asked: whom it watches for. Orders are to be carried out in order."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._guests: dict[bytes, _Guest] = {}
        self._buckets: dict[str, TokenBucket] = {}
        self._past: deque[bytes] = deque(maxlen=_REMEMBERED)

    @property
    def due(self) -> float | None:
        """When the next capture must end; None: there is none."""
        return min((guest.ends for guest in self._guests.values()), default=None)

    def tick(self, now: float) -> tuple[Order, ...]:
        """Return what must end."""
        return tuple(self._stop(session) for session, guest in list(self._guests.items()) if now >= guest.ends)

    def receive(self, message: Message, now: float) -> tuple[Order, ...]:
        """Take in a message whose sender has been checked."""
        guest = self._guests.get(message.session)
        if isinstance(message, Arm):
            return self._arm(message, guest, now)
        if guest is None or guest.node != message.node:
            return ()
        if isinstance(message, Ask):
            return (Look(message),)
        return (self._stop(message.session),) if isinstance(message, Bye) else ()

    def failed(self, session: bytes) -> None:
        """Take in that there is no capture for this session."""
        self._guests.pop(session, None)

    def _arm(self, arm: Arm, guest: _Guest | None, now: float) -> tuple[Order, ...]:
        if guest is not None:
            return (Armed(arm.session, self._node, Answer.READY),) if guest.node == arm.node else ()
        if arm.session in self._past:
            return ()
        stopped = [self._stop(session) for session, other in list(self._guests.items()) if other.node == arm.node]
        if len(self._guests) >= MAX_SESSIONS or not self._bucket(arm.node, now).take(now):
            return (*stopped, Armed(arm.session, self._node, Answer.BUSY))
        self._guests[arm.session] = _Guest(arm.node, now + LIFETIME)
        return (*stopped, Begin(arm))

    def _stop(self, session: bytes) -> Stop:
        del self._guests[session]
        self._past.append(session)
        return Stop(session)

    def _bucket(self, node: str, now: float) -> TokenBucket:
        if node not in self._buckets:
            if len(self._buckets) >= MAX_PEERS:
                self._buckets.clear()
            self._buckets[node] = TokenBucket(PEER_RATE, PEER_BURST, now)
        return self._buckets[node]
