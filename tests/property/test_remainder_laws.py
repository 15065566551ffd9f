"""The laws of what is protected and nobody's: exactly what nodes leave of it, dropped by guard and programs alike."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from linkseal.keys.values import Prefix
from linkseal.tunnels.guard.plan import guard_of, is_closed, judged
from linkseal.tunnels.guard.remainder import remainder
from linkseal.tunnels.intervals import without
from linkseal.tunnels.model import Stage
from linkseal.tunnels.plan import plan
from linkseal.tunnels.redirect.reasons import UNKNOWN
from linkseal.tunnels.world import Peer, World, host_prefix, protected
from property.fake_guard import FakeGuard, span
from property.test_guard_laws import carry_out, staged
from property.worlds import PROTECTED, make_peer
from unit.redirect.oracle import verdict

LAWS = settings(max_examples=100, deadline=None)
UNIVERSE = ("10.0.0.0/26", "fd00::/122")


@st.composite
def prefixes(draw: st.DrawFn) -> tuple[Prefix, ...]:
    """Some of two small universes, nested, next to each other and twice, or around a whole one."""
    found = []
    for _ in range(draw(st.integers(0, 8))):
        whole = ip_network(draw(st.sampled_from(UNIVERSE)))
        length = draw(st.integers(whole.prefixlen - 1, whole.max_prefixlen))
        place = draw(st.integers(0, whole.num_addresses - 1))
        found.append(Prefix(str(ip_network((whole[place], length), strict=False))))
    return tuple(found)


def numbers(texts: tuple[Prefix, ...]) -> list[tuple[int, int]]:
    return [(one.version, number) for one in map(span, texts) for number in range(one.first, one.last + 1)]


@LAWS
@given(prefixes(), prefixes())
def test_what_is_left_is_exactly_what_the_others_do_not_have(
    wide: tuple[Prefix, ...], others: tuple[Prefix, ...]
) -> None:
    left = without(wide, others)
    found = numbers(left)
    assert len(found) == len(set(found)), "each address once"
    assert set(found) == set(numbers(wide)) - set(numbers(others))
    spans = [span(one) for one in left]
    assert spans == sorted(spans)
    assert all(a.version != b.version or a.last + 1 < b.first for a, b in itertools.pairwise(spans)), "pieces are whole"
    assert without(wide[::-1], others[::-1] * 2) == left


def others_of(world: World) -> list[Peer]:
    """Every node that is known, whether or not a tunnel is to lead there."""
    return [*world.peers.values(), *world.opted_out.values(), *world.behind.values()]


def points(world: World) -> list[str]:
    """Addresses at which something may change: the ends of every network, prefix and piece, and beside them."""
    nodes = (world.me, *others_of(world))
    known = [prefix for node in nodes for prefix in (*node.prefixes, *map(host_prefix, node.addresses))]
    found = {
        (one.version, number)
        for one in map(span, (*known, *itertools.chain(*PROTECTED), *remainder(world)))
        for end in (one.first, one.last)
        for number in (end - 1, end, end + 1)
    }
    return sorted(str(ip_address(n) if v == 4 else ip_address(n.to_bytes(16, "big"))) for v, n in found)


def has(address: str, texts: tuple[Prefix, ...] | list[Prefix]) -> bool:
    return any(span(host_prefix(address)).lies_in(span(one)) for one in texts)


def owners(world: World, address: str) -> int:
    """How many parts of the cluster have it: this node, the others, nobody though it is protected."""
    me, others = world.me, others_of(world)
    mine = [*me.prefixes, *map(host_prefix, (*me.addresses, *world.underlay.addresses))]
    theirs = [prefix for node in others for prefix in (*node.prefixes, *map(host_prefix, node.addresses))]
    return (has(address, mine) or has(address, theirs)) + has(address, remainder(world))


@st.composite
def peopled(draw: st.DrawFn) -> tuple[World, World]:
    """Two worlds of one cluster where the protected networks change, and a node has opted out of it now and then."""
    before, after = draw(staged())
    out = {"n8": replace(make_peer(8), prefixes=(Prefix("10.244.8.0/24"), Prefix("10.200.9.0/24")))}
    some = st.sampled_from(({}, out))
    off = st.sampled_from(
        ({}, {"n7": replace(make_peer(7), prefixes=(Prefix("10.244.7.0/24"), Prefix("10.200.7.0/25")))})
    )
    return (
        replace(before, opted_out=draw(some), behind=draw(off)),
        replace(
            after,
            opted_out=draw(some),
            behind=draw(off),
            layout=replace(after.layout, protected_cidrs=draw(st.sampled_from(PROTECTED))),
        ),
    )


@LAWS
@given(peopled())
def test_every_protected_address_is_a_nodes_or_in_the_remainder(both: tuple[World, World]) -> None:
    for world in both:
        for address in points(world):
            inside = has(address, world.layout.protected_cidrs)
            assert owners(world, address) == 1 or not inside
            assert inside or not has(address, remainder(world))


@LAWS
@given(peopled())
def test_the_remainder_goes_by_this_nodes_stage_alone(both: tuple[World, World]) -> None:
    for world in both:
        found = judged(world)
        mine = "drop" if world.layout.stage is Stage.ENFORCE and not world.broken_glass else "count"
        other = "count" if mine == "drop" else "drop"
        assert set(remainder(world)) <= set(found[mine])
        assert not any(span(a).overlaps(span(b)) for a in remainder(world) for b in found[other])


def shut(world: World, address: str) -> bool:
    """Whether packets to and from an address are to be dropped, said without any of what is tested."""
    if world.broken_glass or world.layout.stage is Stage.OFF:
        return False
    scope = world.layout.scope
    closed = [p for p in world.peers.values() if is_closed(world, p)]
    if any(has(address, protected(scope, one.addresses, one.prefixes)) for one in closed):
        return True
    me, others = world.me, others_of(world)
    taken = [prefix for node in (me, *others) for prefix in (*node.prefixes, *map(host_prefix, node.addresses))]
    nobodys = has(address, world.layout.protected_cidrs) and not has(address, taken)
    return nobodys and world.layout.stage is Stage.ENFORCE


@LAWS
@given(peopled())
def test_an_address_that_is_dropped_before_and_after_is_so_throughout(both: tuple[World, World]) -> None:
    """Whether it is nobody's before and a peer's after, or the reverse: a grant opens nothing on its way."""
    before, after = both
    fake = FakeGuard()
    list(carry_out(fake, guard_of(before)))
    always = [one for one in {*points(before), *points(after)} if shut(before, one) and shut(after, one)]
    for _ in carry_out(fake, guard_of(after)):
        for address in always:
            assert "drop" in fake.verdict("out", host_prefix(address))
            assert "drop" in fake.verdict("in", host_prefix(address))


@LAWS
@given(peopled())
def test_programs_drop_the_remainder_and_nothing_that_the_guard_lets_pass(both: tuple[World, World]) -> None:
    for world in both:
        desired = plan(world)
        fake = FakeGuard()
        fake.state = desired.guard
        for address in points(world):
            number = 0 if desired.redirect is None else verdict(ip_address(address), desired.redirect)
            dropped = "drop" in fake.verdict("out", host_prefix(address))
            assert dropped == shut(world, address)
            assert number == 0 or dropped
            if dropped and has(address, remainder(world)):
                assert number == UNKNOWN
