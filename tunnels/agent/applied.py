"""How far this node has applied the cluster's policy: what stages wait for. Pure."""

from __future__ import annotations

from linkseal.tunnels.codes import STAGE_NOT_APPLIED
from linkseal.tunnels.findings import HOST_SUBJECT
from linkseal.tunnels.model import Stage
from linkseal.tunnels.statusparts import AppliedStatus


def applied(before: AppliedStatus, serial: int, *, done: bool, failed: bool) -> AppliedStatus:
    """Return what a pass makes of it. `done`: it found the kernel as the policy of `serial` wants it.

    A pass that carried out steps has not seen what came of them: the next one does. Once a policy was found applied,
    steps that the kernel takes leave it so (drift put back, a peer that joined); one it refuses does not.
    """
    if failed:
        return AppliedStatus(serial)
    return AppliedStatus(serial, done or (before.applied and before.serial == serial))


def not_applied(status: AppliedStatus, stage: Stage) -> dict[tuple[str, str], str]:
    """Return the finding (code, subject) → message while a policy is accepted and not applied."""
    if status.applied:
        return {}
    return {(STAGE_NOT_APPLIED, HOST_SUBJECT): f"stage {stage.value} of the policy with serial {status.serial}"}
