"""What the controller says of the cluster in the ClusterEncryption's status. No I/O; time is an argument.

Accepted   the spec can be used; else what is wrong with it, and that what was in force stays
Reached    the cluster is at the stage that is asked for; else where it is on its way, and what holds it
Granted    every node's addresses and prefixes are known and signed; else whose are not, and why
Bounded    it is said where nodes and pods may be; else stage enforce is not entered
Sealed     every link in scope is sealed, as its sender reports it lately; unknown is never a pass
CASteady   one CA is in force; else how far its replacement is, and what holds it
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from linkseal.tunnels.cluster import directed_states
from linkseal.tunnels.clusterobject import MAX_BLOCKERS, CaStatus, ClusterStatus, PoolStatus
from linkseal.tunnels.findings import MAX_MESSAGE
from linkseal.tunnels.model import Stage
from linkseal.tunnels.stages import Evidence, Position
from linkseal.tunnels.status import LinkCounts
from linkseal.tunnels.statustypes import SpecCondition, parse_time
from linkseal.tunnels.wording import listed

ACCEPTED, REACHED, GRANTED, SEALED, CA_STEADY = "Accepted", "Reached", "Granted", "Sealed", "CASteady"
BOUNDED: Final = "Bounded"

NOT_SIGNED = "NotSigned"
"""Reason of Accepted and Reached: what is asked for is fine, and waits for the CA's key."""

MISFIT = "ProviderMisfit"
"""Reason of Granted: the address provider does not fit the CNI, which keeps the cluster from stage enforce."""

_Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the cluster is. `walking`: a change of stage is under way, or waits for `reasons`."""

    position: Position
    goal: Position
    walking: bool
    reasons: tuple[str, ...]
    serial: int
    generation: int
    problem: str | None
    """What is wrong with what is asked for; None: nothing."""
    taken_back: str = ""
    """Why the last change of stage ended before its target."""
    ungranted: tuple[str, ...] = ()
    """What nodes were not granted of what they claim, and what is not known of them."""
    ca: CaStatus = field(default_factory=CaStatus)
    unsigned: str = ""
    """Why what is asked for cannot be signed; empty: it is."""
    unused: bool = False
    """All that is asked for is left aside, because of the problem; where it wants the cluster to be is not known."""


def build(standing: Standing, evidence: Evidence, before: str, now: float) -> ClusterStatus:
    """Return the status; `before` is the one that stands, as JSON, of which times of unchanged conditions are kept."""
    counts = _counts(evidence, now)
    said = (
        (ACCEPTED, *_accepted(standing)),
        (REACHED, *_reached(standing)),
        (GRANTED, *_granted(standing, evidence)),
        (BOUNDED, *_bounded(evidence)),
        (SEALED, *_sealed(standing, evidence, counts)),
        (CA_STEADY, *_ca_steady(standing.ca)),
    )
    times = _times(before)
    conditions = tuple(
        SpecCondition(name, truth, reason, _short(message), times.get((name, truth), now), standing.generation)
        for name, truth, reason, message in said
    )
    blockers = tuple(map(_short, standing.reasons[:MAX_BLOCKERS])) if standing.walking else ()
    pool = standing.position.pool
    return ClusterStatus(
        observed_generation=standing.generation,
        policy_serial=standing.serial,
        stage=standing.position.stage,
        position=_short(_place(standing)),
        nodes=len(evidence.reports),
        links=counts,
        blockers=blockers,
        ca=standing.ca,
        conditions=conditions,
        pool=None if pool is None else PoolStatus(pool.stage, tuple(sorted(pool.nodes))),
    )


def _counts(evidence: Evidence, now: float) -> LinkCounts:
    found = Counter(state for _, _, state in directed_states(evidence.reports, now))
    states = {state.value: number for state, number in found.items() if state is not None}
    return LinkCounts(total=found.total(), **states)


def _place(standing: Standing) -> str:
    text = str(standing.position)
    if standing.walking and standing.position != standing.goal:
        text += f", on the way to {standing.goal}"
    return text


def _accepted(standing: Standing) -> tuple[_Truth, str, str]:
    if standing.problem is not None:
        return "False", "Refused", standing.problem
    if standing.unsigned:
        return "False", NOT_SIGNED, f"{standing.unsigned}; the policy in force stays"
    return "True", "Valid", "the policy is signed and in force"


def _reached(standing: Standing) -> tuple[_Truth, str, str]:
    here = standing.position == standing.goal and standing.serial
    if standing.unused:
        return "False", "Refused", f"the cluster stays at {standing.position}: what is asked for cannot be used"
    if standing.unsigned and (standing.walking or not here):
        return "False", NOT_SIGNED, standing.unsigned
    if standing.walking:
        why = "; ".join(standing.reasons)
        return "False", "Waiting" if why else "Walking", why or f"going to {standing.goal}"
    if standing.position == standing.goal:
        return "True", "AtTarget", f"every node was told stage {standing.goal}"
    if standing.taken_back:
        return "False", "TakenBack", standing.taken_back
    return (
        "False",
        "NotAsked",
        f"the cluster is at {standing.position}, not at {standing.goal}, and does not go there by itself: ask again",
    )


def _granted(standing: Standing, evidence: Evidence) -> tuple[_Truth, str, str]:
    if standing.ungranted:
        return "False", MISFIT if evidence.misfits else "NotAll", listed(standing.ungranted, 3)
    return "True", "AllGranted", "the addresses and prefixes of every node are signed"


def _bounded(evidence: Evidence) -> tuple[_Truth, str, str]:
    if evidence.unbounded:
        return "False", "Anywhere", "; ".join(evidence.unbounded)
    return "True", "Named", "it is said where addresses of nodes and prefixes of pods may be"


def _sealed(standing: Standing, evidence: Evidence, counts: LinkCounts) -> tuple[_Truth, str, str]:
    if standing.position.stage in (Stage.OFF, Stage.PREPARE):
        return "False", "NotEncrypting", f"at stage {standing.position.stage.value} traffic is plaintext"
    silent = [name for name, report in sorted(evidence.reports.items()) if report is None]
    if silent:
        return "Unknown", "NoReport", f"{len(silent)} of {len(evidence.reports)} nodes do not report: {listed(silent)}"
    if not counts.total:
        return "Unknown", "NoLinks", "there are no two nodes in scope"
    if counts.sealed < counts.total:
        return "False", "NotSealed", f"{counts.sealed} of {counts.total} links are sealed"
    out = f"; opted out: {listed(evidence.out)}" if evidence.out else ""
    return "True", "AllSealed", f"{counts.total} links{out}"


def _ca_steady(ca: CaStatus) -> tuple[_Truth, str, str]:
    if ca.unsigned:
        return "False", "NotSigning", "; ".join(one for one in (ca.unsigned, ca.problem) if one)
    if ca.phase == "steady":
        return ("False", "Refused", ca.problem) if ca.problem else ("True", "Steady", "one CA is in force")
    why = "; ".join((*ca.waiting, *((ca.problem,) if ca.problem else ())))
    if ca.phase == "trusting":
        return "False", "Trusting", why or "every agent that reports trusts the next CA"
    return "False", "Signing", why or "everything is signed by the next CA"


def _short(text: str) -> str:
    printable = "".join(one if one.isprintable() else " " for one in text)
    return printable if len(printable) <= MAX_MESSAGE else printable[: MAX_MESSAGE - 1] + "…"


def _times(before: str) -> dict[tuple[str, Any], float]:
    """Return (type, status) → when it began to be so, of what can be read."""
    found: dict[tuple[str, Any], float] = {}
    for one in json.loads(before or "{}").get("conditions") or ():
        try:
            found[one["type"], one["status"]] = parse_time(one["lastTransitionTime"])
        except (KeyError, TypeError, ValueError):
            continue
    return found
