"""One family, one round: which probes are asked, and what their answers mean. No I/O, no clock.

    proven before?  no ──► SMALL ──► FULL ──► SOURCE ──► Passed
                            │ none     │ none    │ some missing
                    yes ──► FULL ─ none ─► SMALL …          each branch asks on until it knows why, then Failed

A round is a generator: it yields a volley of asks and is sent the answers there were; who drives it (ladder.py) sends,
waits and tries again. What was lost is told by asking on a way that differs in one thing only:

    SMALL lost   LOCAL  host to host             answered: packets cross, forwarding fails; not: nothing crosses
                 HALF   forwarded here only      answered: forwarding works here, so it fails at the peer
                 NAME   between probe addresses  answered: forwarding works, so a prefix is the matter; then either
                   first source → probe address      lost: the peer does not let our prefix in
                   probe address → peer's first      lost: we do not let the peer's in
    FULL lost    full there, small back          answered: the way back is narrow; not: the way there
                 bisection                       the largest that crosses
    SOURCE lost  NAME for each slot unanswered   tells the peer's address it would have come from
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from linkseal.tunnels.codes import MTU_HOLE, NOT_FORWARDED, NOTHING_CROSSES, PREFIX_NOT_CARRIED
from linkseal.tunnels.model import Family
from linkseal.tunnels.probe.outcomes import SMALLEST_FULL, Way
from linkseal.tunnels.probe.packet import PROBE_SLOT, SMALL_SIZE, Rung

SOURCES_PER_ROUND: Final = 16
"""Bounds a round to some twenty packets; a node with 100 prefixes has them all proven again in seven rounds."""

TRIES: Final = 5
"""With waits of 0.2, 0.4 … 3.2 s: 6.2 s in all, so that one lost handshake message (WireGuard repeats it after 5 s)
fails no round."""

DIAGNOSTIC_TRIES: Final = 3
"""1.4 s: the session was tried for 6.2 s just before, and an ordinary loss of 5 % on the way there and back fails all
three in one of 1,000."""

RESOLUTION: Final = 16
"""Bytes; WireGuard pads to 16, so that sizes closer than that are the same on the wire."""

_NAMED_AT_MOST: Final = 3


class Ask(NamedTuple):
    """One question. `source` and `slot` are numbers of addresses (ours, the peer's) or PROBE_SLOT."""

    family: Family
    rung: Rung
    source: int
    slot: int
    size: int
    reply_size: int


class Answer(NamedTuple):
    """What came back; as in `packet.Reply`, with the address it came from and the seconds it took."""

    source: str
    slot: int
    saw: str | None
    named: str | None
    uses: tuple[int, int] | None
    offers: int
    rtt: float


class Volley(NamedTuple):
    """Asks sent together, the unanswered ones again until `tries` are used up."""

    asks: tuple[Ask, ...]
    tries: int = TRIES


Answers = Mapping[Ask, Answer]


@dataclass(frozen=True, slots=True)
class Passed:
    """Everything asked of this family crossed."""

    size: int
    rtt: float
    uses: tuple[int, int] | None
    rewritten: frozenset[str]


@dataclass(frozen=True, slots=True)
class Failed:
    """Something did not; `detail` is a sentence without full stop."""

    code: str
    detail: str
    size: int | None = None


Verdict = Passed | Failed
Climb = Generator[Volley, Answers, Verdict]


@dataclass(frozen=True, slots=True)
class Round:
    """What a round of one family starts from. `turn` counts rounds: it picks which sources are proven this time."""

    peer: str
    family: Family
    way: Way
    turn: int
    proven: bool

    @property
    def first(self) -> int:
        """The source that goes first."""
        return 0 if self.way.sources else PROBE_SLOT

    def ask(self, rung: Rung, source: int, slot: int, size: int = SMALL_SIZE, reply: int | None = None) -> Ask:
        """Make an ask of this family; the reply as large as the request unless said."""
        return Ask(self.family, rung, source, slot, size, size if reply is None else reply)


def climb(round_: Round) -> Climb:
    """Prove one family once."""
    full = round_.ask(Rung.FULL, round_.first, 0, round_.way.full_size)
    answers: Answers = {}
    if round_.proven:  # on a link that worked a minute ago the full-size probe says all that the small one would
        answers = yield Volley((full,))
    if full not in answers:
        failed = yield from _prove_small(round_)
        if failed is not None:
            return failed
        answers = yield Volley((full,))
    if full not in answers:
        return (yield from _why_not_full(round_))
    return (yield from _prove_sources(round_, full, answers[full]))


def _prove_small(round_: Round) -> Generator[Volley, Answers, Failed | None]:
    small = Volley((round_.ask(Rung.SMALL, round_.first, 0),))
    if (yield small):
        return None
    failed = yield from _why_nothing(round_)
    if failed is None and not (yield small):  # it was repaired while we looked for the reason, or comes and goes
        return Failed(NOTHING_CROSSES, f"IPv{round_.family}: single packets cross to {round_.peer}, but not steadily")
    return failed


def _why_nothing(round_: Round) -> Generator[Volley, Answers, Failed | None]:
    """Find out why the small probe was lost; None if every part of its way works now."""
    local = round_.ask(Rung.LOCAL, PROBE_SLOT, PROBE_SLOT)
    half = round_.ask(Rung.HALF, PROBE_SLOT, PROBE_SLOT)
    name = round_.ask(Rung.NAME, PROBE_SLOT, 0)
    there = round_.ask(Rung.SMALL, round_.first, PROBE_SLOT)
    back = round_.ask(Rung.SMALL, PROBE_SLOT, 0)
    answers = yield Volley((local, half, name, there, back), DIAGNOSTIC_TRIES)
    peer, ip = round_.peer, f"IPv{round_.family}"
    if name in answers:
        lost = [_own_lost(round_, 0)] if there not in answers and round_.way.sources else []
        lost += [_peer_lost(round_, answers[name].named)] if back not in answers else []
        return Failed(PREFIX_NOT_CARRIED, f"{ip}: " + " and ".join(lost)) if lost else None
    if half in answers:
        where = f"those forwarded here reach {peer} itself, so look at the FORWARD policy at {peer} first"
        return Failed(NOT_FORWARDED, f"{ip}: packets between hosts cross, forwarded ones do not; {where}")
    if local in answers:
        where = f"neither does a packet forwarded here reach {peer} itself, so look at the FORWARD policy here first"
        return Failed(
            NOT_FORWARDED, f"{ip}: packets cross between this host and {peer}, forwarded ones do not; {where}"
        )
    return Failed(
        NOTHING_CROSSES, f"{ip}: there is a handshake with {peer}, but no packet crosses, not even host to host"
    )


def _why_not_full(round_: Round) -> Generator[Volley, Answers, Failed]:
    """Find which way is narrow and how wide it is; a size counts as crossing only there and back."""
    full = round_.way.full_size
    one_way = round_.ask(Rung.FULL, round_.first, 0, full, SMALL_SIZE)
    narrow = f"from {round_.peer} to here" if (yield Volley((one_way,), DIAGNOSTIC_TRIES)) else f"to {round_.peer}"
    crossed, lost, size = SMALL_SIZE, full, SMALLEST_FULL[round_.family]
    while size < lost:
        if (yield Volley((round_.ask(Rung.FULL, round_.first, 0, size),), DIAGNOSTIC_TRIES)):
            crossed = size
        else:
            lost = size
        if lost <= SMALLEST_FULL[round_.family] or lost - crossed <= RESOLUTION:
            break
        size = (crossed + lost) // 2
    detail = f"packets of {full} bytes do not cross {narrow}, the largest seen to cross has {crossed}"
    return Failed(MTU_HOLE, f"IPv{round_.family}: {detail}", crossed)


def _prove_sources(round_: Round, full: Ask, answer: Answer) -> Climb:
    """Prove the further protected addresses of both ends, at most SOURCES_PER_ROUND of them."""
    asks = tuple(_this_turn(round_, answer.offers))
    answers: Answers = (yield Volley(asks)) if asks else {}
    missing = [ask for ask in asks if ask not in answers]
    if missing:
        failed = yield from _why_not_sources(round_, missing)
        if failed is not None:
            return failed
    uses = [answer, *answers.values()][-1].uses
    rewritten = frozenset(_rewritten(round_, {full: answer, **answers}))
    return Passed(round_.way.full_size, answer.rtt, uses, rewritten)


def _this_turn(round_: Round, peer_count: int) -> Iterable[Ask]:
    pairs = [(own, 0) for own in range(1, len(round_.way.sources))]
    pairs += [(round_.first, theirs) for theirs in range(1, peer_count)]
    start = SOURCES_PER_ROUND * round_.turn % len(pairs) if len(pairs) > SOURCES_PER_ROUND else 0
    chosen = (pairs[start:] + pairs[:start])[:SOURCES_PER_ROUND]
    return (round_.ask(Rung.SOURCE, own, theirs) for own, theirs in chosen)


def _why_not_sources(round_: Round, missing: list[Ask]) -> Generator[Volley, Answers, Failed | None]:
    names = {slot: round_.ask(Rung.NAME, PROBE_SLOT, slot) for slot in {0, *(ask.slot for ask in missing)}}
    answers = yield Volley(tuple(names.values()), DIAGNOSTIC_TRIES)
    if names[0] not in answers:  # the link itself broke in the meantime
        unclear = Failed(
            NOTHING_CROSSES, f"IPv{round_.family}: the way to {round_.peer} broke while it was being proven"
        )
        return (yield from _why_nothing(round_)) or unclear
    lost = []
    for ask in missing:
        named = answers.get(names[ask.slot])
        lost.append(_peer_lost(round_, named and named.named) if ask.slot else _own_lost(round_, ask.source))
    more = f" and {len(lost) - _NAMED_AT_MOST} more" if len(lost) > _NAMED_AT_MOST else ""
    return Failed(PREFIX_NOT_CARRIED, f"IPv{round_.family}: " + " and ".join(lost[:_NAMED_AT_MOST]) + more)


def _own_lost(round_: Round, source: int) -> str:
    ours = round_.way.sources[source]
    return f"packets from {ours.prefix} (sent from {ours.address}) are not let in at {round_.peer}: AllowedIPs there"


def _peer_lost(round_: Round, address: str | None) -> str:
    return f"packets from {address or 'an address'} of {round_.peer} are not let in here: AllowedIPs here"


def _rewritten(round_: Round, answers: Answers) -> Iterable[str]:
    """Addresses that something on the way replaced by another."""
    for ask, answer in answers.items():
        if ask.source != PROBE_SLOT and answer.saw != (sent := round_.way.sources[ask.source].address):
            yield sent
        if answer.slot == ask.slot and answer.named is not None and answer.source != answer.named:
            yield answer.named
