"""The state machines of both ends, step by step, and what a peer cannot make a node do."""

from __future__ import annotations

import os

import pytest
from linkseal.tunnels.verify import session as machine
from linkseal.tunnels.verify.packet import Answer, Arm, Armed, Ask, Bye, End, Report, Seen
from linkseal.tunnels.verify.session import (
    ARM_WAITS,
    DEADLINE,
    LIFETIME,
    MAX_SESSIONS,
    PEER_BURST,
    ROUNDS,
    SETTLE,
    VOLLEYS,
    Action,
    Begin,
    Look,
    Source,
    Stop,
    Target,
    Volley,
)

ARM = Arm(bytes(16), "n1", bytes(32), 1)
READY = Armed(ARM.session, "n2", Answer.READY)
END = End(1, 0, 1, 1, (Seen(slot=1),))


def play(source: Source, start: float = 0.0) -> list[tuple[float, Action]]:
    """Everything it sends when nobody answers."""
    sent: list[tuple[float, Action]] = []
    while not source.over:
        now = source.due
        sent += [(round(now - start, 3), action) for action in source.tick(now)]
    return sent


def test_without_an_answer_it_looks_at_its_own_end_and_ends() -> None:
    sent = play(Source(ARM, 0.0, lambda _: True))
    assert [at for at, action in sent if action == ARM] == pytest.approx([0, 0.2, 0.6, 1.4, 3.0])
    assert len(sent) == len(ARM_WAITS) + VOLLEYS
    assert all(isinstance(action, Volley) for _, action in sent[len(ARM_WAITS) :])
    assert sent[-1][0] < DEADLINE


def test_without_a_way_to_the_peer_it_only_sends_canaries() -> None:
    sent = play(Source(ARM, 5.0, lambda _: True, reachable=False), 5.0)
    assert [action for _, action in sent] == [Volley()] * VOLLEYS


def proceed(source: Source, now: float) -> tuple[float, Ask]:
    """Take it from READY to its question."""
    actions: list[Action] = []
    while not any(isinstance(action, Ask) for action in actions):
        now = source.due
        actions += source.tick(now)
    ask = actions[-1]
    assert isinstance(ask, Ask)
    assert actions[:-1] == [Volley()] * VOLLEYS
    return now, ask


def test_a_good_session_takes_one_round_and_says_goodbye() -> None:
    source = Source(ARM, 0.0, lambda _: True)
    assert source.tick(0.0) == (ARM,)
    assert source.receive(READY, 0.01) == ()
    now, ask = proceed(source, 0.01)
    assert now >= 0.01 + SETTLE
    assert source.receive(Report(ARM.session, "n2", ask.number, END), now) == (Bye(ARM.session, "n1"),)
    assert (source.over, source.report) == (True, END)
    assert source.tick(now + 1) == ()


def test_as_long_as_something_is_missing_it_tries_again_three_times_in_all() -> None:
    source = Source(ARM, 0.0, lambda _: False)
    source.tick(0.0)
    source.receive(READY, 0.0)
    now, numbers = 0.0, []
    while not source.over:
        now, ask = proceed(source, now)
        numbers.append(ask.number)
        source.receive(Report(ARM.session, "n2", ask.number, END), now)
    assert numbers == list(range(1, ROUNDS + 1))


def test_a_report_of_an_earlier_question_does_not_count() -> None:
    source = Source(ARM, 0.0, lambda _: False)
    source.tick(0.0)
    source.receive(READY, 0.0)
    now, _ = proceed(source, 0.0)
    source.receive(Report(ARM.session, "n2", 1, END), now)
    now, ask = proceed(source, now)
    assert ask.number == 2
    better = END._replace(control=9)
    assert source.receive(Report(ARM.session, "n2", 1, better), now) == ()
    assert source.report == END


@pytest.mark.parametrize(
    ("answer", "first"), [(Answer.BUSY, None), (Answer.UNABLE, Volley())], ids=["busy ends", "unable goes on alone"]
)
def test_what_a_peer_that_cannot_watch_does_to_it(answer: Answer, first: Action | None) -> None:
    source = Source(ARM, 0.0, lambda _: True)
    source.tick(0.0)
    source.receive(Armed(ARM.session, "n2", answer, "why"), 0.1)
    assert source.over == (first is None)
    assert source.busy == (answer is Answer.BUSY)
    if first is not None:
        assert [action for _, action in play(source)] == [Volley()] * VOLLEYS + [Bye(ARM.session, "n1")]
    assert source.report is None


def test_messages_of_other_sessions_and_out_of_turn_are_ignored() -> None:
    source = Source(ARM, 0.0, lambda _: True)
    source.tick(0.0)
    assert source.receive(READY._replace(session=b"x" * 16), 0.0) == ()
    assert source.receive(Report(ARM.session, "n2", 1, END), 0.0) == ()
    assert (source.answer, source.report, source.over) == (None, None, False)


def test_whatever_a_peer_does_the_source_ends_in_time() -> None:
    source = Source(ARM, 0.0, lambda _: False)
    source.tick(0.0)
    source.receive(READY, 4.5)  # the slowest that still counts
    assert source.tick(DEADLINE)[-1] == Bye(ARM.session, "n1")
    assert source.over


# --- the other end ----------------------------------------------------------------------------------------------------


def arm(node: str = "n1") -> Arm:
    return Arm(os.urandom(16), node, bytes(32), 1)


def test_a_doubled_arm_begins_once_and_is_answered_each_time() -> None:
    target = Target("n2")
    assert target.receive(ARM, 0.0) == (Begin(ARM),)
    assert target.receive(ARM, 0.1) == (READY,)
    assert target.receive(Ask(ARM.session, "n1", 1), 0.2) == (Look(Ask(ARM.session, "n1", 1)),)
    assert target.receive(Bye(ARM.session, "n1"), 0.3) == (Stop(ARM.session),)
    assert target.receive(Bye(ARM.session, "n1"), 0.4) == ()
    assert target.receive(Ask(ARM.session, "n1", 1), 0.4) == ()
    assert target.receive(ARM, 0.5) == (), "a late double of a session that is over"
    assert target.due is None


def test_a_capture_ends_by_itself() -> None:
    target = Target("n2")
    target.receive(ARM, 1.0)
    assert target.due == 1.0 + LIFETIME
    assert target.tick(LIFETIME) == ()
    assert target.tick(1.0 + LIFETIME) == (Stop(ARM.session),)
    assert target.tick(1.0 + LIFETIME) == ()


def test_one_capture_a_peer_and_three_in_all() -> None:
    target = Target("n2")
    first, second = arm("n1"), arm("n1")
    assert target.receive(first, 0.0) == (Begin(first),)
    assert target.receive(second, 0.0) == (Stop(first.session), Begin(second))
    for number in range(MAX_SESSIONS - 1):
        target.receive(arm(f"m{number}"), 0.0)
    late = arm("n9")
    assert target.receive(late, 0.0) == (Armed(late.session, "n2", Answer.BUSY),)


def test_nobody_else_can_ask_about_or_end_a_session() -> None:
    target = Target("n2")
    target.receive(ARM, 0.0)
    for message in (Ask(ARM.session, "n3", 1), Bye(ARM.session, "n3"), ARM._replace(node="n3")):
        assert target.receive(message, 0.1) == ()
    assert target.receive(ARM, 0.2) == (READY,)


def test_a_peer_that_asks_for_ever_is_told_that_we_are_busy() -> None:
    """In an hour of asking all the time: some 366 sessions, not thousands; another peer is served meanwhile."""
    target, begun, now = Target("n2"), 0, 0.0
    while now < 3600:
        orders = target.receive(arm("bad"), now)
        begun += any(isinstance(order, Begin) for order in orders)
        now += 0.1
    assert PEER_BURST < begun <= 3600 * machine.PEER_RATE + PEER_BURST
    good = arm("good")
    assert Begin(good) in target.receive(good, now)


def test_a_capture_that_could_not_be_opened_counts_no_more() -> None:
    target = Target("n2")
    target.receive(ARM, 0.0)
    target.failed(ARM.session)
    assert target.due is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MAX_PEERS", 10)
    target = Target("n2")
    for number in range(1000):
        one = arm(f"n{number}")
        target.receive(one, float(number))
        target.receive(Bye(one.session, one.node), float(number))
    assert len(target._buckets) <= 10
    assert len(target._past) == 64
    assert not target._guests
