"""Requests that take long go on alone, one of a kind at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from linkseal.keys.errors import DirectoryError
from linkseal.tunnels.directory import outbox
from linkseal.tunnels.directory.outbox import Outbox


@pytest.fixture
async def box(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Outbox]:
    monkeypatch.setattr(outbox, "PATIENCE", 0.05)
    made = Outbox()
    yield made
    await made.close()


async def slow(gate: asyncio.Event, done: list[str], name: str) -> str:
    await gate.wait()
    done.append(name)
    return name


async def test_what_is_quick_is_answered_and_what_fails_says_so(box: Outbox) -> None:
    async def fail() -> None:
        raise DirectoryError("no")

    assert await box.send("a", asyncio.sleep(0, "yes")) == "yes"
    with pytest.raises(DirectoryError, match="no"):
        await box.send("a", fail())
    assert await box.send("a", asyncio.sleep(0, "again")) == "again"


async def test_what_takes_long_goes_on_alone_and_no_second_of_its_kind_begins(box: Outbox) -> None:
    gate, done = asyncio.Event(), list[str]()
    assert await box.send("a", slow(gate, done, "first")) is None
    with pytest.raises(DirectoryError, match="has not answered yet"):
        await box.send("a", slow(gate, done, "second"))
    assert await box.send("b", asyncio.sleep(0, "another kind")) == "another kind"
    gate.set()
    assert await box.send("a", slow(gate, done, "third")) == "third"
    assert done == ["first", "third"]


async def test_what_fails_later_is_told_and_may_be_tried_anew(box: Outbox) -> None:
    gate, told = asyncio.Event(), list[str]()

    async def fail() -> None:
        await gate.wait()
        raise DirectoryError("late")

    assert await box.send("a", fail(), lambda error: told.append(str(error))) is None
    assert told == []
    gate.set()
    assert await box.send("a", asyncio.sleep(0, "anew")) == "anew"
    assert told == ["late"]


async def test_what_goes_well_later_or_failed_in_time_is_not_told(box: Outbox) -> None:
    async def fail() -> None:
        raise DirectoryError("at once")

    gate, told = asyncio.Event(), list[Exception]()
    assert await box.send("a", slow(gate, [], "late"), told.append) is None
    gate.set()
    with pytest.raises(DirectoryError, match="at once"):
        await box.send("a", fail(), told.append)
    await asyncio.sleep(0)
    assert told == []


async def test_its_end_breaks_off_what_is_under_way() -> None:
    box, done = Outbox(), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "PATIENCE", 0.01)
        await box.send("a", slow(asyncio.Event(), done, "never"))
    await box.close()
    assert done == []


async def test_an_answer_that_comes_late_is_that_of_the_next_call(box: Outbox) -> None:
    gate, done = asyncio.Event(), list[str]()
    assert await box.ask("a", slow(gate, done, "first")) is None
    with pytest.raises(DirectoryError, match="has not answered yet"):
        await box.ask("a", slow(gate, done, "second"))
    gate.set()
    assert await box.ask("a", slow(gate, done, "third")) == "first"
    assert await box.ask("a", slow(gate, done, "fourth")) == "fourth"
    assert done == ["first", "fourth"]


async def test_so_is_an_error(box: Outbox) -> None:
    gate = asyncio.Event()

    async def fail() -> None:
        await gate.wait()
        raise DirectoryError("no")

    assert await box.ask("a", fail()) is None
    gate.set()
    with pytest.raises(DirectoryError, match="no"):
        await box.ask("a", fail())
    assert await box.ask("a", asyncio.sleep(0, "anew")) == "anew"
