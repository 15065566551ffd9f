"""The laws of the guard, over random worlds, stages of single peers, break-glass, and spoiled tables."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from linkseal.keys.values import Prefix
from linkseal.tunnels.guard.diff import diff_guard, is_whole
from linkseal.tunnels.guard.model import Guard, GuardTransaction
from linkseal.tunnels.guard.plan import guard_of, is_closed
from linkseal.tunnels.guard.remainder import drops_remainder, remainder
from linkseal.tunnels.model import Stage
from linkseal.tunnels.world import World, protected
from property.fake_guard import FakeGuard, span
from property.worlds import clusters, worlds

LAWS = settings(max_examples=100, deadline=None)
NIC = ["eth0"]


@st.composite
def staged(draw: st.DrawFn) -> tuple[World, World]:
    """Two worlds of one cluster, with peers that are not as far, and glass that is broken now and then."""
    cluster = draw(clusters())
    return _staged(draw, draw(worlds(cluster))), _staged(draw, draw(worlds(cluster)))


def _staged(draw: st.DrawFn, world: World) -> World:
    stages = st.sampled_from((None, *Stage))
    peers = {name: dataclasses.replace(peer, stage=draw(stages)) for name, peer in world.peers.items()}
    layout = dataclasses.replace(world.layout, stage=draw(st.sampled_from(list(Stage))))
    underlay = dataclasses.replace(world.underlay, interface="eth0")
    broken = draw(st.integers(0, 5)) == 0
    return dataclasses.replace(world, peers=peers, layout=layout, underlay=underlay, broken_glass=broken)


def carry_out(fake: FakeGuard, desired: Guard | None) -> Iterator[GuardTransaction]:
    for step in diff_guard(desired, fake.state, NIC):
        if step is not None:
            fake.apply(step, NIC)
            yield step


def closed_prefixes(world: World) -> set[Prefix]:
    """What is dropped, other nodes' prefixes as well as what is nobody's."""
    found = {
        prefix
        for peer in world.peers.values()
        if is_closed(world, peer)
        for prefix in protected(world.layout.scope, peer.addresses, peer.prefixes)
    }
    return found | {*(remainder(world) if drops_remainder(world) else ())}


def spoil(fake: FakeGuard, data: st.DataObject) -> None:
    if fake.state is None:
        return
    kind = data.draw(st.sampled_from(("nothing", "flushed", "nic", "chain", "elements", "set", "rules")))
    state = fake.state
    if kind == "flushed":
        fake.state = None
    elif kind == "nic":
        fake.lose("eth0")
    elif kind in ("chain", "rules"):
        place = data.draw(st.sampled_from(sorted(state.chains)))
        chains = {key: chain for key, chain in state.chains.items() if key != place}
        if kind == "rules":
            chains[place] = state.chains[place]._replace(rules=())
        fake.state = dataclasses.replace(state, chains=chains)
    elif kind == "elements" and state.elements:
        gone = data.draw(st.sets(st.sampled_from(sorted(state.elements))))
        fake.state = dataclasses.replace(state, elements=state.elements - gone)
    elif kind == "set":
        place = data.draw(st.sampled_from(sorted(state.sets)))
        sets = {**state.sets, place: state.sets[place]._replace(counted=not state.sets[place].counted)}
        fake.state = dataclasses.replace(state, sets=sets)


@LAWS
@given(staged(), st.data())
def test_spoiled_tables_become_what_is_wanted_and_stay_so(both: tuple[World, World], data: st.DataObject) -> None:
    before, after = both
    fake = FakeGuard()
    list(carry_out(fake, guard_of(before)))
    spoil(fake, data)
    desired = guard_of(after)
    list(carry_out(fake, desired))
    assert fake.state == desired
    assert list(carry_out(fake, desired)) == []
    assert is_whole(desired, fake.state, NIC)


@LAWS
@given(staged())
def test_every_prefix_in_enforce_is_dropped_in_both_tables_and_directions(both: tuple[World, World]) -> None:
    for world in both:
        guard = guard_of(world)
        if world.layout.stage is Stage.OFF:
            assert guard is None
            continue
        assert guard is not None
        for family in ("inet", "netdev") if world.door else ("inet",):
            fake = FakeGuard()
            fake.state = dataclasses.replace(guard, elements=frozenset(e for e in guard.elements if e.family == family))
            for prefix in closed_prefixes(world):
                assert "drop" in fake.verdict("out", prefix)
                assert "drop" in fake.verdict("in", prefix)


@LAWS
@given(staged())
def test_what_is_closed_before_and_after_is_closed_throughout(both: tuple[World, World]) -> None:
    """After every transaction, whatever else changes: peers, scope of their prefixes, stages of others."""
    before, after = both
    fake = FakeGuard()
    list(carry_out(fake, guard_of(before)))
    shut = closed_prefixes(before) & closed_prefixes(after)
    for _ in carry_out(fake, guard_of(after)):
        for prefix in shut:
            assert "drop" in fake.verdict("out", prefix)
            assert "drop" in fake.verdict("in", prefix)


@LAWS
@given(staged())
def test_nothing_depends_on_the_state_of_tunnels(both: tuple[World, World]) -> None:
    assert guard_of(both[0]) == guard_of(dataclasses.replace(both[0], links={}))


@LAWS
@given(staged())
def test_elements_of_a_set_do_not_overlap(both: tuple[World, World]) -> None:
    guard = guard_of(both[0])
    by_set: dict[tuple[str, str], list[str]] = {}
    for element in () if guard is None else guard.elements:
        by_set.setdefault((element.family, element.set), []).append(element.prefix)
    for prefixes in by_set.values():
        spans = sorted(map(span, prefixes))
        assert [(a, b) for a, b in itertools.pairwise(spans) if a.overlaps(b)] == []
