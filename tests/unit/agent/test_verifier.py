"""The agent's verifier over an engine that is told what to say: requests, findings, samples, busy peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from linkseal.keys.errors import HostError
from linkseal.tunnels import codes
from linkseal.tunnels.agent import verifier as module
from linkseal.tunnels.agent.prober import Picture
from linkseal.tunnels.agent.verifier import Results, Verifier, current_findings
from linkseal.tunnels.model import KeyOfGeneration, LinkKey, Stage
from linkseal.tunnels.policy import VerifyPolicy
from linkseal.tunnels.verify.agenda import Progress
from linkseal.tunnels.verify.engine import Proof
from linkseal.tunnels.verify.errand import Errand
from linkseal.tunnels.verify.judge import arrived
from linkseal.tunnels.verify.packet import Answer, Armed, End, Seen
from linkseal.tunnels.world import Layout, Me, Peer, Underlay, World
from linkseal.wireguard.model import Endpoint

KEY = (KeyOfGeneration(1, "key"),)  # type: ignore[arg-type]
ME = Me("n1", 1, ("192.0.2.1",), ("10.244.1.0/24",), KEY)  # type: ignore[arg-type]
PEERS = {
    f"n{n}": Peer(f"n{n}", n, (f"192.0.2.{n}",), (f"10.244.{n}.0/24",), KEY, (Endpoint(f"192.0.2.{n}", 51820),))  # type: ignore[arg-type]
    for n in range(2, 5)
}
WORLD = World(ME, Layout(), Underlay("eth0", 1500, frozenset({4})), PEERS)
USES = dict.fromkeys(PEERS, (1, 1))
NEVER = VerifyPolicy(0, 3)
READY = Armed(b"", "", Answer.READY)


def picture(verify: VerifyPolicy = NEVER, world: World = WORLD) -> Picture:
    return Picture(world, USES, verify=verify)


class Engine:
    """Answers for peers as `answers` says; without an entry everything is proven."""

    answers: dict[str, list[Proof]] = {}  # noqa: RUF012 - emptied by the fixture
    asked: list[Errand] = []  # noqa: RUF012 - emptied by the fixture
    taken = False

    def __init__(self, *_: Any) -> None:
        self.open = False

    def start(self) -> None:
        if Engine.taken:
            raise HostError("UDP port 51830 is taken")
        self.open = True

    def close(self) -> None:
        self.open = False

    async def prove(self, errand: Errand) -> Proof:
        Engine.asked.append(errand)
        await asyncio.sleep(0.001)
        waiting = Engine.answers.get(errand.peer)
        return waiting.pop(0) if waiting else proven(errand)


def proven(errand: Errand) -> Proof:
    ways = tuple(canary.way for canary in errand.canaries)
    far = tuple(Seen(slot=1, forwarded=1) for _ in ways)
    assert all(map(arrived, ways, far))
    return Proof(ways, End(1, 0, 1, 1, tuple(Seen() for _ in ways)), End(1, 0, 1, 1, far), READY)


LEAKED = Proof((), End(1, 0, 1, 1, (Seen(clear=1),)), None, None)
BUSY = Proof((), End(1, 0, 0, 0, ()), None, Armed(b"", "", Answer.BUSY))
UNABLE = Proof((), End(1, 0, 1, 1, ()), None, Armed(b"", "", Answer.UNABLE, "no socket"))


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    Engine.answers, Engine.asked, Engine.taken = {}, [], False
    monkeypatch.setattr(module, "VerifyEngine", Engine)
    monkeypatch.setattr(module, "BUSY_PAUSE", 0.01)


class Told:
    """What the agent was told."""

    def __init__(self) -> None:
        self.results: Results = {}
        self.progress: list[Progress] = []
        self.news = asyncio.Event()
        self.verifier = Verifier(self.roamed, self.told, asyncio.get_running_loop().time, Random(1))

    async def roamed(self, key: LinkKey) -> Endpoint:
        return Endpoint(f"192.0.2.{key.peer[1:]}", 51823)

    async def told(self, results: Results, progress: Progress | None) -> None:
        self.results = results
        self.progress += [] if progress is None else [progress]
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def over(self, request: str) -> Progress:
        def found() -> list[Progress]:
            return [one for one in self.progress if one.request == request and one.over]

        await self.until(lambda: bool(found()))
        return found()[0]


@asynccontextmanager
async def running(shown: Picture | None = None) -> AsyncIterator[Told]:
    told = Told()
    told.verifier.show(shown or picture())
    task = asyncio.ensure_future(told.verifier.run())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        told.verifier.close()


async def test_a_request_for_nobody_in_particular_is_for_every_peer() -> None:
    async with running() as told:
        told.verifier.ask({"r1": ()})
        assert (await told.over("r1")).message == "3 of 3: proven 3, unreachable 0, blind 0, leaked 0"
    assert {peer: result.result for peer, result in told.results.items()} == dict.fromkeys(PEERS, "proven")
    assert [errand.peer for errand in Engine.asked] == list(PEERS)


async def test_results_become_findings_by_peer() -> None:
    Engine.answers = {"n2": [LEAKED], "n3": [UNABLE]}
    async with running() as told:
        told.verifier.ask({"r1": ("n2", "n3", "n9")})
        await told.over("r1")
    assert {peer: result.result for peer, result in told.results.items()} == {
        "n2": "leaked", "n3": "blind", "n9": "unreachable"
    }  # fmt: skip
    found = current_findings(told.results)
    assert found.keys() == {
        (codes.VERIFY_LEAKED, "n2"),
        (codes.VERIFY_BLIND, "n3"),
        (codes.VERIFY_UNREACHABLE, "n9"),
    }
    assert found[codes.VERIFY_BLIND, "n3"] == "n3 has no capture: no socket"


async def test_a_busy_peer_is_asked_again_and_the_others_meanwhile() -> None:
    Engine.answers = {"n2": [BUSY, BUSY]}
    async with running() as told:
        told.verifier.ask({"r1": ("n2", "n3")})
        await told.over("r1")
    assert {result.result for result in told.results.values()} == {"proven"}
    assert [errand.peer for errand in Engine.asked] == ["n2", "n3", "n2", "n2"]


async def test_a_peer_that_is_always_busy_is_not_proven_and_ends_the_request() -> None:
    Engine.answers = {"n2": [BUSY] * 100}
    async with running() as told:
        told.verifier.ask({"r1": ("n2",)})
        await told.over("r1")
    assert (told.results["n2"].result, "busy" in told.results["n2"].message) == ("unreachable", True)


async def test_a_sample_is_taken_by_schedule() -> None:
    async with running(picture(VerifyPolicy(1, 2))) as told:
        await told.until(lambda: len(told.results) == 2)
    assert told.progress == []


async def test_without_a_port_nothing_is_proven_and_it_is_told_why_until_there_is_one() -> None:
    Engine.taken = True
    async with running() as told:
        told.verifier.ask({"r1": ("n2",)})
        await told.over("r1")
        assert (told.results["n2"].result, told.results["n2"].message) == ("blind", "UDP port 51830 is taken")
        Engine.taken = False
        told.verifier.show(picture())
        told.verifier.ask({"r2": ("n2",)})
        await told.over("r2")
    assert told.results["n2"].result == "proven"


async def test_what_is_plaintext_on_purpose_is_not_verified_and_old_results_go() -> None:
    off = replace(WORLD, layout=Layout(stage=Stage.PREPARE))
    async with running() as told:
        told.verifier.ask({"r1": ("n2",)})
        await told.over("r1")
        told.verifier.show(picture(world=off))
        await told.until(lambda: not told.results)
        told.verifier.ask({"r2": ("n2",)})
        await told.over("r2")
    assert len(Engine.asked) == 1


async def test_a_peer_that_is_not_as_far_as_the_cluster_is_not_called_leaked() -> None:
    pool = replace(WORLD, peers={**PEERS, "n2": replace(PEERS["n2"], stage=Stage.PREPARE)})
    async with running(picture(world=pool)) as told:
        told.verifier.ask({"r1": ("n2",)})
        await told.over("r1")
    assert told.results["n2"].result == "unreachable"
    assert "plaintext by the present stage" in told.results["n2"].message
    assert Engine.asked == []


async def test_a_request_for_a_node_alone_ends() -> None:
    async with running(picture(world=replace(WORLD, peers={}))) as told:
        told.verifier.ask({"r1": ()})
        assert (await told.over("r1")).message == "there is no other node to verify"
