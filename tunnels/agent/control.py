"""The agent's control socket: one JSON object in, one out, on a Unix socket only root can open.

{"do": "status"} → {"ok": true, …}          errors: {"ok": false, "error": "…"}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from linkseal.keys.errors import DirectoryError, HostError, LinksealError
from linkseal.tunnels.host.localsocket import LocalSocket
from linkseal.wireguard.jsonline import exchange

SOCKET: Final = "agent.sock"
MAX_REQUEST: Final = 64 * 1024
MAX_REPLY: Final = 64 * 1024 * 1024
"""Bytes. The plan of 5,000 peers as text is some megabytes."""

Handler = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


def ask(run_directory: Path, request: Mapping[str, Any], timeout: float = 30.0) -> dict[str, Any]:
    """Ask the local agent and return its answer. Raises DirectoryError if none answers, HostError if it refuses."""
    path = run_directory / SOCKET
    try:
        answer = exchange(path, request, seconds=timeout, limit=MAX_REPLY)
    except OSError as error:
        raise DirectoryError(
            f"no agent answers at {path} ({error.strerror or error}): is `linkseal agent run` running on this host, "
            "and are you root?"
        ) from error
    except ValueError:
        raise DirectoryError(f"the agent at {path} closed the connection: see its log") from None
    if not isinstance(answer, dict):
        raise DirectoryError(f"what answers at {path} is no agent of this version")
    if not answer.get("ok"):
        raise HostError(str(answer.get("error", "the agent refused, without a reason")))
    return answer


class ControlServer(LocalSocket):
    """Serves a socket until closed. Handlers run in the agent's loop."""

    def __init__(self, folder: Path, handler: Handler, name: str = SOCKET) -> None:
        super().__init__(folder / name, self._serve, MAX_REQUEST)
        self._handler = handler

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            try:
                raw = await asyncio.wait_for(reader.readline(), timeout=10)
                answer = await self._answer(raw)
            except ValueError:
                answer = {"ok": False, "error": f"a request has at most {MAX_REQUEST} bytes, on one line"}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _answer(self, raw: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(raw)
        except ValueError:
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("do"), str):
            return {"ok": False, "error": 'a request is one line of JSON such as {"do": "status"}'}
        try:
            return {"ok": True, **await self._handler(request)}
        except LinksealError as error:
            return {"ok": False, "error": str(error)}
