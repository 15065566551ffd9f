"""How often a copy asks a server that does not answer, however long that lasts, and that not all list at once."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any, cast

import pytest
from linkseal.tunnels.directory.kubeapi import ApiError, KubeApi
from linkseal.tunnels.directory.mirror import FIRST_PAUSE, LAST_PAUSE, Mirror, _Pause
from tenacity import AsyncRetrying, Future, RetryCallState

OUTAGE = 600.0
AGENTS = 300


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


class Server:
    """Ends the first watch so, and others when they are due; notes when everything was listed."""

    def __init__(self, trouble: ApiError) -> None:
        self.listed: list[float] = []
        self.again = asyncio.Event()
        self._trouble: ApiError | None = trouble

    async def get(self, _: str, query: Mapping[str, str], **__: Any) -> dict[str, Any]:
        if query["limit"] != "1":
            self.listed.append(asyncio.get_running_loop().time())
            if len(self.listed) > 1:
                self.again.set()
        return {"metadata": {"resourceVersion": "7"}}

    async def watch(self, _: str, query: Mapping[str, str], **__: Any) -> AsyncIterator[dict[str, Any]]:
        yield {}
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble
        await asyncio.sleep(float(query["timeoutSeconds"]))


async def listed_again(status: int) -> list[float]:
    """Seconds after which each of many copies lists all once more, since the watches of all ended so at once."""
    servers = [Server(ApiError("ended", status)) for _ in range(AGENTS)]
    copies = [Mirror(cast("KubeApi", one), "/x", lambda item, _: item, changed=lambda: None) for one in servers]
    tasks = [asyncio.ensure_future(copy.run()) for copy in copies]
    async with asyncio.timeout(3600):
        await asyncio.gather(*(server.again.wait() for server in servers))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return [server.listed[1] - server.listed[0] for server in servers]


def most_within(seconds: float, times: list[float]) -> int:
    """How many of these there are at the most in any span of so many seconds."""
    return max(sum(start <= at < start + seconds for at in times) for start in times)


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


@pytest.mark.looptime
async def test_when_all_watches_are_gone_at_once_the_lists_come_over_three_seconds() -> None:
    times = await listed_again(HTTPStatus.GONE)
    assert max(times) <= 3.0 + FIRST_PAUSE + 0.1
    assert most_within(1.0, times) < AGENTS / 2, "a third, if they are even"


@pytest.mark.looptime
async def test_after_an_outage_the_lists_come_over_two_minutes() -> None:
    times = await listed_again(0)
    assert min(times) >= 10.0, "a watch goes on from where it was"
    assert max(times) <= 120.0 + FIRST_PAUSE + 2.0
    assert most_within(10.0, times) < AGENTS / 5, "an eleventh, if they are even"
