"""Writes that failed come back, later and later, never all at once, and never sooner than they may."""

from __future__ import annotations

import pytest
from linkseal.tunnels.agent.retry import FIRST, FORGIVEN, LAST, Retry

T = 5000.0


def test_what_never_failed_is_not_put_off() -> None:
    assert Retry().wait(T) == 0.0


def test_pauses_grow_to_a_bound_and_half_of_it_is_always_waited() -> None:
    retry, now, pauses = Retry(), T, list[float]()
    for _ in range(8):
        pauses.append(retry.failed(now))
        assert retry.wait(now) == pytest.approx(pauses[-1])
        now += pauses[-1] + 20  # that long a request takes at most
    bounds = [min(LAST, FIRST * 2**n) for n in range(8)]
    assert all(bound / 2 <= pause <= bound for pause, bound in zip(pauses, bounds, strict=True))
    assert bounds[-1] == LAST


def test_agents_that_failed_together_do_not_come_back_together() -> None:
    assert len({Retry().failed(T) for _ in range(20)}) == 20


def test_what_the_server_asks_for_is_granted() -> None:
    retry = Retry()
    assert 60 + FIRST / 2 <= retry.failed(T, after=60) <= 60 + FIRST
    assert retry.wait(T + 60) > 0


def test_a_failure_long_after_the_last_is_the_first_again() -> None:
    retry, now = Retry(), T
    for _ in range(5):
        now += retry.failed(now)
    assert retry.failed(now + FORGIVEN + 1) <= FIRST


def test_ten_minutes_without_an_answer_are_few_tries() -> None:
    """The bound that tests of outages count with: of LAST, half is waited at least."""
    retry, now, tries = Retry(), T, 0
    while now < T + 600:
        now += retry.failed(now)
        tries += 1
    assert tries <= 600 / (LAST / 2) + 5
