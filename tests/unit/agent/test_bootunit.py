"""The boot unit is kept beside the passes: installed, looked after, and told of where it cannot be."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from linkseal.keys.errors import HostError
from linkseal.tunnels import codes
from linkseal.tunnels.agent import bootunit
from linkseal.tunnels.agent.bootunit import BootUnit
from linkseal.tunnels.findings import ActiveFindings
from linkseal.tunnels.settings import AgentSettings, BootSettings, KubeDirectorySettings

ROOT = Path("/var/lib/linkseal/boot/root-1")


class Host:
    """Stands for `install` and `stands`."""

    def __init__(self) -> None:
        self.error: HostError | None = None
        self.there = False
        self.installed = 0
        self.threads: set[str] = set()

    def install(self, *_: object) -> Path:
        self.threads.add(threading.current_thread().name)
        if self.error is not None:
            raise self.error
        self.installed += 1
        self.there = True
        return ROOT

    def stands(self, *_: object) -> bool:
        return self.there


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()
    monkeypatch.setattr(bootunit, "install", made.install)
    monkeypatch.setattr(bootunit, "stands", made.stands)
    monkeypatch.setattr(bootunit, "FIRST", 0.0)
    monkeypatch.setattr(bootunit, "LOOK", 0.01)
    monkeypatch.setattr(bootunit, "RETRY", 0.01)
    return made


def worker(boot: BootSettings | None = BootSettings()) -> Any:  # noqa: B008 - frozen
    settings = AgentSettings("n1", KubeDirectorySettings(), boot=boot)
    return SimpleNamespace(settings=settings, findings=ActiveFindings(), boot=None)


async def at_once(work: Callable[[], None]) -> None:
    work()


async def kept(made: Any, condition: Callable[[], bool]) -> None:
    """Keep the unit until the condition holds."""
    task = asyncio.ensure_future(BootUnit(made, at_once).run())
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is no event
            await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def shown(made: Any) -> list[tuple[str, str]]:
    return [(one.code, one.message) for one in made.findings.shown(9e9)]


async def test_it_is_installed_once_and_in_no_thread_that_others_wait_for(host: Host) -> None:
    made = worker()
    await kept(made, lambda: made.boot.state == "installed")
    await asyncio.sleep(0.05)
    assert (host.installed, made.boot.root, shown(made)) == (1, "root-1", [])
    assert threading.current_thread().name not in host.threads


async def test_what_was_taken_away_is_put_back(host: Host) -> None:
    made = worker()

    def take() -> bool:
        host.there = False
        return host.installed > 2

    await kept(made, take)
    assert made.boot.state == "installed"


async def test_where_it_cannot_be_that_is_told_until_it_can(host: Host) -> None:
    host.error = HostError("read-only /etc")
    made = worker()
    await kept(made, lambda: made.boot.state == "failed")
    assert made.boot.reason == "read-only /etc"
    assert shown(made) == [(codes.NO_BOOT_UNIT, "read-only /etc")]
    host.error = None
    await kept(made, lambda: made.boot.state == "installed")
    assert shown(made) == []


async def test_a_node_of_a_cluster_without_one_says_so_and_why(host: Host) -> None:
    made = worker(None)
    task = asyncio.ensure_future(BootUnit(made, at_once).run())
    await asyncio.sleep(0.05)
    assert not task.done(), "it would be started again for ever"
    task.cancel()
    assert (made.boot.state, host.installed) == ("absent", 0)
    assert "agent.bootUnit.enabled" in made.boot.reason
