"""Answers of a daemon, however they come."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from errno import EADDRINUSE, ENODEV
from pathlib import Path

import pytest
from linkseal.wireguard import uapisocket
from linkseal.wireguard.apply import SendRefused
from linkseal.wireguard.uapisocket import exchange


@contextlib.contextmanager
def daemon(folder: Path, *parts: bytes) -> Iterator[None]:
    """Answers one request with these bytes, one after the other, and ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "lsl00.sock"))
        listener.listen(1)

        def answer() -> None:
            link, _ = listener.accept()
            with link:
                link.recv(100)
                for part in parts:
                    link.sendall(part)
                    time.sleep(0.01)

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(uapisocket, "SOCKET_FOLDER", tmp_path)
    return tmp_path


def test_an_answer_that_comes_in_pieces_is_one(folder: Path) -> None:
    with daemon(folder, b"listen_port=5", b"1820\nfwmark=", b"3\nerrno=0\n", b"\n"):
        assert exchange("lsl00", b"get=1\n\n") == ["listen_port=51820", "fwmark=3"]


@pytest.mark.parametrize(
    ("parts", "errno"),
    [
        ((b"errno=-98\n\n",), EADDRINUSE),
        ((b"listen_port=1\nerrno=98\n\n",), EADDRINUSE),
        ((b"listen_port=51820\nfwm",), ENODEV),
        ((), ENODEV),
        ((b"listen_port=51820\n\n",), ENODEV),
    ],
)
def test_an_answer_that_says_no_or_is_not_whole_is_refused(folder: Path, parts: tuple[bytes, ...], errno: int) -> None:
    with daemon(folder, *parts), pytest.raises(SendRefused) as refused:
        exchange("lsl00", b"set=1\n\n")
    assert refused.value.errno == errno
