"""The little web server: what it answers, to whatever is sent, and to how many at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from linkseal.keys.errors import HostError
from linkseal.tunnels.agent import web
from linkseal.tunnels.agent.web import MAX_CONNECTIONS, WebServer
from linkseal.tunnels.metrics import LoopFigures, Picture
from linkseal.tunnels.settings import EndpointSetting

READY = Picture(LoopFigures(ready=True))


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class Served:
    def __init__(self) -> None:
        self.picture, self.hangs = READY, None
        self.server = WebServer(EndpointSetting("127.0.0.1", 0), lambda: self.picture, lambda: self.hangs)

    async def send(self, raw: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(raw)
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            await closed(writer)

    async def get(self, path: str, more: str = "") -> tuple[int, str, str]:
        """Status, head, body."""
        answer = (await self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())).decode()
        head, _, body = answer.partition("\r\n\r\n")
        return int(head.split()[1]), head, body


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    served = Served()
    await served.server.start()
    try:
        yield served
    finally:
        await served.server.close()


async def test_metrics_are_text_and_openmetrics_if_asked_for() -> None:
    async with serving() as served:
        status, head, body = await served.get("/metrics")
        assert (status, body.count("# TYPE linkseal_ready gauge")) == (200, 1)
        assert "text/plain; version=" in head
        assert f"Content-Length: {len(body.encode())}" in head
        _, head, body = await served.get("/metrics?x=1", "ACCEPT: application/openmetrics-text; version=1.0.0\r\n")
        assert "application/openmetrics-text" in head
        assert body.endswith("# EOF\n")


async def test_health_is_the_loop_and_readiness_the_data_path() -> None:
    async with serving() as served:
        assert [(await served.get(path))[0] for path in ("/healthz", "/readyz")] == [200, 200]
        served.picture = replace(READY, loop=LoopFigures(ready=False))
        assert [(await served.get(path))[0] for path in ("/healthz", "/readyz")] == [200, 503]
        served.picture, served.hangs = READY, "no pass has ended for 91 s"
        assert [(await served.get(path))[0] for path in ("/healthz", "/readyz")] == [503, 503]
        assert (await served.get("/healthz"))[2] == "no pass has ended for 91 s\n"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /other HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\0\xff\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", b"431"),
    ],
)
async def test_what_cannot_be_answered_is_told(raw: bytes, status: bytes) -> None:
    async with serving() as served:
        assert (await served.send(raw)).split()[1] == status
        assert (await served.get("/healthz"))[0] == 200


async def test_head_has_no_body() -> None:
    async with serving() as served:
        answer = await served.send(b"HEAD /metrics HTTP/1.1\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n")
        assert b"Content-Length: 0" not in answer


async def test_who_says_nothing_is_not_waited_for_and_many_are_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE", 1.0)
    async with serving() as served:
        silent = [await asyncio.open_connection("127.0.0.1", served.server.port) for _ in range(MAX_CONNECTIONS)]
        with contextlib.suppress(ConnectionError):
            assert await served.send(b"") == b""
        for reader, writer in silent:
            assert await asyncio.wait_for(reader.read(), 20) == b""
            await closed(writer)
        assert (await served.get("/healthz"))[0] == 200


async def test_a_taken_port_is_an_error_that_names_it() -> None:
    async with serving() as served:
        second = WebServer(EndpointSetting("127.0.0.1", served.server.port), lambda: READY, lambda: None)
        with pytest.raises(HostError, match=rf"cannot listen on 127\.0\.0\.1:{served.server.port}: "):
            await second.start()
