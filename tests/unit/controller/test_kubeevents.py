"""Which changes are told in Events, and how they are written."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import pytest
from linkseal.tunnels.clusterobject import CaStatus, ClusterStatus
from linkseal.tunnels.controller.clusterstatus import Standing, build
from linkseal.tunnels.controller.csrs import Asker
from linkseal.tunnels.controller.kubeevents import (
    MAX_NOTE,
    MAX_WAITING,
    About,
    Events,
    News,
    NodeNews,
    of_cluster,
    of_node,
)
from linkseal.tunnels.directory.kubeapi import ApiError, KubeApi
from linkseal.tunnels.model import LinkState, Stage
from linkseal.tunnels.stages import Evidence, Position
from linkseal.tunnels.status import (
    FindingStatus,
    GenerationStatus,
    LinkCounts,
    Metadata,
    NodeEncryption,
    NodeStatus,
    RequestStatus,
)
from linkseal.tunnels.statusparts import BootStatus, GuardStatus, Verification
from unit.test_status import T, pair, status

ENFORCED = Standing(
    Position(Stage.ENFORCE), Position(Stage.ENFORCE), walking=False, reasons=(), serial=7, generation=3, problem=None
)
SEALED = status(links=LinkCounts(1, 1), unsealed=(), pairs=(pair("n2", carries=True),))
OPEN = status(pairs=(pair("n2", LinkState.STALE, code="LS2001"),))


def seen(standing: Standing = ENFORCED, report: NodeStatus = SEALED) -> ClusterStatus:
    other = NodeEncryption(Metadata("n2"), status=replace(report, pairs=(replace(report.pairs[0], peer="n1"),)))
    reports = {"n1": node(report), "n2": other}
    return build(standing, Evidence(7, reports), "{}", T)


def node(report: NodeStatus | None) -> NodeEncryption:
    return NodeEncryption(Metadata("n1"), status=report)


def reasons(before: ClusterStatus | None, after: ClusterStatus) -> list[tuple[str, bool]]:
    return [(news.reason, news.warning) for news in of_cluster(before, after)]


def test_what_is_found_at_the_start_and_what_stays_is_no_news() -> None:
    assert reasons(None, seen()) == []
    assert reasons(seen(), seen()) == []
    assert list(of_node(node(SEALED), node(SEALED))) == []
    assert list(of_node(node(SEALED), None)) == []
    assert told_of(node(SEALED), None, node(SEALED)) == []


def told_of(*reports: NodeEncryption | None) -> list[str]:
    """Reasons of the Events about a node that reports these, one after the other, to a controller that just began."""
    events = Events(cast("KubeApi", None))
    news = NodeNews(events)
    for report in reports:
        news.tell({"n1": "u1"}, (), (), {"n1": report})
    return [event["reason"] for event in events._waiting]


def test_how_long_a_new_node_had_no_guard_is_told_once() -> None:
    late = node(replace(SEALED, guard=replace(SEALED.guard, first_loaded_at=T, unguarded=12)))
    (told,) = of_node(node(SEALED), late)
    assert told == News("GuardedSince", "first guard 12 s after the node was registered")
    assert list(of_node(None, late)) == [told], "its first report"
    assert list(of_node(late, late)) == []
    assert told_of(None, late, late) == ["GuardedSince"]
    assert told_of(late, late) == [], "what a controller finds when it starts is no news"


def test_a_stage_that_changes_and_is_reached_or_taken_back_is_told() -> None:
    walking = replace(ENFORCED, position=Position(Stage.PREFER), walking=True)
    assert reasons(seen(walking), seen()) == [("StageChanged", False), ("StageReached", False)]
    back = replace(walking, walking=False, taken_back="not applied in time")
    assert reasons(seen(walking), seen(back)) == [("StageTakenBack", True)]


def test_a_spec_that_is_refused_and_links_that_are_no_longer_sealed_are_warnings() -> None:
    assert reasons(seen(), seen(replace(ENFORCED, problem="mtu: too small"))) == [("SpecRefused", True)]
    assert reasons(seen(replace(ENFORCED, problem="mtu: too small")), seen()) == [("SpecAccepted", False)]
    assert reasons(seen(), seen(report=OPEN)) == [("NotSealed", True)]
    assert reasons(seen(report=OPEN), seen()) == [("Sealed", False)]


def test_every_phase_of_a_new_ca_is_told_and_that_it_cannot_begin_is_a_warning() -> None:
    phases = [
        seen(replace(ENFORCED, ca=ca))
        for ca in (
            CaStatus(),
            CaStatus("trusting"),
            CaStatus("signing"),
            CaStatus(),
            CaStatus(problem="no next one"),
            CaStatus(),
        )
    ]
    found = [news for before, after in pairwise(phases) for news in reasons(before, after)]
    assert found == [("CATrusting", False), ("CASigning", False), ("CARotated", False), ("CARotationRefused", True)]


def test_that_nothing_can_be_signed_is_told_whatever_the_phase() -> None:
    gone = "the SSH agent is gone"
    states = (
        CaStatus("trusting"),
        CaStatus("trusting", unsigned=gone),
        CaStatus("signing"),
        CaStatus(unsigned=gone, problem="no next one"),
        CaStatus(problem="no next one"),
        CaStatus("trusting"),
    )
    found = [
        news
        for before, after in pairwise(seen(replace(ENFORCED, ca=ca)) for ca in states)
        for news in reasons(before, after)
    ]
    assert found == [
        ("CANotSigning", True), ("CASigning", False), ("CASignsAgain", False),
        ("CARotated", False), ("CANotSigning", True), ("CARotationRefused", True), ("CASignsAgain", False),
        ("CATrusting", False),
    ]  # fmt: skip


def test_a_spec_that_waits_for_a_signature_is_not_refused() -> None:
    waits = seen(replace(ENFORCED, unsigned="the SSH agent is gone"))
    assert reasons(seen(), waits) == []
    assert reasons(waits, seen()) == []
    assert reasons(waits, seen(replace(ENFORCED, problem="mtu: too small"))) == [("SpecRefused", True)]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (OPEN, SEALED, [("LinksSealed", False)]),
        (SEALED, OPEN, [("LinksNotSealed", True)]),
        (replace(SEALED, stage=Stage.PREPARE), SEALED, [("LinksSealed", False)]),
        (replace(SEALED, stage=Stage.PREPARE), OPEN, []),
        (SEALED, replace(OPEN, stage=Stage.OFF), []),
    ],
)
def test_links_of_a_node(before: NodeStatus, after: NodeStatus, told: list[Any]) -> None:
    found = [(one.reason, one.warning) for one in of_node(node(before), node(after))]
    assert [one for one in found if "Links" in one[0]] == told


GUARDED = replace(SEALED, guard=GuardStatus("drop"))
LIVE, NEXT = GenerationStatus(3, "live", "f", T), GenerationStatus(4, "live", "f", T)
INSTALLED = BootStatus("installed")
FOUND, LOST = FindingStatus("LS3006", "host", "loosened", T), FindingStatus("LS5001", "n2", "bypassed", T)


def asked(state: Any) -> NodeStatus:
    return replace(SEALED, requests={"r": RequestStatus("rotate", state, "generation 2")})


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (GUARDED, replace(GUARDED, guard=GuardStatus("drop", broken_glass="rescue")), [("BreakGlass", True)]),
        (replace(GUARDED, guard=GuardStatus("drop", broken_glass="rescue")), GUARDED, [("BreakGlassEnded", False)]),
        (GUARDED, replace(GUARDED, guard=GuardStatus("drop", whole=False)), [("GuardNotWhole", True)]),
        (replace(GUARDED, guard=GuardStatus("drop", whole=False)), GUARDED, [("GuardWhole", False)]),
        (SEALED, replace(SEALED, verified=(Verification("n2", "leaked", T),)), [("PlaintextSeen", True)]),
        (replace(SEALED, verified=(Verification("n2", "leaked", T),)), replace(SEALED, verified=()), []),
        (SEALED, replace(SEALED, stage=Stage.ENFORCE), [("StageEntered", False)]),
        (replace(SEALED, generations=(LIVE,)), replace(SEALED, generations=(NEXT,)),
         [("KeyMade", False), ("KeyChanged", False)]),
        (SEALED, replace(SEALED, findings=(*SEALED.findings, FOUND, LOST, replace(LOST, subject="n3"))),
         [("Found", True)]),
        (replace(SEALED, findings=(FOUND, LOST)), replace(SEALED, findings=(FOUND,)), [("FoundNoMore", False)]),
        (SEALED, asked("done"), [("RequestDone", False)]),
        (asked("running"), asked("failed"), [("RequestFailed", True)]),
        (asked("done"), asked("done"), []),
        (SEALED, replace(SEALED, boot=BootStatus("failed", "no systemd")), [("BootUnitFailed", True)]),
        (replace(SEALED, boot=BootStatus("failed", "why")), replace(SEALED, boot=INSTALLED), [("BootUnit", False)]),
    ],
    ids=lambda value: value[0][0] if isinstance(value, list) and value else "",
)  # fmt: skip
def test_what_changes_on_a_node(before: NodeStatus, after: NodeStatus, told: list[Any]) -> None:
    assert [(one.reason, one.warning) for one in of_node(node(before), node(after))] == told


def test_an_agent_that_falls_silent_is_told_once_and_so_is_its_return() -> None:
    events = Events(cast("KubeApi", None))
    news = NodeNews(events)

    def told(now: float, status: NodeStatus) -> list[str]:
        events._waiting.clear()
        news.tell({"n1": "u1"}, (), (), {"n1": node(status)}, now=now)
        return [one["reason"] for one in events._waiting]

    old = replace(SEALED, observed_at=T)
    assert told(T + 700, old) == [], "what a controller finds when it starts is no news"
    assert told(T + 710, replace(SEALED, observed_at=T + 705)) == ["AgentReports"]
    assert told(T + 1300, replace(SEALED, observed_at=T + 705)) == []
    assert told(T + 1310, replace(SEALED, observed_at=T + 705)) == ["AgentSilent"]
    assert told(T + 1320, replace(SEALED, observed_at=T + 705)) == []


def test_nodes_that_are_gone_are_forgotten_and_who_has_the_name_of_one_is_another() -> None:
    events = Events(cast("KubeApi", None))
    news, plain = NodeNews(events), replace(SEALED, stage=Stage.ENFORCE)
    for number in range(100):
        news.tell({f"n{number}": "u"}, (), (), {f"n{number}": node(SEALED)})
    assert list(news._reports) == ["n99"]
    assert list(of_node(node(SEALED), node(plain)))
    news.tell({"n99": "another"}, (), (), {"n99": node(plain)})
    assert list(events._waiting) == []


def test_where_nodes_may_be_is_told_when_it_is_said() -> None:
    anywhere = build(ENFORCED, Evidence(7, {}, unbounded=("say it",)), "", T)
    named = build(ENFORCED, Evidence(7, {}), "", T)
    assert reasons(anywhere, named) == [("Bounded", False)]
    assert reasons(named, anywhere) == [("NotBounded", True)]


def test_a_denied_request_is_told_on_the_node_whose_pod_asked() -> None:
    events = Events(cast("KubeApi", None))
    NodeNews(events).tell({"n1": "u1"}, (), (), {}, [(Asker("n1", "u1", "agent-x", "u2"), "the pod is gone")])
    (event,) = events._waiting
    assert (event["reason"], event["note"], event["type"]) == ("CertificateDenied", "the pod is gone", "Warning")
    assert event["regarding"]["uid"] == "u1"


def test_a_walk_that_begins_and_one_that_is_held_are_told() -> None:
    walking = replace(ENFORCED, position=Position(Stage.PREFER), walking=True)
    held = replace(walking, reasons=("n2 has not applied it",))
    assert reasons(seen(replace(walking, walking=False)), seen(walking)) == [("StageWalking", False)]
    assert reasons(seen(walking), seen(held)) == [("StageWaiting", False)]


def test_what_is_wrong_is_not_crowded_out_by_what_is_usual() -> None:
    events = Events(cast("KubeApi", None))
    for number in range(MAX_WAITING):
        events.tell(About("v1", "Node", f"n{number}", "u"), News("StageEntered", ""))
    events.tell(About("v1", "Node", "n0", "u"), News("PlaintextSeen", "", warning=True))
    events.tell(About("v1", "Node", "n1", "u"), News("StageEntered", ""))
    assert len(events._waiting) == MAX_WAITING
    assert [one["reason"] for one in events._waiting].count("PlaintextSeen") == 1


async def test_one_that_is_refused_keeps_no_other_from_being_told() -> None:
    server = Server(3, refused={1})
    events = Events(cast("KubeApi", server))
    for number in range(3):
        events.tell(About("v1", "Node", f"n{number}", "u"), News("Granted", ""))
    await events.write()
    assert [one["regarding"]["name"] for one in server.taken] == ["n0", "n2"]


class Server:
    """Takes so many events and wants to be left alone then; `refused`: by number, those it never takes."""

    def __init__(self, room: int, refused: Collection[int] = ()) -> None:
        self.room, self.refused = room, refused
        self.asked = 0
        self.taken: list[dict[str, Any]] = []

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/apis/events.k8s.io/v1/namespaces/default/events"
        self.asked += 1
        if self.asked - 1 in self.refused:
            raise ApiError("422 Unprocessable Entity", 422)
        if len(self.taken) == self.room:
            raise ApiError("429 Too Many Requests", 429)
        self.taken.append(body)
        return body


async def test_they_fit_are_bounded_and_no_refusal_harms() -> None:
    server = Server(3)
    events = Events(cast("KubeApi", server))
    for number in range(MAX_WAITING + 10):
        events.tell(About("v1", "Node", f"n{number}", "u"), News("Granted", "ü" * 5000, warning=number == 1))
    await events.write()
    assert [one["regarding"]["name"] for one in server.taken] == ["n0", "n1", "n2"]
    assert [one["type"] for one in server.taken] == ["Normal", "Warning", "Normal"]
    assert all(len(one["note"].encode()) <= MAX_NOTE for one in server.taken)
    await events.write()
    assert len(server.taken) == 3, "what was refused is lost, and not sent again"
