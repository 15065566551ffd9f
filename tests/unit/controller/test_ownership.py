"""What nodes are granted: what they claim, less what is another's."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from linkseal.keys.grant import Grant
from linkseal.keys.values import Prefix
from linkseal.tunnels.controller.ownership import Claim, SeenNode, owned

NOW = datetime.now(UTC)


def node(number: int, *addresses: str, prefixes: tuple[str, ...] | None = None) -> SeenNode:
    own = (f"10.244.{number}.0/24",) if prefixes is None else prefixes
    return SeenNode(
        f"n{number}", f"u{number}", addresses or (f"192.0.2.{number}",), tuple(Prefix(prefix) for prefix in own)
    )


def holding(seen: SeenNode, index: int) -> SeenNode:
    return replace(seen, grant=Grant(seen.name, seen.uid, index, 7, NOW, seen.addresses, seen.prefixes))


def claims(*nodes: SeenNode, out: tuple[str, ...] = (), networks: tuple[str, ...] = ()) -> dict[str, Claim]:
    return {claim.name: claim for claim in owned(nodes, out, networks).claims}


def test_new_nodes_get_what_they_claim_and_free_indexes() -> None:
    found = claims(node(2), holding(node(1), 2), node(3), out=("n3",))
    assert {name: (one.index, one.addresses, one.opted_out) for name, one in found.items()} == {
        "n1": (2, ("192.0.2.1",), False),
        "n2": (1, ("192.0.2.2",), False),
        "n3": (3, ("192.0.2.3",), True),
    }


def test_who_holds_something_keeps_it_whatever_its_name() -> None:
    thief = replace(holding(node(1), 1), addresses=("192.0.2.1", "192.0.2.2"), prefixes=(Prefix("10.244.0.0/16"),))
    found = owned((thief, holding(node(2), 2)), ())
    assert [claim.addresses for claim in found.claims] == [("192.0.2.1",), ("192.0.2.2",)]
    assert [claim.prefixes for claim in found.claims] == [("10.244.1.0/24",), ("10.244.2.0/24",)]
    assert found.problems == (
        "n1 claims 192.0.2.2/32, which n2 holds: not granted",
        "n1 claims 10.244.0.0/16, of which n2 holds 10.244.2.0/24: not granted",
    )


def granting(nodes: tuple[SeenNode, ...]) -> tuple[SeenNode, ...]:
    """The nodes as they are when what is owned was granted."""
    found = {claim.name: claim for claim in owned(nodes, ()).claims}
    return tuple(
        replace(one, grant=Grant(one.name, one.uid, found[one.name].index, 8, NOW, *whole(found[one.name])))
        if one.name in found else one
        for one in nodes
    )  # fmt: skip


def whole(claim: Claim) -> tuple[tuple[str, ...], tuple[Prefix, ...]]:
    return claim.addresses, claim.prefixes


def test_addresses_that_two_nodes_have_swapped_are_given_up_before_they_are_taken() -> None:
    """By DHCP: each is in no grant for one pass, and never in two."""
    one, two = holding(node(1), 1), holding(node(2), 2)
    swapped = (replace(one, addresses=("192.0.2.2",)), replace(two, addresses=("192.0.2.1",)))
    found = owned(swapped, ())
    assert [claim.addresses for claim in found.claims] == [(), ()]
    assert found.problems == ()
    after = owned(granting(swapped), ())
    assert [claim.addresses for claim in after.claims] == [("192.0.2.2",), ("192.0.2.1",)]


def test_what_was_sent_and_is_not_seen_yet_is_held_too() -> None:
    one = holding(node(1), 1)
    sent = replace(node(2), sent=replace(one.grant or Grant("", "", 1, 1, NOW), addresses=("192.0.2.9",)))
    assert claims(replace(one, addresses=("192.0.2.1", "192.0.2.9")), sent)["n1"].addresses == ("192.0.2.1",)


def test_an_address_that_is_borrowed_from_a_block_goes_over_and_comes_back() -> None:
    block, lent = node(1, prefixes=("10.0.0.0/29",)), ("10.0.0.0/30", "10.0.0.4/32", "10.0.0.6/31")
    nodes = granting((block, node(2, prefixes=())))
    nodes = tuple(replace(one, prefixes=tuple(map(Prefix, prefixes))) for one, prefixes in
                  zip(nodes, (lent, ("10.0.0.5/32",)), strict=True))  # fmt: skip
    assert [claim.prefixes for claim in owned(nodes, ()).claims] == [lent, ()], "the lender gives it up first"
    nodes = granting(nodes)
    assert [claim.prefixes for claim in owned(nodes, ()).claims] == [lent, ("10.0.0.5/32",)]
    nodes = granting(nodes)
    nodes = tuple(replace(one, prefixes=tuple(map(Prefix, prefixes))) for one, prefixes in
                  zip(nodes, (("10.0.0.0/29",), ()), strict=True))  # fmt: skip
    assert [claim.prefixes for claim in owned(nodes, ()).claims] == [lent, ()], "and keeps the rest meanwhile"
    nodes = granting(nodes)
    assert [claim.prefixes for claim in owned(nodes, ()).claims] == [("10.0.0.0/29",), ()]


def test_of_what_could_not_be_read_a_node_keeps_what_it_has() -> None:
    one = replace(holding(node(1, prefixes=("10.0.0.0/24", "10.0.1.0/24")), 1), keeps=True)
    found = claims(replace(one, prefixes=(Prefix("10.0.1.0/24"), Prefix("10.0.2.0/24"))))
    assert found["n1"].prefixes == ("10.0.1.0/24", "10.0.2.0/24", "10.0.0.0/24")


def test_who_is_offered_nothing_keeps_what_nobody_else_claims() -> None:
    """As when all objects of a CNI are gone: none of it may become plaintext."""
    had = replace(holding(node(1, prefixes=("10.0.0.0/30", "10.0.1.0/24")), 1), prefixes=())
    assert claims(had, node(2, prefixes=()))["n1"].prefixes == ("10.0.0.0/30", "10.0.1.0/24")
    assert claims(had, node(2, prefixes=("10.0.0.0/31",)))["n1"].prefixes == ("10.0.0.2/31", "10.0.1.0/24")


def test_who_says_no_address_any_more_keeps_those_it_has_whoever_claims_them() -> None:
    """Silence takes nothing away, and two writes to the status of Nodes give nobody another's address."""
    silent = replace(holding(node(1), 1), addresses=())
    thief = replace(holding(node(2), 2), addresses=("192.0.2.2", "192.0.2.1"))
    found = owned((silent, thief), ())
    assert [claim.addresses for claim in found.claims] == [("192.0.2.1",), ("192.0.2.2",)]
    assert found.problems == (
        "n1: its Node says no address any more: it keeps 192.0.2.1",
        "n2 claims 192.0.2.1/32, which n1 holds: not granted",
    )


def test_a_grant_holds_no_more_than_receivers_read() -> None:
    many = [f"10.0.{number}.0/25" for number in range(256)]
    found = owned((node(1, prefixes=(*many, "10.1.0.0/24")),), ())
    assert len(found.claims[0].prefixes) == 256
    assert "a grant holds 256 prefixes at most, and there are 257" in found.problems[0]
    halves = [f"10.0.{number}.{half}/25" for number in range(200) for half in (0, 128)]
    found = owned((node(1, prefixes=tuple(halves)),), ())
    assert len(found.claims[0].prefixes) == 3, "neighbours become one where there are too many"
    assert found.problems == ()
    held = holding(node(1, *(f"192.0.2.{number}" for number in range(40, 72))), 1)
    found = owned((replace(held, addresses=("192.0.2.1", *held.addresses)),), ())
    assert found.claims[0].addresses == held.addresses, "what it has already goes before what is new"


def test_what_no_node_can_own_is_granted_to_none() -> None:
    found = owned((node(1, "127.0.0.1", "fe80::1", "2001:db8::1", prefixes=("0.0.0.0/0", "10.0.0.0/24")),), ())
    assert whole(found.claims[0]) == (("2001:db8::1",), ("10.0.0.0/24",))
    assert len(found.problems) == 3


def test_prefixes_outside_the_pods_networks_are_not_granted() -> None:
    found = owned((node(1, prefixes=("10.0.0.0/24", "8.8.8.0/24")),), (), (), ("10.0.0.0/9", "10.128.0.0/9"))
    assert found.claims[0].prefixes == ("10.0.0.0/24",)
    assert found.problems == (
        "n1: the prefix 8.8.8.0/24 is in none of the pods' networks (10.0.0.0/9, 10.128.0.0/9): not granted",
    )


def test_an_address_outside_the_nodes_networks_is_not_granted() -> None:
    found = owned((node(1, "192.0.2.1", "203.0.113.9"),), (), ("192.0.2.0/24",))
    assert found.claims[0].addresses == ("192.0.2.1",)
    assert "203.0.113.9 is in none of the nodes' networks" in found.problems[0]


def test_two_of_one_index_do_not_both_keep_it() -> None:
    found = claims(holding(node(1), 5), holding(node(2), 5))
    assert (found["n1"].index, found["n2"].index) == (5, 1)


def indexes(*nodes: SeenNode, **former: int) -> dict[str, int]:
    return {claim.name: claim.index for claim in owned(nodes, (), (), (), former).claims}


def test_nodes_of_a_former_cluster_have_the_indexes_that_they_had_there() -> None:
    """Others know their probe addresses by them. Who came new, or says nothing, makes room."""
    assert indexes(node(1), node(2), node(3), n1=3, n3=1) == {"n1": 3, "n2": 4, "n3": 1}
    granted = (holding(node(1), 1), holding(node(2), 2), holding(node(3), 3))
    assert indexes(*granted, n1=2, n2=3, n3=1) == {"n1": 2, "n2": 3, "n3": 1}
    found = indexes(*granted, n3=1)
    assert (found["n3"], len(set(found.values()))) == (1, 3)
    assert indexes(*granted, n9=1) == {"n1": 1, "n2": 2, "n3": 3}, "who is no node has none"


def test_a_new_node_does_not_get_the_index_of_one_that_has_not_reported_yet() -> None:
    """Who has come over keeps the absent one's grant: the new one would have no links by the same index."""
    came = {f"n{number}": number for number in (1, 2, 5)}
    found = indexes(*(node(number) for number in (1, 2, 3, 4, 5)), **came)
    assert found == {**came, "n3": 6, "n4": 7}


def test_of_two_that_say_the_same_index_who_has_it_keeps_it_and_none_is_given_out_twice() -> None:
    assert indexes(holding(node(1), 5), holding(node(2), 1), node(3), n1=1, n2=1, n3=1)["n2"] == 1
    for said in (0, -1, 16384, 10**9):
        found = indexes(holding(node(1), 5), node(2), n1=said, n2=said)
        assert (found["n1"], len(set(found.values()))) == (5, 2)
    found = indexes(node(1), node(2), node(3), n2=1)
    assert (found["n2"], len(set(found.values()))) == (1, 3)
