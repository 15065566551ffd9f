"""What a pass says of the steps it took: those that the kernel refused, and those that undid another's doing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from errno import EADDRINUSE
from typing import Final

from linkseal.tunnels import codes
from linkseal.tunnels.findings import HOST_SUBJECT, ActiveFindings
from linkseal.tunnels.guard.model import GuardTransaction
from linkseal.tunnels.host.host import ALL, Aspect, Failure
from linkseal.tunnels.model import NftTransaction, RemoveRoute, SetRoute, Step
from linkseal.tunnels.render import render_steps
from linkseal.wireguard.model import RemovePeer, ReprovokePeer, SetPeer

_LOG: Final = logging.getLogger("linkseal.agent")


def tell_failures(findings: ActiveFindings, failures: Sequence[Failure], now: float) -> None:
    """Say which steps the kernel refused; those of the pass before are over."""
    reasons: dict[str, list[str]] = {}
    for failure in failures:
        code = codes.PORT_IN_USE if failure.error.errno == EADDRINUSE else codes.STEP_REFUSED
        reasons.setdefault(code, []).append(str(failure.error))
    current = {
        (code, HOST_SUBJECT): found[0] + (f" (and {len(found) - 1} more)" if found[1:] else "")
        for code, found in reasons.items()
    }
    findings.replace({codes.STEP_REFUSED, codes.PORT_IN_USE}, current, now)


def tell_drift(findings: ActiveFindings, undone: Sequence[Step], failures: Sequence[Failure], now: float) -> int:
    """What this pass had to do once more was somebody else's doing: say what was put back, and how many steps."""
    failed = [failure.step for failure in failures]
    steps = [step for step in undone if step not in failed]
    if not steps:
        return 0
    lines = render_steps(steps)
    shown = "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")  # noqa: PLR2004
    _LOG.warning("%s drift healed: %s", codes.DRIFT_HEALED, shown)
    findings.raise_(codes.DRIFT_HEALED, HOST_SUBJECT, shown, now, lasts=300.0)
    return len(steps)


def touched(steps: Sequence[Step]) -> frozenset[Aspect]:
    """What is to be looked at once more after these steps: where what they change lies, and all if it is a device."""
    found: set[Aspect] = set()
    for step in steps:
        if isinstance(step, SetPeer | RemovePeer | ReprovokePeer):
            found.add(Aspect.WIREGUARD)
        elif isinstance(step, SetRoute | RemoveRoute):
            found.add(Aspect.ROUTES)
        elif isinstance(step, NftTransaction):
            found.add(Aspect.NFT)
        elif isinstance(step, GuardTransaction):
            return ALL
        else:
            found |= ALL - {Aspect.GUARD}
    return frozenset(found)
