"""`linkseal remove` on a Kubernetes cluster, by hand and as the chart's hooks: an API server as the test says it is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from pathlib import Path

import pytest
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.cli import asking, removecluster
from linkseal.tunnels.controller import leave
from linkseal.tunnels.directory.kube import KubeDirectory
from linkseal.tunnels.directory.kubeapi import ApiError, KubeApi
from linkseal.tunnels.leaving import Trace, Traces
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.status import NOT_OFF, Metadata, NodeEncryption, Request, RequestStatus, to_json
from unit.test_leaving import gone, status

from .conftest import Done, Run

STAYS = "all is left as it is in the API, CRDs too"


class Cluster:
    """Two nodes that report, at stage off. `answers`: what who is asked says, None: nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
        self._run = run
        now = time.time()
        self.nodes = {name: Trace(announces=True, reported=True, status=status(observed_at=now)) for name in ("a", "b")}
        self.found = [Traces(self.nodes, Policy())]
        """What is there at each look, and at the last one from then on."""
        self.answers: dict[str, RequestStatus | None] = dict.fromkeys("ab", RequestStatus("remove", "done"))
        self.asked: dict[str, Request] = {}
        self.times = 0
        self.looks: list[bool] = []
        self.forgot = False
        self.kept: set[str] = set()
        self.refused = ""
        self.gone: set[str] = set()
        """Nodes that go after they were looked at."""
        self.troubles: list[ApiError] = []
        """Answers to the next looks at a report."""
        self.troubles_asking: list[ApiError] = []
        """And to the next requests, once two were taken."""
        monkeypatch.setattr(asking, "INTERVAL", 0.02)
        monkeypatch.setattr(asking, "AGAIN", 0.1)
        monkeypatch.setattr(removecluster, "LOOK", 0.02)
        monkeypatch.setattr(leave, "traces", self.traces)
        monkeypatch.setattr(leave, "forget", self.forget)
        monkeypatch.setattr(KubeDirectory, "request", lambda _, node, request: self.request(node, request))
        monkeypatch.setattr(KubeDirectory, "report", lambda _, node: self.report(node))

    def __call__(self, *words: str) -> Done:
        return self._run("--kubeconfig", "none", "remove", "--timeout", "1s", *words)

    async def traces(self, _: KubeApi, namespace: str, *, workloads: bool = False) -> Traces:
        assert namespace == "linkseal"
        self.looks.append(workloads)
        return self.found.pop(0) if len(self.found) > 1 else self.found[0]

    async def forget(self, _: KubeApi, namespace: str, deadline: float, kept: Collection[str]) -> AsyncIterator[str]:
        assert namespace == "linkseal"
        assert deadline > time.monotonic() - 1
        self.forgot, self.kept = True, set(kept)
        yield "CRD x, with its objects"

    async def request(self, node: str, request: Request) -> None:
        if self.refused:
            raise ConfigError(self.refused)
        assert request.type == "remove"
        if self.times >= 2 and self.troubles_asking:
            raise self.troubles_asking.pop()
        if node in self.gone:
            raise ApiError("not found", 404)
        self.asked[node] = request
        self.times += 1

    async def report(self, node: str) -> str:
        if self.troubles:
            raise self.troubles.pop(0)
        said = self.answers[node]
        found = gone(requests={} if said is None else {self.asked[node].id: said})
        assert NodeEncryption(Metadata(node), status=found)
        return to_json(node, found)

    def all_gone(self) -> None:
        self.nodes = {name: Trace(reported=True, status=gone()) for name in ("a", "b")}
        made = {"status": {"ca": {"made": True}}}
        self.found = [Traces(self.nodes, Policy(), encryption=made)]

    def at(self, stage: Stage) -> None:
        self.found = [replace(self.found[0], policy=Policy(stage=stage))]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, run: Run) -> Cluster:
    return Cluster(monkeypatch, run)


# --- from the nodes


def test_every_agent_is_asked(cluster: Cluster) -> None:
    done = cluster("--yes")
    assert (done.code, done.out.splitlines()) == (0, ["a: removed", "b: removed"])
    assert (sorted(cluster.asked), cluster.looks) == (["a", "b"], [False])


def test_who_is_done_already_is_not_asked_again(cluster: Cluster) -> None:
    """An agent that was asked answers nothing any more: whoever waited for it would wait in vain."""
    cluster.found = [Traces({**cluster.nodes, "a": Trace(reported=True, status=gone())}, Policy())]
    done = cluster("--yes")
    assert (done.code, done.out.splitlines(), sorted(cluster.asked)) == (0, ["b: removed", "a: removed before"], ["b"])
    cluster.all_gone()
    done = cluster()
    assert (done.code, done.out.splitlines()) == (0, ["a: removed before", "b: removed before"])


def test_where_no_agent_has_begun_there_is_nothing_to_remove(cluster: Cluster) -> None:
    cluster.found = [Traces({"a": Trace(), "b": Trace()})]
    for words in ((), ("--uninstalling",)):
        done = cluster(*words)
        assert (done.code, done.out, cluster.asked) == (0, "", {})


def test_before_stage_off_nobody_is_asked(cluster: Cluster) -> None:
    cluster.at(Stage.ENFORCE)
    done = cluster("--yes")
    assert (done.code, cluster.asked) == (2, {})
    assert "at stage enforce: run `linkseal disable` first" in done.err
    done = cluster("--yes", "--uninstalling")
    assert (done.code, cluster.asked) == (0, {})
    assert "nothing is changed on nodes: the cluster is at stage enforce" in done.err


@pytest.mark.parametrize(
    ("answer", "code", "line"),
    [
        (None, 4, "b: no answer"),
        (RequestStatus("remove", "running"), 4, "b: not done yet"),
        (RequestStatus("remove", "failed", "rule 100"), 1, "b: failed: rule 100"),
    ],
)
def test_an_uninstall_fails_for_no_node(cluster: Cluster, answer: RequestStatus | None, code: int, line: str) -> None:
    cluster.answers["b"] = answer
    for words, expected in (((), code), (("--uninstalling",), 0)):
        done = cluster("--yes", *words)
        assert (done.code, done.out.splitlines()) == (expected, ["a: removed", line])


def test_nor_where_agents_are_silent_or_cannot_be_asked(cluster: Cluster) -> None:
    cluster.refused = "the CRDs there are older than this command"
    done = cluster("--yes", "--uninstalling")
    assert done.code == 0
    assert "nothing is changed on nodes: the CRDs there are older" in done.err
    cluster.found = [Traces(dict.fromkeys("ab", Trace()), Policy())]
    assert cluster("--yes").code == 2
    done = cluster("--yes", "--uninstalling")
    assert done.code == 0
    assert "linkseal agent cleanup" in done.err


def test_a_node_that_is_a_pass_behind_is_asked_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its agent is taken away a moment later, and it would keep everything."""
    cluster.answers["b"] = RequestStatus("remove", "refused", f"{NOT_OFF}: `linkseal disable` first")
    report, first = cluster.report, time.monotonic()
    cluster.troubles_asking = [ApiError("away", 503)]

    async def later(node: str) -> str:
        if time.monotonic() - first > 0.4:
            cluster.answers["b"] = RequestStatus("remove", "done")
        return await report(node)

    monkeypatch.setattr(cluster, "report", later)
    done = cluster("--yes", "--uninstalling")
    assert (done.code, done.out.splitlines()) == (0, ["a: removed", "b: removed"])
    assert 3 <= cluster.times <= 8, "a once, and b every tenth of a second"


def test_what_is_refused_for_another_reason_or_to_the_end_is_said(cluster: Cluster) -> None:
    cluster.answers["b"] = RequestStatus("remove", "refused", "asked for too long ago")
    done = cluster("--yes")
    assert (done.code, done.out.splitlines()[1], cluster.times) == (1, "b: refused: asked for too long ago", 2)
    cluster.answers["b"] = RequestStatus("remove", "refused", NOT_OFF)
    done = cluster("--yes")
    assert (done.code, done.out.splitlines()[1]) == (1, f"b: refused: {NOT_OFF}")


def test_nobody_is_asked_before_all_that_report_have_arrived(cluster: Cluster) -> None:
    here = cluster.nodes["a"].status
    assert here is not None
    behind = {**cluster.nodes, "b": Trace(reported=True, status=replace(here, stage=Stage.PREFER))}
    before = Traces(behind, Policy(), serial=7)
    cluster.found = [before, before, Traces(cluster.nodes, Policy(), serial=7)]
    assert (cluster("--yes").code, sorted(cluster.asked), len(cluster.looks)) == (0, ["a", "b"], 3)
    cluster.asked, cluster.found = {}, [before]
    done = cluster("--yes")
    assert (done.code, cluster.asked) == (2, {})
    assert "stage off, which has not reached b (prefer)" in done.err
    done = cluster("--yes", "--uninstalling")
    assert (done.code, cluster.asked) == (0, {})
    assert "nothing is changed on nodes: the policy says stage off, which has not reached b" in done.err
    cluster.found = [Traces(cluster.nodes, Policy(), serial=8)]
    assert (cluster("--yes").code, sorted(cluster.asked)) == (0, ["a", "b"]), "at stage off they are, and may answer"


def test_a_node_that_goes_meanwhile_keeps_nobody_else_from_being_asked(cluster: Cluster) -> None:
    cluster.gone = {"a"}
    done = cluster("--yes")
    assert (done.code, done.out.splitlines(), sorted(cluster.asked)) == (0, ["b: removed"], ["b"])
    assert "a is gone" in done.err


def test_an_api_server_that_does_not_answer_for_a_moment_is_asked_again(cluster: Cluster) -> None:
    cluster.troubles = [ApiError("away", 503)] * 3
    done = cluster("--yes")
    assert (done.code, done.out.splitlines()) == (0, ["a: removed", "b: removed"])
    assert "removing (0s of 1s): away" in done.err
    cluster.troubles = [ApiError("away", 503)] * 1000
    done = cluster("--yes")
    assert (done.code, done.out.splitlines()) == (4, ["a: no answer", "b: no answer"])


# --- from the API


def test_what_nobody_needs_any_more_goes_from_the_api(cluster: Cluster) -> None:
    cluster.all_gone()
    done = cluster("--objects", "--yes")
    assert (done.code, cluster.forgot, cluster.looks) == (0, True, [True])
    assert done.out == "CRD x, with its objects\n"
    assert "nothing of Linkseal is left in the API; the namespace linkseal is yours" in done.err
    assert cluster.kept == set()


def test_a_ca_that_was_brought_stays_and_that_is_said(cluster: Cluster) -> None:
    cluster.all_gone()
    cluster.found = [replace(cluster.found[0], encryption={"status": {"ca": {"made": False}}})]
    for words in ((), ("--uninstalling",)):
        done = cluster("--objects", "--yes", *words)
        assert (done.code, cluster.kept) == (0, {"Secret linkseal-ca-key"})
        assert "Secret linkseal-ca-key is not touched" in done.err


def test_without_a_word_nothing_goes(cluster: Cluster) -> None:
    cluster.all_gone()
    done = cluster("--objects")
    assert (done.code, cluster.forgot) == (5, False)


def test_what_has_changed_while_somebody_was_asked_counts(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.all_gone()
    cluster.found.append(replace(cluster.found[0], installed=("DaemonSet linkseal-agent",)))
    monkeypatch.setattr(removecluster, "confirm", lambda _: None)
    assert (cluster("--objects").code, cluster.forgot) == (2, False)


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.PREFER, Stage.ENFORCE])
def test_before_stage_off_all_of_it_stays(cluster: Cluster, stage: Stage) -> None:
    cluster.all_gone()
    cluster.at(stage)
    done = cluster("--objects", "--yes")
    assert (done.code, cluster.forgot) == (2, False)
    assert f"at stage {stage.value}: run `linkseal disable` first" in done.err
    done = cluster("--objects", "--yes", "--uninstalling")
    assert (done.code, cluster.forgot) == (0, False)
    assert f"at stage {stage.value}" in done.out
    assert STAYS in done.err


def test_one_node_that_was_not_cleaned_keeps_all_of_it(cluster: Cluster) -> None:
    cluster.all_gone()
    cluster.found = [Traces({**cluster.nodes, "c": Trace(announces=True)}, Policy())]
    done = cluster("--objects", "--yes")
    assert (done.code, cluster.forgot) == (2, False)
    assert "c: it is announced, and its agent does not report" in done.err
    assert "linkseal agent cleanup" in done.err
    done = cluster("--objects", "--yes", "--uninstalling")
    assert (done.code, cluster.forgot) == (0, False)
    assert cluster("--objects", "--yes", "--cleaned", "d").code == 2, "there is no such Node"
    assert not cluster.forgot
    assert cluster("--objects", "--yes", "--cleaned", "c").code == 0
    assert cluster.forgot


def test_of_many_nodes_the_first_are_named(cluster: Cluster) -> None:
    cluster.found = [Traces({f"n{number:04}": Trace() for number in range(2000)}, Policy())]
    done = cluster("--objects", "--yes")
    assert done.code == 2
    assert "and 1980 more" in done.err
    assert len(done.err) < 2000


def test_a_chart_that_is_installed_is_uninstalled_first(cluster: Cluster) -> None:
    cluster.all_gone()
    cluster.found = [replace(cluster.found[0], installed=("DaemonSet linkseal-agent",))]
    done = cluster("--objects", "--yes")
    assert (done.code, cluster.forgot, len(cluster.looks)) == (2, False, 1)
    assert "DaemonSet linkseal-agent: the chart is installed" in done.err


def test_what_is_about_to_end_is_waited_for(cluster: Cluster) -> None:
    """And what counts is what is there when it has ended: an agent may have begun anew meanwhile."""
    cluster.all_gone()
    ending = replace(cluster.found[0], ending=("pod linkseal-agent-x",))
    cluster.found = [ending, ending, cluster.found[0]]
    assert cluster("--objects", "--yes").code == 0
    assert (len(cluster.looks), cluster.forgot) == (3, True)
    cluster.forgot = False
    anew = Traces({**cluster.nodes, "a": Trace(announces=True, reported=True, status=status())}, Policy())
    cluster.found = [ending, anew]
    assert cluster("--objects", "--yes").code == 2
    cluster.found = [ending]
    done = cluster("--objects", "--yes")
    assert (done.code, cluster.forgot) == (2, False)
    assert "pod linkseal-agent-x has not ended" in done.err


def test_it_is_for_clusters(run: Run, tmp_path: Path) -> None:
    for words in (("--objects",), ("--uninstalling",)):
        done = run("remove", *words, "--directory", tmp_path)
        assert done.code == 2
        assert "are for clusters of Kubernetes" in done.err
    assert run("remove", "--cleaned", "a", "--directory", tmp_path).code == 2
