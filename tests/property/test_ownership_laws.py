"""What the controller grants is disjoint, loses nothing that a holder still claims, and comes to rest in two passes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from linkseal.keys.grant import Grant
from linkseal.keys.values import Prefix
from linkseal.tunnels.controller.land import Land, minus, prefixes_of, span, spans, without
from linkseal.tunnels.controller.ownership import Claim, SeenNode, owned
from linkseal.tunnels.world import host_prefix

NOW = datetime(2026, 11, 2, tzinfo=UTC)
NAMES = ("n1", "n2", "n3")
BASE = int(ip_network("10.0.0.0/27")[0])

Addresses = frozenset[int]


@st.composite
def small(draw: st.DrawFn) -> Prefix:
    """A prefix of the 32 addresses that everybody quarrels about."""
    length = draw(st.integers(27, 32))
    low = BASE + (draw(st.integers(0, 31)) >> (32 - length) << (32 - length))
    return Prefix(str(ip_network((low, length))))


def numbers(*prefixes: str) -> Addresses:
    return frozenset(number for one in prefixes for number in range(span(Prefix(one)).low, span(Prefix(one)).high + 1))


# --- ranges


@given(small(), st.lists(small(), max_size=6))
def test_a_prefix_without_some_is_the_rest_in_the_fewest_prefixes(prefix: Prefix, holes: list[Prefix]) -> None:
    left = without(prefix, holes)
    assert numbers(*left) == numbers(prefix) - numbers(*holes)
    assert sum(ip_network(one).num_addresses for one in left) == len(numbers(*left)), "they do not overlap"
    networks = [ip_network(one) for one in left]
    for one in networks:  # in the fewest, no prefix has its other half beside it
        assert one.prefixlen == 0 or not any(
            one != other and one.prefixlen == other.prefixlen and one.supernet() == other.supernet()
            for other in networks
        )


@given(st.lists(small(), max_size=8), st.lists(small(), max_size=8))
def test_ranges_are_sets(ones: list[Prefix], others: list[Prefix]) -> None:
    assert numbers(*prefixes_of(spans(ones))) == numbers(*ones)
    assert numbers(*prefixes_of(minus(spans(ones), spans(others)))) == numbers(*ones) - numbers(*others)


@given(st.lists(st.tuples(small(), st.sampled_from(NAMES)), max_size=8), small())
def test_of_what_two_want_the_first_has_it(claims: list[tuple[Prefix, str]], looked: Prefix) -> None:
    land = Land.shared_out((span(prefix), name) for prefix, name in claims)
    expected: dict[int, str] = {}
    for prefix, name in claims:
        for number in numbers(prefix):
            expected.setdefault(number, name)
    found = {number: name for part, name in land.within(span(looked)) for number in range(part.low, part.high + 1)}
    assert found == {number: name for number, name in expected.items() if number in numbers(looked)}


# --- grants


def grant_of(name: str, addresses: tuple[str, ...], prefixes: tuple[Prefix, ...]) -> Grant:
    number = NAMES.index(name)
    return Grant(name, f"u-{name}", number + 1, 1, NOW + timedelta(hours=number), addresses, prefixes)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[SeenNode, ...]:
    """Nodes that claim what they like, and hold what was granted by their earlier wishes."""
    nodes = tuple(
        SeenNode(
            name,
            f"u-{name}",
            tuple(f"10.0.0.{draw(st.integers(0, 31))}" for _ in range(draw(st.integers(0, 2)))),
            tuple(draw(st.lists(small(), max_size=3, unique=True))),
        )
        for name in NAMES
    )
    earlier = granted(nodes) if draw(st.booleans()) else nodes
    return tuple(
        replace(one, prefixes=tuple(draw(st.lists(small(), max_size=3, unique=True))), keeps=draw(st.booleans()))
        for one in earlier
    )


def granted(nodes: tuple[SeenNode, ...], *, only: frozenset[str] = frozenset(NAMES)) -> tuple[SeenNode, ...]:
    """The nodes after a pass of which only some writes were done."""
    claims = {claim.name: claim for claim in owned(nodes, ()).claims}
    return tuple(
        replace(one, grant=grant_of(one.name, claims[one.name].addresses, claims[one.name].prefixes))
        if one.name in only
        else one
        for one in nodes
    )


def having(claim: Claim | Grant | None) -> Addresses:
    return frozenset() if claim is None else numbers(*map(host_prefix, claim.addresses), *claim.prefixes)


def wanting(node: SeenNode, nodes: tuple[SeenNode, ...]) -> Addresses:
    return numbers(*map(host_prefix, node.addresses)) | wanting_for_pods(node, nodes)


def wanting_for_pods(node: SeenNode, nodes: tuple[SeenNode, ...]) -> Addresses:
    """What it is offered; what it has if not all is known, and that which is nobody else's if it is offered nothing."""
    had = frozenset[int]() if node.grant is None else numbers(*node.grant.prefixes)
    if node.keeps:
        return numbers(*node.prefixes) | had
    if node.prefixes:
        return numbers(*node.prefixes)
    return had - numbers(*(one for other in nodes for one in (*map(host_prefix, other.addresses), *other.prefixes)))


@settings(max_examples=300, deadline=None)
@given(clusters(), st.frozensets(st.sampled_from(NAMES)))
def test_no_address_is_ever_in_two_grants_whichever_writes_were_done(
    nodes: tuple[SeenNode, ...], done: frozenset[str]
) -> None:
    after = granted(nodes, only=done)
    for one in after:
        for other in after:
            if one.name < other.name:
                assert not having(one.grant) & having(other.grant)


@settings(max_examples=300, deadline=None)
@given(clusters())
def test_who_holds_something_and_still_claims_it_keeps_it_and_nobody_gets_what_he_did_not_claim(
    nodes: tuple[SeenNode, ...],
) -> None:
    claims = {claim.name: claim for claim in owned(nodes, ()).claims}
    for one in nodes:
        claim = claims[one.name]
        assert having(claim) <= wanting(one, nodes)
        if one.grant is not None:
            assert set(one.grant.addresses) & set(one.addresses) <= set(claim.addresses)
            assert numbers(*one.grant.prefixes) & wanting_for_pods(one, nodes) <= having(claim)


@settings(max_examples=300, deadline=None)
@given(clusters())
def test_after_two_passes_nothing_changes_and_what_nobody_disputes_is_granted(nodes: tuple[SeenNode, ...]) -> None:
    after = granted(granted(nodes))
    assert [one.grant for one in granted(after)] == [one.grant for one in after]
    for one in after:
        others = frozenset[int]().union(*(wanting(other, after) for other in after if other is not one))
        for claim in (*map(host_prefix, one.addresses), *one.prefixes):
            if not numbers(claim) & others:
                assert numbers(claim) <= having(one.grant)


@settings(max_examples=300, deadline=None)
@given(clusters())
def test_every_address_that_is_claimed_and_in_no_grant_at_the_end_is_told(nodes: tuple[SeenNode, ...]) -> None:
    after = granted(granted(nodes))
    problems = owned(after, ()).problems
    for one in after:
        if wanting(one, after) - having(one.grant):
            assert any(problem.startswith(f"{one.name} claims ") for problem in problems)
