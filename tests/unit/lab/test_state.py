"""A lab on disk: names, its folder, its processes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from linkseal.keys.errors import ConfigError, HostError
from linkseal.tunnels.lab import state
from linkseal.tunnels.lab.backend import Backend
from linkseal.tunnels.lab.state import LabRecord, LabSpec, ProcessId


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(state, "ROOT", tmp_path / "labs")
    return tmp_path / "labs"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("name", ["", "Lab", "-x", "a/b", "..", "a" * 21, "ü"])
def test_a_name_that_would_leave_the_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no name for a lab"):
        state.folder_of(name)


def test_a_lab_that_is_up_is_not_started_again() -> None:
    state.claim("lab")
    with pytest.raises(HostError, match="is up already: see `linkseal lab status`"):
        state.claim("lab")
    state.claim("other")
    with pytest.raises(HostError, match="--name other"):
        state.claim("other")


def test_a_lab_that_is_not_there_is_said_with_those_that_are() -> None:
    with pytest.raises(HostError, match=r"no lab lab is up \(there is: none\)"):
        state.load("lab")
    state.claim("other")
    with pytest.raises(HostError, match=r"there is: other"):
        state.load("lab")
    with pytest.raises(HostError, match="never finished: `linkseal lab down --name other`"):
        state.load("other")


def test_a_record_comes_back_as_it_was_written(sleeper: subprocess.Popen[bytes]) -> None:
    state.claim("lab")
    spec = LabSpec(nodes=5, scope="transparent", families=("4", "6"), cni="vxlan", driver="userspace", kubernetes=True)
    record = LabRecord(spec, Backend.USERSPACE).with_process("n1", sleeper.pid)
    record.save()
    assert state.load("lab") == record
    assert (state.folder_of("lab") / "lab.json").stat().st_mode & 0o777 == 0o600


def test_another_versions_record_is_an_error_that_says_so() -> None:
    folder = state.claim("lab")
    (folder / "lab.json").write_text('{"spec": {"families": [], "unknown": 1}, "processes": {}}')
    with pytest.raises(HostError, match="another version"):
        state.load("lab")


def test_the_last_lab_takes_the_folder_of_labs_with_it(root: Path) -> None:
    state.claim("one")
    state.claim("two")
    state.forget("one")
    assert state.names() == ["two"]
    state.forget("two")
    assert not root.exists()


def test_a_process_is_ended_and_only_that(sleeper: subprocess.Popen[bytes]) -> None:
    known = ProcessId.of(sleeper.pid)
    stranger = replace(known, started=known.started - 1)  # the same number, but another process once
    assert not stranger.alive()
    assert not stranger.end()
    assert sleeper.poll() is None
    assert known.end()
    assert sleeper.wait(5) == -signal.SIGTERM
    assert not known.alive()


def test_a_process_that_has_ended_has_no_identity() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(HostError, match="has ended already"):
        ProcessId.of(child)
