"""/metrics, /healthz and /readyz over HTTP/1.1, in the agent's event loop. Read only, bounded, without a thread.

GET /metrics HTTP/1.1 ─► one answer, then the connection is closed
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from itertools import accumulate
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.agent.clock import steady_now, unix_now
from linkseal.tunnels.metrics import BUCKETS, METRICS, Metric, Picture, Sample, samples
from linkseal.tunnels.settings import EndpointSetting
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

MAX_HEAD: Final = 8192
"""Bytes of a request's head."""
MAX_CONNECTIONS: Final = 16
PATIENCE: Final = 10.0
"""Seconds a connection may last."""

PLAIN: Final = "text/plain; charset=utf-8"


class PictureCollector(Collector):
    """Makes metric families of a picture; keeps nothing."""

    def __init__(self, picture: Callable[[], Picture]) -> None:
        self._picture = picture

    def collect(self) -> Iterable[Family]:
        """Return every family that has a value now, in the order of the catalogue."""
        picture = self._picture()
        found: dict[str, list[Sample]] = {}
        for sample in samples(picture, unix_now(), steady_now()):
            found.setdefault(sample.metric.name, []).append(sample)
        for metric in METRICS:
            if metric.kind == "histogram":
                yield _histogram(metric, picture)
            elif metric.name in found:
                yield _family(metric, found[metric.name])


def _family(metric: Metric, values: list[Sample]) -> Family:
    if metric.kind == "info":
        info = InfoMetricFamily(metric.name, metric.help, labels=[])
        for sample in values:
            info.add_metric([], dict(zip(metric.labels, sample.labels, strict=True)))
        return info
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for sample in values:
        family.add_metric(sample.labels, sample.value)
    return family


def _histogram(metric: Metric, picture: Picture) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=[])
    bounds = [*map(str, BUCKETS), "+Inf"]
    buckets = zip(bounds, map(float, accumulate(picture.loop.by_bucket)), strict=True)
    family.add_metric([], [*buckets], picture.loop.seconds)
    return family


class WebServer:
    """Serves at one address until closed."""

    def __init__(
        self, listen: EndpointSetting, picture: Callable[[], Picture], hangs: Callable[[], str | None]
    ) -> None:
        self._listen = listen
        self._picture = picture
        self._hangs = hangs
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(PictureCollector(picture))
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen. HostError if that is refused."""
        address, port = self._listen
        try:
            self._server = await asyncio.start_server(self._serve, address, port, limit=MAX_HEAD)
        except OSError as error:
            shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            raise HostError(f"cannot listen on {shown}: {error.strerror or error}", errno=error.errno) from error

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server is not None else 0

    async def serve(self) -> None:
        """Return when the server ends, which only `close` or a cancellation brings about."""
        if self._server is not None:
            await self._server.serve_forever()

    async def close(self) -> None:
        """Stop listening, and end what is open."""
        if self._server is not None:
            self._server.close()
        for writer in self._open:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(PATIENCE):
                    writer.write(await self._exchange(reader))
                    await writer.drain()
        finally:
            self._open.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.LimitOverrunError:
            return _answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is too long\n")
        request, *headers = head.split("\r\n")
        return self.reply(request, dict(_headers(headers)).get("accept", ""))

    def reply(self, request: str, accept: str) -> bytes:
        """Return the answer to a request line such as `GET /metrics HTTP/1.1`."""
        words = request.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):  # noqa: PLR2004 - method, target, version
            return _answer(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1\n")
        method, target = words[0], words[1].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return _answer(HTTPStatus.METHOD_NOT_ALLOWED, "everything here is read only\n", "Allow: GET, HEAD\r\n")
        status, text, kind = self._page(target, accept)
        return _answer(status, text, kind=kind, body=method == "GET")

    def _page(self, target: str, accept: str) -> tuple[HTTPStatus, str, str]:
        match target:
            case "/metrics":
                encode, kind = choose_encoder(accept)
                return HTTPStatus.OK, encode(self._registry).decode(), kind
            case "/healthz":
                return *_health(self._hangs()), PLAIN
            case "/readyz":
                ready = self._picture().loop.ready
                why = None if ready else "the data path is not applied (yet): see `linkseal agent status`"
                return *_health(self._hangs() or why), PLAIN
            case _:
                return HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz\n", PLAIN


def _health(wrong: str | None) -> tuple[HTTPStatus, str]:
    return (HTTPStatus.OK, "ok\n") if wrong is None else (HTTPStatus.SERVICE_UNAVAILABLE, f"{wrong}\n")


def _headers(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, _, value = line.partition(":")
        yield name.strip().lower(), value.strip()


def _answer(status: HTTPStatus, text: str, more: str = "", kind: str = PLAIN, *, body: bool = True) -> bytes:
    data = text.encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode() + (data if body else b"")
