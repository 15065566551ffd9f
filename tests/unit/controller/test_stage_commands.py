"""`linkseal enable` and `disable` against a running controller."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from linkseal.tunnels.cli.main import main

from .walking import Site, running, until


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    made.write("off")
    monkeypatch.setenv("LINKSEAL_CA", str(tmp_path / "ca"))
    return made


def test_up_and_down_again_with_progress(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with running(site):
        assert main(["enable", "--to", "prefer"]) == 0
        assert site.stage == "prefer"
        shown = capsys.readouterr()
        assert shown.out == "the cluster is at stage prefer\n"
        assert "stage prepare, 0/3 pairs sealed at both ends" in shown.err
        assert main(["disable", "-o", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["good"] is True
        assert site.stage == "off"


def test_a_command_that_ends_takes_the_step_under_way_back(site: Site) -> None:
    with running(site):
        assert main(["enable", "--to", "prepare"]) == 0
        site.behind = {"n3"}
        line = [sys.executable, "-c", "from linkseal.tunnels.cli.main import run; run()", "enable", "--to", "prefer"]
        with subprocess.Popen(line, env={**os.environ}, stderr=subprocess.PIPE) as command:
            until(lambda: site.stage == "prefer")
            command.send_signal(signal.SIGKILL)
            until(lambda: site.stage == "prepare")


def test_a_step_that_one_node_does_not_take_is_taken_back(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with running(site):
        site.behind = {"n2"}
        assert main(["enable", "--to", "prefer", "--timeout", "1s"]) == 1
        assert "not reached n2; the cluster is at stage off" in capsys.readouterr().out
        assert site.stage == "off"


def test_wait_runs_out_and_detached_walks_go_on(site: Site) -> None:
    with running(site):
        site.behind = {"n2"}
        assert main(["enable", "--to", "prefer", "--wait=1s"]) == 4
        until(lambda: site.stage == "off")
        site.behind = set()
        assert main(["enable", "--to", "prefer", "--detach"]) == 0
        until(lambda: site.stage == "prefer")


def test_enforce_asks_first_and_a_rehearsal_changes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with running(site):
        assert main(["enable"]) == 5
        assert "--yes" in capsys.readouterr().err
        assert main(["enable", "--dry-run"]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith("stage off → prepare → prefer → enforce\n")
        assert "not covered: link-local and multicast" in shown
        assert main(["enable", "--dry-run", "-o", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["steps"] == ["prepare", "prefer", "enforce"]
        assert site.stage == "off"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--scope", "transparent", "--to", "prefer"], 2, "the inventory says scope overlay"),
        (["--protocol", "ipsec", "--to", "prefer"], 2, "the inventory says protocol wireguard"),
        (["--nodes", "m*", "--to", "prefer"], 2, "no node in scope is called 'm*'"),
        (["--nodes", ",", "--to", "prefer"], 2, "names nobody"),
    ],
)
def test_what_cannot_be_is_refused(
    site: Site, capsys: pytest.CaptureFixture[str], words: list[str], code: int, text: str
) -> None:
    with running(site):
        assert main(["enable", *words]) == code
        assert text in capsys.readouterr().err
        assert site.stage == "off"


def test_a_pool_by_patterns(site: Site) -> None:
    with running(site):
        assert main(["enable", "--to", "prepare", "--nodes", "n1,*2"]) == 0
        assert site.policy().spec["pool"] == {"stage": "prepare", "nodes": ["n1", "n2"]}


def test_without_a_controller_it_says_how_to_start_one(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["disable"]) == 3
    assert "linkseal controller run" in capsys.readouterr().err


def test_without_a_folder_it_says_which_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LINKSEAL_CA", raising=False)
    assert main(["disable"]) == 2
    assert "--ca" in capsys.readouterr().err


@pytest.mark.parametrize("line", [b"", b"{}\n", b"\xff\n", b'{"target": "prefer"}\n', b"x" * 5_000_000])
def test_nonsense_on_the_socket_harms_nobody(site: Site, line: bytes) -> None:
    with running(site):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(site.path / "ca/controller.sock"))
            try:
                connection.sendall(line)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(4096)
            except OSError:
                answer = b""
            assert not answer or b'"ok": false' in answer
        assert main(["enable", "--to", "prepare"]) == 0
