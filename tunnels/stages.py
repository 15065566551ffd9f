"""How far a cluster goes with encryption, and when: the walk from one stage to the next. Pure; time is an argument.

The rule: nobody goes on before everybody has arrived. A step is made only when every live node has applied the present
stage and what the next one stands on is there (CONDITIONS); one that is not applied everywhere in its time is taken
back, and taking back waits for nobody.

    off ──► prepare ──► prefer ──► enforce      by `enable`; each arrow with its conditions
    off ◄── prepare ◄── prefer ◄── enforce      by `disable`; the barrier alone

A node is live while it reports, or while another reports a handshake with it. One of which nothing was heard for ten
minutes holds nothing: it finds the cluster's stage in the directory when it comes back. One whose agent was asked to
remove everything does not come back by itself, so it holds every walk up until that agent is restarted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Final, NamedTuple

from linkseal.tunnels.cluster import directed_states
from linkseal.tunnels.model import LinkState, Stage
from linkseal.tunnels.policy import Pool
from linkseal.tunnels.status import STILL, NodeEncryption, NodeStatus, is_loud, is_removed
from linkseal.tunnels.wording import listed
from linkseal.tunnels.world import STAGES

LIVE: Final = 600.0
"""Seconds without report and handshake after which a node holds nothing (DESIGN section 6)."""

TIMEOUT: Final = 120.0
"""Seconds a step may take on all nodes together; a report alone may take ten."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where the cluster is: every node at `stage`, those of the pool at the pool's."""

    stage: Stage = Stage.OFF
    pool: Pool | None = None

    def of(self, node: str) -> Stage:
        """Return a node's stage."""
        return self.pool.stage if self.pool is not None and node in self.pool.nodes else self.stage

    def between(self, one: str, other: str) -> Stage:
        """Return the stage of the traffic between two nodes: the lesser of theirs."""
        return min(self.of(one), self.of(other), key=STAGES.index)

    def __str__(self) -> str:
        """`prefer`, or `off (n1, n2: prefer)`."""
        return self.stage.value + (
            f" ({listed(sorted(self.pool.nodes))}: {self.pool.stage.value})" if self.pool else ""
        )


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk under way. Times in Unix seconds."""

    target: Stage
    up: bool
    who: str
    began: float
    since: float
    """When the step under way was made, or, between two steps, when the last one was found applied."""
    before: Position | None = None
    """Where the cluster was before the step under way; None: there is none, the next is being waited for."""
    nodes: frozenset[str] | None = None
    """A pool goes alone; None: all."""
    timeout: float = TIMEOUT
    attached: bool = True
    """Somebody looks on: what holds it for longer than `timeout` ends it. Else it waits for its conditions for ever."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the nodes in scope (granted, not opted out) report, None without; and the policy they should be at."""

    serial: int
    reports: Mapping[str, NodeEncryption | None]
    out: tuple[str, ...] = ()
    """Nodes that are opted out: exceptions everywhere, waited for nowhere."""
    misfits: tuple[str, ...] = ()
    """Why the address provider does not fit the CNI: what pods send is in no grant, and nobody drops it."""
    unbounded: tuple[str, ...] = ()
    """What nodes may claim of all the world: who is sealed with a thief's node is not safe."""


class Hold(NamedTuple):
    """Wait: reasons, for people."""

    reasons: tuple[str, ...]


class Arrived(NamedTuple):
    """The step under way is applied everywhere."""


class Advance(NamedTuple):
    """Go to a position: the next step."""

    to: Position


class RollBack(NamedTuple):
    """Go back to where the cluster was before the step under way, and end the walk."""

    to: Position
    why: str


class Done(NamedTuple):
    """The walk is at its target."""


Verdict = Hold | Arrived | Advance | RollBack | Done


class _Step(NamedTuple):
    """What the conditions of a step are judged by."""

    old: Position
    new: Position
    live: Sequence[str]
    evidence: Evidence
    since: float
    now: float

    def reports(self, stage: Stage) -> Iterator[tuple[str, NodeStatus]]:
        """Yield the live nodes that enter `stage`."""
        for name in self.live:
            status = status_of(self.evidence, name)
            if self.new.of(name) is stage is not self.old.of(name) and status is not None:
                yield name, status

    def pairs(self, good: frozenset[LinkState]) -> Iterator[tuple[str, str, LinkState | None]]:
        """Yield the directed pairs of live nodes whose traffic changes its stage and whose state is not `good`."""
        for source, target, state in directed_states(self.evidence.reports, self.now):
            if state not in good and source in self.live and target in self.live:
                old, new = self.old.between(source, target), self.new.between(source, target)
                if old is not new:
                    yield source, target, state


def links_proven(step: _Step) -> Iterator[str]:
    """Every link that is to carry traffic has been proven in both directions."""
    yield from _unfit(step, frozenset({LinkState.PROVEN, LinkState.SEALED}), "not proven")


def links_sealed(step: _Step) -> Iterator[str]:
    """Every pair is sealed as both ends report it."""
    if not step.live:
        yield "no node reports yet"
    yield from _unfit(step, frozenset({LinkState.SEALED}), "not sealed")


def guard_ready(step: _Step) -> Iterator[str]:
    """The guard counts on every node, whole, and nothing passes it by."""
    nodes = list(step.reports(Stage.ENFORCE))
    yield from _named("the guard does not run on", [n for n, status in nodes if status.guard.mode == "none"])
    yield from _named("the guard is not whole on", [n for n, status in nodes if not status.guard.whole])
    redirected = [n for n, status in nodes if status.guard.redirects == "open"]
    yield from _named("packets can pass the guard by a redirect (LS5007) on", redirected)
    yield from _named("break-glass is in force on", [n for n, status in nodes if status.guard.broken_glass is not None])


def boot_ready(step: _Step) -> Iterator[str]:
    """Every node that was asked to have a boot unit has one: at a reboot plaintext is to be dropped as well."""
    without = [n for n, status in step.reports(Stage.ENFORCE) if status.boot.state in ("absent", "failed")]
    yield from _named("the boot unit (LS3023) is missing on", without)


def all_protected(step: _Step) -> Iterator[str]:
    """What pods send is in grants: what is in none goes in plaintext, and no guard sees it."""
    yield from step.evidence.misfits


def all_bounded(step: _Step) -> Iterator[str]:
    """It is said where nodes and pods may be: whoever has a kubelet's credential gets nothing else granted."""
    yield from step.evidence.unbounded


def plaintext_still(step: _Step) -> Iterator[str]:
    """No plaintext for half a minute: what is sealed leaves none.

    Judged by the clock of the host that counted. A pool talks with others in plaintext: of it, the flows with its own
    members count, and those with nobody known, which are of the last ten minutes.
    """
    pool = step.new.pool if step.new.stage is not Stage.ENFORCE else None
    loud = [name for name, status in step.reports(Stage.ENFORCE) if not _still(status, pool)]
    yield from _named("plaintext was seen lately on", loud)
    rest = STILL - (step.now - step.since)
    if not loud and rest > 0:
        yield f"no plaintext is seen; looking on for {ceil(rest / 10) * 10} s"


CONDITIONS: Final[Mapping[tuple[Stage, Stage], tuple[Callable[[_Step], Iterator[str]], ...]]] = {
    (Stage.OFF, Stage.PREPARE): (),
    (Stage.PREPARE, Stage.PREFER): (links_proven,),
    (Stage.PREFER, Stage.ENFORCE): (links_sealed, all_protected, all_bounded, guard_ready, boot_ready, plaintext_still),
    (Stage.ENFORCE, Stage.PREFER): (),
    (Stage.PREFER, Stage.PREPARE): (),
    (Stage.PREPARE, Stage.OFF): (),
}
"""Every step there is, and what it stands on beside the barrier."""


def judge(position: Position, walk: Walk, evidence: Evidence, now: float) -> Verdict:
    """Say what the walk does now."""
    waiting = tuple(barrier(evidence, now, up=walk.up))
    if walk.before is None:
        return _between_steps(position, walk, evidence, waiting, now)
    if not waiting:
        return Arrived()
    if now - walk.since > walk.timeout:
        why = f"stage {position} was not applied everywhere within {walk.timeout:.0f} s: {'; '.join(waiting)}"
        return RollBack(walk.before, why)
    return Hold(waiting)


def _between_steps(position: Position, walk: Walk, evidence: Evidence, waiting: tuple[str, ...], now: float) -> Verdict:
    new = following(position, walk)
    if new is None:
        return Done()
    reasons = waiting or tuple(blockers(position, new, evidence, walk.since, now))
    if not reasons:
        return Advance(new)
    if walk.attached and now - walk.since > walk.timeout + (STILL if moved(position, new)[1] is Stage.ENFORCE else 0):
        return RollBack(position, f"after {walk.timeout:.0f} s still in the way: {'; '.join(reasons)}")
    return Hold(reasons)


def stepped(position: Position, walk: Walk, now: float) -> Walk:
    """Return the walk that has just made a step from `position`."""
    return replace(walk, before=position, since=now)


def arrived(walk: Walk, now: float) -> Walk:
    """Return the walk whose step was found applied everywhere."""
    return replace(walk, before=None, since=now)


def back(position: Position, walk: Walk) -> Position:
    """Return where the cluster is after the walk is broken off: before the step under way, if there is one."""
    return position if walk.before is None else walk.before


def following(position: Position, walk: Walk) -> Position | None:
    """Return the position after the next step, None at the target."""
    if walk.nodes is not None:
        present = position.of(min(walk.nodes))
        stage = _towards(present, walk.target, up=walk.up)
        return None if stage is None else with_pool(position.stage, Pool(stage, walk.nodes))
    pool = position.pool
    if not walk.up and pool is not None:  # the pool comes back to the others first
        stage = _towards(pool.stage, max(walk.target, position.stage, key=STAGES.index), up=False)
        if stage is not None:
            return with_pool(position.stage, Pool(stage, pool.nodes))
    stage = _towards(position.stage, walk.target, up=walk.up)
    return None if stage is None else with_pool(stage, pool)


def moved(old: Position, new: Position) -> tuple[Stage, Stage]:
    """Return the one stage that a step leaves and the one it enters."""
    if old.stage is not new.stage:
        return old.stage, new.stage
    before = old.pool.stage if old.pool is not None else old.stage
    return before, new.pool.stage if new.pool is not None else new.stage


def blockers(old: Position, new: Position, evidence: Evidence, since: float, now: float) -> Iterator[str]:
    """Yield what a step from `old` to `new` stands on and is not there."""
    step = _Step(old, new, live(evidence, now), evidence, since, now)
    for condition in CONDITIONS[moved(old, new)]:
        yield from condition(step)


def barrier(evidence: Evidence, now: float, *, up: bool) -> Iterator[str]:
    """Yield what tells that the present stage is not applied by every live node.

    On the way up a node whose agent has removed everything holds it however long ago that was: the agent does not come
    back by itself, and the node would be left behind in silence.
    """
    if up:
        reported = ((name, status_of(evidence, name)) for name in sorted(evidence.reports))
        idle = [name for name, status in reported if status is not None and is_removed(status)]
        yield from _named("agents have removed everything, and are to be restarted (delete their pods), on", idle)
    behind: list[str] = []
    unapplied: list[str] = []
    counted = live(evidence, now)
    if not counted and any(status_of(evidence, name) for name in evidence.reports):
        yield "no node has reported for ten minutes"
    for name in counted:
        status = status_of(evidence, name)
        if status is None or status.policy.serial < evidence.serial:
            behind.append(name)
        elif not status.policy.applied:
            unapplied.append(name)
    yield from _named("the present stage has not reached", behind)
    yield from _named("the present stage is not applied on", unapplied)


def live(evidence: Evidence, now: float) -> list[str]:
    """Return the nodes that count: those that reported lately, and those that others had a handshake with."""
    found: set[str] = set()
    for name in evidence.reports:
        status = status_of(evidence, name)
        if status is None or now - status.observed_at > LIVE:
            continue
        found.add(name)
        found.update(
            pair.peer
            for pair in status.pairs
            if pair.last_handshake is not None and status.observed_at - pair.last_handshake <= LIVE
        )
    return sorted(found & evidence.reports.keys())


def status_of(evidence: Evidence, name: str) -> NodeStatus | None:
    """Return what a node says of itself."""
    report = evidence.reports.get(name)
    return None if report is None else report.status


def _still(status: NodeStatus, pool: Pool | None) -> bool:
    if pool is not None:
        flows = (flow for flow in status.guard.flows if flow.peer in pool.nodes or flow.address is not None)
        return not any(flow.packets for flow in flows)
    return not is_loud(status)


def _towards(present: Stage, target: Stage, *, up: bool) -> Stage | None:
    """Return the next stage on the way, None when it is reached or lies the other way."""
    here, there = STAGES.index(present), STAGES.index(target)
    if up:
        return STAGES[here + 1] if here < there else None
    return STAGES[here - 1] if here > there else None


def with_pool(stage: Stage, pool: Pool | None) -> Position:
    """Return a position without a pool that is no further than the others."""
    ahead = pool is not None and STAGES.index(pool.stage) > STAGES.index(stage)
    return Position(stage, pool if ahead else None)


def _unfit(step: _Step, good: frozenset[LinkState], what: str) -> Iterator[str]:
    found = [f"{a} → {b} ({'unknown' if state is None else state.value})" for a, b, state in step.pairs(good)]
    if found:
        yield f"{len(found)} directed {'pair is' if len(found) == 1 else 'pairs are'} {what}: {listed(found)}"


def _named(text: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"{text} {listed(names)}"


@dataclass(frozen=True, slots=True)
class Progress:
    """What is shown of a walk: where the cluster is, pairs sealed at both ends of those in scope, what holds it."""

    position: Position
    target: Stage
    sealed: int
    pairs: int
    reasons: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        """One line."""
        held = f"; waiting: {'; '.join(self.reasons)}" if self.reasons else ""
        return f"stage {self.position}, {self.sealed}/{self.pairs} pairs sealed at both ends{held}"


def progress(position: Position, walk: Walk, evidence: Evidence, reasons: tuple[str, ...], now: float) -> Progress:
    """Return what is shown."""
    sealed = {(a, b) for a, b, state in directed_states(evidence.reports, now) if state is LinkState.SEALED}
    both = sum(1 for a, b in sealed if a < b and (b, a) in sealed)
    count = len(evidence.reports)
    return Progress(position, walk.target, both, count * (count - 1) // 2, reasons)
