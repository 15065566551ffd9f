"""Whatever is asked of a cluster and its pools, one edit after the other: nothing falls unless somebody says so."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from linkseal.tunnels.controller.aims import Aim, PoolAim
from linkseal.tunnels.controller.kubecopies import MapStore
from linkseal.tunnels.controller.stagefile import load
from linkseal.tunnels.controller.stagekeeper import Stagekeeper
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import parse_policy
from linkseal.tunnels.stages import Evidence, Position
from linkseal.tunnels.world import STAGES

NAMES = ("n1", "n2", "n3")
REST = 40
"""Passes after which a cluster whose nodes all follow is at rest: there and back again is a dozen."""

POLICY = parse_policy({"scope": "overlay", "stage": "off"}, "test")
NOBODY = Evidence(0, {}, ())
"""Without reports nobody is waited for below stage enforce."""

stages = st.sampled_from(STAGES[:3])
nodes = st.sets(st.sampled_from(NAMES), min_size=1, max_size=2).map(frozenset)


def aims(*, lowering: bool) -> st.SearchStrategy[Aim]:
    """What an object may say; `lowering`: with `lowerTo` too, which the API server lets stand only beside its stage."""

    def lowered(stage: Stage) -> st.SearchStrategy[Stage | None]:
        return st.sampled_from([None, stage]) if lowering else st.none()

    pools = stages.flatmap(lambda stage: st.builds(PoolAim, st.just(stage), nodes, lowered(stage)))
    asked = st.sampled_from(["", "1", "2"])
    return stages.flatmap(
        lambda stage: st.builds(Aim, st.just(stage), lowered(stage), st.none() | pools, st.just(120.0), asked)
    )


class Cluster:
    """A stagekeeper whose nodes follow at once, and the passes of a controller."""

    def __init__(self) -> None:
        self.store = MapStore(None)
        self.stages = Stagekeeper(self.store, POLICY, 0.0, "object")
        self.now = 0.0

    def turn(self, aim: Aim) -> list[Position]:
        """One pass; where the cluster was and is in it."""
        self.now += 1
        places = [self.stages.position]
        self.stages.aim(aim, NAMES, self.now)
        places.append(self.stages.position)
        self.stages.tick(NOBODY, self.now)
        self.stages.aim(aim, NAMES, self.now)
        places.append(self.stages.position)
        return places

    def rest(self, aim: Aim) -> list[Position]:
        """Passes until there is nothing to do."""
        places: list[Position] = []
        for _ in range(REST):
            places += self.turn(aim)
            if self.stages.walk is None:
                return places
        raise AssertionError(f"no end at {self.stages.position}, asked for {aim}")

    def restart(self) -> None:
        """Another controller takes over, and knows what was written."""
        before = load(self.store)
        self.store = MapStore(self.store.text)
        self.stages = Stagekeeper(self.store, None, self.now, "object")
        assert load(self.store) == before


def falls(places: list[Position]) -> list[tuple[str, Position, Position]]:
    """Nodes whose stage went down from one place to the next."""
    return [
        (name, old, new)
        for old, new in pairwise(places)
        for name in NAMES
        if STAGES.index(new.of(name)) < STAGES.index(old.of(name))
    ]


edits = st.integers(min_value=0, max_value=4)


@given(st.lists(st.tuples(aims(lowering=False), edits, st.booleans()), max_size=8))
def test_without_lower_to_nothing_falls(asked: list[tuple[Aim, int, bool]]) -> None:
    cluster = Cluster()
    places = [cluster.stages.position]
    for aim, passes, restarted in asked:
        for _ in range(passes):
            places += cluster.turn(aim)
        if restarted:
            cluster.restart()
    if asked:
        places += cluster.rest(asked[-1][0])
    assert falls(places) == []


@given(st.lists(st.tuples(aims(lowering=True), edits, st.booleans()), max_size=8), st.booleans())
def test_it_comes_to_rest_and_off_is_off(asked: list[tuple[Aim, int, bool]], named: bool) -> None:  # noqa: FBT001
    """Whatever was asked before, and whether the pool is named or left out."""
    cluster = Cluster()
    for aim, passes, restarted in asked:
        for _ in range(passes):
            cluster.turn(aim)
        if restarted:
            cluster.restart()
    if asked:
        cluster.rest(asked[-1][0])
    pool = cluster.stages.position.pool
    down = PoolAim(Stage.OFF, pool.nodes, Stage.OFF) if named and pool is not None else None
    off = Aim(Stage.OFF, Stage.OFF, down, asked="off")
    cluster.rest(off)
    if cluster.stages.position.stage is Stage.OFF and (down is not None or pool is None):
        assert cluster.stages.position == Position()
    before = cluster.stages.position
    assert set(cluster.rest(off)) == {before}, "nothing rises by itself"
