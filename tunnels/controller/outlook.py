"""What a walk would do, said before: its steps, what is in the way of the first, what enforce would drop. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from linkseal.tunnels.rehearsal import rehearse
from linkseal.tunnels.stages import Evidence, Position, Walk, barrier, blockers, following


def outlook(position: Position, walk: Walk, evidence: Evidence, now: float) -> dict[str, Any]:
    """Return it as plain values for JSON: stage, steps, blockers, lines (for people) and the rehearsal."""
    steps = steps_of(position, walk)
    rehearsal = rehearse(evidence, now)
    return {
        "stage": str(position),
        "steps": [str(step) for step in steps],
        "blockers": list(_blockers(position, steps[:1], evidence, now, up=walk.up)),
        "lines": list(rehearsal.lines()) if walk.up else [],
        "rehearsal": rehearsal.as_object(),
    }


def steps_of(position: Position, walk: Walk) -> list[Position]:
    """Return every position on the way of a walk from here."""
    found: list[Position] = []
    at: Position | None = position
    while at is not None and (at := following(at, walk)) is not None:
        found.append(at)
    return found


def _blockers(position: Position, steps: list[Position], evidence: Evidence, now: float, *, up: bool) -> Iterator[str]:
    yield from barrier(evidence, now, up=up)
    for step in steps:  # the conditions of later steps begin to hold on the way
        yield from blockers(position, step, evidence, 0.0, now)
