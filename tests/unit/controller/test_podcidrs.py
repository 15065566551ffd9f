"""What nodes are granted: what they claim, less what is another's."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from linkseal.keys.grant import Grant
from linkseal.keys.values import Prefix
from linkseal.tunnels.controller.podcidrs import SeenNode, owned, seen_addresses, seen_prefixes
from linkseal.tunnels.directory.inventory import InventoryNode


def node(number: int, *addresses: str, prefixes: tuple[str, ...] | None = None) -> SeenNode:
    own = (f"10.244.{number}.0/24",) if prefixes is None else prefixes
    return SeenNode(
        f"n{number}", f"u{number}", addresses or (f"192.0.2.{number}",), tuple(Prefix(prefix) for prefix in own)
    )


def holding(seen: SeenNode, index: int) -> SeenNode:
    return replace(seen, grant=Grant(seen.name, seen.uid, index, 7, datetime.now(UTC), seen.addresses, seen.prefixes))


def claims(*nodes: SeenNode, out: tuple[str, ...] = (), networks: tuple[str, ...] = ()) -> dict[str, InventoryNode]:
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
    assert [claim.prefixes for claim in found.claims] == [(), (Prefix("10.244.2.0/24"),)]
    assert found.problems == (
        "n1 claims 10.244.0.0/16, which n2 holds: not granted",
        "n1 claims 192.0.2.2/32, which n2 holds: not granted",
    )


def test_what_a_holder_no_longer_claims_is_free() -> None:
    """Addresses that DHCP has swapped: each is given up by the one before the other takes it."""
    one, two = holding(node(1), 1), holding(node(2), 2)
    swapped = claims(replace(one, addresses=("192.0.2.2",)), replace(two, addresses=("192.0.2.1",)))
    assert {name: claim.addresses for name, claim in swapped.items()} == {"n1": ("192.0.2.2",), "n2": ("192.0.2.1",)}


def test_an_address_outside_the_nodes_networks_is_not_granted() -> None:
    found = owned((node(1, "192.0.2.1", "203.0.113.9"),), (), ("192.0.2.0/24",))
    assert found.claims[0].addresses == ("192.0.2.1",)
    assert "203.0.113.9 is in none of the nodes' networks" in found.problems[0]


def test_two_of_one_index_do_not_both_keep_it() -> None:
    found = claims(holding(node(1), 5), holding(node(2), 5))
    assert (found["n1"].index, found["n2"].index) == (5, 1)


def test_nonsense_is_left_out() -> None:
    addresses = [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "InternalIP", "address": "x"}, 7,
                 {"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.0.2.1"}]  # fmt: skip
    assert seen_addresses({"addresses": addresses}) == ("192.0.2.1",)
    assert seen_prefixes({"podCIDRs": ["10.244.1.0/24", "10.244.1.0/24", None, "fd00::/64"]}) == (
        "10.244.1.0/24",
        "fd00::/64",
    )
    assert (seen_addresses({}), seen_prefixes({"podCIDRs": "x"})) == ((), ())
