"""How often a copy asks a server that does not answer, however long that lasts."""

from __future__ import annotations

import statistics

from linkseal.tunnels.directory.kubeapi import ApiError
from linkseal.tunnels.directory.mirror import FIRST_PAUSE, LAST_PAUSE, _Pause
from tenacity import AsyncRetrying, Future, RetryCallState

OUTAGE = 600.0


def failed(attempt: int, after: float = 0.0) -> RetryCallState:
    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.attempt_number = attempt
    state.outcome = Future.construct(attempt, ApiError("no", 503, after), has_exception=True)
    return state


def tries(seconds: float) -> int:
    pause, at, count = _Pause(), 0.0, 0
    while at < seconds:
        count += 1
        at += pause(failed(count))
    return count


def test_ten_minutes_are_some_eighty_tries_each_of_which_is_one_connection_refused() -> None:
    counts = [tries(OUTAGE) for _ in range(50)]
    assert statistics.mean(counts) <= 1.1 * (2 * OUTAGE / LAST_PAUSE + 8)
    assert max(counts) <= 2 * (2 * OUTAGE / LAST_PAUSE + 8)


def test_when_it_is_back_each_asks_again_within_the_longest_pause() -> None:
    assert max(_Pause()(failed(1000)) for _ in range(200)) <= LAST_PAUSE


def test_a_thousand_agents_come_back_spread_over_that_time() -> None:
    coming = sorted(_Pause()(failed(1000)) for _ in range(1000))
    assert statistics.mean(coming) > LAST_PAUSE / 3
    assert sum(at < 1.0 for at in coming) < 200


def test_what_the_server_asks_for_is_waited_and_no_more_than_a_little_longer() -> None:
    pauses = [_Pause()(failed(1, after=60.0)) for _ in range(100)]
    assert min(pauses) >= 60.0
    assert max(pauses) <= 60.0 + FIRST_PAUSE
