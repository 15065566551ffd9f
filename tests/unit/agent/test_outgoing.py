"""What an agent writes is written again until it is there, also where the refusal came when nobody waited for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from linkseal.keys.errors import DirectoryError
from linkseal.tunnels import codes
from linkseal.tunnels.agent import outgoing as outgoing_module
from linkseal.tunnels.agent.cadence import REFRESH
from linkseal.tunnels.agent.outgoing import Outgoing
from linkseal.tunnels.agent.trouble import Trouble
from linkseal.tunnels.directory.base import Failed
from unit.agent.pair import Node, T, sealed_pair, view
from unit.test_status import status


class Slow:
    """A directory that answers in time (with an error where there is one), or calls `failed` when a test says so."""

    def __init__(self) -> None:
        self.error: DirectoryError | None = None
        self.written: list[str] = []
        self.failed: Failed | None = None

    async def publish(self, _: str, signed: Any, failed: Failed) -> None:
        await self._write(signed.text, failed)

    async def publish_status(self, _: str, report: str, failed: Failed) -> None:
        await self._write(report, failed)

    async def _write(self, text: str, failed: Failed) -> None:
        self.failed = failed
        if self.error is not None:
            raise self.error
        self.written.append(text)


class Clock:
    now = T

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(outgoing_module, "steady_now", made)
    monkeypatch.setattr(outgoing_module, "unix_now", made)
    return made


class Office:
    """One node's outgoing mail."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.a, self.b = sealed_pair(folder)
        self.directory, self.woken = Slow(), 0
        self.trouble = Trouble(clock)
        self.out = Outgoing(self.a.worker, self.directory, self.trouble, self._in_worker, self._late)  # type: ignore[arg-type]

    async def _in_worker(self, work: Callable[[], Any]) -> Any:
        return work()

    def _late(self) -> None:
        self.woken += 1

    async def report(self) -> float:
        return await self.out.report(lambda now: status(observed_at=now))

    def refuse(self, text: str = "409 no", after: float = 0.0) -> DirectoryError:
        error = DirectoryError(text)
        error.after = after
        return error


@pytest.fixture
def office(tmp_path: Path, clock: Clock) -> Office:
    return Office(tmp_path, clock)


async def test_a_report_refused_in_time_comes_back_after_a_pause_that_grows(office: Office, clock: Clock) -> None:
    office.directory.error = office.refuse()
    pauses = []
    for _ in range(4):
        pauses.append(await office.report())
        assert await office.report() == pytest.approx(pauses[-1]), "nothing is tried before"
        clock.now += pauses[-1]
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 8.0
    office.directory.error = None
    assert await office.report() == REFRESH
    assert len(office.directory.written) == 1
    assert 0 < await office.report() <= REFRESH * 1.1


async def test_a_report_refused_late_is_written_again_and_not_only_after_five_minutes(
    office: Office, clock: Clock
) -> None:
    assert await office.report() == REFRESH
    clock.now += 20  # the interval is over
    assert office.directory.failed is not None
    office.directory.failed(office.refuse("503 later", after=7))
    assert office.woken == 1
    pause = await office.report()
    assert 7 < pause < 10, "what the server asks for, and a little"
    clock.now += pause
    assert await office.report() == REFRESH
    assert len(office.directory.written) == 2


async def test_a_bug_that_shows_late_is_no_end(office: Office, clock: Clock) -> None:
    await office.report()
    assert office.directory.failed is not None
    office.directory.failed(RuntimeError())
    clock.now += 20
    assert await office.report() == REFRESH
    assert len(office.directory.written) == 2


def raised(node: Node) -> dict[str, str]:
    return {finding.code: finding.message for finding in node.findings.shown(T + 1000.0)}


async def test_an_announcement_lost_late_is_found_missing_told_and_published_again(
    office: Office, clock: Clock
) -> None:
    a = office.a
    documents = view(a, office.b)
    a.worker.speaker.request_rotation(T + 1)
    a.run(T + 1)
    signed = a.run(T + 1).publish
    assert signed is not None
    await office.out.publish(signed)
    assert a.run(T + 2).publish is None, "taken for published"
    assert office.directory.failed is not None
    office.directory.failed(office.refuse("422 refused"))
    assert office.woken == 1
    await office.out.compare(documents)
    again = a.run(T + 2).publish
    assert again == signed
    pause = await office.out.publish(again)
    assert 1 <= pause <= 2
    assert raised(a)[codes.NOT_PUBLISHED] == "422 refused"
    assert len(office.directory.written) == 1
    clock.now += pause
    await office.out.publish(again)
    assert len(office.directory.written) == 2
    assert codes.NOT_PUBLISHED not in raised(a)


async def test_an_announcement_refused_in_time_is_told_and_comes_back(office: Office, clock: Clock) -> None:
    signed = office.a.keyring.last
    office.directory.error = office.refuse("403 not yours")
    pause = await office.out.publish(signed)
    assert raised(office.a)[codes.NOT_PUBLISHED] == "403 not yours"
    office.directory.error = None
    assert await office.out.publish(signed) == pytest.approx(pause)
    clock.now += pause
    await office.out.publish(signed)
    assert office.directory.written == [signed.text if signed else ""]
    assert codes.NOT_PUBLISHED not in raised(office.a)
