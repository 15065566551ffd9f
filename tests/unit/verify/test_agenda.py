"""What is verified next: requests first, samples by schedule, and what failed until it is proven."""

from __future__ import annotations

from random import Random

from linkseal.tunnels.verify.agenda import (
    FIRST_AFTER,
    FIRST_RECHECK,
    LAST_RECHECK,
    MAX_RECHECKS,
    MAX_TRIES,
    Agenda,
    Progress,
    Task,
)

PEERS = ("n2", "n3", "n4", "n5")
HOURS = 3600.0


def agenda(interval: float = 6 * HOURS, sample: int = 2) -> Agenda:
    made = Agenda(Random(1))
    made.policy(interval, sample, 0.0)
    return made


def test_the_first_sample_comes_soon_and_the_others_by_the_interval_give_or_take_a_tenth() -> None:
    one = agenda()
    first = one.due(lambda: PEERS, 0.0)
    assert first is not None
    assert 0 < first <= FIRST_AFTER
    assert one.take(0.0) is None
    one.due(lambda: PEERS, first)
    taken = [one.take(first), one.take(first)]
    assert len({task.peer for task in taken if task} & set(PEERS)) == 2
    assert one.take(first) is None
    second = one.due(lambda: PEERS, first)
    assert second is not None
    assert 5.4 * HOURS <= second - first <= 6.6 * HOURS


def test_never_is_never_and_what_is_asked_for_is_done_all_the_same() -> None:
    one = agenda(interval=0)
    assert one.due(lambda: PEERS, 1e9) is None
    assert one.ask("r1", ("n2",)) is None
    assert one.due(lambda: PEERS, 5.0) == 0.0
    assert one.take(5.0) == Task("n2", "r1")
    one.learned("n2", "leaked", 5.0)
    assert one.due(lambda: PEERS, 1e9) is None


def test_requests_come_before_samples_and_tell_how_far_they_are() -> None:
    one = agenda(sample=4)
    one.due(lambda: PEERS, FIRST_AFTER)
    one.ask("r1", ("n2", "n9"))
    first, second = one.take(FIRST_AFTER), one.take(FIRST_AFTER)
    assert (first, second) == (Task("n2", "r1"), Task("n9", "r1"))
    assert first is not None
    assert second is not None
    assert one.finished(first, "proven") == Progress(
        "r1", over=False, message="1 of 2: proven 1, unreachable 0, blind 0, leaked 0"
    )
    assert one.finished(second, "leaked") == Progress(
        "r1", over=True, message="2 of 2: proven 1, unreachable 0, blind 0, leaked 1"
    )
    assert one.finished(second, "leaked") is None
    sampled = one.take(FIRST_AFTER)
    assert sampled is not None
    assert sampled.request is None
    assert one.finished(sampled, "proven") is None


def test_a_request_for_nobody_is_over_at_once() -> None:
    progress = agenda().ask("r1", ())
    assert progress is not None
    assert progress.over


def test_what_was_not_proven_is_looked_at_again_less_and_less_often_until_it_is() -> None:
    one, now, pauses = agenda(interval=30 * 24 * HOURS), 0.0, []
    one.policy(30 * 24 * HOURS, 1, 0.0)
    one.learned("n2", "leaked", now)
    for _ in range(8):
        due = min(at for at, _ in one._rechecks.values())
        pauses.append(due - now)
        now = due
        assert one.take(now) == Task("n2")
        one.learned("n2", "unreachable", now)
    assert pauses[0] == FIRST_RECHECK
    assert pauses == sorted(pauses)
    assert pauses[-1] == LAST_RECHECK
    one.learned("n2", "proven", now)
    assert one.take(now + 10 * HOURS) is None


def test_rechecks_are_bounded_and_go_with_their_peer() -> None:
    one = agenda()
    for number in range(10 * MAX_RECHECKS):
        one.learned(f"n{number}", "unreachable", 0.0)
    assert len(one._rechecks) == MAX_RECHECKS
    one.forget("n0")
    assert len(one._rechecks) == MAX_RECHECKS - 1


def test_a_busy_peer_is_asked_again_a_while_and_others_meanwhile() -> None:
    one = agenda(interval=0)
    one.ask("r1", ("n2", "n3"))
    task, tries = one.take(0.0), 1
    assert task is not None
    assert one.postpone(task, 2.0)
    assert one.take(0.0) == Task("n3", "r1")
    now = 2.0
    while (task := one.take(now)) is not None and one.postpone(task, now + 2.0):
        tries += 1
        assert one.take(now) is None
        now += 2.0
    assert tries == MAX_TRIES - 1
