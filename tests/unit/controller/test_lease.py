"""Who holds the Lease: it is given back whatever the work ended with, and another may try."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.controller import lease
from linkseal.tunnels.controller.lease import Lease, while_leading
from linkseal.tunnels.directory.kubeapi import ApiError


class Held:
    """A Lease that this process gets whenever it asks."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def hold(self) -> bool:
        self.said.append("held")
        return True

    async def release(self) -> None:
        self.said.append("released")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    monkeypatch.setattr(lease, "RETRY_SECONDS", 0.01)
    return Held()


async def test_work_that_fails_gives_the_lease_back_and_is_told(held: Held) -> None:
    async def work(_: asyncio.Event) -> None:
        raise ConfigError("no such key")

    with pytest.raises(ConfigError, match="no such key"):
        await while_leading(cast("Lease", held), work, asyncio.Event())
    assert held.said.count("released") == 1


async def test_work_that_the_api_server_lets_fail_is_tried_again_after_another_could(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    """The first requests after an outage: two processes that end at them would be restarted later and later."""
    stop, answers = asyncio.Event(), [ApiError("overloaded", 503)]

    async def work(ending: asyncio.Event) -> None:
        if answers:
            raise answers.pop()
        held.said.append("worked")
        stop.set()
        await ending.wait()

    async with asyncio.timeout(10):
        await while_leading(cast("Lease", held), work, stop)
    assert held.said[:2] == ["held", "released"]
    assert held.said[-2:] == ["worked", "released"]
    assert "overloaded" in caplog.text
