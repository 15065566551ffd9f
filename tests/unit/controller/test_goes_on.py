"""A cluster that goes on from another is at once where its spec says; the nodes stand there already."""

from __future__ import annotations

from typing import Any

import pytest
from linkseal.tunnels.controller import stagefile
from linkseal.tunnels.controller.aims import Aim, PoolAim
from linkseal.tunnels.controller.kubecopies import MapStore
from linkseal.tunnels.controller.stagekeeper import Stagekeeper
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Pool, parse_policy
from linkseal.tunnels.stages import Position
from unit.controller.aiming import ENFORCE, NAMES, OFF, POOL, PREFER, PREPARE, Cluster

FIRST = {"formerClusters": ["c1"]}


def say(cluster: Cluster, stage: Stage, pool: PoolAim | None = None, waiting: str = "c1", **spec: Any) -> None:
    """An edit of the object, as a pass takes it up; `waiting`: the cluster whose nodes wait, if any do."""
    aim = Aim(stage, None, pool)
    wait = {waiting} if waiting else set[str]()
    cluster.stages.goes_on(parse_policy({"stage": stage.value, **spec}, "test"), aim, wait, 5.0)
    cluster.stages.aim(aim, NAMES, 5.0)


@pytest.mark.parametrize(("before", "port"), [(OFF, 40000), (PREPARE, 51820)])
def test_it_is_where_the_spec_says_without_a_walk(before: Stage, port: int) -> None:
    """What nodes stand on is taken from the spec only where none stands on anything."""
    cluster = Cluster(before)
    say(cluster, ENFORCE, wireguard={"port": 40000}, **FIRST)
    assert (cluster.stages.position, cluster.stages.walk) == (Position(ENFORCE), None)
    saved = stagefile.load(cluster.store)
    assert saved is not None
    assert (saved.history[-1].new, saved.history[-1].why) == ("enforce", "goes on from cluster c1")
    assert (saved.pinned or {})["wireguard.port"] == port


@pytest.mark.parametrize("waiting", ["", "c2"])
def test_nobody_s_word_makes_a_walk_needless_where_no_node_of_that_cluster_waits(waiting: str) -> None:
    cluster = Cluster()
    say(cluster, ENFORCE, waiting=waiting, **FIRST)
    assert cluster.stages.position == Position(OFF)
    assert cluster.stages.walk is not None
    say(cluster, ENFORCE, **FIRST)
    assert cluster.stages.position == Position(ENFORCE), "when one reports it counts"


def test_with_its_pool() -> None:
    cluster = Cluster()
    say(cluster, PREFER, PoolAim(ENFORCE, POOL), **FIRST)
    assert cluster.stages.position == Position(PREFER, Pool(ENFORCE, POOL))
    assert cluster.stages.walk is None


def test_it_ends_a_walk_that_was_under_way() -> None:
    cluster = Cluster()
    say(cluster, ENFORCE)
    assert cluster.stages.walk is not None
    say(cluster, ENFORCE, **FIRST)
    assert (cluster.stages.position, cluster.stages.walk) == (Position(ENFORCE), None)


def test_it_lowers_nothing() -> None:
    cluster = Cluster(ENFORCE)
    say(cluster, PREFER, **FIRST)
    assert cluster.stages.position == Position(ENFORCE)


@pytest.mark.parametrize("lost", [False, True])
def test_it_counts_once_and_once_more_when_it_is_said_anew(*, lost: bool) -> None:
    """A controller that starts anew, or an edit of something else, makes no walk needless; nor what was lost."""
    cluster = Cluster()
    say(cluster, PREPARE, **FIRST)
    assert cluster.stages.position == Position(PREPARE)
    store, present = MapStore(None if lost else cluster.store.text), parse_policy({"stage": "prepare", **FIRST}, "test")
    cluster.stages = Stagekeeper(store, present, 6.0, "object")
    say(cluster, ENFORCE, **FIRST)
    assert cluster.stages.position == Position(PREPARE)
    assert cluster.stages.walk is not None, "from there on it walks, by what nodes say"
    say(cluster, ENFORCE)
    assert cluster.stages.position == Position(PREPARE)
    say(cluster, ENFORCE, **FIRST)
    assert cluster.stages.position == Position(ENFORCE)


def test_a_step_that_could_not_be_signed_is_not_forgotten() -> None:
    cluster = Cluster()
    cluster.stages.signed(7)
    say(cluster, ENFORCE, **FIRST)
    cluster.stages.undo()
    assert cluster.stages.position == Position(OFF)
    say(cluster, ENFORCE, **FIRST)
    assert cluster.stages.position == Position(ENFORCE)
