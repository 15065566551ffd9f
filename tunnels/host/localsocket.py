"""A Unix socket that only its owner may open. Its name appears when it answers, never before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from linkseal.keys.errors import HostError

ASIDE: Final = ".new"
"""What the socket is called until it listens. No longer than the names of sockets: a path has 107 bytes at most."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class LocalSocket:
    """Serves connections at `path` until closed. `limit`: bytes of the longest line."""

    def __init__(self, path: Path, serve: Serve, limit: int) -> None:
        self._path, self._connected, self._limit = path, serve, limit
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, and take the place of a socket left by one that is gone. Raises HostError."""
        aside = self._path.with_name(ASIDE)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            aside.unlink(missing_ok=True)
            # A name that is there before the socket listens refuses whoever waited for it.
            self._server = await asyncio.start_unix_server(self._connected, str(aside), limit=self._limit)
            aside.chmod(0o600)
            aside.rename(self._path)
        except OSError as error:
            raise HostError(f"cannot listen on {self._path}: {error.strerror or error}", errno=error.errno) from error

    async def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)
