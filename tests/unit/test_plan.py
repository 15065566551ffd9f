"""What plan makes of single facts; its laws are in tests/property."""

from __future__ import annotations

from dataclasses import replace

import pytest
from linkseal.keys.values import Prefix
from linkseal.tunnels.model import Address, Desired, Kind, Route, Rule, Scope, Stage
from linkseal.tunnels.plan import FALLBACK_TABLE, door_sources, initiates, plan
from linkseal.tunnels.world import Layout, PeerLinks, Underlay, World, device_mtu, endpoint_of, link_mtu
from linkseal.wireguard.model import Endpoint
from property.worlds import as_me, make_peer

DUAL = (4, 6)
LAYOUT = Layout(scope=Scope.OVERLAY, stage=Stage.PREFER)
UNDERLAY = Underlay("eth0", 1500, frozenset({4, 6}))
ONE, TWO = make_peer(1, 1, families=DUAL), make_peer(2, 2, families=DUAL)
LINKED = PeerLinks((1, 2))


def world(scope: Scope = Scope.OVERLAY, links: PeerLinks = LINKED, **changes: object) -> World:
    base = World(as_me(ONE), replace(LAYOUT, scope=scope), UNDERLAY, {"n2": TWO}, {"n2": links})
    return replace(base, **changes)


def routed(desired: Desired) -> dict[str, Route]:
    """What leads into the tunnels, but for probes."""
    ours = {prefix: route for (table, prefix), route in desired.routes.items() if table != FALLBACK_TABLE}
    return {prefix: route for prefix, route in ours.items() if not prefix.startswith(("198.18", "fd6c"))}


def test_steady_state_has_a_door_two_slots_and_the_probe_pair() -> None:
    desired = plan(world())
    assert {name: interface.kind for name, interface in desired.interfaces.items()} == {
        "lsl0": Kind.DOOR,
        "lsl10": Kind.SLOT,
        "lsl11": Kind.SLOT,
        "lslp": Kind.PROBE,
    }
    assert {name: device.listen_port for name, device in desired.devices.items()} == {"lsl10": 51822, "lsl11": 51823}
    assert all(interface.rp_filter == 2 for interface in desired.interfaces.values())


def test_overlay_carries_pod_prefixes_from_the_first_address_of_our_own() -> None:
    desired = plan(world())
    assert routed(desired) == {
        "10.244.2.0/24": Route(51820, Prefix("10.244.2.0/24"), "lsl0", "10.244.1.0"),
        "fd00:244:0:2::/64": Route(51820, Prefix("fd00:244:0:2::/64"), "lsl0", "fd00:244:0:1::"),
    }
    assert Address("lsl0", "10.244.1.0/32") in desired.addresses


def test_transparent_carries_node_addresses_too_from_the_nodes_own() -> None:
    desired = plan(world(Scope.TRANSPARENT))
    assert set(routed(desired)) == {"10.244.2.0/24", "fd00:244:0:2::/64", "192.0.2.2/32", "2001:db8::2/128"}
    assert {route.source for route in routed(desired).values()} == {"192.0.2.1", "2001:db8::1"}


def test_at_prefer_what_has_no_proven_link_is_left_alone_since_a_cni_may_carry_it() -> None:
    overlay, transparent = plan(world(links=PeerLinks())), plan(world(Scope.TRANSPARENT, links=PeerLinks()))
    assert routed(overlay) == {}
    assert routed(transparent) == {}
    for desired in (overlay, transparent):
        assert desired.nft is not None
        assert not [prefix for prefix in desired.nft.slots if not prefix.startswith(("198.18", "fd6c"))]


def test_prepare_has_everything_but_traffic() -> None:
    prepared = plan(world(layout=replace(LAYOUT, stage=Stage.PREPARE)))
    preferred = plan(world())
    assert prepared.devices == preferred.devices
    assert routed(prepared) == {}


def test_what_is_not_carried_has_a_route_of_last_resort_for_the_loose_filter() -> None:
    """Without any the kernel drops what comes from there; IPv6 has no such filter."""
    prepared = plan(world(layout=replace(LAYOUT, stage=Stage.PREPARE)))
    last = {route.prefix: route.interface for route in prepared.routes.values() if route.table == FALLBACK_TABLE}
    assert last == {"10.244.2.0/24": "lsl0"}
    assert FALLBACK_TABLE not in {route.table for route in plan(world()).routes.values()}


def test_off_has_nothing() -> None:
    assert plan(world(layout=replace(LAYOUT, stage=Stage.OFF))) == Desired()


def test_a_peer_without_agent_gets_no_tunnel_and_no_route() -> None:
    desired = plan(world(peers={"n2": replace(TWO, generations=())}, links=PeerLinks()))
    assert routed(desired) == {}
    assert all(not device.peers for device in desired.devices.values())


def test_without_door_routes_go_to_the_slot_of_the_current_link() -> None:
    desired = plan(world(door=False))
    assert "lsl0" not in desired.interfaces
    assert {route.interface for route in routed(desired).values()} == {"lsl10"}
    assert desired.nft is not None
    assert ("netdev", "door") not in desired.nft.chains
    assert Address("lsl10", "10.244.1.0/32") in desired.addresses


def test_rules_keep_wireguards_own_packets_out_of_the_tunnel() -> None:
    layout = Layout()
    marked = (layout.fwmark, layout.fwmark_mask)
    expected = {Rule(f, 100, 254, marked) for f in DUAL} | {Rule(f, 101, 51820, marked, inverted=True) for f in DUAL}
    assert plan(world()).rules == expected


def test_the_announced_endpoint_is_set_only_where_the_link_book_asks_for_it() -> None:
    asked = plan(world(links=replace(LINKED, set_endpoint=frozenset({(1, 2)}))))
    [spec] = asked.devices["lsl10"].peers.values()
    assert spec.endpoint == Endpoint("192.0.2.2", 51821)
    [left] = plan(world()).devices["lsl10"].peers.values()
    assert left.endpoint is None


def test_an_override_comes_before_what_is_announced_and_a_family_we_have_not_is_passed_over() -> None:
    override = Endpoint("203.0.113.1", 4000)
    assert endpoint_of(world(endpoint_overrides={"n2": override}), TWO) == override
    only6 = world(underlay=replace(UNDERLAY, families=frozenset({6})))
    assert endpoint_of(only6, TWO) == Endpoint("2001:db8::2", 51820)
    assert endpoint_of(only6, make_peer(2, 2)) is None


LOW, HIGH = sorted((make_peer(n, 1) for n in (1, 2)), key=lambda peer: peer.generations[0].public_key)
HIDDEN = make_peer(3, 1, reachable=False)
WHERE = Endpoint("192.0.2.9", 51820)


def test_the_lower_key_initiates() -> None:
    low, high = LOW.generations[0], HIGH.generations[0]
    assert initiates(as_me(LOW), HIGH, low, high, WHERE)
    assert not initiates(as_me(HIGH), LOW, high, low, WHERE)


def test_the_end_that_cannot_be_reached_initiates_even_if_the_other_has_an_override_for_it() -> None:
    hidden = HIDDEN.generations[0]
    for other in (LOW, HIGH):
        assert initiates(as_me(HIDDEN), other, hidden, other.generations[0], WHERE)
        assert not initiates(as_me(other), HIDDEN, other.generations[0], hidden, WHERE)
        assert not initiates(as_me(other), HIDDEN, other.generations[0], hidden, None)


@pytest.mark.parametrize(
    ("underlay", "configured", "path", "device", "link"),
    [
        (1500, None, None, 1440, 1440),
        (9000, None, None, 8940, 8940),
        (1500, None, 1400, 1440, 1340),
        (1500, None, 1300, 1440, 1280),  # IPv6 needs 1280: outer fragments rather than none
        (1500, 1420, 1300, 1420, 1420),
    ],
)
def test_mtu(underlay: int, configured: int | None, path: int | None, device: int, link: int) -> None:
    made = world(
        layout=replace(LAYOUT, mtu=configured),
        underlay=replace(UNDERLAY, mtu=underlay),
        links=PeerLinks((1, 2), path_mtu=path),
    )
    assert device_mtu(made) == device
    assert link_mtu(made, TWO, endpoint_of(made, TWO)) == link
    narrow = link if link < device else None
    assert {route.mtu for route in routed(plan(made)).values()} == {narrow}


def test_a_narrow_path_has_routes_of_its_own_for_its_probes() -> None:
    desired = plan(world(links=PeerLinks((1, 2), path_mtu=1400)))
    assert desired.routes[51820, Prefix("198.18.0.16/29")].mtu == 1340
    assert (51820, Prefix("198.18.0.16/29")) not in plan(world()).routes


@pytest.mark.parametrize(
    ("scope", "own", "both", "loosened"),
    [
        (Scope.TRANSPARENT, 1, 0, True),
        (Scope.TRANSPARENT, 0, 1, True),
        (Scope.TRANSPARENT, 1, 2, False),
        (Scope.TRANSPARENT, 0, 0, False),
        (Scope.OVERLAY, 1, 1, False),
    ],
)
def test_a_strict_nic_is_loosened_where_node_addresses_are_carried(
    scope: Scope, own: int, both: int, *, loosened: bool
) -> None:
    desired = plan(world(scope, underlay=replace(UNDERLAY, rp_filter=own, rp_filter_all=both)))
    assert desired.underlay_rp_filter == ({"eth0": 2} if loosened else {})


def test_a_prefix_of_one_address_gives_no_source() -> None:
    alone = replace(as_me(ONE), prefixes=(Prefix("10.244.1.7/32"),))
    assert door_sources(world(me=alone)) == {}
