"""The agent's loop over a scripted worker: nothing unforeseen ends it, makes it deaf or loses what it was told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.errors import DirectoryError, HostError
from linkseal.keys.store import KeyStore
from linkseal.tunnels import codes
from linkseal.tunnels.agent import loop as loop_module
from linkseal.tunnels.agent import trouble
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.agent.knowledge import Knowledge
from linkseal.tunnels.agent.loop import Agent
from linkseal.tunnels.agent.state import KnownGood
from linkseal.tunnels.agent.worker import Job, Result, Worker
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.findings import ActiveFindings
from linkseal.tunnels.host.host import Aspect, Features
from linkseal.tunnels.model import LinkKey
from linkseal.tunnels.probe.outcomes import Diagnosis, Lost
from linkseal.tunnels.register import NodeDocuments, Snapshot
from linkseal.tunnels.settings import parse_agent_settings
from linkseal.tunnels.status import Request
from linkseal.tunnels.world import Layout, Me, Underlay, World
from unit.agent.pair import NoCounters
from unit.keys.cluster import GOOD, NOW, ONE, Node, authority, policy

LOST = Lost(LinkKey("n2", 1, 1), Diagnosis(LinkKey("n2", 1, 1), "LS2001", "gone"))


class Host:
    table, writes, granted = 51820, 0, frozenset[Aspect]()
    guard = redirect = NoCounters()

    def features(self) -> Features:
        return Features(door=True, kernel="6.1", driver="kernel", nft="1.0.6")


class Findings(ActiveFindings):
    """Notes the threads that use it."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()

    def raise_(self, *arguments: Any, **more: Any) -> None:
        self.threads.add(threading.current_thread().name)
        super().raise_(*arguments, **more)

    def clear(self, code: str, subject: str) -> None:
        self.threads.add(threading.current_thread().name)
        super().clear(code, subject)

    def shown(self, now: float) -> Any:
        self.threads.add(threading.current_thread().name)
        return super().shown(now)


class Scripted(Worker):
    """A worker whose passes fail as often as it is told."""

    fail: list[Exception]
    jobs: list[Job]
    publish: SignedAnnouncement | None = None
    meanwhile: Callable[[], object] | None = None
    """What happens while it looks at the host."""

    def run(self, job: Job) -> Result:
        self.jobs.append(job)
        if self.meanwhile is not None:
            self.meanwhile()
            if job.view is None and job.yields():
                return Result(yielded=True)
        if job.view is not None:
            self.knowledge.learn(job.view, job.now)
        if self.fail:
            raise self.fail.pop(0)
        return Result(wake_in=0.02, publish=self.publish)


class Folder:
    """A directory in memory; methods named in `broken` have a bug."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.away: set[str] = set()
        self.calls: list[str] = []
        self.offered: str | None = None
        self.cluster, self.policy = "c1", policy()
        self.nodes, self.uid = GOOD, "uid-1"
        self.requests: tuple[Request, ...] = ()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.broken:
                raise RuntimeError(f"a bug in {name}")
            if name in self.away:
                raise DirectoryError("no policy yet")
            match name:
                case "view":
                    bundle = authority().certificate_pem()
                    snapshot = Snapshot(self.cluster, self.nodes)
                    return DirectoryView(snapshot, self.policy, bundle, self.requests, uid=self.uid)
                case "wait_for_change":
                    await asyncio.sleep(0.05)
                    return True
                case "certificate":
                    return self.offered
            return None

        return call


class Running:
    def __init__(self, folder: Path, executor: ThreadPoolExecutor) -> None:
        config = {
            "apiVersion": "linkseal.io/v1alpha1",
            "kind": "AgentConfig",
            "node": "n1",
            "uid": "uid-1",
            "directory": {"path": str(folder)},
            "stateDirectory": str(folder / "state"),
            "runDirectory": str(folder / "run"),
        }
        settings = parse_agent_settings(config, "test", hostname="n1")
        self.keyring, self.findings, known = Keyring(folder / "state", "n1"), Findings(), KnownGood(folder / "state")
        self.keyring.open("uid-1", "c1")
        knowledge = Knowledge("n1", self.keyring, known, self.findings)
        self.worker = Scripted(settings, Host(), self.keyring, knowledge, known, self.findings)  # type: ignore[arg-type]
        self.worker.fail, self.worker.jobs = [], []
        self.directory = Folder()
        self.agent = Agent(self.worker, self.directory, executor)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.agent.run())
        try:
            yield
            assert not task.done()
        finally:
            self.agent.stop()
            await asyncio.wait_for(task, 5)

    def codes(self) -> set[str]:
        return {one.code for one in self.findings.shown(time.time() + 60)}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - nobody sets an event
                await asyncio.sleep(0.005)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setattr(trouble, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(trouble, "LAST_RETRY", 0.02)
    monkeypatch.setattr(loop_module, "LOOK_RETRY", 0.01)
    return Running(tmp_path, ThreadPoolExecutor(1, thread_name_prefix="worker"))


@pytest.mark.parametrize("error", [RuntimeError("a bug"), HostError("netlink hung")])
async def test_what_a_failed_pass_was_told_reaches_the_next(agent: Running, error: Exception) -> None:
    agent.worker.fail = [error, error]
    agent.agent._on_outcome(LOST)
    agent.agent._on_path("n2", 1400)
    async with agent.running():
        await agent.until(lambda: len(agent.worker.jobs) > 3)
    for job in agent.worker.jobs[:3]:
        assert (list(job.outcomes), dict(job.path_mtus)) == ([LOST], {"n2": 1400})
        assert job.view is not None
    assert (agent.worker.jobs[3].outcomes, agent.worker.jobs[3].path_mtus) == ((), {})


async def test_a_look_at_the_directory_ends_a_pass_that_has_only_looked_at_the_host_and_that_once(
    agent: Running,
) -> None:
    loop = agent.agent
    loop._on_outcome(LOST)
    loop._on_path("n2", 1400)
    agent.worker.meanwhile = lambda: setattr(loop, "_look", True)
    ended = []
    for _ in range(3):
        done = await loop._pass(None)
        assert done is not None
        ended.append(done.result.yielded)
    assert ended == [True, False, True]
    given = [(list(job.outcomes), dict(job.path_mtus)) for job in agent.worker.jobs]
    assert given == [([LOST], {"n2": 1400})] * 2 + [([], {})], "nothing of it is lost, or taken twice"


async def test_what_the_first_whole_pass_made_is_settled_once(agent: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[int] = []
    monkeypatch.setattr(loop_module, "settle", lambda: settled.append(len(agent.worker.jobs)))
    agent.worker.meanwhile = lambda: setattr(agent.agent, "_look", True)
    for _ in range(4):
        await agent.agent._pass(None)
    assert settled == [2], "the first one ended early"


async def test_a_pass_that_ends_early_puts_a_poll_off_only_if_it_did_it(agent: Running) -> None:
    loop, clock = agent.agent, asyncio.get_running_loop().time
    agent.worker.meanwhile = lambda: setattr(loop, "_look", True)

    async def turn(due: float) -> tuple[bool, float]:
        """A turn without a look at the directory before; whether it ended early, and when the next poll is due."""
        loop._look, loop._yielded, loop._poll_due = False, False, due
        loop._wake.set()
        await loop._turn()
        return loop._yielded, loop._poll_due

    soon = clock() + 5
    assert await turn(soon) == (True, soon)
    ended, due = await turn(0.0)
    assert ended
    assert due > soon


async def test_the_kernel_is_polled_in_time_though_the_directory_goes_first(agent: Running) -> None:
    agent.agent._dirty.clear()
    agent.worker.meanwhile = lambda: setattr(agent.agent, "_look", True)
    async with agent.running():
        await agent.until(lambda: len(agent.worker.jobs) > 1)
    first, second = agent.worker.jobs[:2]
    assert (first.view is None, first.aspects) == (False, frozenset())
    assert (second.view is None, second.aspects) == (False, loop_module.POLLED)


async def test_a_failing_pass_is_tried_with_pauses_however_much_wakes_it(
    agent: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trouble, "FIRST_RETRY", 0.1)
    monkeypatch.setattr(trouble, "LAST_RETRY", 60.0)
    agent.worker.fail = [RuntimeError("a bug")] * 1000
    began = asyncio.get_running_loop().time()
    async with agent.running():
        while len(agent.worker.jobs) < 3:
            agent.agent._on_outcome(LOST)
            await asyncio.sleep(0.001)
        assert asyncio.get_running_loop().time() - began >= 0.3
        assert len(agent.agent._outcomes) < 1000
    assert [r.message for r in caplog.records if "a pass" in r.message] == [
        "a pass failed by a bug of Linkseal and is tried again"
    ]


@pytest.mark.parametrize("what", ["view", "publish", "publish_status", "status", "wait_for_change", "certificate"])
async def test_a_bug_in_the_directory_ends_nothing_and_is_over_when_it_is(agent: Running, what: str) -> None:
    agent.worker.publish = ONE.announce()
    agent.directory.broken = {what}
    async with agent.running():
        tried = 2 if what != "status" else 1  # it is asked for once, at the start
        await agent.until(lambda: agent.directory.calls.count(what) >= tried and len(agent.worker.jobs) > 3)
        agent.directory.broken = set()
        jobs = len(agent.worker.jobs)
        await agent.until(lambda: any(job.view is not None for job in agent.worker.jobs[jobs:]))


async def test_for_the_directory_of_another_cluster_nothing_is_done_but_told(agent: Running) -> None:
    """Neither what is asked there, nor are keys announced or certificates wanted there; it reports whose it is."""
    async with agent.running():
        await agent.until(lambda: "request_certificate" in agent.directory.calls)
        agent.directory.requests = (Request("one", "plan", time.time()),)
        await agent.until(lambda: bool(agent.agent.desk.states(time.time())))
        agent.directory.cluster = "c2"
        await agent.until(lambda: agent.worker.knowledge.former() is not None)
        agent.worker.publish = ONE.announce()
        agent.directory.requests = (Request("two", "plan", time.time()),)
        agent.directory.calls.clear()
        jobs = len(agent.worker.jobs)
        await agent.until(lambda: len(agent.worker.jobs) > jobs + 5)
        assert "view" in agent.directory.calls
        assert {"publish", "certificate", "request_certificate"}.isdisjoint(agent.directory.calls)
        assert set(agent.agent.desk.states(time.time())) == {"one"}
        said = agent.agent.last_report().former
        assert said is not None
        assert (said.cluster, said.index, said.over) == ("c1", 1, False)
        agent.directory.cluster = "c1"
        await agent.until(lambda: "publish" in agent.directory.calls)
        await agent.until(lambda: "two" in agent.agent.desk.states(time.time()))


async def test_before_the_first_look_nothing_is_announced(agent: Running) -> None:
    """Nobody knows whose directory it is: a new cluster's has no policy at first."""
    agent.worker.publish = ONE.announce()
    agent.directory.away = {"view"}
    async with agent.running():
        await agent.until(lambda: len(agent.worker.jobs) > 5)
        assert "publish" not in agent.directory.calls
        agent.directory.away = set()
        await agent.until(lambda: "publish" in agent.directory.calls)


async def test_a_node_registered_again_announces_nothing_until_it_begins_anew(agent: Running) -> None:
    """What it has is for the UID before; when the new one is granted, it ends for that."""
    agent.directory.uid = "uid-again"
    agent.worker.publish = ONE.announce()
    task = asyncio.ensure_future(agent.agent.run())
    await agent.until(lambda: len(agent.worker.jobs) > 5)
    granted = NodeDocuments(None, Node("n1", "uid-again", 1).grant(issued=NOW + timedelta(1)))
    agent.directory.nodes = {**GOOD, "n1": granted}
    await asyncio.wait_for(task, 10)
    assert agent.worker.knowledge.over
    assert "publish" not in agent.directory.calls
    owner = KeyStore(agent.worker.settings.state_directory).owner()
    assert owner is not None
    assert owner.uid == "uid-again"


async def test_a_disk_that_refuses_to_come_over_is_told_and_tried_again_in_the_same_agent(
    agent: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "SAVE_RETRY", 0.05)
    task = asyncio.ensure_future(agent.agent.run())
    await agent.until(lambda: "request_certificate" in agent.directory.calls)
    with monkeypatch.context() as broken:
        broken.setattr(KnownGood, "save_former", refuse)
        agent.directory.policy = policy(9, "c2", issued=NOW + timedelta(1), stage="prefer", formerClusters=["c1"])
        agent.directory.cluster = "c2"
        await agent.until(lambda: codes.STATE_NOT_SAVED in agent.codes())
        jobs = len(agent.worker.jobs)
        await agent.until(lambda: len(agent.worker.jobs) > jobs + 5)
        assert not agent.worker.knowledge.over
        assert not task.done()
    await asyncio.wait_for(task, 10)  # ends by itself: what it stands on has changed
    assert agent.worker.knowledge.over


def refuse(*_: object) -> None:
    raise HostError("no space left")


async def test_only_the_workers_thread_touches_findings(agent: Running) -> None:
    agent.worker.publish = ONE.announce()
    agent.directory.broken = {"publish"}
    async with agent.running():
        await agent.until(lambda: "publish_status" in agent.directory.calls and len(agent.worker.jobs) > 3)
        await agent.agent._answer({"do": "status"})
        agent.directory.broken = set()
        await agent.until(lambda: agent.directory.calls.count("publish") > 2)
    assert {name.rpartition("_")[0] for name in agent.findings.threads} == {"worker"}


async def test_probes_without_a_port_are_a_finding_that_goes_when_there_is_one(
    agent: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [True]

    def show(_: object) -> None:
        if taken[0]:
            raise HostError("UDP port 51829 is taken")

    monkeypatch.setattr(agent.agent._prober, "show", show)
    monkeypatch.setattr(agent.agent._paths, "set_world", lambda _: None)
    monkeypatch.setattr(agent.agent._proofs, "show", lambda _: None)
    me = Me("n1", 1, (), (), ())
    monkeypatch.setattr(agent.worker, "world", World(me, Layout(), Underlay("eth0", 1500, frozenset())))

    def shown() -> list[str]:
        return [finding.code for finding in ActiveFindings.shown(agent.findings, 4e9)]

    async with agent.running():
        await agent.until(lambda: codes.PORT_IN_USE in shown())
        taken[0] = False
        await agent.until(lambda: agent.agent._unprobed is None)


async def test_a_due_certificate_without_signer_is_looked_for_less_and_less_often(agent: Running) -> None:
    agent.worker.knowledge.learn(await agent.directory.view("n1"), 0.0)
    assert [await agent.agent._enrolment.step() for _ in range(4)] == [0.01, 0.02, 0.02, 0.02]
    assert agent.directory.calls.count("request_certificate") == 1


async def test_a_certificate_that_does_not_fit_is_told_once(agent: Running, caplog: pytest.LogCaptureFixture) -> None:
    agent.worker.knowledge.learn(await agent.directory.view("n1"), 0.0)
    agent.directory.offered = ONE.certificate()
    for _ in range(5):
        assert await agent.agent._enrolment.step() > 0
    assert [record.message for record in caplog.records] == [
        "the certificate offered is for another key; asking for one for ours"
    ]
