"""A node's report in Kubernetes' words: conditions, which `kubectl wait` and other programs can read. No I/O.

Applied    the kernel was found as the policy in force wants it
Sealed     every link in scope is sealed
Guarded    the guard is whole and does what the stage wants of it
Bootable   what brings guard and tunnels back at boot is on the host
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from linkseal.tunnels.findings import MAX_MESSAGE, printable
from linkseal.tunnels.model import Stage
from linkseal.tunnels.status import NodeStatus
from linkseal.tunnels.statustypes import Condition
from linkseal.tunnels.wording import listed

Truth = Literal["True", "False", "Unknown"]

_BOOT: Final[dict[str, tuple[Truth, str]]] = {
    "installed": ("True", "Installed"),
    "absent": ("False", "NotInstalled"),
    "failed": ("False", "Failed"),
    "notAsked": ("Unknown", "NotAsked"),
}


class _Said(NamedTuple):
    truth: Truth
    reason: str
    message: str


def conditions(status: NodeStatus, before: Iterable[Condition]) -> tuple[Condition, ...]:
    """Return the conditions of a report. `before`: those it had last, whose times stay where the status does."""
    times = {(one.type, one.status): one.last_transition_time for one in before}
    said = {
        "Applied": _applied(status),
        "Sealed": _sealed(status),
        "Guarded": _guarded(status),
        "Bootable": _Said(*_BOOT[status.boot.state], status.boot.reason),
    }
    return tuple(
        Condition(
            name,
            one.truth,
            one.reason,
            printable(one.message, MAX_MESSAGE),
            times.get((name, one.truth), status.observed_at),
        )
        for name, one in said.items()
    )


def _applied(status: NodeStatus) -> _Said:
    policy = status.policy
    if not policy.serial:
        return _Said("Unknown", "NoPolicy", "no policy is in force")
    if policy.applied:
        return _Said("True", "AsPlanned", f"the kernel is as policy {policy.serial} wants it")
    return _Said("False", "NotYet", f"the kernel is not as policy {policy.serial} wants it")


def _sealed(status: NodeStatus) -> _Said:
    links = status.links
    if status.stage in (Stage.OFF, Stage.PREPARE):
        return _Said("False", "NotEncrypting", f"nothing is encrypted at stage {status.stage.value}")
    if not links.total:
        return _Said("Unknown", "NoPeers", "there is no other node in scope")
    seen = f"{links.sealed} of {links.total} links are sealed"
    if links.sealed == links.total:
        return _Said("True", "AllSealed", seen)
    named = [f"{one.name} {one.state.value}" for one in status.unsealed]
    return _Said("False", "NotSealed", f"{seen}; not {listed(named)}" if named else seen)


def _guarded(status: NodeStatus) -> _Said:
    guard = status.guard
    if guard.broken_glass is not None:
        return _Said("False", "BreakGlass", guard.broken_glass)
    if guard.mode == "none":
        return _Said("False", "NoGuard", f"there is no guard at stage {status.stage.value}")
    if not guard.whole:
        return _Said("False", "NotWhole", "a part of the guard is not in the kernel")
    if status.stage is Stage.ENFORCE and guard.mode != "drop":
        return _Said("False", "NotDropping", "plaintext is counted, not dropped")
    return _Said("True", "Dropping" if guard.mode == "drop" else "Counting", "")
