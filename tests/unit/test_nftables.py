"""nftables as JSON: what is built, read back, compared and shown. The kernel's side is tests/kernel/test_host.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys.errors import HostError
from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import ProbeRange
from linkseal.tunnels.intervals import flatten, overlapping
from linkseal.tunnels.model import MoveSlot, NftTransaction, Ruleset
from linkseal.tunnels.nftables import (
    adjust,
    clamp_chain,
    commands,
    diff_ruleset,
    door_chain,
    joined,
    moved,
    parse,
    probe_chains,
    render,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "nft"
POD4, POD6, ONE = Prefix("10.244.2.0/24"), Prefix("fd00:2::/64"), Prefix("10.0.0.1/32")


def chains_of(index: int = 1) -> list:
    probe = ProbeRange()
    own = {
        probe.pair(family, index, a, b): f"lsl{a}{b}" for family in (4, 6) for a, b in ((0, 0), (0, 1), (1, 0), (1, 1))
    }
    return [*probe_chains(probe.network(4), probe.network(6), own), clamp_chain(), door_chain()]


def ruleset(slots: dict[Prefix, str] | None = None) -> Ruleset:
    return Ruleset({(chain.family, chain.name): chain for chain in chains_of()}, slots or {})


def element_commands(transaction: NftTransaction) -> list:
    return [
        (verb, body["element"]["name"], body["element"]["elem"])
        for command in commands(transaction)
        for verb, body in command.items()
        if "element" in body
    ]


def golden(name: str, text: str) -> None:
    path = GOLDEN / name
    assert text == path.read_text(), f"differs from {path}"


def test_everything_new_renders_as_the_golden() -> None:
    early, late = diff_ruleset(ruleset({POD4: "lsl00", POD6: "lsl01", ONE: "lsl00"}), None)
    assert early is not None
    assert late is None
    golden("new.txt", "\n".join(render(early)) + "\n")


def test_transactions_render_as_the_golden() -> None:
    moved = NftTransaction(moves=(MoveSlot(POD4, "lsl00", "lsl01"), MoveSlot(POD6, None, "lsl01")))
    removed = NftTransaction(moves=(MoveSlot(POD4, "lsl00", None),), remove_chains=(clamp_chain(),))
    lines = [line for one in (moved, removed, NftTransaction(drop_tables=True)) for line in [*render(one), ""]]
    golden("changes.txt", "\n".join(lines))


def test_listing_of_nft_1_0_6_parses_to_what_was_built() -> None:
    listings = (GOLDEN / "listing.json").read_text().splitlines()
    assert parse(listings, {"door": "lsl0"}) == ruleset({POD4: "lsl00", POD6: "lsl01", ONE: "lsl00"})


def test_equal_rulesets_have_no_difference() -> None:
    assert diff_ruleset(ruleset({POD4: "lsl00"}), ruleset({POD4: "lsl00"})) == (None, None)
    assert diff_ruleset(None, None) == (None, None)


def test_a_moved_element_touches_nothing_else() -> None:
    others = {Prefix(f"10.1.{i}.0/24"): "lsl00" for i in range(200)}
    early, late = diff_ruleset(ruleset({**others, POD4: "lsl01"}), ruleset({**others, POD4: "lsl00"}))
    assert early == NftTransaction(moves=(MoveSlot(POD4, "lsl00", "lsl01"),))
    assert late is None
    assert [verb for verb, _, elements in element_commands(early) if len(elements) == 1] == ["delete", "add"]


def test_a_changed_chain_leaves_elements_and_other_chains_alone() -> None:
    have = ruleset({POD4: "lsl00"})
    broken = Ruleset({**have.chains, ("netdev", "door"): door_chain()._replace(device=None)}, have.slots)
    early, late = diff_ruleset(have, broken)
    assert early is not None
    assert early.set_chains == (door_chain(),)
    assert early.moves == ()
    assert late is None


def test_removals_come_late_unless_they_are_in_the_way() -> None:
    wide, narrow, other = Prefix("10.5.0.0/24"), Prefix("10.5.0.128/25"), Prefix("10.6.0.0/24")
    early, late = diff_ruleset(ruleset({wide: "lsl00"}), ruleset({narrow: "lsl00", other: "lsl01"}))
    assert early is not None
    assert set(early.moves) == {MoveSlot(wide, None, "lsl00"), MoveSlot(narrow, "lsl00", None)}
    assert late == NftTransaction(moves=(MoveSlot(other, "lsl01", None),))
    assert [verb for verb, _, _ in element_commands(early)] == ["delete", "add"]


def test_early_and_late_are_one_where_both_are_moves_alone() -> None:
    early, late = (
        NftTransaction(moves=(MoveSlot(POD4, None, "lsl00"),)),
        NftTransaction(moves=(MoveSlot(ONE, "a", None),)),
    )
    assert joined(early, late) == (NftTransaction(moves=(*early.moves, *late.moves)), None)
    for other in (early._replace(create=True), early._replace(set_chains=(clamp_chain(),))):
        assert joined(other, late) == (other, late)
    for other in (NftTransaction(drop_tables=True), late._replace(remove_chains=(clamp_chain(),))):
        assert joined(early, other) == (early, other)
    assert joined(early, None) == (early, None)
    assert joined(None, late) == (None, late)


SLOTS = st.dictionaries(st.sampled_from([POD4, POD6, ONE]), st.sampled_from(["lsl00", "lsl01"]))


@given(SLOTS, SLOTS)
def test_what_moves_make_of_a_ruleset_is_what_was_wanted(have: dict[Prefix, str], want: dict[Prefix, str]) -> None:
    before = ruleset(have)
    one, none = joined(*diff_ruleset(ruleset(want), before))
    both = one or none or NftTransaction()
    assert moved(before, both) == ruleset(want)


def test_what_else_becomes_of_a_ruleset_has_to_be_read() -> None:
    have, move = ruleset({POD4: "lsl00"}), NftTransaction(moves=(MoveSlot(POD4, "lsl00", "lsl01"),))
    assert moved(None, move) is None
    assert moved(have, move._replace(create=True)) is None
    assert moved(have, move._replace(set_chains=(clamp_chain(),))) is None
    assert moved(have, move._replace(remove_chains=(clamp_chain(),))) is None
    assert moved(have, NftTransaction(drop_tables=True)) is None
    assert moved(have, NftTransaction(moves=(MoveSlot(POD4, "lsl01", None),))) is None, "it was not what was thought"
    assert moved(have, NftTransaction(moves=(MoveSlot(ONE, "lsl01", None),))) is None


def test_no_ruleset_wanted_drops_the_tables_late() -> None:
    assert diff_ruleset(None, ruleset()) == (None, NftTransaction(drop_tables=True))


def test_an_element_of_a_vanished_interface_is_moved_to_the_new_one() -> None:
    early, _ = diff_ruleset(ruleset({POD4: "lsl01"}), ruleset({POD4: "4"}))
    assert early == NftTransaction(moves=(MoveSlot(POD4, "4", "lsl01"),))


def test_adjusting_to_what_is_there_leaves_only_what_is_still_to_do() -> None:
    transaction = NftTransaction(
        moves=(MoveSlot(POD4, "lsl00", "lsl01"), MoveSlot(ONE, "lsl00", None), MoveSlot(POD6, None, "lsl01")),
        remove_chains=(clamp_chain(),),
    )
    left = adjust(transaction, Ruleset({}, {POD4: "lsl01", POD6: "lsl00"}))
    assert left == NftTransaction(moves=(MoveSlot(POD6, "lsl00", "lsl01"),))


def test_counters_compare_without_their_values() -> None:
    rule = {"family": "inet", "chain": "c", "expr": [{"counter": {"packets": 7, "bytes": 99}}, {"drop": None}]}
    chain = {"family": "inet", "name": "c", "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}
    read = parse([json.dumps({"nftables": [{"chain": chain}, {"rule": rule}]})], {})
    assert read.chains["inet", "c"].rules == ('[{"counter":null},{"drop":null}]',)


@pytest.mark.parametrize("change", [{"policy": "drop"}, {"type": "nat"}, {"prio": 5}, {"hook": "output"}])
def test_a_chain_that_someone_changed_differs(change: dict) -> None:
    chain = {"family": "inet", "name": "clamp", "type": "filter", "hook": "forward", "prio": -150, "policy": "accept"}
    listing = [{"chain": chain | change}, *({"rule": {**RULE, "expr": json.loads(one)}} for one in clamp_chain().rules)]
    assert parse([json.dumps({"nftables": listing})], {}).chains["inet", "clamp"] != clamp_chain()
    listing[0] = {"chain": chain}
    assert parse([json.dumps({"nftables": listing})], {}).chains["inet", "clamp"] == clamp_chain()


RULE = {"family": "inet", "chain": "clamp"}


def test_output_that_is_no_json_is_a_host_error() -> None:
    with pytest.raises(HostError, match="JSON"):
        parse(["Error: no"], {})


def test_own_pairs_come_in_by_their_slot_only_and_before_tracking() -> None:
    probe = ProbeRange()
    chain = probe_chains(probe.network(4), probe.network(6), {probe.pair(4, 1, 0, 1): "lsl01"})[0]
    assert (chain.hook, chain.priority) == ("prerouting", -300)
    assert '"addr":"198.18.0.10","len":31' in chain.rules[0]
    assert '"!=","right":"lsl01"' in chain.rules[0]
    assert "drop" in chain.rules[0]


networks = st.builds(
    lambda bits, length: Prefix(f"10.0.0.{bits >> (32 - length) << (32 - length)}/{length}"),
    st.integers(0, 255),
    st.integers(24, 32),
)


def matches(prefix: str, last: int) -> bool:
    address, length = prefix.removeprefix("10.0.0.").split("/")
    return last >> (32 - int(length)) == int(address) >> (32 - int(length))


@given(st.dictionaries(networks, st.sampled_from(["a", "b", "c"]), max_size=12))
def test_flattened_prefixes_are_disjoint_and_keep_the_longest_match(slots: dict[Prefix, str]) -> None:
    flat = flatten(slots)
    for last in range(256):
        hits = [slot for prefix, slot in flat.items() if matches(prefix, last)]
        longest = max((prefix for prefix in slots if matches(prefix, last)), key=lambda p: p[-2:], default=None)
        assert hits == ([] if longest is None else [slots[longest]])


@given(st.sets(networks, max_size=10), st.sets(networks, max_size=10))
def test_overlapping_finds_exactly_those_that_share_an_address(some: set[Prefix], others: set[Prefix]) -> None:
    some -= others
    expected = {p for p in some if any(matches(p, i) and matches(o, i) for o in others for i in range(256))}
    assert overlapping(some, others) == expected
