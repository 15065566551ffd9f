"""What the controller is asked to reach: a stage for all nodes, and perhaps a pool that goes before them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from linkseal.keys.errors import ConfigError
from linkseal.tunnels.clusterobject import WalkSpec
from linkseal.tunnels.directory.kubedocs import WALK
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Policy, Pool
from linkseal.tunnels.stages import TIMEOUT, Position, Walk, with_pool
from linkseal.tunnels.validation import validate
from linkseal.tunnels.wording import listed
from linkseal.tunnels.world import STAGES


@dataclass(frozen=True, slots=True)
class PoolAim:
    """Where a pool is to be. `lower_to`: the same stage once more, where the pool is to come back to it."""

    stage: Stage
    nodes: frozenset[str]
    lower_to: Stage | None = None


@dataclass(frozen=True, slots=True)
class Aim:
    """Where the cluster is to be, as an object or an inventory says it. `timeout`: seconds for one step."""

    stage: Stage
    lower_to: Stage | None = None
    pool: PoolAim | None = None
    timeout: float = TIMEOUT
    asked: str = ""
    """A new one asks for all of it once more, if a walk was taken back. Empty: nothing is said."""

    @property
    def goal(self) -> Position:
        """Where the cluster is once all that was asked for is done: a pool counts while it is ahead."""
        pool = self.pool
        return with_pool(self.stage, None if pool is None else Pool(pool.stage, pool.nodes))


def aim_of(policy: Policy, spec: Mapping[str, Any], source: str) -> Aim:
    """Return what a ClusterEncryption's spec, whose policy is given, asks for. ConfigError, as `validate`."""
    said = validate(WalkSpec, {name: spec[name] for name in WALK if name in spec}, source)
    pool, lower = said.pool, spec.get("lowerTo")
    return Aim(
        policy.stage,
        None if lower is None else Stage(lower),
        None
        if pool is None
        else PoolAim(Stage(pool.stage), frozenset(pool.nodes), None if pool.lower_to is None else Stage(pool.lower_to)),
        float(said.step_timeout),
        said.asked_at or "",
    )


def check(position: Position, walk: Walk) -> None:
    """Raise ConfigError if there is no such walk from here."""
    pool = position.pool
    if walk.nodes is None:
        return
    if pool is not None and pool.nodes != walk.nodes:
        raise ConfigError(
            f"there is a pool already ({position}): take all nodes there (`linkseal enable --to "
            f"{pool.stage.value}`) or it back (`linkseal disable`) before another goes first"
        )
    if STAGES.index(walk.target) < STAGES.index(position.stage):
        raise ConfigError(f"all nodes are at stage {position.stage.value}: a pool cannot be behind them")


def lowest(position: Position, nodes: Collection[str]) -> Stage:
    """Return the stage of those of the nodes that are least far."""
    return min((position.of(node) for node in nodes), key=STAGES.index)


def unfit(position: Position, pool: PoolAim, scope: Collection[str]) -> str:
    """Return why a pool cannot go where it is to, empty if it can. `scope`: the nodes that take part."""
    present, target = position.pool, max(pool.stage, position.stage, key=STAGES.index)
    if all(position.of(name) is target for name in pool.nodes):
        return ""
    if present is not None and present.nodes != pool.nodes:
        return (
            f"spec.pool.nodes: there is a pool already ({position}): take all nodes to its stage or it back before "
            "another goes first"
        )
    strangers = sorted(pool.nodes - set(scope))
    if strangers and present is None:  # one that has left its pool is in nobody's way
        return f"spec.pool.nodes: no node in scope is called {listed(strangers)}: correct the names, or leave them out"
    return ""


def picked(selector: str, names: Collection[str]) -> frozenset[str]:
    """Return the nodes that a comma-separated list of names and globs picks of those in scope. Raises ConfigError."""
    chosen: set[str] = set()
    for pattern in filter(None, (part.strip() for part in selector.split(","))):
        found = {name for name in names if fnmatchcase(name, pattern)}
        if not found:
            raise ConfigError(f"no node in scope is called {pattern!r}; there are: {', '.join(sorted(names)[:20])}")
        chosen |= found
    if not chosen:
        raise ConfigError("--nodes names nobody: give names or patterns, such as n1,worker-*")
    return frozenset(chosen)
