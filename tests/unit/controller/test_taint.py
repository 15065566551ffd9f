"""When the taint `linkseal.io/not-sealed` may go, and how it is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from linkseal.keys.policydoc import PolicyDocument
from linkseal.tunnels.agent.clock import utc
from linkseal.tunnels.controller.kubeevents import About, Events, News
from linkseal.tunnels.controller.lifter import Lifter, position_of
from linkseal.tunnels.controller.nodefacts import NodeFacts, node_facts
from linkseal.tunnels.controller.taint import TAINT, PlacedTaint, liftable, placed_taints, removal
from linkseal.tunnels.directory.kubeapi import ApiError, KubeApi
from linkseal.tunnels.model import LinkState, Stage
from linkseal.tunnels.policy import Pool
from linkseal.tunnels.stages import Evidence, Position
from linkseal.tunnels.status import NodeEncryption
from unit.test_stages import ENFORCE, NOW, OFF, PREFER, PREPARE, evidence, report

OURS = {"key": TAINT, "effect": "NoSchedule"}


def lifted(found: Evidence, position: Position | Stage = ENFORCE, *tainted: str) -> set[str]:
    at = position if isinstance(position, Position) else Position(position)
    return {name for name, _ in liftable(tainted or ("n1",), at, found, NOW)}


def test_a_node_whose_links_are_sealed_at_both_ends_is_free() -> None:
    assert dict(liftable(["n1"], Position(ENFORCE), evidence(), NOW)) == {
        "n1": "sealed at both ends with every live node: 2"
    }
    assert lifted(evidence(), PREFER, "n1", "n2", "n3") == {"n1", "n2", "n3"}


@pytest.mark.parametrize("state", [one for one in LinkState if one is not LinkState.SEALED])
def test_one_end_that_is_not_sealed_holds_both_and_nobody_else(state: LinkState) -> None:
    found = evidence(n2=report("n2", state=state))
    assert lifted(found, ENFORCE, "n1") == set()
    assert lifted(found, ENFORCE, "n2") == set()
    one_way = report("n3")
    assert one_way.status is not None
    assert lifted(evidence(n1=report("n1", state=state)), ENFORCE, "n1", "n2", "n3") == set()


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(None, id="no report"),
        pytest.param(report("n1", at=NOW - 901), id="an old report"),
        pytest.param(report("n1", at=NOW + 61), id="a report from the future"),
        pytest.param(report("n1", serial=6), id="another policy"),
        pytest.param(report("n1", applied=False), id="a policy that is not applied"),
    ],
)
def test_what_is_not_known_of_the_node_itself_keeps_the_taint(own: NodeEncryption | None) -> None:
    assert lifted(evidence(n1=own)) == set()
    assert lifted(Evidence(7, {"n1": own})) == set(), "also where it is alone"


def test_a_node_of_which_nothing_is_heard_holds_nobody_but_itself() -> None:
    def silent(name: str, *others: str) -> NodeEncryption:
        found = report(name)
        assert found.status is not None
        return report(name, pairs=tuple(one for one in found.status.pairs if one.peer in others))

    found = evidence(n1=silent("n1", "n2"), n2=silent("n2", "n1"), n3=None)
    assert lifted(found, ENFORCE, "n1", "n2", "n3") == {"n1", "n2"}
    assert lifted(evidence(n3=None), ENFORCE, "n1") == set(), "others have a handshake with n3: it is there"


def test_where_all_others_are_silent_nothing_is_known() -> None:
    alone = report("n1", pairs=())
    assert lifted(evidence(n1=alone, n2=None, n3=None)) == set()
    assert lifted(Evidence(7, {"n1": alone})) == {"n1"}, "there is nobody else"


def test_where_nothing_is_encrypted_there_is_nothing_to_wait_for() -> None:
    nothing = Evidence(7, {"n1": None, "n2": None}, out=("n3",))
    for stage in (OFF, PREPARE):
        assert lifted(nothing, stage, "n1", "n2", "n3") == {"n1", "n2", "n3"}
    assert lifted(nothing, ENFORCE, "n1", "n2", "n3") == {"n3"}, "an opted-out node never is"
    pool = Position(OFF, Pool(ENFORCE, frozenset({"n1"})))
    assert lifted(nothing, pool, "n1", "n2") == {"n2"}


def test_a_node_that_is_not_known_keeps_it() -> None:
    assert lifted(evidence(), ENFORCE, "n9") == set()


def test_only_our_taint_is_seen_whatever_it_says() -> None:
    other = {"key": "gpu", "effect": "NoExecute", "value": "1"}
    noted = {**OURS, "effect": "NoExecute", "value": "x", "timeAdded": "2026-11-02T10:00:00Z"}
    assert placed_taints({}) == placed_taints({"taints": None}) == placed_taints({"taints": [other, "x"]}) == ()
    taints = placed_taints({"taints": [OURS, other, noted]})
    assert [one.place for one in taints] == [0, 2]
    assert removal("u1", taints) == [
        {"op": "test", "path": "/metadata/uid", "value": "u1"},
        {"op": "test", "path": "/spec/taints/2", "value": noted},
        {"op": "remove", "path": "/spec/taints/2"},
        {"op": "test", "path": "/spec/taints/0", "value": OURS},
        {"op": "remove", "path": "/spec/taints/0"},
    ]


def test_a_taint_is_among_what_is_kept_of_a_node() -> None:
    item = {"metadata": {"name": "n1", "uid": "u1"}, "spec": {"taints": [OURS]}}
    kept = node_facts(item, None)
    assert kept is not None
    assert kept.taints == placed_taints({"taints": [OURS]})
    assert node_facts(item, kept) is kept
    assert node_facts({**item, "spec": {}}, kept) != kept


def test_where_the_cluster_is_without_its_object() -> None:
    def policy(**spec: Any) -> PolicyDocument:
        return PolicyDocument("c", 7, utc(NOW), spec)

    assert position_of(None) == Position(OFF)
    assert position_of(policy(stage="enforce")) == Position(ENFORCE)
    assert position_of(policy(stage="further")) is None


class Server:
    """Takes patches, or refuses them."""

    def __init__(self, *answers: int) -> None:
        self.answers, self.patched = list(answers), list[str]()

    async def patch(self, path: str, _: Sequence[Mapping[str, Any]]) -> None:
        self.patched.append(path)
        if self.answers and (status := self.answers.pop(0)) != 200:
            raise ApiError("no", max(status, 0))


class Told:
    def __init__(self) -> None:
        self.news: list[tuple[str, str]] = []

    def tell(self, about: About, news: News) -> None:
        self.news.append((about.name, news.reason))


NODES = {
    name: NodeFacts(f"u-{name}", (), (), "", taints=(PlacedTaint(0, '{"key": "x"}'),) if name != "n3" else ())
    for name in ("n1", "n2", "n3")
}


def step(server: Server, *, wanted: bool = True, seen: bool = True) -> tuple[Told, tuple[str, ...]]:
    told = Told()
    lifter = Lifter(cast("KubeApi", server), cast("Events", told), wanted=wanted)
    look = (lambda: (Position(ENFORCE), evidence())) if seen else (lambda: None)

    async def work() -> tuple[str, ...]:
        found = await lifter.step(NODES, look)
        assert await lifter.step(NODES, look) == (), "it has just looked"
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("linkseal.tunnels.controller.lifter.time.time", lambda: NOW)
        return told, asyncio.run(work())


def test_it_lifts_what_there_is_and_says_so_on_the_node() -> None:
    told, stuck = step(server := Server())
    assert server.patched == ["/api/v1/nodes/n1", "/api/v1/nodes/n2"]
    assert told.news == [("n1", "TaintLifted"), ("n2", "TaintLifted")]
    assert stuck == ()


def test_it_touches_nothing_unless_it_was_told_to_or_where_the_stage_is_not_known() -> None:
    for options in ({"wanted": False}, {"seen": False}):
        told, stuck = step(server := Server(), **options)
        assert (server.patched, told.news, stuck) == ([], [], ())


@pytest.mark.parametrize("status", [404, 409, 422])
def test_a_node_that_has_changed_meanwhile_is_for_the_next_look(status: int) -> None:
    told, stuck = step(Server(status))
    assert told.news == [("n2", "TaintLifted")]
    assert stuck == ()


def test_a_refusal_is_told_and_stops_no_other() -> None:
    told, stuck = step(Server(403))
    assert told.news == [("n2", "TaintLifted")]
    assert stuck == (f"the taint {TAINT} of n1 cannot be lifted: no",)


def test_without_an_answer_the_pass_ends() -> None:
    with pytest.raises(ApiError):
        step(Server(-1))
