"""What the evidence of both ends comes to. No I/O.

    leaked        a canary was seen in clear on the underlay, at either end, whatever else is missing
    blind         an end that answers did not see the control, lost frames, watched nothing, or saw no ciphertext
                  although the canaries crossed
    unreachable   the peer did not answer, or a canary did not arrive
    proven        none of these: nothing in clear at either end, by captures that were shown to see

What is not known is never proven (law 9): every clause asks for evidence that is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from linkseal.tunnels.statusparts import VerifyResult
from linkseal.tunnels.verify.frames import Place
from linkseal.tunnels.verify.packet import End, Seen

_NAMED: Final = 3


class Way(NamedTuple):
    """A canary's way: where it is to arrive, and what to call it in a message."""

    arrives: Place
    text: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All there is of a session. `own` None: this node has no capture. `far` None: the peer has not reported."""

    source: str
    target: str
    ways: Sequence[Way]
    own: End | None
    far: End | None
    trouble: str = ""
    """Why there is no capture, or no report, as far as it is known."""
    unable: bool = False
    """The peer answered that it has no capture."""


class Verdict(NamedTuple):
    """A result and what it rests on; `ciphertext` is the lesser of both ends' counts."""

    result: VerifyResult
    message: str
    ciphertext: int = 0


def judge(evidence: Evidence) -> Verdict:
    """Return what is proven by a session."""
    for look in (_leaked, _blind_here, _silent, _blind_there, _lost, _no_ciphertext):
        found = look(evidence)
        if found is not None:
            return found
    return Verdict("proven", "", _ciphertext(evidence.own, evidence.far))


def _leaked(evidence: Evidence) -> Verdict | None:
    leaks = list(_leaks(evidence))
    if not leaks:
        return None
    return Verdict("leaked", f"seen in clear: {_some(leaks)}", _ciphertext(evidence.own, evidence.far))


def _blind_here(evidence: Evidence) -> Verdict | None:
    if evidence.own is None:
        return Verdict("blind", f"{evidence.source} has no capture: {evidence.trouble or 'it could not be opened'}")
    return _blind(evidence.source, evidence.own)


def _silent(evidence: Evidence) -> Verdict | None:
    if evidence.far is not None:
        return None
    if evidence.unable:
        return Verdict("blind", f"{evidence.target} has no capture: {evidence.trouble}")
    return Verdict("unreachable", evidence.trouble or f"{evidence.target} did not answer through the tunnel")


def _blind_there(evidence: Evidence) -> Verdict | None:
    assert evidence.far is not None
    if not evidence.ways or len(evidence.far.canaries) != len(evidence.ways):
        return Verdict("blind", f"{evidence.target} does not report on the {len(evidence.ways)} canaries sent")
    return _blind(evidence.target, evidence.far)


def _lost(evidence: Evidence) -> Verdict | None:
    assert evidence.far is not None
    ways = zip(evidence.ways, evidence.far.canaries, strict=True)
    missing = [way.text for way, seen in ways if not arrived(way, seen)]
    return Verdict("unreachable", f"did not arrive through the tunnel: {_some(missing)}") if missing else None


def _no_ciphertext(evidence: Evidence) -> Verdict | None:
    for name, end in ((evidence.source, evidence.own), (evidence.target, evidence.far)):
        if end is None or not end.ciphertext:
            return Verdict("blind", f"the canaries crossed, and the capture at {name} saw no tunnel packet")
    return None


def _blind(name: str, end: End) -> Verdict | None:
    """Why this end's capture proves nothing; None if it saw."""
    if not end.watched:
        return Verdict("blind", f"{name} watches no interface of its underlay")
    if end.lost:
        return Verdict("blind", f"the capture at {name} lost {end.lost} frames: try again when there is less traffic")
    if not end.control:
        return Verdict("blind", f"the control, sent in clear on purpose, was not seen by the capture at {name}")
    return None


def arrived(way: Way, seen: Seen) -> bool:
    """Whether a canary came through the tunnel to where it belongs."""
    return bool(seen.forwarded if way.arrives is Place.PROBE else seen.slot)


def enough(ways: Sequence[Way], own: End, far: End) -> bool:
    """Whether nothing more can be learned by sending again: all is seen that should be."""
    complete = len(far.canaries) == len(ways) and all(map(arrived, ways, far.canaries))
    return complete and all((own.control, far.control, own.ciphertext, far.ciphertext))


def _leaks(evidence: Evidence) -> Iterator[str]:
    for name, end in ((evidence.source, evidence.own), (evidence.target, evidence.far)):
        for number, seen in enumerate(() if end is None else end.canaries):
            if seen.clear:
                way = evidence.ways[number].text if number < len(evidence.ways) else f"canary {number}"
                yield f"{way}, {seen.clear} at {name}"


def _ciphertext(own: End | None, far: End | None) -> int:
    return min((end.ciphertext for end in (own, far) if end is not None), default=0)


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return "; ".join(texts[:_NAMED]) + more
