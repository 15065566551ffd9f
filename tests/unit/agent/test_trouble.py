"""What fails unforeseen is told once and tried again with growing pauses; timers do not multiply."""

from __future__ import annotations

import asyncio
import logging

import pytest
from linkseal.keys.errors import HostError
from linkseal.tunnels.agent import trouble
from linkseal.tunnels.agent.trouble import FIRST_SILENCE, LAST_RETRY, MAX_COMPLAINTS, Alarms, Trouble


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def bug(number: int) -> Exception:
    """An exception that comes from one and the same line."""
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError(f"number {number}")
    return caught.value


def test_pauses_double_to_a_minute_and_begin_again_when_it_went_well() -> None:
    made = Trouble(Clock())
    assert [made.failed("it", HostError("no")) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert made.paused("it") == LAST_RETRY
    made.over("it")
    assert made.paused("it") == 0
    assert made.failed("it", HostError("no")) == 1


def test_the_same_bug_is_told_once_with_its_traceback_and_again_after_growing_silences(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    made = Trouble(clock)
    told = []
    for second in range(600):
        clock.now = 1000.0 + second
        made.failed("it", bug(second))
        told.append(len(caplog.records))
    assert told[0] == told[int(FIRST_SILENCE) - 1] == 1
    assert told[-1] == 4  # after 60, 120 and 240 seconds of silence
    assert "RuntimeError: number 0" in caplog.text


def test_different_complaints_are_told_each_and_take_bounded_memory(caplog: pytest.LogCaptureFixture) -> None:
    made = Trouble(Clock())
    for number in range(MAX_COMPLAINTS + 20):
        made.failed("it", HostError(f"no {number}"))
        made.failed("it", HostError(f"no {number}"))
    assert len(caplog.records) == MAX_COMPLAINTS + 20
    assert len(made._told) <= MAX_COMPLAINTS
    assert all(record.exc_info is None for record in caplog.records)


async def test_a_task_that_dies_or_ends_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "FIRST_RETRY", 0.001)
    monkeypatch.setattr(trouble, "LAST_RETRY", 0.001)
    starts: list[int] = []
    third = asyncio.Event()

    async def work() -> None:
        starts.append(1)
        if len(starts) == 1:
            raise RuntimeError("a bug")
        if len(starts) == 3:
            third.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(Trouble(asyncio.get_running_loop().time).keep("it", work))
    await asyncio.wait_for(third.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_guarded_work_says_when_it_wants_to_run_and_a_cancellation_passes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = Trouble(Clock())

    async def work(error: BaseException | None) -> float:
        if error is not None:
            raise error
        return 7.0

    assert await made.guard("it", work(None)) == 7.0
    assert await made.guard("it", work(bug(1))) == 1.0
    with pytest.raises(asyncio.CancelledError):
        await made.guard("it", work(asyncio.CancelledError()))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_an_alarm_rings_once_for_each_purpose_at_the_earliest_time_asked_for() -> None:
    rung: list[float] = []
    clock = asyncio.get_running_loop().time
    alarms = Alarms(lambda: rung.append(clock()))
    began = clock()
    for seconds in (30.0, 0.05, 20.0, 10.0):
        alarms.within("a", seconds)
    alarms.within("b", 0.06)
    alarms.within("b", 0.0)
    assert len(alarms._handles) == 2
    await asyncio.sleep(0.2)
    assert len(rung) == 2
    assert rung[0] - began >= 0.05
    assert alarms._handles == {}
    alarms.within("a", 0.01)
    alarms.cancel()
    await asyncio.sleep(0.05)
    assert len(rung) == 2
