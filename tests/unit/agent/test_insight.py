"""What is told of an agent: never sealed where the kernel would not encrypt, counts that are those of the passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from linkseal.keys.errors import HostError
from linkseal.tunnels import codes
from linkseal.tunnels.agent import insight as module
from linkseal.tunnels.agent.insight import Insight
from linkseal.tunnels.agent.worker import Job, Result
from linkseal.tunnels.metrics import BUCKETS
from linkseal.tunnels.model import LinkState
from linkseal.tunnels.settings import EndpointSetting
from unit.agent.pair import Node, T, sealed_pair


@dataclass
class Done:
    result: Result = field(default_factory=Result)
    picture: object | None = "a world"


def passed(node: Node, insight: Insight, at: float) -> Done:
    return insight.measured(lambda: Done(node.worker.run(Job(at))))


def state(insight: Insight, *, fresh: bool) -> tuple[LinkState, str | None]:
    """Of the only peer, as told; the counts must say the same."""
    status = insight.status({}, 0, T + 1, fresh=fresh)
    pair = next(pair for pair in status.pairs if pair.carries)
    assert getattr(status.links, pair.state.value) == status.links.total == 1
    return pair.state, pair.code


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return sealed_pair(tmp_path)[0]


def test_a_fresh_look_sees_what_no_pass_has_seen_and_writes_nothing(node: Node) -> None:
    insight = Insight(node.worker)
    assert state(insight, fresh=True) == (LinkState.SEALED, None)
    node.host.kernel.slots.clear()
    before = dict(node.host.kernel.routes)
    assert state(insight, fresh=False) == (LinkState.SEALED, None)  # the last pass saw it so
    assert state(insight, fresh=True) == (LinkState.STALE, codes.DATA_PATH)
    assert (node.host.kernel.slots, node.host.kernel.routes) == ({}, before)
    told = [f for f in node.findings.shown(T + 1) if f.code == codes.DATA_PATH]
    assert [(f.subject, "the door does not send" in f.message) for f in told] == [("n2", True)]


def test_what_a_pass_saw_before_it_healed_is_not_told_after(node: Node) -> None:
    insight = Insight(node.worker)
    node.host.kernel.slots.clear()
    assert passed(node, insight, T + 1).result.steps
    assert state(insight, fresh=False) == (LinkState.SEALED, None)
    assert codes.DATA_PATH not in {f.code for f in node.findings.shown(T + 1)}


def test_a_kernel_that_cannot_be_looked_at_seals_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise HostError("netlink hung")

    insight = Insight(node.worker)
    monkeypatch.setattr(node.host, "observe", refuse)
    assert state(insight, fresh=True) == (LinkState.STALE, codes.DATA_PATH)


def test_passes_are_counted_with_their_errors(node: Node) -> None:
    insight = Insight(node.worker)
    passed(node, insight, T + 1)
    assert insight.picture.loop.ready
    node.host.kernel.slots.clear()
    node.host.refuse = lambda _step: True
    assert passed(node, insight, T + 2).result.failures
    assert not insight.picture.loop.ready

    def fail() -> Done:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        insight.measured(fail)
    loop = insight.picture.loop
    assert (loop.passes, sum(loop.by_bucket), loop.refused, loop.failed) == (3, 3, 1, 1)
    assert len(loop.by_bucket) == len(BUCKETS) + 1


def test_half_a_pass_is_no_pass_and_makes_nobody_less_ready(node: Node) -> None:
    insight = Insight(node.worker)
    node.host.kernel.slots.clear()
    assert passed(node, insight, T + 1).result.steps
    before, touched = insight.picture.loop, insight._touched
    insight.measured(lambda: Done(Result(yielded=True), None))
    assert (insight.picture.loop, insight._touched) == (before, touched)
    assert insight.picture.loop.ready


def test_what_others_changed_is_counted_as_healed(node: Node) -> None:
    insight = Insight(node.worker)
    passed(node, insight, T + 1)
    lost = len(node.host.kernel.slots)
    node.host.kernel.slots.clear()
    passed(node, insight, T + 2)
    assert insight.picture.loop.healed == 1, f"one transaction puts back {lost} elements"


def test_ages_are_those_of_links_that_carry(node: Node) -> None:
    insight = Insight(node.worker)
    insight.status({}, 0, T + 1)
    heard = insight.picture.heard
    assert (heard.oldest, heard.never, heard.peers) == (T, 0, (("n2", T),))


def test_an_agent_that_does_not_turn_hangs(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    insight, clock = Insight(node.worker), [module.steady_now()]
    monkeypatch.setattr(module, "steady_now", lambda: clock[0])
    passed(node, insight, T + 1)
    clock[0] += 3 * 10 + 60
    assert insight.hangs() is None
    clock[0] += 1
    assert insight.hangs() == "no pass has ended for 91 s"
    passed(node, insight, T + 2)
    assert insight.hangs() is None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nobody sets an event
            await asyncio.sleep(0.01)


async def test_a_taken_port_is_a_finding_until_it_is_free(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTEN_RETRY", 0.05)
    other = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    object.__setattr__(node.worker.settings, "metrics", EndpointSetting("127.0.0.1", port))
    insight = Insight(node.worker)

    def unserved() -> bool:
        passed(node, insight, T + 1)
        return codes.METRICS_UNAVAILABLE in {found.code for found in node.findings.shown(module.unix_now())}

    serving = asyncio.ensure_future(insight.serve())
    try:
        await until(unserved)
        other.close()
        await until(lambda: not unserved())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
        writer.close()
        await writer.wait_closed()
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
