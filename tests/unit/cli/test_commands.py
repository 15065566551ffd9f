"""Commands against a real folder of files and a real control socket."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from linkseal.keys.errors import HostError
from linkseal.tunnels.agent.control import ControlServer
from linkseal.tunnels.cli import status as status_command
from linkseal.tunnels.directory.files import cluster_json, wrap_announcement
from linkseal.tunnels.model import LinkState, Stage
from linkseal.tunnels.status import bounded, to_json
from unit.keys.cluster import NOW as SIGNED
from unit.keys.cluster import YEAR, Node, authority, policy

from . import samples
from .conftest import Run


@dataclass
class Folder:
    """A file directory, written as agents and signer write it."""

    path: Path

    def policy(self, **spec: object) -> None:
        (self.path / "cluster.json").write_text(cluster_json("c1", policy(**spec)))

    def put(self, name: str, file: str, text: str) -> None:
        folder = self.path / "nodes" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)

    def reports(self, now: float, states: samples.States | None = None, count: int = 3) -> None:
        everybody = samples.names(count)
        for name in everybody:
            found = samples.report(name, everybody, states or {}, age=samples.NOW - now + 3)
            assert found.status is not None
            self.put(name, "status.json", to_json(name, bounded(found.status)))

    def documents(self, count: int = 2) -> None:
        for number in range(1, count + 1):
            node = Node(f"n{number}", f"uid-{number}", number)
            signed = node.announce(certificate=node.certificate(until=FOR_LONG))
            self.put(node.name, "announcement.json", wrap_announcement(signed))
            grant = node.grant()
            self.put(node.name, "grant.json", json.dumps({"grant": grant.text, "signature": grant.signature}))


FOR_LONG = SIGNED + 30 * YEAR
"""Certificates are checked against the clock of whoever runs the tests."""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "directory")
    (made.path / "nodes").mkdir(parents=True)
    (made.path / "ca.crt").write_text(authority().certificate_pem())
    made.policy()
    return made


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(status_command, "INTERVAL", 0.01)
    return time.time()


BROKEN: samples.States = {("n1", "n2"): (LinkState.STALE, "LS2001")}


def test_status_ends_with_0_only_if_everything_is_sealed(run: Run, folder: Folder, now: float) -> None:
    folder.reports(now)
    good = run("status", "--directory", folder.path)
    assert (good.code, good.err) == (0, "")
    assert good.out.startswith("everything in scope is encrypted: 3 of 3 links sealed at both ends\n")
    folder.reports(now, BROKEN)
    assert run("status", "--directory", folder.path).code == 1
    assert run("status", "n3", "--directory", folder.path).code == 0
    assert run("status", "n1", "--directory", folder.path).code == 1


def test_a_report_that_cannot_be_read_is_no_report(run: Run, folder: Folder, now: float) -> None:
    folder.reports(now)
    folder.put("n2", "status.json", "{}")
    done = run("status", "--directory", folder.path, "-o", "json")
    assert done.code == 1
    nodes = {node["name"]: node["evidence"] for node in json.loads(done.out)["nodes"]}
    assert nodes == {"n1": "fresh", "n2": "missing", "n3": "fresh"}


def test_a_node_with_a_grant_and_without_agent_is_not_covered(run: Run, folder: Folder, now: float) -> None:
    folder.reports(now, count=2)
    folder.documents(3)
    found = json.loads(run("status", "--directory", folder.path, "-o", "json").out)
    assert {"what": "n3", "why": "no agent there, or it has never reported"} in found["notCovered"]
    assert not found["everythingSealed"]


@pytest.mark.parametrize("command", ["status", "links"])
def test_an_unknown_node_is_a_usage_error_that_lists_the_known(
    run: Run, folder: Folder, now: float, command: str
) -> None:
    folder.reports(now)
    done = run(command, "n9", "--directory", folder.path)
    assert (done.code, done.out) == (2, "")
    assert "known: n1, n2, n3" in done.err


def test_waiting_ends_when_everything_is_sealed(run: Run, folder: Folder, now: float) -> None:
    folder.reports(now, BROKEN)
    healing = threading.Timer(0.3, lambda: folder.reports(now))
    healing.start()
    done = run("status", "--directory", folder.path, "--wait=20s")
    healing.join()
    assert done.code == 0
    assert "waiting (0s of 20s): NOT everything is encrypted" in done.err
    assert done.out.startswith("everything in scope")


def test_waiting_too_long_has_an_exit_code_of_its_own(run: Run, folder: Folder, now: float) -> None:
    folder.reports(now, BROKEN)
    done = run("status", "--directory", folder.path, "--wait=0s")
    assert done.code == 4
    assert done.out.startswith("NOT everything")
    assert "--wait=DURATION" in done.err


@pytest.mark.parametrize(
    "words", [("--wait", "--watch"), ("--watch", "-o", "json"), ("--wait=soon",), ("-o", "svg")], ids=" ".join
)
def test_status_refuses_what_does_not_go_together(run: Run, folder: Folder, words: tuple[str, ...]) -> None:
    done = run("status", "--directory", folder.path, *words)
    assert (done.code, done.out) == (2, "")


def test_links_in_every_form_come_from_the_same_reports(run: Run, folder: Folder, now: float) -> None:
    folder.reports(now, BROKEN)
    items = json.loads(run("links", "--directory", folder.path, "-o", "json").out)["items"]
    assert len(items) == 6
    assert yaml.safe_load(run("links", "--directory", folder.path, "-o", "yaml").out)["kind"] == "LinkList"
    assert len(run("links", "--directory", folder.path).out.splitlines()) == 7
    assert len(run("links", "n1", "--directory", folder.path).out.splitlines()) == 5
    picture = run("links", "--directory", folder.path, "-o", "svg").out
    assert "n1 → n2: stale (LS2001)" in "".join(ET.fromstring(picture).itertext())  # noqa: S314 - we wrote it
    assert run("links", "--directory", folder.path, "-o", "dot").out.count(" -- ") == 3
    assert run("links", "--directory", folder.path, "-o", "mermaid").out.count("linkStyle") == 3


def test_a_missing_directory_is_exit_3_and_a_bad_policy_exit_2(run: Run, folder: Folder, tmp_path: Path) -> None:
    assert run("status", "--directory", tmp_path / "nowhere").code == 3
    folder.policy(stage="everything")
    done = run("status", "--directory", folder.path)
    assert done.code == 2
    assert "stage" in done.err


# --- showconf ------------------------------------------------------------------------------------------------------


def test_showconf_shows_every_slot_and_no_secret(run: Run, folder: Folder, golden: Callable[[str, str], None]) -> None:
    folder.documents(3)
    done = run("showconf", "n1", "--directory", folder.path)
    assert (done.code, done.err) == (0, "")
    golden("showconf.txt", done.out.rstrip("\n"))
    assert done.out.count("PrivateKey = (hidden)") == 2


def test_showconf_leaves_out_what_is_forged_and_says_so(run: Run, folder: Folder) -> None:
    folder.documents(2)
    stranger = Node("n3", "uid-3", 3)
    grant = stranger.grant(ca="another")
    folder.put("n3", "grant.json", json.dumps({"grant": grant.text, "signature": grant.signature}))
    folder.put(
        "n3",
        "announcement.json",
        wrap_announcement(stranger.announce(certificate=stranger.certificate(until=FOR_LONG))),
    )
    done = run("showconf", "n1", "--directory", folder.path)
    assert done.code == 0
    assert "10.244.3.0/24" not in done.out
    assert "LS1013" in done.err


def test_showconf_of_a_node_that_is_not_there_lists_the_others(run: Run, folder: Folder) -> None:
    folder.documents(2)
    done = run("showconf", "n7", "--directory", folder.path)
    assert done.code == 2
    assert "known: n1, n2" in done.err


def test_showconf_of_a_pool_shows_what_is_there(run: Run, folder: Folder) -> None:
    folder.documents(3)
    folder.policy(stage="off", pool={"stage": "prefer", "nodes": ["n1", "n2"]})
    shown = run("showconf", "n1", "--directory", folder.path).out
    assert ("10.244.2.0/24" in shown, "10.244.3.0/24" in shown) == (True, False)
    assert "at stage off" in run("showconf", "n3", "--directory", folder.path).out


def test_showconf_without_tunnels_says_why(run: Run, folder: Folder) -> None:
    folder.documents(2)
    folder.policy(stage=Stage.OFF.value)
    assert "at stage off" in run("showconf", "n1", "--directory", folder.path).out


# --- the agent of this host ----------------------------------------------------------------------------------------

Answers = Mapping[str, Mapping[str, Any]]


@pytest.fixture
def config(tmp_path: Path, folder: Folder) -> Path:
    path = tmp_path / "agent.yaml"
    fields = {
        "apiVersion": "linkseal.io/v1alpha1",
        "kind": "AgentConfig",
        "node": "n1",
        "directory": {"path": str(folder.path)},
        "stateDirectory": str(tmp_path / "state"),
        "runDirectory": str(tmp_path / "run"),
    }
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A control socket that answers as told: {"do": answer}; what is not told is refused."""
    answers: dict[str, Any] = {}
    loop = asyncio.new_event_loop()

    async def handle(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if request["do"] not in answers:
            raise HostError("no such request")
        found: Mapping[str, Any] = answers[request["do"]]
        return found

    server = ControlServer(tmp_path / "run", handle)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    yield answers
    asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_plan_shows_what_the_agent_answers(run: Run, config: Path, agent: dict[str, Any]) -> None:
    agent["plan"] = {"desired": ["ip link add lsl0 type wireguard"], "steps": ["wg set lsl00 \x1b[31mpeer"]}
    done = run("plan", "--config", config)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "# desired",
        "ip link add lsl0 type wireguard",
        "",
        "# steps",
        "wg set lsl00 \N{REPLACEMENT CHARACTER}[31mpeer",
    ]
    found = json.loads(run("plan", "--config", config, "-o", "json").out)
    assert (found["kind"], found["node"], len(found["steps"])) == ("Plan", "n1", 1)
    assert run("plan", "--node", "n1", "--config", config).out == done.out


def test_a_plan_without_steps_says_that_there_is_nothing_to_do(run: Run, config: Path, agent: dict[str, Any]) -> None:
    agent["plan"] = {"desired": [], "steps": []}
    assert "nothing to do" in run("plan", "--config", config).err


@pytest.mark.parametrize("words", [("plan",), ("agent", "status")], ids=" ".join)
def test_without_an_agent_it_is_unreachable(run: Run, config: Path, words: tuple[str, ...]) -> None:
    done = run(*words, "--config", config)
    assert (done.code, done.out) == (3, "")
    assert "linkseal agent run" in done.err


def test_an_agent_that_refuses_is_exit_1_and_one_of_another_version_exit_3(
    run: Run, config: Path, agent: dict[str, Any]
) -> None:
    assert run("plan", "--config", config).code == 1
    agent["plan"] = {"something": "else"}
    assert run("plan", "--config", config).code == 3


def test_agent_status_is_the_report_as_text_and_as_it_is(
    run: Run, config: Path, agent: dict[str, Any], golden: Callable[[str, str], None]
) -> None:
    lost = samples.FindingStatus("LS2001", "n2", "no handshake with n2 for 6 minutes", samples.NOW - 390)
    found = samples.report("n1", samples.names(3), BROKEN, findings=(lost,))
    assert found.status is not None
    agent["status"] = {"status": to_json("n1", found.status)}
    golden("agent-status.txt", run("agent", "status", "--config", config).out.rstrip("\n"))
    assert json.loads(run("agent", "status", "--config", config, "-o", "json").out)["kind"] == "NodeEncryption"
    agent["status"] = {"status": to_json("n2", found.status)}
    assert run("agent", "status", "--config", config).code == 3


def test_cleanup_without_a_terminal_or_yes_is_refused(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linkseal.tunnels.agent.main.cleanup", lambda *_, **__: pytest.fail("it was not confirmed"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    done = run("agent", "cleanup", "--config", config)
    assert (done.code, done.out) == (5, "")
    assert "--yes" in done.err


@pytest.mark.parametrize(("words", "withdraw"), [((), True), (("--keep-directory",), False)])
def test_cleanup_lists_what_it_removed(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], *, withdraw: bool
) -> None:
    asked: list[bool] = []

    def cleanup(_: object, *, withdraw: bool) -> list[str]:
        asked.append(withdraw)
        return ["interface lsl0", "table netdev linkseal"]

    monkeypatch.setattr("linkseal.tunnels.agent.main.cleanup", cleanup)
    done = run("agent", "cleanup", "--yes", *words, "--config", config)
    assert (done.code, done.out) == (0, "removed interface lsl0\nremoved table netdev linkseal\n")
    assert "peers keep sending into the tunnel until n1 is removed from the directory or opted out" in done.err
    assert asked == [withdraw]


@pytest.mark.parametrize("line", ["failed: interface lsl0: busy", "left alone: lsl10 (bridge), not ours"])
def test_cleanup_that_leaves_something_says_so_and_ends_with_1(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr("linkseal.tunnels.agent.main.cleanup", lambda *_, **__: ["interface lsl00", line])
    done = run("agent", "cleanup", "--yes", "--config", config)
    assert (done.code, done.out) == (1, f"removed interface lsl00\n{line}\n")
    assert "1 thing" in done.err


def test_a_bad_agent_file_is_a_usage_error_for_every_agent_command(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("kind: AgentConfig\nnodee: n1\n")
    for word in ("run", "restore", "status", "cleanup"):
        done = run("agent", word, "--config", path)
        assert (done.code, done.out) == (2, "")
        assert "did you mean `node`?" in done.err


def test_explain_knows_every_code(run: Run) -> None:
    found = json.loads(run("explain", "--list", "-o", "json").out)["items"]
    assert len(found) > 40
    for item in found[::7]:
        assert run("explain", item["code"].lower()).out.startswith(f"{item['code']} ({item['severity']}): ")
    assert run("explain").code == 2
    assert run("explain", "LS2001", "--list").code == 2


def test_watching_shows_it_again_until_interrupted(
    run: Run, folder: Folder, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.reports(now)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        folder.reports(now, BROKEN)
        if len(slept) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(status_command.time, "sleep", sleep)
    done = run("status", "--watch", "--directory", folder.path)
    assert done.code == 130
    assert [line[:9] for line in done.out.splitlines() if "encrypted" in line] == ["everythin", "NOT every"]
    assert "\x1b" not in done.out
