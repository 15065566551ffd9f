"""Steps from the programs and entries there are to those there should be. Pure.

    early   entries, let-through ones before those that drop; then programs where they are missing
    late    entries that are too much, drops first; programs where none should be

So a program never stands without an entry that should be there, and nothing is dropped for want of one that lets it
through.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from linkseal.tunnels.redirect.model import (
    LET_THROUGH,
    AttachRedirect,
    DetachRedirect,
    Entry,
    ForgetRedirect,
    RedirectSpec,
    RedirectState,
    RedirectStep,
    SetRedirect,
    Table,
)

_ORDER: Final[dict[Table, int]] = {"number": 0, "own": 1, "exempt": 2, "in": 4, "out": 5}
_HOLES: Final = 3


class RedirectSteps(NamedTuple):
    """What is done before the guard changes, and what after everything."""

    early: tuple[RedirectStep, ...] = ()
    late: tuple[RedirectStep, ...] = ()


def diff_redirect(
    desired: RedirectSpec | None, observed: RedirectState | None, devices: Collection[str]
) -> RedirectSteps:
    """Return the steps; none where nothing differs, or could not be looked at. `devices`: those that exist now."""
    if observed is None:
        return RedirectSteps()
    there = observed.standing | observed.strays | observed.behind
    if desired is None:
        return RedirectSteps(late=tuple(DetachRedirect(hook) for hook in sorted(there)))
    hooks = desired.hooks()
    wanted = {hook for hook in hooks if hook.device in devices}
    missing = wanted - observed.standing - observed.behind
    differing: list[tuple[Entry, int]] = []
    surplus: list[tuple[Entry, int]] = []
    for table, held in desired.tables().items():
        have = observed.tables.get(table, {})
        if have != held:
            differing += [(Entry(table, key), value) for key, value in held.items() if have.get(key) != value]
            surplus += [(Entry(table, key), value) for key, value in have.items() if key not in held]
    early: list[RedirectStep] = []
    if differing:
        early.append(SetRedirect(tuple(sorted(differing, key=_order))))
    early += [AttachRedirect(hook) for hook in sorted(missing | wanted & observed.strays)]
    last = sorted(surplus, key=_order, reverse=True)
    late: list[RedirectStep] = [ForgetRedirect(tuple(entry for entry, _ in last))] if last else []
    late += [DetachRedirect(hook) for hook in sorted(there - hooks)]
    return RedirectSteps(tuple(early), tuple(late))


def _order(one: tuple[Entry, int]) -> tuple[int, Entry]:
    entry, value = one
    place = _ORDER[entry.table]
    if entry.table in ("out", "in") and value == LET_THROUGH:
        place = _HOLES
    return place, entry
