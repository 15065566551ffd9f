"""What is made of the supervisor's answers. With a real one: tests/kernel/test_daemons.py."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from linkseal.keys.errors import HostError
from linkseal.tunnels.agent.daemons import Asked
from linkseal.wireguard.choose import choose_driver
from linkseal.wireguard.launch import BINARY_VARIABLE, Supervised, ask


@contextmanager
def answering(path: Path, raw: bytes) -> Iterator[None]:
    """Whoever asks gets just this."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            link, _ = server.accept()
            with link:
                link.makefile("rb").readline()
                link.sendall(raw)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize("raw", [b"", b"{", b"[]\n", b"7\n", b"\xff\n"])
def test_what_answers_and_is_no_supervisor_is_told(tmp_path: Path, raw: bytes) -> None:
    with answering(tmp_path / "s", raw), pytest.raises(HostError, match="is no supervisor of this version"):
        ask(tmp_path / "s", {"do": "list"})


@pytest.mark.parametrize(
    ("raw", "words"),
    [(b'{"ok": false, "error": "no TUN"}\n', "refused: no TUN"), (b"{}\n", "refused: without a reason")],
)
def test_a_refusal_is_told_with_its_reason(tmp_path: Path, raw: bytes, words: str) -> None:
    with answering(tmp_path / "s", raw), pytest.raises(HostError, match=words):
        Supervised(tmp_path / "s").start("lsl00")


def test_with_a_supervisor_nothing_has_to_be_installed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BINARY_VARIABLE, "/nonexistent/wireguard-go")
    driver = choose_driver("userspace", tmp_path / "control.sock")
    assert driver.kind == "userspace"
    driver.close()
    with pytest.raises(HostError, match="wireguard-go cannot be run"):
        choose_driver("userspace")


@pytest.mark.parametrize("name", ["lsl00", "lslu0123456789a", "lsl0"])
def test_names_of_our_devices(name: str) -> None:
    assert Asked.model_validate({"do": "start", "device": name}).device == name


@pytest.mark.parametrize(
    "name", ["eth0", "lsl", "lsl00\n", "Lsl00", "lsl/x", "lsl0123456789abc", "-f", " lsl00", "lsl٣"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="device"):
        Asked.model_validate({"do": "start", "device": name})
