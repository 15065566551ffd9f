"""Keeps the cluster's stage: starts walks, takes their steps, breaks them off, and remembers all of it on disk."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from linkseal.keys.errors import Refused
from linkseal.tunnels.controller import stagefile
from linkseal.tunnels.controller.aims import Aim, PoolAim, check, lowest, unfit
from linkseal.tunnels.controller.comers import Comers, further, landing
from linkseal.tunnels.controller.stagefile import Saved, Store
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Policy, changes, parse_policy, standing, with_standing
from linkseal.tunnels.stages import (
    Advance,
    Arrived,
    Done,
    Evidence,
    Hold,
    Position,
    Progress,
    RollBack,
    Walk,
    arrived,
    back,
    judge,
    progress,
    stepped,
)
from linkseal.tunnels.world import STAGES

_LOG: Final = logging.getLogger("linkseal.controller")

INVENTORY: Final = "inventory"
"""Who asks for what the inventory says."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a walk ended; `good`: at its target."""

    good: bool
    why: str


MAX_STEPS: Final = 8
"""Of a walk in one pass: there and back again has six."""


class Stagekeeper:
    """The state in `store`; `present`: the policy in the directory, if there is one by this CA.

    `source` is what the operator writes, by name. Raises ConfigError, HostError (the file cannot be read or written).
    """

    def __init__(self, store: Store, present: Policy | None, now: float, source: str = INVENTORY) -> None:
        self._store, self._source = store, source
        saved = stagefile.load(store)
        if saved is None:
            saved = Saved() if present is None else _taken_over(present)
        self._saved = self._settled = saved
        self.number = 0
        """Of the last walk that was begun."""
        self.ended: dict[int, Ended] = {}
        self.awaited = ""
        """Why nodes of a cluster from which this one goes on do not come yet: they are not told of it meanwhile."""
        self.progress: Progress | None = None
        walk = saved.walk
        if walk is not None and walk.attached:
            self.abort("the controller was restarted, and with it went who looked on", now)

    @property
    def position(self) -> Position:
        """Where the cluster is."""
        return self._saved.position

    @property
    def walk(self) -> Walk | None:
        """The walk under way."""
        return self._saved.walk

    @property
    def serial(self) -> int:
        """Of the policy signed last."""
        return self._saved.serial

    @property
    def taken_back(self) -> str:
        """Why the last walk ended before its target; empty: it did not."""
        return self._saved.ended

    def merged(self, inventory: Mapping[str, Any], policy: Policy) -> tuple[dict[str, Any], Policy]:
        """Return what is asked for, with what nodes stand on as it is while the cluster is not off.

        Raises ConfigError where the two do not go together: agents would refuse it. Of what an earlier version kept
        less of, the rest is kept from the next stage off on: nobody knows by what agents act.
        """
        wanted = standing(policy)
        if self._free or self._saved.pinned is None:
            self._keep(replace(self._saved, pinned=wanted))
        kept = {path: value for path, value in (self._saved.pinned or {}).items() if wanted.get(path, value) != value}
        if not kept:
            return dict(inventory), policy
        spec = with_standing(inventory, kept)
        return spec, parse_policy(spec, f"the {self._source}, with what stays as it is until stage off")

    def spec(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is to be signed: what is asked for (`merged`), at the stage where the cluster is."""
        left = ("lowerTo", "pool", "stage", *(("formerClusters",) if self.awaited else ()))
        spec = {key: value for key, value in asked.items() if key not in left}
        place = stagefile.place(self.position)
        spec["stage"] = place["stage"]
        if place["pool"] is not None:
            spec["pool"] = place["pool"]
        return spec

    def conflict(self, policy: Policy) -> str | None:
        """Return why something of the inventory that nodes stand on is not used, None if all is."""
        wanted = standing(policy)
        kept = wanted | dict(self._saved.pinned or {})
        if kept == wanted or self._free:
            return None
        return (
            f"the {self._source} changes {changes(kept, wanted)} while the cluster is at stage {self.position}, so "
            "that stays as it was: go to off first (`linkseal disable`), change it there, and enable again"
        )

    @property
    def _free(self) -> bool:
        """Whether no node stands on what is kept: all have applied stage off."""
        return self.position == Position() and (self.walk is None or self.walk.up)

    def signed(self, serial: int) -> None:
        """Remember the serial of the policy in force."""
        self._keep(replace(self._saved, serial=serial))
        self._settled = self._saved

    def hold_to(self, policy: Policy, serial: int, now: float) -> None:
        """Be where the policy in force says: what is remembered may be older or forged, and lower the stage."""
        at, saved = Position(policy.stage, policy.pool), self._saved
        if serial > saved.serial:
            saved = replace(saved, walk=None, pinned=standing(policy))
        elif saved.position != at:  # what is asked for is so once more
            saved = replace(saved, walk=None, pinned=standing(policy), seen=None, seen_pool=None)
        if saved.position != at:
            saved = saved.moved(at, now, self._source, "what was remembered is not what the policy in force says")
        self._keep(replace(saved, serial=serial))
        self._settled = self._saved

    def goes_on(self, policy: Policy, aim: Aim, here: Comers, now: float) -> None:
        """Begin where nodes of a cluster from which this one goes on stand already: without a walk, no further.

        They do not come to less, and report by no policy of this cluster until they come. So what the spec says is
        taken as it is, stage and numbers, as often as it is corrected, until one of them has come. Where as many nodes
        are of this cluster it walks as ever, and they come when it is where they are.
        """
        saved = self._saved
        over = {*saved.former, *here.over}
        stages = {name: stage for name, (cluster, stage) in here.waiting.items() if cluster not in over}
        saved = replace(saved, former=tuple(one for one in policy.former_clusters if one in over))
        if len(stages) > here.here:
            if self._free or not here.here:
                saved = replace(saved, pinned=standing(policy))
            there = landing(aim.goal, stages)
            if _ahead(there, saved.position):
                why = f"goes on from cluster {', '.join(policy.former_clusters)}"
                saved = replace(saved.moved(there, now, self._source, why), walk=None, ended="")
                seen = ((aim.stage, aim.lower_to), aim.pool) if there == aim.goal else (None, None)
                saved = replace(saved, seen=seen[0], seen_pool=seen[1])
        self.awaited = further(saved.position, aim.goal, stages)
        self._keep(saved)

    def undo(self) -> None:
        """Take back what has moved since the policy was signed last: it could not be signed, so it is nowhere."""
        self._keep(self._settled)

    def aim(self, aim: Aim, scope: Collection[str], now: float) -> None:
        """Take up what is newly asked for: all nodes first, then the pool. `scope`: the nodes that take part.

        What is lower is gone back to only where `lowerTo` names it. Where somebody looks on, their walk goes before.
        """
        walk = self.walk
        if walk is not None and walk.who == self._source and walk.timeout != aim.timeout:
            walk = replace(walk, timeout=aim.timeout)
            self._keep(replace(self._saved, walk=walk))
        if aim.asked and aim.asked != self._saved.asked:  # once more, also what was taken back
            if aim.pool is None and walk is not None and walk.nodes is not None and walk.who == self._source:
                self._stop(walk)
            self._keep(replace(self._saved, asked=aim.asked, seen=None, seen_pool=None))
        if self.wants(aim) and aim.goal == self.position and walk is not None and walk.who == self._source:
            self._stop(walk)
            self._keep(replace(self._saved, seen=(aim.stage, aim.lower_to), seen_pool=aim.pool))
        if (aim.stage, aim.lower_to) != self._saved.seen:
            self._aim_all(aim, now)
        arrived_all = (self.walk is None or self.walk.nodes is not None) and _way(self.position.stage, aim.stage) <= 0
        if aim.pool != self._saved.seen_pool and arrived_all and not (self.walk is not None and self.walk.attached):
            self._aim_pool(aim, scope, now)

    def _aim_all(self, aim: Aim, now: float) -> None:
        way, walk = _way(self.position.stage, aim.stage), self.walk
        if way < 0 and aim.lower_to is not aim.stage:
            self._not_lowered("stage", aim.stage, "lowerTo")
        elif walk is not None and walk.attached and (way or walk.nodes is None):
            return  # the object's turn comes after
        elif way:
            self._turn(replace(aim, pool=None), way, now, aim.pool)
            if way < 0 and self.walk is not None:  # what is asked of a pool besides does not begin anew after that
                self._keep(replace(self._saved, seen_pool=aim.pool))
        elif walk is not None and walk.nodes is None:
            self._stop(walk)
        self._keep(replace(self._saved, seen=(aim.stage, aim.lower_to)))

    def _aim_pool(self, aim: Aim, scope: Collection[str], now: float) -> None:
        asked, position, walk = aim.pool, self.position, self.walk
        if walk is not None and (asked is None or walk.nodes != asked.nodes):
            self._stop(walk)  # no longer asked for
            if asked is not None and walk.before is not None:
                return  # its step goes first: where it leads there may still be a pool
        if asked is not None and unfit(position, asked, scope):
            return  # `unmet` says it
        if asked is not None:
            target = max(asked.stage, position.stage, key=STAGES.index)
            way = _way(lowest(position, asked.nodes), target)
            if way < 0 and asked.lower_to is not asked.stage:
                self._not_lowered("pool's stage", asked.stage, "pool.lowerTo")
            else:
                self._turn(replace(aim, stage=target), way, now)
        self._keep(replace(self._saved, seen_pool=asked))

    def _turn(self, aim: Aim, way: int, now: float, said: PoolAim | None = None) -> None:
        """Walk to the stage of `aim`, its pool alone if there is one, and all else.

        A walk under way that goes there or stops there goes on with the step under way: to take that back would bring
        plaintext. `said`: what is asked of a pool besides all.
        """
        walk, nodes = self.walk, None if aim.pool is None else aim.pool.nodes
        if walk is not None and nodes in (None, walk.nodes) and way in (0, 1 if walk.up else -1):
            _LOG.info("%s asks for stage %s", self._source, aim.stage.value)
            further = replace(walk, target=aim.stage)
            if walk.nodes != nodes:  # a pool's walk becomes that of all
                further = replace(further, nodes=nodes, who=self._source, timeout=aim.timeout)
                self._keep(replace(self._saved, seen_pool=None))  # and what it was to do besides comes after
            self._keep(replace(self._saved, walk=further))
        elif way:
            if walk is not None:
                self.abort(f"the {self._source} was changed", now)
                self._keep(replace(self._saved, seen_pool=None if walk.nodes else self._saved.seen_pool))
                if nodes is None and self.position.stage is aim.stage and self._names_pool(said):
                    return  # all are there: the pool has what is said of it
            begun = Walk(aim.stage, way > 0, self._source, now, now, None, nodes, aim.timeout, attached=False)
            self._begin(begun)

    def _names_pool(self, said: PoolAim | None) -> bool:
        pool = self.position.pool
        return said is not None and pool is not None and said.nodes == pool.nodes

    def _stop(self, walk: Walk) -> None:
        """Let the step under way be the last."""
        pool = self.position.pool
        if walk.nodes is None and pool is not None and not walk.up:  # of which the pool comes back first
            walk = replace(walk, nodes=pool.nodes)
        target = self.position.stage if walk.nodes is None else lowest(self.position, walk.nodes)
        self._keep(replace(self._saved, walk=replace(walk, target=target)))

    def _not_lowered(self, what: str, target: Stage, field: str) -> None:
        _LOG.warning(
            "the %s says %s %s, the cluster is at %s: not lowered unless `%s: %s` stands beside it",
            self._source,
            what,
            target.value,
            self.position,
            field,
            target.value,
        )
        walk = self.walk
        if walk is not None and walk.up and walk.who == self._source:
            self._stop(walk)

    def unmet(self, aim: Aim, scope: Collection[str]) -> str | None:
        """Return why the pool that is asked for does not go where it is to, None if nothing is in its way.

        It is told when its turn has come: then it may be otherwise.
        """
        if aim.pool is None or aim.pool == self._saved.seen_pool:
            return None
        if _way(self.position.stage, aim.stage) > 0:
            if aim.pool.lower_to is not aim.pool.stage or aim.pool.stage is self.position.of(min(aim.pool.nodes)):
                return None
            return (
                f"spec.pool comes back when all nodes are at stage {aim.stage.value}, which was asked for first: to "
                f"have it back at once, ask all nodes to stay at {self.position.stage.value} (spec.stage, with lowerTo)"
            )
        if self.walk is not None and self.walk.nodes is None:
            return None
        return unfit(self.position, aim.pool, scope) or None

    def start(self, walk: Walk) -> int:
        """Begin a walk that somebody asks for; returns its number. Raises Refused, ConfigError."""
        if self.walk is not None and self.walk.attached:
            raise Refused(f"{self.walk.who} is just walking to {self.walk.target.value}: wait for the end of that")
        check(self.position if self.walk is None else back(self.position, self.walk), walk)
        if self.walk is not None:
            self.abort(f"{walk.who} asks for something else", walk.began)
        return self._begin(walk)

    def abort(self, why: str, now: float) -> None:
        """Break off the walk under way: the step under way is taken back."""
        walk = self.walk
        if walk is not None:
            self._go(back(self.position, walk), walk, f"broken off: {why}", now)
            self._end(good=False, why=f"broken off ({why}); the cluster is at stage {self.position}")

    def wants(self, aim: Aim) -> bool:
        """Tell whether something is asked for newly: `aim` has not taken it up."""
        saved = self._saved
        anew = bool(aim.asked) and aim.asked != saved.asked
        return anew or (aim.stage, aim.lower_to) != saved.seen or aim.pool != saved.seen_pool

    def tick(self, evidence: Evidence, now: float, *, signs: bool = True) -> bool:
        """Take the next step if it is time; whether the stage changed, so that a policy must be signed.

        Where nothing can be signed (`signs`) it is only noted what all nodes have applied.
        """
        walk = self.walk
        if walk is None:
            return False
        verdict = judge(self.position, walk, evidence, now)
        self._show(walk, evidence, verdict.reasons if isinstance(verdict, Hold) else (), now)
        match verdict:
            case Arrived():
                self._keep(replace(self._saved, walk=arrived(walk, now)))
                self._settled = self._saved
                return self.tick(evidence, now, signs=signs)
            case Advance() | RollBack() if not signs:
                return False
            case Advance(to):
                before = self.position
                self._go(to, walk, "enable" if walk.up else "disable", now)
                self._keep(replace(self._saved, walk=stepped(before, walk, now)))
                return True
            case RollBack(to, why):
                changed = to != self.position
                self._go(to, walk, f"taken back: {why}", now)
                self._end(good=False, why=f"{why}; the cluster is at stage {self.position}")
                return changed
            case Done():
                self._end(good=True, why=f"the cluster is at stage {self.position}")
                self._settled = self._saved
        return False

    def _begin(self, walk: Walk) -> int:
        self.number += 1
        self.progress = None
        self._keep(replace(self._saved, walk=walk, ended=""))
        _LOG.info("%s asks for stage %s", walk.who, walk.target.value)
        return self.number

    def _show(self, walk: Walk, evidence: Evidence, reasons: tuple[str, ...], now: float) -> None:
        shown = progress(self.position, walk, evidence, reasons, now)
        if shown != self.progress:
            self.progress = shown
            _LOG.info("%s", shown)

    def _go(self, to: Position, walk: Walk, why: str, now: float) -> None:
        if to != self.position:
            _LOG.info("stage %s → %s (%s)", self.position, to, why)
            self._keep(self._saved.moved(to, now, walk.who, why))

    def _end(self, *, good: bool, why: str) -> None:
        (_LOG.info if good else _LOG.error)("%s", why)
        self.ended[self.number] = Ended(good, why)
        self._keep(replace(self._saved, walk=None, ended="" if good else why))

    def _keep(self, saved: Saved) -> None:
        if saved != self._saved:
            self._saved = saved
            stagefile.save(self._store, saved)


def _ahead(goal: Position, position: Position) -> bool:
    """Whether no node is further than in `goal`, and some are not as far."""
    pooled = {name for one in (goal, position) if one.pool is not None for name in one.pool.nodes}
    ways = [_way(position.stage, goal.stage), *(_way(position.of(name), goal.of(name)) for name in pooled)]
    return min(ways) >= 0 and max(ways) > 0


def _way(here: Stage, there: Stage) -> int:
    """Return 1 for up, -1 for down, 0 for nowhere."""
    far = STAGES.index(there) - STAGES.index(here)
    return (far > 0) - (far < 0)


def _taken_over(present: Policy) -> Saved:
    """What is known where stage.json is missing: the cluster is where the policy in the directory says."""
    position = Position(present.stage, present.pool)
    return Saved(position, pinned=standing(present))
