"""What the agent's loop does first when there is more than one thing to do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.tunnels import codes
from linkseal.tunnels.agent.loop import POLLED
from linkseal.tunnels.findings import HOST_SUBJECT
from linkseal.tunnels.host.host import Aspect
from unit.agent.test_loop import Running


async def test_a_report_waits_once_for_what_the_directory_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Running(tmp_path, ThreadPoolExecutor(1, thread_name_prefix="worker")).agent
    reports: list[int] = []
    news = [True, True, True, True, False, False]
    """Whether something came while the pass was under way."""

    async def publish(_: SignedAnnouncement | None) -> float:
        loop._look = news.pop(0)
        return 60.0

    async def report(_: object) -> float:
        reports.append(loop._passes)
        return 60.0

    monkeypatch.setattr(loop._outgoing, "publish", publish)
    monkeypatch.setattr(loop._outgoing, "report", report)
    while news:
        loop._wake.set()
        await loop._turn()
    assert reports == [2, 4, 5, 6]


async def test_a_poll_reads_what_was_taken_for_granted(tmp_path: Path) -> None:
    running = Running(tmp_path, ThreadPoolExecutor(1, thread_name_prefix="worker"))
    loop, host = running.agent, running.worker.host
    seen = []
    for granted in (frozenset({Aspect.NFT, Aspect.GUARD}), frozenset[Aspect]()):
        host.granted = granted  # type: ignore[misc]
        loop._dirty, loop._look, loop._poll_due = set(), False, 0.0
        await loop._turn()
        seen.append(running.worker.jobs[-1].aspects)
    assert seen == [POLLED | {Aspect.NFT, Aspect.GUARD}, POLLED]


async def test_what_a_pass_found_is_in_the_log_before_anything_is_written_to_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(tmp_path, ThreadPoolExecutor(1, thread_name_prefix="worker"))
    loop = running.agent
    logged: list[str] = []

    async def publish(_: SignedAnnouncement | None) -> float:
        logged.extend(record.message for record in caplog.records)
        return 60.0

    monkeypatch.setattr(loop._outgoing, "publish", publish)
    running.worker.findings.raise_(codes.STEP_REFUSED, HOST_SUBJECT, "no such device", 0.0)
    loop._wake.set()
    await loop._turn()
    assert [line for line in logged if "no such device" in line] != []
