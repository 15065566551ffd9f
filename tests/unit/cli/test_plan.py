"""`linkseal plan --node` against a folder of files, whose agents answer as the test says."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from linkseal.tunnels.cli import asking, session
from linkseal.tunnels.directory.files import FileDirectory, cluster_json
from linkseal.tunnels.status import Request, RequestStatus, to_json
from linkseal.tunnels.statusparts import PlanStatus
from unit.keys.cluster import policy

from . import samples
from .conftest import Run

NAMES = samples.names(3)


class Folder:
    """Reports in a folder; who is asked answers at once, with `state` (None: not at all) and `plan`."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.state: str | None = "done"
        self.message = ""
        self.plan = PlanStatus("", samples.NOW, ("ip link del lsl00",), ("ip link add lsl01 type wireguard",))
        self.other = False
        self.asked: list[tuple[str, str]] = []
        for name in NAMES:
            (path / "nodes" / name).mkdir(parents=True)
            self.write(name)
        (path / "ca.crt").write_text("")
        (path / "cluster.json").write_text(cluster_json("c1", policy(stage="prefer")))
        monkeypatch.setattr(FileDirectory, "request", self.request)
        monkeypatch.setattr(asking, "INTERVAL", 0.02)

    def write(self, name: str, plan: PlanStatus | None = None, age: float = 5, **requests: RequestStatus) -> None:
        found = samples.report(name, NAMES, {}, age=samples.NOW - time.time() + age).status
        assert found is not None
        text = to_json(name, replace(found, requests=requests, plan=plan))
        (self.path / "nodes" / name / "status.json").write_text(text)

    async def request(self, node: str, request: Request) -> None:
        self.asked.append((node, request.type))
        if self.state is not None:
            plan = replace(self.plan, request="another" if self.other else request.id)
            self.write(node, plan, **{request.id: RequestStatus("plan", self.state, self.message)})  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    return Folder(tmp_path / "directory", monkeypatch)


def test_the_agent_of_another_node_is_asked_through_the_directory(run: Run, folder: Folder) -> None:
    done = run("plan", "--node", "n2", "--directory", folder.path)
    assert (done.code, folder.asked) == (0, [("n2", "plan")]), done.err
    assert done.out.splitlines() == [
        "# desired", "ip link add lsl01 type wireguard", "", "# steps", "ip link del lsl00",
    ]  # fmt: skip


def test_its_object_has_the_same_fields_as_that_of_this_host(run: Run, folder: Folder) -> None:
    found = json.loads(run("plan", "--node", "n2", "--directory", folder.path, "-o", "json").out)
    assert found == {
        "apiVersion": "linkseal.io/v1alpha1", "kind": "Plan", "node": "n2", "desiredOmitted": 0, "stepsOmitted": 0,
        "desired": ["ip link add lsl01 type wireguard"], "steps": ["ip link del lsl00"],
    }  # fmt: skip


def test_what_was_too_long_is_said(run: Run, folder: Folder) -> None:
    folder.plan = PlanStatus("", samples.NOW, (), ("one",), 0, 41)
    done = run("plan", "--node", "n2", "--directory", folder.path)
    assert done.out.splitlines() == ["# desired", "one", "# … and 41 lines more", "", "# steps"]
    assert "nothing to do: n2 is as it should be" in done.err
    folder.plan = PlanStatus("", samples.NOW, (), (), 7, 41)
    assert "nothing to do" not in run("plan", "--node", "n2", "--directory", folder.path).err


def test_who_does_not_answer_is_waited_for_so_long(run: Run, folder: Folder) -> None:
    folder.state = None
    done = run("plan", "--node", "n2", "--timeout", "1s", "--directory", folder.path)
    assert (done.code, done.out) == (4, "")
    assert "wait longer with --timeout" in done.err


def test_one_that_does_not_report_is_not_asked(run: Run, folder: Folder) -> None:
    folder.write("n2", age=3600)
    done = run("plan", "--node", "n2", "--directory", folder.path)
    assert (done.code, folder.asked) == (3, [])
    assert "the agent of n2 does not report" in done.err


def test_an_agent_that_cannot_plan_says_why(run: Run, folder: Folder) -> None:
    folder.state, folder.message = "failed", "netlink refuses"
    done = run("plan", "--node", "n2", "--directory", folder.path)
    assert (done.code, done.out) == (1, "")
    assert "the agent of n2 cannot plan (failed): netlink refuses" in done.err


def test_the_answer_to_somebody_else_is_not_taken_for_ours(run: Run, folder: Folder) -> None:
    folder.other = True
    done = run("plan", "--node", "n2", "--directory", folder.path)
    assert (done.code, done.out) == (3, "")
    assert "ask again" in done.err


def test_from_afar_a_node_must_be_named_and_known(run: Run, folder: Folder, tmp_path: Path) -> None:
    done = run("plan", "--directory", folder.path)
    assert done.code == 2
    assert "--node NAME" in done.err
    done = run("plan", "--kubeconfig", tmp_path / "none")
    assert done.code == 2
    assert "--node NAME" in done.err
    done = run("plan", "--node", "n9", "--directory", folder.path)
    assert (done.code, folder.asked) == (2, [])
    assert "known: n1, n2, n3" in done.err


def test_a_folder_on_the_command_line_goes_before_the_agent_of_this_host(
    run: Run, folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = tmp_path / "agent.yaml"
    settings.write_text("{}")
    monkeypatch.setattr(session, "DEFAULT_CONFIG", settings)
    done = run("plan", "--node", "n1", "--directory", folder.path)
    assert (done.code, folder.asked) == (0, [("n1", "plan")]), done.err
