"""When a node's first guard was loaded, and how long a new node had none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from linkseal.keys import policydoc
from linkseal.keys.policydoc import PolicyDocument
from linkseal.tunnels.agent.firstguard import FILE, First, FirstGuard
from linkseal.tunnels.codes import STATE_NOT_SAVED
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.findings import ActiveFindings
from linkseal.tunnels.guard.model import Guard
from linkseal.tunnels.model import Stage
from unit.agent.pair import CA, NOW, Node, T, view

GUARD = Guard("linkseal_guard")
REGISTERED = T - 11.5


def joined(*nodes: Node, stage: str = "enforce", registered: float | None = REGISTERED) -> DirectoryView:
    document = PolicyDocument("cluster", 9, NOW, {"scope": "transparent", "stage": stage})
    return replace(view(*nodes), policy=policydoc.sign(CA, document), registered=registered)


def come_in(folder: Path, stage: str = "enforce", registered: float | None = REGISTERED) -> Node:
    """A new node, after its first three passes."""
    node, other = Node(folder / "a", 1), Node(folder / "b", 2)
    for second in range(3):
        node.run(T + second, view=joined(node, other, stage=stage, registered=registered))
    return node


def test_a_node_that_joins_at_enforce_says_how_long_it_had_no_guard(tmp_path: Path) -> None:
    guard = come_in(tmp_path).status(T + 9).guard
    assert (guard.first_loaded_at, guard.unguarded) == (T + 1, 13), "found in the pass after; rounded up"


@pytest.mark.parametrize(
    ("stage", "registered"), [("prefer", REGISTERED), ("enforce", None)], ids=["prefer", "unknown"]
)
def test_no_window_is_told_where_there_was_none_or_it_is_not_known(
    tmp_path: Path, stage: str, registered: float | None
) -> None:
    guard = come_in(tmp_path, stage, registered).status(T + 9).guard
    assert (guard.first_loaded_at, guard.unguarded) == (T + 1, None)


def test_at_stage_off_there_is_no_guard(tmp_path: Path) -> None:
    assert come_in(tmp_path, "off").status(T + 9).guard.first_loaded_at is None
    assert not (tmp_path / "a" / FILE).exists()


def test_it_is_recorded_once_and_outlives_restart_reboot_and_a_new_look(tmp_path: Path) -> None:
    first = come_in(tmp_path)
    wrote = (tmp_path / "a" / FILE).stat().st_ino
    again = Node(tmp_path / "a", 1, host=first.host)
    booted = Node(tmp_path / "a", 1)
    for node in (first, again, booted):
        for second in (60, 61):
            node.run(T + second)
        guard = node.status(T + 70).guard
        assert (guard.first_loaded_at, guard.unguarded) == (T + 1, 13)
    assert (tmp_path / "a" / FILE).stat().st_ino == wrote, "each write makes a new file"


def test_a_guard_from_before_there_was_a_record_is_not_dated(tmp_path: Path) -> None:
    first = come_in(tmp_path)
    (tmp_path / "a" / FILE).unlink()
    upgraded = Node(tmp_path / "a", 1, host=first.host)
    upgraded.run(T + 60)
    booted = Node(tmp_path / "a", 1)
    for node in (upgraded, booted):
        for second in (90, 91, 92):
            node.run(T + second)
        guard = node.status(T + 99).guard
        assert (guard.first_loaded_at, guard.unguarded) == (None, None)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"uid": "u", "at": "then"}', '{"uid": "u", "more": 1}'])
def test_a_damaged_record_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    (tmp_path / FILE).chmod(0o600)
    first = FirstGuard(tmp_path, ActiveFindings())
    assert first.of("u") == First(uid="u")
    first.look(GUARD, "u", Stage.ENFORCE, 1.0, 9.0)
    assert json.loads((tmp_path / FILE).read_text()) == {"uid": "u", "at": None, "unguarded": None}


def test_a_node_that_was_made_anew_has_a_record_of_its_own(tmp_path: Path) -> None:
    first = FirstGuard(tmp_path, ActiveFindings())
    first.look(None, "old", Stage.ENFORCE, 1.0, 2.0)
    first.look(GUARD, "old", Stage.ENFORCE, 1.0, 3.0)
    assert first.of("old") == First(uid="old", at=3.0, unguarded=2)
    again = FirstGuard(tmp_path, ActiveFindings())
    assert again.of("new") == First(uid="new")
    again.look(None, "new", Stage.ENFORCE, 100.0, 101.0)
    again.look(GUARD, "new", Stage.ENFORCE, 100.0, 99.0)
    assert again.of("new") == First(uid="new", at=99.0, unguarded=0), "the two clocks differ"
    assert again.of("old") == First(uid="old")


def test_another_s_table_is_no_guard(tmp_path: Path) -> None:
    first = FirstGuard(tmp_path, ActiveFindings())
    first.look(replace(GUARD, foreign=True), "u", Stage.ENFORCE, 1.0, 2.0)
    assert first.of("u") == First(uid="u")
    assert not (tmp_path / FILE).exists()


def test_a_disk_that_refuses_is_told_and_tried_again(tmp_path: Path) -> None:
    findings, folder = ActiveFindings(), tmp_path / "state"
    first = FirstGuard(folder, findings)
    first.look(None, "u", Stage.ENFORCE, 1.0, 2.0)
    first.look(GUARD, "u", Stage.ENFORCE, 1.0, 3.0)
    assert [one.code for one in findings.shown(100.0)] == [STATE_NOT_SAVED]
    assert first.of("u").unguarded == 2
    folder.mkdir(mode=0o700)
    first.look(GUARD, "u", Stage.ENFORCE, 1.0, 50.0)
    assert FirstGuard(folder, findings).of("u") == First(uid="u", at=3.0, unguarded=2)
