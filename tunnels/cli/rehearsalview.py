"""What `linkseal status` shows of the rehearsal of enforce: the last that the nodes reported. Pure."""

from __future__ import annotations

from typing import Any, Final

from linkseal.tunnels.cli.load import Seen
from linkseal.tunnels.model import Stage
from linkseal.tunnels.rehearsal import Rehearsal, rehearse
from linkseal.tunnels.stages import Evidence
from linkseal.tunnels.status import Metadata, NodeEncryption

MAX_LINES: Final = 10
"""Of the text form; -o json has all."""


def rehearsal_of(seen: Seen) -> Rehearsal:
    """Return what enforce would do to the nodes in scope, or does."""
    out = tuple(entry.node for entry in seen.status.not_covered if entry.reason == "opted out")
    reports = {
        one.name: None if one.status is None else NodeEncryption(Metadata(one.name), status=one.status)
        for one in seen.status.nodes
        if one.name not in out
    }
    return rehearse(Evidence(0, reports, out), seen.now)


def lines(seen: Seen) -> list[str]:
    """Return the block: flows outside the tunnels, and connections that would reset. Empty where nothing is counted."""
    found = rehearsal_of(seen)
    shown = [line for line in found.lines() if line.startswith("would ")]
    if not shown or seen.policy.stage in {Stage.OFF, Stage.ENFORCE}:
        return []
    more = [f"  and {len(shown) - MAX_LINES} more: -o json has all"] if len(shown) > MAX_LINES else []
    return ["In stage enforce:", *(f"  {line}" for line in shown[:MAX_LINES]), *more]


def uncovered(seen: Seen) -> list[tuple[str, str]]:
    """Return what nodes say of their own that nothing covers, as (node, what)."""
    return [(one.name, text) for one in seen.status.nodes if one.status for text in one.status.guard.uncovered]


def as_object(seen: Seen) -> dict[str, Any]:
    """Return it for JSON."""
    return rehearsal_of(seen).as_object()
