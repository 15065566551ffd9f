"""What `linkseal controller` refuses before it does anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Run

CA = ("controller", "ca", "--ssh-agent", "/nowhere/agent.sock")
FOLDER = ("controller", "run", "--inventory", "nodes.yaml", "--ca", "ca")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*CA, "--name", ""), "1 to 64 printable characters"),
        ((*CA, "--name", "x" * 65), "1 to 64 printable characters"),
        ((*CA, "--name", "a\nb"), "1 to 64 printable characters"),
        ((*CA, "--days", "0"), "--days"),
        ((*CA, "--days", "9", "--request"), "--days goes with no --request"),
        (("controller", "ca"), "--ssh-agent"),
        ((*FOLDER, "--ssh-agent", "/nowhere/agent.sock"), "a folder of files needs"),
    ],
    ids=["no name", "long name", "two lines", "no day", "days of a request", "no agent", "agent of a folder"],
)
def test_what_goes_with_nothing_is_a_usage_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    done = run(*words)
    assert done.code == 2
    assert said in done.err


def test_an_agent_that_is_not_there_is_named(run: Run) -> None:
    done = run(*CA)
    assert done.code == 3
    assert "/nowhere/agent.sock" in done.err


def test_an_agent_in_the_environment_is_nothing_to_a_folder_s_controller(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere/agent.sock")
    done = run("--directory", str(tmp_path / "directory"), *FOLDER, "--once")
    assert "nodes.yaml" in done.err
    assert "a folder of files needs" not in done.err
