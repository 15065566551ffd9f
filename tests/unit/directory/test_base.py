"""When a node counts as gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from linkseal.tunnels.directory.base import CONFIRM_AFTER, Absences


def test_a_node_is_gone_only_when_two_snapshots_far_enough_apart_miss_it() -> None:
    absences = Absences()
    absences.see("c", ["a", "b"], (), 0.0)
    assert absences.see("c", ["a"], (), 10.0) == frozenset()
    assert absences.see("c", ["a"], (), 10.0 + CONFIRM_AFTER - 0.1) == frozenset()
    assert absences.see("c", ["a"], (), 10.0 + CONFIRM_AFTER) == {"b"}
    assert absences.see("c", ["a"], (), 99.0) == {"b"}  # stays so: whoever holds it back must go on seeing it
    assert absences.see("c", ["a", "b"], (), 100.0) == frozenset()


def test_a_node_only_the_caller_knows_can_be_gone() -> None:
    absences = Absences()
    absences.see("c", ["a"], ["z"], 0.0)
    assert absences.see("c", ["a"], ["z"], 2.0) == {"z"}
    assert absences.see("c", ["a"], (), 3.0) == frozenset()


def test_trouble_between_two_snapshots_makes_the_first_worthless() -> None:
    absences = Absences()
    absences.see("c", ["a", "b"], (), 0.0)
    absences.see("c", ["a"], (), 1.0)
    absences.unsound()
    assert absences.see("c", ["a"], (), 5.0) == frozenset()
    assert absences.see("c", ["a"], (), 7.0) == {"b"}


def test_another_clusters_directory_confirms_nothing_of_ours() -> None:
    absences = Absences()
    absences.see("c", ["a", "b"], (), 0.0)
    for second in range(10):
        assert absences.see("other", ["x"], (), float(second)) == frozenset()


def test_the_second_look_is_due_in_time() -> None:
    absences = Absences()
    absences.see("c", ["a", "b"], (), 0.0)
    assert absences.due(0.0) is None
    absences.see("c", ["a"], (), 1.0)
    assert absences.due(1.5) == CONFIRM_AFTER - 0.5
    absences.see("c", ["a"], (), 4.0)
    assert absences.due(4.0) is None


Look = st.tuples(st.floats(0.1, 3.0), st.none() | st.frozensets(st.sampled_from("abc")))


@given(st.lists(Look, max_size=12))
def test_gone_is_exactly_absent_from_every_sound_look_for_long_enough(
    looks: list[tuple[float, frozenset[str] | None]],
) -> None:
    absences = Absences()
    absences.see("c", "abc", (), 0.0)
    now, since = 0.0, dict.fromkeys("abc", float("inf"))
    for pause, present in looks:
        now += pause
        if present is None:
            absences.unsound()
            since = dict.fromkeys("abc", float("inf"))
            continue
        for name in "abc":
            since[name] = float("inf") if name in present else min(since[name], now)
        assert absences.see("c", present, (), now) == {n for n in "abc" if now - since[n] >= CONFIRM_AFTER}
