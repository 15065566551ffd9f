"""A stagekeeper at a place, and an object that asks it for something."""

from __future__ import annotations

from typing import Any

from linkseal.tunnels.controller.aims import Aim, PoolAim
from linkseal.tunnels.controller.kubecopies import MapStore
from linkseal.tunnels.controller.stagekeeper import Stagekeeper
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import parse_policy
from linkseal.tunnels.stages import Evidence, Position

OFF, PREPARE, PREFER, ENFORCE = Stage.OFF, Stage.PREPARE, Stage.PREFER, Stage.ENFORCE
NAMES = ("n1", "n2", "n3")
POOL = frozenset({"n1", "n2"})
NOBODY = Evidence(7, {}, ())
"""Without reports nobody is waited for below stage enforce."""


class Cluster:
    """A stagekeeper at a place, and an object that asks it for something."""

    def __init__(self, stage: Stage = OFF, pool: Stage | None = None) -> None:
        self.store = MapStore(None)
        spec: dict[str, Any] = {"scope": "overlay", "stage": stage.value}
        asked = None
        if pool is not None:
            spec["pool"] = {"stage": pool.value, "nodes": sorted(POOL)}
            asked = PoolAim(pool, POOL)
        self.stages = Stagekeeper(self.store, parse_policy(spec, "test"), 0.0, "object")
        self.now = 0.0
        self.stages.aim(Aim(stage, None, asked), NAMES, 0.0)
        assert self.stages.walk is None

    def ask(self, stage: Stage, pool: PoolAim | None = None, lower_to: Stage | None = None, **rest: Any) -> Aim:
        aim = Aim(stage, lower_to, pool, **rest)
        self.stages.aim(aim, NAMES, self.now)
        return aim

    def step(self) -> str:
        """Take one step, or find the walk at its end."""
        self.now += 1
        self.stages.tick(NOBODY, self.now)
        return str(self.stages.position)

    def walk(self, aim: Aim) -> list[str]:
        """Every place on the way until there is nothing to do, as the controller goes."""
        places: list[str] = []
        for _ in range(20):
            self.now += 1
            if self.stages.tick(NOBODY, self.now):
                places.append(str(self.stages.position))
            self.stages.aim(aim, NAMES, self.now)
            if self.stages.walk is None:
                return places
        raise AssertionError(f"no end: {places}")

    @property
    def at(self) -> Position:
        return self.stages.position

    def anew(self) -> None:
        """As after a restart of the controller."""
        self.stages = Stagekeeper(MapStore(self.store.text), None, self.now, "object")


def ahead(stage: Stage, lower_to: Stage | None = None, nodes: frozenset[str] = POOL) -> PoolAim:
    return PoolAim(stage, nodes, lower_to)
