"""Unix sockets that are there only when they answer."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest
from linkseal.keys.errors import HostError
from linkseal.tunnels.host.localsocket import LocalSocket


async def nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_its_name_appears_when_it_answers_and_only_its_owner_may_open_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, listen = tmp_path / "run/a.sock", asyncio.start_unix_server
    named_before: list[bool] = []
    served_one = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await nothing(reader, writer)
        await writer.wait_closed()
        served_one.set()

    async def watched(*arguments: Any, **named: Any) -> asyncio.Server:
        server = await listen(*arguments, **named)
        named_before.append(path.exists())
        return server

    monkeypatch.setattr(asyncio, "start_unix_server", watched)
    served = LocalSocket(path, serve, 1024)
    await served.start()
    assert named_before == [False]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["a.sock"]
    _reader, writer = await asyncio.open_unix_connection(str(path))
    writer.close()
    await served_one.wait()
    await served.close()
    assert not path.exists()


async def test_it_takes_the_place_of_a_socket_that_was_left(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    for name in ("a.sock", ".new"):
        (tmp_path / name).write_bytes(b"")
    served = LocalSocket(path, nothing, 1024)
    await served.start()
    assert path.is_socket()
    await served.close()


async def test_where_it_cannot_listen_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(HostError, match=r"cannot listen on .*/run/a\.sock"):
        await LocalSocket(tmp_path / "run/a.sock", nothing, 1024).start()
