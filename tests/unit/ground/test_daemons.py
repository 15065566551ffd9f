"""Programs in the background: told when they end by themselves, ended with certainty, paused; their ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ground.daemons import Daemon, DaemonError, Port


@pytest.fixture
def starter() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def shell(script: str, folder: Path, starter: ThreadPoolExecutor) -> Daemon:
    return Daemon(["sh", "-c", script], folder / "log", starter)


def test_one_that_ends_is_told_with_what_it_said(tmp_path: Path, starter: ThreadPoolExecutor) -> None:
    daemon = shell("echo no such flag; exit 3", tmp_path, starter)
    daemon.start()
    with pytest.raises(DaemonError, match=r"sh does not run \(exit status 3\); .*\nno such flag"):
        daemon.wait_until(lambda: False, "getting ready", 10)


def test_one_that_never_gets_ready_is_told_too(tmp_path: Path, starter: ThreadPoolExecutor) -> None:
    daemon = shell("echo busy; exec sleep 60", tmp_path, starter)
    daemon.start()
    with pytest.raises(DaemonError, match=r"getting ready took over 0 s; .*\n"):
        daemon.wait_until(lambda: False, "getting ready", 0.2)
    daemon.stop()
    assert not daemon.runs


@pytest.mark.parametrize("script", ["exec sleep 60", "trap '' TERM; while :; do sleep 0.1; done"])
def test_it_ends_also_when_it_would_not(tmp_path: Path, starter: ThreadPoolExecutor, script: str) -> None:
    daemon = shell(script, tmp_path, starter)
    daemon.start()
    daemon.pause()
    daemon.stop(0.3)
    assert not daemon.runs
    daemon.stop()


def test_its_log_goes_on_after_a_second_start(tmp_path: Path, starter: ThreadPoolExecutor) -> None:
    daemon = shell("echo line; exec sleep 60", tmp_path, starter)
    for lines in (1, 2):
        daemon.start()
        daemon.wait_until(lambda lines=lines: daemon.tail().count("line") == lines, "printing", 10)  # type: ignore[misc]
        daemon.kill()


def test_a_port_refuses_while_nobody_serves_and_is_kept_for_who_shares_it() -> None:
    port = Port("127.0.0.1")
    where = ("127.0.0.1", port.number)
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(where)
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(where)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(where)
        server.listen()
        socket.create_connection(where).close()
    port.close()
