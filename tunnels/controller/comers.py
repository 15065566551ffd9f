"""Nodes of a cluster from which this one goes on, by what they report: who waits, and who has come. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Pool
from linkseal.tunnels.stages import Position, with_pool
from linkseal.tunnels.status import NodeStatus
from linkseal.tunnels.wording import listed
from linkseal.tunnels.world import STAGES


@dataclass(frozen=True, slots=True)
class Comers:
    """What reports say of clusters that the spec names."""

    indexes: Mapping[str, int] = field(default_factory=dict)
    """Of nodes that come from there, here or still on their way: the index that each has from there."""
    waiting: Mapping[str, tuple[str, Stage]] = field(default_factory=dict)
    """Of nodes on their way: their cluster, and their stage there."""
    over: frozenset[str] = frozenset()
    """Clusters of which some have come."""
    here: int = 0
    """Nodes that have reported and are of this cluster: come over, or never of another. However old their reports."""


def named_in(spec: Mapping[str, Any]) -> frozenset[str]:
    """Return the clusters from which this one goes on, by a ClusterEncryption's spec."""
    return frozenset(map(str, spec.get("formerClusters") or ()))


def comers(named: Collection[str], reports: Iterable[tuple[str, NodeStatus]]) -> Comers:
    """Return what the nodes' reports say of these clusters."""
    indexes, waiting, over, here = dict[str, int](), dict[str, tuple[str, Stage]](), set[str](), 0
    for name, status in reports:
        former = status.former
        if former is None or former.cluster not in named:
            here += 1
            continue
        indexes |= {name: former.index} if former.index else {}
        if former.over:
            here += 1
            over.add(former.cluster)
        else:
            waiting[name] = (former.cluster, status.stage)
    return Comers(indexes, waiting, frozenset(over), here)


def beyond(position: Position, stages: Mapping[str, Stage]) -> list[str]:
    """Return the nodes whose stage is further than the cluster's: they do not come before it is there.

    So they hold no walk either: what they say of policies is of another cluster's.
    """
    return sorted(name for name, stage in stages.items() if STAGES.index(stage) > STAGES.index(position.of(name)))


def landing(goal: Position, stages: Mapping[str, Stage]) -> Position:
    """Return where a cluster begins whose nodes are at these `stages` already: at `goal`, but no further than they.

    Where some are further than others, a walk was under way: the step that those have taken was good for all.
    """
    pool = goal.pool
    inside = frozenset[str]() if pool is None else pool.nodes
    stage = _reached(goal.stage, [one for name, one in stages.items() if name not in inside])
    if pool is None:
        return Position(stage)
    ahead = _reached(pool.stage, [one for name, one in stages.items() if name in inside])
    return with_pool(stage, Pool(ahead, pool.nodes))


def _reached(goal: Stage, stages: Collection[Stage]) -> Stage:
    furthest = max(stages, default=goal, key=STAGES.index)
    return min(goal, furthest, key=STAGES.index)


def further(position: Position, goal: Position, stages: Mapping[str, Stage]) -> str:
    """Return why nodes at these `stages` do not come to a cluster at `position`, empty: they do. `goal`: its next."""
    names = beyond(position, stages)
    if not names:
        return ""
    stage = max((stages[name] for name in names), key=STAGES.index)
    what = "so set spec.stage (or spec.pool) to that" if beyond(goal, stages) else "and come when this cluster is there"
    return (
        f"formerClusters counts when the cluster is at the stage that its nodes have: {listed(names)} "
        f"{'is' if len(names) == 1 else 'are'} at {stage.value} already, {what}"
    )
