"""`linkseal verify` against a folder of files, with agents made of threads that answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from linkseal.tunnels.cli import asking, verifyview
from linkseal.tunnels.cli.output import Paint
from linkseal.tunnels.cli.verifyview import Pair, PairVerified, Verified, gather
from linkseal.tunnels.directory.files import cluster_json
from linkseal.tunnels.status import NodeEncryption, NodeStatus, RequestStatus, parse_requests, to_json
from linkseal.tunnels.statusparts import Verification, VerifyResult
from unit.keys.cluster import policy

from . import samples
from .conftest import Run

NAMES = samples.names(3)

Say = Callable[[str, str], tuple[VerifyResult, str]]


def base(name: str) -> NodeStatus:
    found = samples.report(name, NAMES, {}, age=samples.NOW - time.time()).status
    assert found is not None
    return found


class Agents:
    """Reports in a folder; `answer` does what agents would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.silent: set[str] = set()
        self.asked: dict[str, tuple[str, ...]] = {}
        self.say: Say = lambda _source, _target: ("proven", "")
        for name in NAMES:
            (path / "nodes" / name).mkdir(parents=True)
            self.write(name, base(name))
        (path / "cluster.json").write_text(cluster_json("c1", policy()))
        (path / "ca.crt").write_text("")

    def write(self, name: str, status: NodeStatus) -> None:
        (self.path / "nodes" / name / "status.json").write_text(to_json(name, status))

    def answer(self) -> None:
        for name in NAMES:
            file = self.path / "nodes" / name / "requests.json"
            if name in self.silent or name in self.asked or not file.exists():
                continue
            (request,) = parse_requests(file.read_text(), name)
            self.asked[name] = request.peers
            verified = tuple(self.result(name, peer) for peer in NAMES if peer != name)
            states = {request.id: RequestStatus("verify", "done", "all")}
            self.write(name, replace(base(name), requests=states, verified=verified))

    def result(self, source: str, target: str) -> Verification:
        result, message = self.say(source, target)
        return Verification(target, result, time.time(), message, 6)

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(0.02):
                self.answer()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agents:
    monkeypatch.setattr(asking, "INTERVAL", 0.02)
    return Agents(tmp_path / "directory")


def test_every_pair_proven_is_exit_code_0_and_asks_each_source_for_all_the_others(run: Run, agents: Agents) -> None:
    with agents.running():
        done = run("verify", "--directory", agents.path)
    assert (done.code, done.out.splitlines()[0]) == (0, "proven on the wire: 6 directed pairs")
    assert agents.asked == {name: tuple(other for other in NAMES if other != name) for name in NAMES}


def test_one_leak_is_exit_code_1_and_stands_first(run: Run, agents: Agents) -> None:
    agents.say = lambda source, target: ("leaked", "seen") if (source, target) == ("n2", "n3") else ("proven", "")
    with agents.running():
        done = run("verify", "--directory", agents.path)
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0] == "NOT proven: of 6 directed pairs 5 proven, 1 leaked"
    assert lines[3].split() == ["n2", "→", "n3", "leaked", "6", "seen"]


def test_one_pair_asks_one_node_about_one_other(run: Run, agents: Agents) -> None:
    with agents.running():
        done = run("verify", "--pair", "n1,n3", "--directory", agents.path, "-o", "json")
    assert done.code == 0
    assert agents.asked == {"n1": ("n3",)}
    found = json.loads(done.out)
    assert (found["apiVersion"], found["kind"]) == ("linkseal.io/v1alpha1", "EncryptionVerification")
    assert (found["proven"], found["counts"]["proven"], found["counts"]["leaked"]) == (True, 1, 0)
    (pair,) = found["pairs"]
    assert {key: pair[key] for key in ("source", "target", "result", "ciphertext", "message")} == {
        "source": "n1", "target": "n3", "result": "proven", "ciphertext": 6, "message": ""
    }  # fmt: skip


def test_of_a_pool_the_pairs_that_are_encrypted_are_proven(run: Run, agents: Agents) -> None:
    pool = {"stage": "prefer", "nodes": ["n1", "n2"]}
    (agents.path / "cluster.json").write_text(cluster_json("c1", policy(stage="prepare", pool=pool)))
    with agents.running():
        done = run("verify", "--directory", agents.path)
    assert (done.code, agents.asked) == (0, {"n1": ("n2",), "n2": ("n1",)}), done.err
    done = run("verify", "--pair", "n1,n3", "--directory", agents.path)
    assert done.code == 2
    assert "not both at stage prefer" in done.err


def test_a_sample_is_of_that_size(run: Run, agents: Agents) -> None:
    with agents.running():
        done = run("verify", "--sample", "2", "--directory", agents.path, "-o", "yaml")
    assert len(yaml.safe_load(done.out)["pairs"]) == 2
    assert sum(map(len, agents.asked.values())) == 2


def test_an_agent_that_does_not_answer_in_time_is_exit_code_4(run: Run, agents: Agents) -> None:
    agents.silent = {"n2"}
    with agents.running():
        done = run("verify", "--timeout", "1s", "--directory", agents.path)
    assert done.code == 4
    assert "4 proven, 2 unanswered" in done.out.splitlines()[0]
    assert "verifying (0s of 1s)" in done.err
    assert "--timeout=DURATION" in done.err


def test_a_leak_outweighs_a_wait_that_ran_out(run: Run, agents: Agents) -> None:
    agents.silent = {"n2"}
    agents.say = lambda _source, target: ("leaked", "") if target == "n2" else ("proven", "")
    with agents.running():
        assert run("verify", "--timeout", "1s", "--directory", agents.path).code == 1


def test_a_node_whose_agent_does_not_report_is_not_waited_for_and_not_proven(run: Run, agents: Agents) -> None:
    agents.write("n2", replace(base("n2"), observed_at=time.time() - 10_000))
    with agents.running():
        done = run("verify", "--directory", agents.path)
    assert done.code == 1
    assert "the agent of n2 does not report" in done.out
    assert "n2" not in agents.asked


def test_no_agent_at_all_is_exit_code_3(run: Run, agents: Agents) -> None:
    for name in NAMES:
        agents.write(name, replace(base(name), observed_at=time.time() - 10_000))
    done = run("verify", "--directory", agents.path)
    assert (done.code, done.out) == (3, "")


@pytest.mark.parametrize("stage", ["off", "prepare"])
def test_where_nothing_is_encrypted_there_is_nothing_to_prove(run: Run, agents: Agents, stage: str) -> None:
    (agents.path / "cluster.json").write_text(cluster_json("c1", policy(stage=stage)))
    done = run("verify", "--directory", agents.path)
    assert (done.code, done.out) == (1, "")
    assert f"stage is {stage}" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--pair", "n1"),
        ("--pair", "n1,n1"),
        ("--pair", "n1,n9"),
        ("--pair", "n1,n2", "--sample", "1"),
        ("--sample", "0"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(run: Run, agents: Agents, arguments: tuple[str, ...]) -> None:
    assert run("verify", *arguments, "--directory", agents.path).code == 2


# --- the view ---------------------------------------------------------------------------------------------------------


def report(state: str, verified: tuple[Verification, ...] = ()) -> Mapping[str, NodeEncryption | None]:
    found = samples.report("n1", NAMES, {})
    assert found.status is not None
    states = {"r": RequestStatus("verify", state, "why")}  # type: ignore[arg-type]
    return {"n1": replace(found, status=replace(found.status, requests=states, verified=verified))}


@pytest.mark.parametrize(
    ("found", "result"),
    [
        ({}, "unanswered"),
        ({"n1": None}, "unanswered"),
        (report("running", (Verification("n2", "proven", samples.NOW),)), "unanswered"),
        (report("failed", (Verification("n2", "proven", samples.NOW),)), "unreachable"),
        (report("refused"), "unreachable"),
        (report("done"), "unanswered"),
        (report("done", (Verification("n2", "blind", samples.NOW, "x"),)), "blind"),
    ],
)
def test_only_a_finished_request_and_a_listed_result_count(
    found: Mapping[str, NodeEncryption | None], result: str
) -> None:
    """An older `proven` of the same pair is no answer."""
    (pair,) = gather([Pair("n1", "n2")], {"n1": "r"}, found, ())
    assert pair.result == result


def test_no_pair_is_no_proof() -> None:
    assert not Verified((), samples.NOW).proven


def test_a_long_table_is_cut_after_the_worst() -> None:
    pairs = [PairVerified("n1", f"m{number}", "proven") for number in range(100)]
    shown = verifyview.text(Verified((*pairs, PairVerified("n1", "z", "leaked")), samples.NOW), Paint())
    lines = shown.splitlines()
    assert "n1 → z" in lines[3]
    assert "and 61 more: -o json has all" in lines


def test_the_cell_of_status_says_how_many_of_each_and_since_when() -> None:
    verified = (Verification("n2", "proven", samples.NOW - 600), Verification("n3", "leaked", samples.NOW - 60))
    assert verifyview.verified_cell(verified, samples.NOW).text == "1 leaked, 1 proven, 10m ago"
    assert verifyview.verified_cell((), samples.NOW).text == "never"
    assert verifyview.verified_object(verified)["counts"] == {"proven": 1, "unreachable": 0, "blind": 0, "leaked": 1}
