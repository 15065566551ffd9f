"""Whatever nodes do and whenever a walk is broken off, no two live nodes are ever more than one stage apart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from linkseal.tunnels.model import LinkState, Scope, Stage
from linkseal.tunnels.stages import (
    Advance,
    Arrived,
    Done,
    Evidence,
    Position,
    RollBack,
    Walk,
    arrived,
    back,
    judge,
    stepped,
)
from linkseal.tunnels.status import LinkCounts, Metadata, NodeEncryption, NodeStatus, PairStatus
from linkseal.tunnels.statusparts import AppliedStatus, GuardStatus
from linkseal.tunnels.world import STAGES

NAMES = ("n1", "n2", "n3", "n4")


@dataclass
class Cluster:
    """Nodes that take up policies when they like."""

    now: float = 1_000_000.0
    serial: int = 1
    position: Position = field(default_factory=Position)
    walk: Walk | None = None
    policies: dict[int, Position] = field(default_factory=lambda: {1: Position()})
    at: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 1))
    """Serial that each node has applied and reported."""

    def stage(self, name: str) -> Stage:
        return self.policies[self.at[name]].of(name)

    def evidence(self) -> Evidence:
        return Evidence(self.serial, {name: self.report(name) for name in NAMES})

    def report(self, name: str) -> NodeEncryption:
        stage = self.stage(name)
        state = LinkState.SEALED if stage in (Stage.PREFER, Stage.ENFORCE) else LinkState.PROVEN
        peers = [] if stage is Stage.OFF else [peer for peer in NAMES if peer != name]
        pairs = tuple(
            PairStatus(p, 1, 1, "lsl11", state, self.now, last_handshake=self.now, carries=True) for p in peers
        )
        door = applied = True
        links = LinkCounts(3)
        status = NodeStatus(
            self.now, stage, Scope.OVERLAY, "wireguard", "kernel", door, "1", "6", 1420, 1, 1, (), links
        )
        counting = GuardStatus(mode="count", redirects="none")
        status = replace(status, pairs=pairs, policy=AppliedStatus(self.at[name], applied), guard=counting)
        return NodeEncryption(Metadata(name), status=status)

    def go(self, to: Position) -> None:
        if to != self.position:
            self.serial += 1
            self.position = self.policies[self.serial] = to

    def tick(self, seconds: float) -> None:
        self.now += seconds
        if self.walk is None:
            return
        match judge(self.position, self.walk, self.evidence(), self.now):
            case Advance(to):
                self.walk = stepped(self.position, self.walk, self.now)
                self.go(to)
            case Arrived():
                self.walk = arrived(self.walk, self.now)
            case RollBack(to, _):
                self.go(to)
                self.walk = None
            case Done():
                self.walk = None

    def abort(self) -> None:
        if self.walk is not None:
            self.go(back(self.position, self.walk))
            self.walk = None


ACTIONS = st.one_of(
    st.tuples(st.just("apply"), st.sampled_from(NAMES)),
    st.tuples(st.just("apply"), st.sampled_from(NAMES)),
    st.tuples(st.just("tick"), st.sampled_from((1.0, 40.0, 130.0))),
    st.tuples(st.just("abort"), st.just(0)),
    st.tuples(st.just("up"), st.sampled_from(STAGES)),
    st.tuples(st.just("down"), st.sampled_from(STAGES)),
    st.tuples(st.just("pool"), st.sampled_from(STAGES)),
)


@settings(max_examples=200)
@given(st.lists(ACTIONS, max_size=80))
def test_live_nodes_are_never_more_than_one_stage_apart(actions: list[tuple[str, object]]) -> None:
    cluster = Cluster()
    for what, how in actions:
        if what == "apply":
            cluster.at[str(how)] = cluster.serial
        elif what == "tick":
            assert isinstance(how, float)
            cluster.tick(how)
        elif what == "abort":
            cluster.abort()
        elif cluster.walk is None and isinstance(how, Stage):
            pool = frozenset({"n1", "n2"}) if what == "pool" and _possible(cluster.position, how) else None
            up = what != "down"
            cluster.walk = Walk(how, up, "test", cluster.now, cluster.now, nodes=pool)
        # A pool may be ahead of the others by more: between the two the lesser stage counts.
        for name in NAMES:
            for other in NAMES:
                here = cluster.policies[cluster.at[name]].between(name, other)
                there = cluster.policies[cluster.at[other]].between(name, other)
                assert abs(STAGES.index(here) - STAGES.index(there)) <= 1, (name, here, other, there)


def _possible(position: Position, target: Stage) -> bool:
    return STAGES.index(target) >= STAGES.index(position.stage)
