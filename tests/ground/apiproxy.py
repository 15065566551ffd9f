"""A way to the API server that can be slow, cut watches and refuse: what overloaded servers and bad networks do.

    with ApiProxy(plane) as proxy:
        config = proxy.kubeconfig(folder / "kubeconfig", token)
        proxy.delay = 5.0                                        # seconds before each request is passed on
        proxy.cut = 1.0                                          # seconds after which a watch is cut off
        proxy.refusal = Refusal(429, retry_after=3)              # what is answered instead
        assert len(proxy.requests("GET")) < 10

It answers with the control plane's own certificate, in a thread of its own, in the network namespace of who makes it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from ground.controlplane import ControlPlane
from ground.kubefiles import write_kubeconfig

START_SECONDS = 30.0
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"})
"""Headers of one connection, not of what is passed on."""


@dataclass(frozen=True)
class Refusal:
    """An answer by a server that would rather not: with `watches`, to watches alone."""

    status: int
    retry_after: int = 0
    watches: bool = False


@dataclass(frozen=True)
class Passed:
    """A request as it came in. `at`: monotonic seconds."""

    method: str
    path: str
    watch: bool
    at: float


class ApiProxy:
    """Use as a context manager. What it does to requests may be changed at any time."""

    def __init__(self, plane: ControlPlane, address: str = "127.0.0.1") -> None:
        self.delay, self.cut = 0.0, 0.0
        self.refusal: Refusal | None = None
        self._plane, self._address = plane, address
        self._seen: list[Passed] = []
        self._watches: list[web.Request] = []
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._work, name="api-proxy", daemon=True)
        self.server = ""

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(START_SECONDS), "the proxy did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(START_SECONDS)

    def kubeconfig(self, path: Path, token: str) -> Path:
        """Write a kubeconfig that leads here; the path."""
        return write_kubeconfig(path, self.server, self._plane.ca_file, token)

    def requests(self, method: str = "", *, watch: bool | None = None, since: float = 0.0) -> list[Passed]:
        """What came in: of this method, watches or not, since a time by the monotonic clock."""
        return [
            one
            for one in list(self._seen)
            if method in {"", one.method} and watch in {None, one.watch} and one.at >= since
        ]

    def cut_now(self) -> None:
        """Cut off every watch that stands."""

        def cut() -> None:
            for request in self._watches:
                _hang_up(request)

        self._loop.call_soon_threadsafe(cut)

    def _work(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        inside = ssl.create_default_context(cafile=str(self._plane.ca_file))
        outside = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        outside.load_cert_chain(self._plane.folder / "apiserver.crt", self._plane.folder / "apiserver.key")
        limits = ClientTimeout(total=None, sock_connect=10.0)
        async with ClientSession(
            connector=TCPConnector(ssl=inside, limit=0), timeout=limits, auto_decompress=False
        ) as self._client:
            application = _application(self._answer)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
            await runner.setup()
            site = web.TCPSite(runner, self._address, 0, ssl_context=outside)
            await site.start()
            self.server = f"https://{self._address}:{runner.addresses[0][1]}"
            self._started.set()
            await self._ending.wait()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        watch = request.query.get("watch") == "true"
        self._seen.append(Passed(request.method, request.path, watch, time.monotonic()))
        await asyncio.sleep(self.delay)
        refusal = self.refusal
        if refusal is not None and (watch or not refusal.watches):
            return _refused(refusal)
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _HOP}
        url = f"{self._plane.server}{request.raw_path}"
        if watch:
            self._watches.append(request)
        try:
            return await self._passed_on(request, url, headers, self.cut if watch and self.cut else None)
        except (ClientError, OSError, TimeoutError):  # cut off: no end of the answer, and no connection any more
            _hang_up(request)
            return web.Response(status=HTTPStatus.BAD_GATEWAY)
        finally:
            self._watches = [one for one in self._watches if one is not request]

    async def _passed_on(
        self, request: web.Request, url: str, headers: Mapping[str, str], seconds: float | None
    ) -> web.StreamResponse:
        async with (
            asyncio.timeout(seconds),
            self._client.request(
                request.method, url, headers=headers, data=await request.read(), allow_redirects=False
            ) as answer,
        ):
            shown = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP}
            response = web.StreamResponse(status=answer.status, headers=shown)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


def _application(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.Application:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    return application


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _refused(refusal: Refusal) -> web.Response:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": refusal.status, "message": "too much"}
    headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else {}
    return web.Response(
        status=refusal.status, headers=headers, text=json.dumps(status), content_type="application/json"
    )
