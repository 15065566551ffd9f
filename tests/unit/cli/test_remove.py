"""`linkseal remove` against a folder of files, whose agents answer as the test says."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from linkseal.tunnels.cli import asking
from linkseal.tunnels.directory.files import FileDirectory, cluster_json
from linkseal.tunnels.model import Stage
from linkseal.tunnels.status import Request, RequestStatus, to_json
from linkseal.tunnels.statustypes import Message
from unit.keys.cluster import policy

from . import samples
from .conftest import Run

NAMES = samples.names(3)


class Folder:
    """Reports in a folder; who is asked answers at once, with what is in `answers` (None: not at all)."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.answers: dict[str, tuple[str, Message] | None] = dict.fromkeys(NAMES, ("done", ""))
        self.asked: list[str] = []
        for name in NAMES:
            (path / "nodes" / name).mkdir(parents=True)
            self.write(name)
        (path / "ca.crt").write_text("")
        self.at("off")
        monkeypatch.setattr(FileDirectory, "request", self.request)
        monkeypatch.setattr(asking, "INTERVAL", 0.02)

    def at(self, stage: str) -> None:
        (self.path / "cluster.json").write_text(cluster_json("c1", policy(stage=stage)))

    def write(self, name: str, age: float = 5, **requests: RequestStatus) -> None:
        found = samples.report(name, NAMES, {}, age=samples.NOW - time.time() + age, stage=Stage.OFF).status
        assert found is not None
        text = to_json(name, replace(found, requests=requests))
        (self.path / "nodes" / name / "status.json").write_text(text)

    async def request(self, node: str, request: Request) -> None:
        assert request.type == "remove"
        self.asked.append(node)
        said = self.answers[node]
        if said is not None:
            self.write(node, **{request.id: RequestStatus("remove", *said)})  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    return Folder(tmp_path / "directory", monkeypatch)


def test_every_node_is_asked_and_what_became_of_it_is_said(run: Run, folder: Folder) -> None:
    done = run("remove", "--yes", "--directory", folder.path)
    assert (done.code, folder.asked) == (0, NAMES)
    assert done.out.splitlines() == [f"{name}: removed" for name in NAMES]
    assert "uninstall it now" in done.err


def test_what_is_still_there_and_who_does_not_report_is_told(run: Run, folder: Folder) -> None:
    folder.answers["n1"] = ("failed", "failed: rule 100")
    folder.write("n3", age=3600)
    done = run("remove", "--yes", "--directory", folder.path)
    assert (done.code, folder.asked) == (1, ["n1", "n2"])
    assert done.out.splitlines() == [
        "n1: failed: failed: rule 100", "n2: removed",
        "n3: its agent does not report; run `linkseal agent cleanup` there",
    ]  # fmt: skip


def test_who_does_not_answer_is_waited_for_so_long(run: Run, folder: Folder) -> None:
    folder.answers["n2"] = None
    done = run("remove", "--yes", "--timeout", "1s", "--directory", folder.path)
    assert (done.code, done.out.splitlines()[1]) == (4, "n2: no answer")
    assert "n2 (not begun)" in done.err


@pytest.mark.parametrize("stage", ["prepare", "prefer", "enforce"])
def test_while_anything_is_encrypted_nobody_is_asked(run: Run, folder: Folder, stage: str) -> None:
    folder.at(stage)
    done = run("remove", "--yes", "--directory", folder.path)
    assert (done.code, folder.asked) == (2, [])
    assert f"at stage {stage}: run `linkseal disable` first" in done.err


def test_without_a_word_nothing_is_removed(run: Run, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("remove", "--directory", folder.path)
    assert (done.code, folder.asked) == (5, [])
    assert "3 nodes" in done.err
