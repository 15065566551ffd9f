"""A cluster that goes on from another begins where the nodes of that stand already, as its spec says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from linkseal.tunnels.controller import stagefile
from linkseal.tunnels.controller.aims import Aim, PoolAim
from linkseal.tunnels.controller.comers import Comers, beyond, comers, landing, named_in
from linkseal.tunnels.controller.kubecopies import MapStore
from linkseal.tunnels.controller.stagekeeper import Stagekeeper
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Pool, parse_policy
from linkseal.tunnels.stages import LIVE, Evidence, Position
from linkseal.tunnels.status import NodeStatus
from linkseal.tunnels.statusparts import FormerStatus
from unit.controller.aiming import ENFORCE, NAMES, OFF, POOL, PREFER, PREPARE, Cluster
from unit.test_stages import report

FIRST = {"formerClusters": ["c1"]}
NOBODY = Comers()


def waiting(stage: Stage = ENFORCE, *names: str, cluster: str = "c1", **more: Any) -> Comers:
    return Comers(waiting=dict.fromkeys(names or NAMES, (cluster, stage)), **more)


def say(cluster: Cluster, stage: Stage, here: Comers, pool: PoolAim | None = None, **spec: Any) -> dict[str, Any]:
    """An edit of the object, as a pass takes it up; returns what is to be signed."""
    aim = Aim(stage, None, pool)
    asked = {"stage": stage.value, **spec}
    policy = parse_policy(asked, "test")
    cluster.stages.goes_on(policy, aim, here, 5.0)
    kept, _ = cluster.stages.merged(asked, policy)
    cluster.stages.aim(aim, NAMES, 5.0)
    return cluster.stages.spec(kept)


def port(signed: Mapping[str, Any]) -> int:
    return parse_policy(dict(signed), "test").wireguard.port


@pytest.mark.parametrize("before", [OFF, PREPARE, PREFER])
def test_it_is_where_they_are_without_a_walk(before: Stage) -> None:
    cluster = Cluster(before)
    signed = say(cluster, ENFORCE, waiting(), wireguard={"port": 40000}, **FIRST)
    assert (cluster.stages.position, cluster.stages.walk, cluster.stages.awaited) == (Position(ENFORCE), None, "")
    assert (port(signed), signed["formerClusters"]) == (40000, ["c1"])
    saved = stagefile.load(cluster.store)
    assert saved is not None
    assert (saved.history[-1].new, saved.history[-1].why) == ("enforce", "goes on from cluster c1")


def test_with_its_pool() -> None:
    cluster = Cluster()
    here = Comers(waiting={"n1": ("c1", ENFORCE), "n2": ("c1", ENFORCE), "n3": ("c1", PREFER)})
    say(cluster, PREFER, here, PoolAim(ENFORCE, POOL), **FIRST)
    assert cluster.stages.position == Position(PREFER, Pool(ENFORCE, POOL))
    assert cluster.stages.walk is None


def test_it_goes_no_further_than_they_are_and_walks_from_there() -> None:
    cluster = Cluster()
    say(cluster, ENFORCE, waiting(PREFER), **FIRST)
    assert cluster.stages.position == Position(PREFER)
    assert cluster.stages.walk is not None
    assert landing(Position(ENFORCE), {"n1": PREFER, "n2": ENFORCE}) == Position(ENFORCE), "a walk was under way"


def test_a_spec_that_is_wrong_first_is_corrected_before_anybody_has_come() -> None:
    """Too low a stage, other numbers: they are not told before it is right, and nothing of it stays."""
    cluster = Cluster()
    signed = say(cluster, PREFER, waiting(), wireguard={"port": 40000}, **FIRST)
    assert "formerClusters" not in signed
    assert "n1, n2, n3 are at enforce already" in cluster.stages.awaited
    assert cluster.stages.position == Position(PREFER)
    signed = say(cluster, ENFORCE, waiting(), wireguard={"port": 40000}, **FIRST)
    assert (signed["formerClusters"], port(signed)) == (["c1"], 40000)
    assert (cluster.stages.position, cluster.stages.awaited) == (Position(ENFORCE), "")
    assert port(say(cluster, ENFORCE, waiting(), **FIRST)) == 51820, "they refused the other"
    came = waiting(ENFORCE, "n2", "n3", over=frozenset({"c1"}))
    assert port(say(cluster, ENFORCE, came, wireguard={"port": 40000}, **FIRST)) == 51820, "one stands on it now"


def test_it_lowers_nothing() -> None:
    cluster = Cluster(ENFORCE)
    say(cluster, PREFER, waiting(PREFER), **FIRST)
    assert cluster.stages.position == Position(ENFORCE)


@pytest.mark.parametrize(
    "here",
    [
        NOBODY,
        waiting(ENFORCE, "n3", over=frozenset({"c1"})),
        waiting(ENFORCE, "n3", here=2),
        waiting(ENFORCE, "n3", here=1),
        waiting(ENFORCE, "n3", cluster="c0", here=2, over=frozenset({"c1"})),
    ],
    ids=["nobody", "late", "others", "as-many", "late-of-an-earlier-one"],
)
def test_a_walk_is_not_made_needless_by_a_node_that_comes_late_or_alone(here: Comers) -> None:
    cluster = Cluster(PREFER)
    signed = say(cluster, ENFORCE, here, wireguard={"port": 40000}, formerClusters=["c1", "c0"])
    assert cluster.stages.position == Position(PREFER)
    assert cluster.stages.walk is not None
    assert port(signed) == 51820


def test_who_waits_further_ahead_holds_no_walk_and_comes_when_it_is_there() -> None:
    """Else both would wait: it takes no policy of a lower stage, and reports by none of this cluster's."""
    cluster, here, told = Cluster(), waiting(PREFER, "n3", here=1), []
    abroad = report("n3", serial=3, at=5.0)
    for serial in range(9, 14):
        told.append("formerClusters" in say(cluster, PREFER, here, **FIRST))
        assert ("n3 is at prefer already, and come" in cluster.stages.awaited) != told[-1]
        cluster.stages.signed(serial)
        ahead = beyond(cluster.stages.position, {"n3": PREFER})
        cluster.stages.tick(Evidence(serial, {} if ahead else {"n3": abroad}, ()), 6.0)
    assert cluster.stages.position == Position(PREFER)
    assert told[0] is False
    assert told[-1] is True


@pytest.mark.parametrize("lost", [False, True])
def test_that_some_have_come_is_known_by_their_reports_and_remembered(*, lost: bool) -> None:
    cluster = Cluster(PREFER)
    say(cluster, PREFER, waiting(PREFER, "n2", "n3", over=frozenset({"c1"})), **FIRST)
    present = parse_policy({"stage": "prefer", **FIRST}, "test")
    cluster.stages = Stagekeeper(MapStore(None if lost else cluster.store.text), present, 6.0, "object")
    late = waiting(ENFORCE, "n2", "n3", over=frozenset({"c1"} if lost else ()))
    say(cluster, ENFORCE, late, **FIRST)
    assert cluster.stages.position == Position(PREFER)


def test_it_ends_a_walk_that_was_under_way() -> None:
    cluster = Cluster()
    say(cluster, ENFORCE, NOBODY)
    assert cluster.stages.walk is not None
    say(cluster, ENFORCE, waiting(), **FIRST)
    assert (cluster.stages.position, cluster.stages.walk) == (Position(ENFORCE), None)


def test_a_step_that_could_not_be_signed_is_not_forgotten() -> None:
    cluster = Cluster()
    cluster.stages.signed(7)
    say(cluster, ENFORCE, waiting(), **FIRST)
    cluster.stages.undo()
    assert cluster.stages.position == Position(OFF)
    say(cluster, ENFORCE, waiting(), **FIRST)
    assert cluster.stages.position == Position(ENFORCE)


def test_the_walk_that_is_left_is_held_by_nobody_who_is_still_to_come() -> None:
    """From the stage at which they come: by then they report by this cluster's policy."""
    cluster = Cluster()
    say(cluster, ENFORCE, waiting(PREFER), **FIRST)
    cluster.stages.signed(9)
    abroad = {name: report(name, serial=3, at=5.0) for name in NAMES}
    assert not cluster.stages.tick(Evidence(9, abroad, ()), 6.0), "they are to come first"
    assert cluster.stages.position == Position(PREFER)


# --- what reports say -------------------------------------------------------------------------------------------------


def status(former: FormerStatus | None = None, *, at: float = 1000.0, stage: Stage = ENFORCE) -> NodeStatus:
    found = report("n1", serial=3, at=at).status
    assert found is not None
    return replace(found, former=former, stage=stage, observed_at=at)


def test_reports_say_who_waits_who_has_come_and_who_is_of_here() -> None:
    here = comers(
        {"c1", "c0"},
        [
            ("n1", status(FormerStatus("c1", 4, over=False), stage=PREFER)),
            ("n2", status(FormerStatus("c0", 5, over=True))),
            ("n3", status(FormerStatus("c9", 6, over=False))),
            ("n4", status()),
            ("n5", status(at=1000.0 - 9 * LIVE)),
            ("n6", status(FormerStatus("c1", 0, over=False))),
        ],
    )
    assert here.indexes == {"n1": 4, "n2": 5}
    assert here.waiting == {"n1": ("c1", PREFER), "n6": ("c1", ENFORCE)}
    assert (here.over, here.here) == ({"c0"}, 4), "however old a report is, somebody stands there"


@pytest.mark.parametrize("spec", [{}, {"formerClusters": None}, {"formerClusters": []}])
def test_a_spec_that_names_none(spec: dict[str, Any]) -> None:
    assert named_in(spec) == frozenset()
