"""Keeps the cluster's stage: starts walks, takes their steps, breaks them off, and remembers all of it on disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from linkseal.keys.errors import ConfigError, Refused
from linkseal.tunnels.controller import stagefile
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
        spec = {key: value for key, value in asked.items() if key not in ("lowerTo", "pool", "stage")}
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

    def undo(self) -> None:
        """Take back what has moved since the policy was signed last: it could not be signed, so it is nowhere."""
        self._keep(self._settled)

    def aim(self, target: Stage, lower_to: str | None, now: float) -> None:
        """Take up what the inventory newly says: raise the stage, or lower it where `lowerTo` names the same."""
        if not self.wants(target, lower_to):
            return
        here, there = STAGES.index(self.position.stage), STAGES.index(target)
        if there < here and lower_to != target.value:
            _LOG.warning(
                "the %s says stage %s, the cluster is at %s: not lowered unless `lowerTo: %s` stands beside it",
                self._source,
                target.value,
                self.position,
                target.value,
            )
        elif there != here or self.walk is not None:
            walk = self.walk
            if walk is not None and walk.attached:
                return  # somebody looks on: the inventory's turn comes after
            if walk is not None and walk.nodes is None and (there == here or walk.up == (there > here)):
                # further the same way, or no further: the step under way stays, taking it back would bring plaintext
                _LOG.info("%s asks for stage %s", self._source, target.value)
                self._keep(replace(self._saved, walk=replace(walk, target=target)))
            elif there != here:
                if walk is not None:
                    self.abort(f"the {self._source} was changed", now)
                self._begin(Walk(target, there > here, self._source, now, now, attached=False))
        self._keep(replace(self._saved, seen=(target.value, lower_to)))

    def start(self, walk: Walk) -> int:
        """Begin a walk that somebody asks for; returns its number. Raises Refused, ConfigError."""
        if self.walk is not None and self.walk.attached:
            raise Refused(f"{self.walk.who} is just walking to {self.walk.target.value}: wait for the end of that")
        self.check(walk)
        if self.walk is not None:
            self.abort(f"{walk.who} asks for something else", walk.began)
        return self._begin(walk)

    def check(self, walk: Walk) -> None:
        """Raise ConfigError if there is no such walk from here."""
        position, pool = self.position, self.position.pool
        if walk.nodes is None:
            return
        if pool is not None and pool.nodes != walk.nodes:
            raise ConfigError(
                f"there is a pool already ({position}): take all nodes there (`linkseal enable --to "
                f"{pool.stage.value}`) or it back (`linkseal disable`) before another goes first"
            )
        if STAGES.index(walk.target) < STAGES.index(position.stage):
            raise ConfigError(f"all nodes are at stage {position.stage.value}: a pool cannot be behind them")

    def abort(self, why: str, now: float) -> None:
        """Break off the walk under way: the step under way is taken back."""
        walk = self.walk
        if walk is not None:
            self._go(back(self.position, walk), walk, f"broken off: {why}", now)
            self._end(good=False, why=f"broken off ({why}); the cluster is at stage {self.position}")

    def wants(self, target: Stage, lower_to: str | None) -> bool:
        """Tell whether this is asked for newly: `aim` has not taken it up."""
        return (target.value, lower_to) != self._saved.seen

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
        self._keep(replace(self._saved, walk=walk))
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
        self._keep(replace(self._saved, walk=None))

    def _keep(self, saved: Saved) -> None:
        if saved != self._saved:
            self._saved = saved
            stagefile.save(self._store, saved)


def _taken_over(present: Policy) -> Saved:
    """What is known where stage.json is missing: the cluster is where the policy in the directory says."""
    position = Position(present.stage, present.pool)
    return Saved(position, pinned=standing(present))
