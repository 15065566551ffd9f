"""When a policy counts as applied."""

from __future__ import annotations

from pathlib import Path

from linkseal.tunnels.model import SetRoute
from linkseal.tunnels.statusparts import AppliedStatus

from .pair import T, sealed_pair, view


def test_a_new_policy_is_applied_once_a_pass_found_nothing_to_do(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    assert a.status(T).policy == AppliedStatus(1, applied=True)
    a.run(T + 1, view=view(a, b, stage="prepare"))
    assert a.status(T + 1).policy == AppliedStatus(2, applied=False)
    a.run(T + 1)
    assert a.status(T + 1).policy == AppliedStatus(2, applied=True)


def test_what_the_kernel_refuses_is_not_applied_and_drift_that_is_put_back_changes_nothing(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    a.host.kernel.routes.clear()
    a.run(T + 1)
    assert a.status(T + 1).policy == AppliedStatus(1, applied=True)
    a.host.kernel.routes.clear()
    a.host.refuse = lambda step: isinstance(step, SetRoute)
    a.run(T + 2)
    assert a.status(T + 2).policy == AppliedStatus(1, applied=False)
    a.run(T + 3)
    a.host.refuse = lambda _: False
    a.run(T + 4)
    a.run(T + 5)
    assert a.status(T + 5).policy == AppliedStatus(1, applied=True)
    assert b.routed(a)
