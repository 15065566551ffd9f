"""A node's report as conditions: what each says, and since when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from linkseal.tunnels.model import LinkState, Stage
from linkseal.tunnels.nodeconditions import conditions
from linkseal.tunnels.status import LinkCounts, NodeStatus, UnsealedPeer, parse_report, significant, to_json
from linkseal.tunnels.statusparts import AppliedStatus, BootStatus, GuardStatus
from unit.test_status import T, status

GOOD = replace(
    status(), observed_at=T, stage=Stage.ENFORCE, links=LinkCounts(2, 2), unsealed=(),
    policy=AppliedStatus(7, applied=True), guard=GuardStatus("drop"), boot=BootStatus("installed"),
)  # fmt: skip
LOST = replace(GOOD, links=LinkCounts(2, 1), unsealed=(UnsealedPeer("n3", LinkState.STALE, "LS2001"),))


def said(report: NodeStatus) -> dict[str, tuple[str, str]]:
    return {one.type: (one.status, one.reason) for one in conditions(report, ())}


def test_of_a_good_node_all_are_true() -> None:
    assert said(GOOD) == {
        "Applied": ("True", "AsPlanned"),
        "Sealed": ("True", "AllSealed"),
        "Guarded": ("True", "Dropping"),
        "Bootable": ("True", "Installed"),
    }


@pytest.mark.parametrize(
    ("report", "name", "expected"),
    [
        (LOST, "Sealed", ("False", "NotSealed")),
        (replace(GOOD, stage=Stage.PREPARE), "Sealed", ("False", "NotEncrypting")),
        (replace(GOOD, links=LinkCounts()), "Sealed", ("Unknown", "NoPeers")),
        (replace(GOOD, policy=AppliedStatus(7, applied=False)), "Applied", ("False", "NotYet")),
        (replace(GOOD, policy=AppliedStatus()), "Applied", ("Unknown", "NoPolicy")),
        (replace(GOOD, guard=GuardStatus("drop", whole=False)), "Guarded", ("False", "NotWhole")),
        (replace(GOOD, guard=GuardStatus("drop", broken_glass="rescue")), "Guarded", ("False", "BreakGlass")),
        (replace(GOOD, guard=GuardStatus("count")), "Guarded", ("False", "NotDropping")),
        (replace(GOOD, stage=Stage.PREFER, guard=GuardStatus("count")), "Guarded", ("True", "Counting")),
        (replace(GOOD, guard=GuardStatus()), "Guarded", ("False", "NoGuard")),
        (replace(GOOD, boot=BootStatus("failed", "no systemd")), "Bootable", ("False", "Failed")),
        (replace(GOOD, boot=BootStatus()), "Bootable", ("Unknown", "NotAsked")),
    ],
)
def test_what_is_not_so_is_not_true(report: NodeStatus, name: str, expected: tuple[str, str]) -> None:
    assert said(report) == said(GOOD) | {name: expected} | (
        {"Guarded": ("True", "Counting")} if report.stage is Stage.PREFER else {}
    )


def test_who_is_not_sealed_is_named() -> None:
    (sealed,) = [one for one in conditions(LOST, ()) if one.type == "Sealed"]
    assert sealed.message == "1 of 2 links are sealed; not n3 stale"


def test_the_time_is_that_of_the_last_change_of_the_status() -> None:
    first = conditions(GOOD, ())
    assert {one.last_transition_time for one in first} == {T}
    later = conditions(replace(GOOD, observed_at=T + 60), first)
    assert later == first
    lost = conditions(replace(LOST, observed_at=T + 90), later)
    assert {one.type: one.last_transition_time - T for one in lost} == {
        "Applied": 0, "Sealed": 90, "Guarded": 0, "Bootable": 0,
    }  # fmt: skip
    worse = replace(LOST, observed_at=T + 99, links=LinkCounts(2, 0))
    assert [one.last_transition_time - T for one in conditions(worse, lost)] == [0, 90, 0, 0], "it was so before"


def test_they_go_with_the_report_and_make_none_by_themselves() -> None:
    report = replace(GOOD, conditions=conditions(GOOD, ()))
    read = parse_report(to_json("n1", report), "n1").status
    assert read is not None
    assert read.conditions == report.conditions
    minute = replace(GOOD, observed_at=T + 60)
    assert significant(replace(minute, conditions=conditions(minute, report.conditions))) == significant(report)
