"""Orders and single differences; the laws of diff are in tests/property."""

from __future__ import annotations

from dataclasses import replace

from linkseal.keys.values import Prefix
from linkseal.tunnels.diff import diff
from linkseal.tunnels.model import (
    AddAddress,
    AddInterface,
    Address,
    AddRule,
    Desired,
    Interface,
    InterfaceState,
    Kind,
    MoveSlot,
    NftTransaction,
    Observed,
    RemoveAddress,
    RemoveInterface,
    RemoveRoute,
    RemoveRule,
    Route,
    Rule,
    Ruleset,
    SetInterface,
    SetRoute,
    SetRpFilter,
)
from linkseal.wireguard.model import ConfigureDevice, DeviceSpec, DeviceState, PeerSpec, PeerState, RemovePeer, SetPeer
from property.worlds import public_key

KEY, OTHER = public_key("own", 1), public_key("other", 1)
NET = Prefix("10.244.2.0/24")
SLOT = Interface("lsl11", Kind.SLOT, 1440)
UP = InterfaceState("lsl11", 9, Kind.SLOT, 1440, up=True, rp_filter=2)
PAIR = InterfaceState("lslq", 11, Kind.PROBE, 1440, up=True, rp_filter=0)


def device(*prefixes: Prefix) -> DeviceSpec:
    return DeviceSpec("lsl11", KEY, 51823, 1, {OTHER: PeerSpec(OTHER, frozenset(prefixes))})


def state(*prefixes: Prefix) -> DeviceState:
    return DeviceState("lsl11", KEY, 51823, 1, {OTHER: PeerState(OTHER, frozenset(prefixes))})


def test_from_nothing_each_thing_comes_after_what_it_stands_on() -> None:
    desired = Desired(
        interfaces={"lsl11": SLOT},
        addresses=frozenset({Address("lsl11", "169.254.51.82/32", "host")}),
        devices={"lsl11": device(NET)},
        routes={(1, NET): Route(1, NET, "lsl11")},
        rules=frozenset({Rule(4, 101, 1), Rule(4, 100, 254, (1, 1))}),
        nft=Ruleset({}, {NET: "lsl11"}),
        underlay_rp_filter={"eth0": 2},
    )
    nic = InterfaceState("eth0", 2, None, 1500, up=True, rp_filter=1)
    steps = diff(desired, Observed(interfaces={"eth0": nic}))
    assert [type(step) for step in steps] == [
        AddInterface, AddAddress, SetRpFilter, ConfigureDevice, SetPeer, NftTransaction, SetRoute, AddRule, AddRule,
    ]  # fmt: skip
    assert steps[2] == SetRpFilter("eth0", 2, was=1)
    assert [step.rule.priority for step in steps if isinstance(step, AddRule)] == [100, 101]


def test_what_comes_and_goes_in_the_door_is_one_transaction_unless_something_is_done_between() -> None:
    other = Prefix("10.244.3.0/24")
    desired, observed = Desired(nft=Ruleset({}, {NET: "lsl11"})), Observed(nft=Ruleset({}, {other: "lsl11"}))
    moves = (MoveSlot(NET, None, "lsl11"), MoveSlot(other, "lsl11", None))
    assert diff(desired, observed) == (NftTransaction(moves=moves),)
    route = Route(1, NET, "lsl11")
    steps = diff(replace(desired, routes={(1, NET): route}), observed)
    assert steps == (NftTransaction(moves=moves[:1]), SetRoute(route), NftTransaction(moves=moves[1:]))


def test_to_nothing_it_goes_the_other_way() -> None:
    observed = Observed(
        interfaces={"lsl11": UP, "lslp": replace_name(UP, "lslp", Kind.PROBE), "lslq": PAIR},
        addresses=frozenset({Address("lsl11", "169.254.51.82/32", "host")}),
        devices={"lsl11": state(NET)},
        routes={(1, NET): Route(1, NET, "lsl11")},
        rules=frozenset({Rule(4, 101, 1), Rule(4, 100, 254, (1, 1))}),
        nft=Ruleset({}, {NET: "lsl11"}),
    )
    steps = diff(Desired(), observed)
    assert [type(step) for step in steps] == [
        RemoveRule, RemoveRule, RemoveRoute, NftTransaction, RemoveInterface, RemoveInterface,
    ]  # fmt: skip
    assert [step.rule.priority for step in steps if isinstance(step, RemoveRule)] == [101, 100]
    assert [step.name for step in steps if isinstance(step, RemoveInterface)] == ["lsl11", "lslp"]


def replace_name(have: InterfaceState, name: str, kind: Kind) -> InterfaceState:
    return have._replace(name=name, kind=kind)


def test_rules_are_ordered_by_number_not_by_text() -> None:
    rules = frozenset({Rule(4, 100, 1), Rule(4, 99, 254, (1, 1))})
    assert [step.rule.priority for step in diff(Desired(rules=rules), Observed()) if isinstance(step, AddRule)] == [
        99,
        100,
    ]


def test_a_prefix_leaves_a_peer_only_when_no_route_points_to_it_any_more() -> None:
    desired = Desired(interfaces={"lsl11": SLOT}, devices={"lsl11": device()}, nft=Ruleset())
    route = Route(1, NET, "lsl11")
    observed = Observed(
        interfaces={"lsl11": UP},
        devices={"lsl11": state(NET)},
        routes={(1, NET): route},
        nft=Ruleset({}, {NET: "lsl11"}),
    )
    assert [type(step) for step in diff(desired, observed)] == [RemoveRoute, NftTransaction, SetPeer]


def test_a_peer_goes_after_the_route_to_it() -> None:
    desired = Desired(interfaces={"lsl11": SLOT}, devices={"lsl11": replace(device(), peers={})})
    observed = Observed(
        interfaces={"lsl11": UP}, devices={"lsl11": state(NET)}, routes={(1, NET): Route(1, NET, "lsl11")}
    )
    assert diff(desired, observed) == (RemoveRoute(Route(1, NET, "lsl11")), RemovePeer("lsl11", OTHER))


def test_only_what_differs_of_an_interface_is_set() -> None:
    desired = Desired(interfaces={"lsl11": SLOT})
    changed = UP._replace(mtu=1500, up=False)
    assert diff(desired, Observed(interfaces={"lsl11": changed})) == (
        SetInterface("lsl11", Kind.SLOT, mtu=1440, up=True),
    )
    assert diff(desired, Observed(interfaces={"lsl11": UP})) == ()


def test_an_address_of_another_scope_is_replaced_in_the_order_the_kernel_takes() -> None:
    wanted, there = Address("lsl11", "169.254.51.82/32", "host"), Address("lsl11", "169.254.51.82/32")
    desired = Desired(interfaces={"lsl11": SLOT}, addresses=frozenset({wanted}))
    observed = Observed(interfaces={"lsl11": UP}, addresses=frozenset({there}))
    assert diff(desired, observed) == (RemoveAddress(there), AddAddress(wanted))


def test_the_second_end_of_the_probe_pair_is_never_removed_by_itself() -> None:
    probe = Interface("lslp", Kind.PROBE, 1440, accept_local=True)
    first = InterfaceState("lslp", 10, Kind.PROBE, 1440, up=True, rp_filter=2, accept_local=True)
    assert diff(Desired(interfaces={"lslp": probe}), Observed(interfaces={"lslp": first, "lslq": PAIR})) == ()


def test_what_was_seen_of_a_device_that_is_made_anew_does_not_count() -> None:
    desired = Desired(interfaces={"lsl11": SLOT}, devices={"lsl11": device(NET)})
    steps = diff(desired, Observed(devices={"lsl11": state(NET)}))
    assert [type(step) for step in steps] == [AddInterface, ConfigureDevice, SetPeer]


def test_a_foreign_interface_of_our_name_is_not_removed() -> None:
    foreign = UP._replace(kind=None)
    assert diff(Desired(), Observed(interfaces={"lsl11": foreign})) == ()


def test_nothing_is_changed_on_a_foreign_interface_of_our_name() -> None:
    foreign = UP._replace(kind=None, up=False, mtu=9000)
    theirs = Address("lsl11", "10.99.0.1/24")
    steps = diff(
        Desired(interfaces={"lsl11": SLOT}), Observed(interfaces={"lsl11": foreign}, addresses=frozenset({theirs}))
    )
    assert steps == (AddInterface(SLOT),)  # which the kernel refuses, and what needs it is not tried


def test_what_the_other_driver_left_is_replaced() -> None:
    left = UP._replace(kind=None, replaceable=True)
    steps = diff(Desired(interfaces={"lsl11": SLOT}), Observed(interfaces={"lsl11": left}))
    assert steps == (RemoveInterface("lsl11", Kind.SLOT), AddInterface(SLOT))
