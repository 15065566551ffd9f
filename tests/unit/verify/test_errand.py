"""What is sent where: real protected addresses, by the way of pods and of the host, a control by two kinds of ports."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import ProbeRange
from linkseal.tunnels.model import Scope
from linkseal.tunnels.verify.errand import MAX_DESTINATIONS, Control, Errand, errand, tunnel_to, verify_port
from linkseal.tunnels.verify.frames import Place
from linkseal.tunnels.verify.packet import MAX_CANARIES
from linkseal.tunnels.world import Layout, Me, Peer, Underlay, World
from linkseal.wireguard.model import Endpoint

ME = Me("n1", 1, ("192.0.2.1", "2001:db8::1"), (Prefix("10.244.1.0/24"), Prefix("fd00:1::/64")), ())
PEER = Peer(
    "n2",
    2,
    ("192.0.2.2", "2001:db8::2"),
    (Prefix("10.244.2.0/24"), Prefix("fd00:2::/64")),
    endpoints=(Endpoint("192.0.2.2", 51820),),
)
ROAMED = Endpoint("192.0.2.2", 51823)


def world(scope: Scope = Scope.OVERLAY) -> World:
    return World(ME, Layout(scope=scope), Underlay("eth0", 1500, frozenset({4, 6})), {"n2": PEER})


def made(
    scope: Scope = Scope.OVERLAY,
    peer: Peer = PEER,
    pair: tuple[int, int] | None = (3, 4),
    roamed: Endpoint | None = ROAMED,
) -> Errand:
    return errand(world(scope), peer, pair, roamed, Random(1))


def sent(found: Errand) -> list[tuple[str, str, str]]:
    return [(canary.source or "host", canary.destination, canary.arrives.value) for canary in found.canaries]


def test_an_overlay_is_tried_by_the_pods_way_the_hosts_and_to_where_the_peer_forwards() -> None:
    probe = ProbeRange()
    assert sent(made()) == [
        ("10.244.1.1", "10.244.2.1", "slot"),
        ("host", "10.244.2.1", "slot"),
        ("10.244.1.1", probe.forwarded(4, 2, 0, 1), "probe"),
        ("fd00:1::1", "fd00:2::1", "slot"),
        ("host", "fd00:2::1", "slot"),
        ("fd00:1::1", probe.forwarded(6, 2, 0, 1), "probe"),
    ]


def test_in_transparent_the_host_sends_to_the_peers_address_too() -> None:
    found = sent(made(Scope.TRANSPARENT))
    for family, address, pods in ((4, "192.0.2.2", "10.244.2.1"), (6, "2001:db8::2", "fd00:2::1")):
        mine = [one for one in found if (":" in one[1]) == (family == 6)]
        assert ("host", address, "slot") in mine
        assert {target for source, target, where in mine if source != "host" and where == "slot"} == {address, pods}


def test_of_many_prefixes_some_are_chosen_each_time_and_their_number_is_bounded() -> None:
    many = tuple(Prefix(f"10.{n}.0.0/24") for n in range(50)) + tuple(Prefix(f"fd00:{n}::/64") for n in range(1, 50))
    peer = replace(PEER, prefixes=many)
    seen = set()
    for seed in range(40):
        found = errand(world(Scope.TRANSPARENT), peer, (3, 4), ROAMED, Random(seed))
        assert len(found.canaries) <= MAX_CANARIES
        by_pods = [one for one in found.canaries if one.source is not None and one.arrives is Place.SLOT]
        assert len(by_pods) == 2 * MAX_DESTINATIONS
        seen |= {one.destination for one in by_pods}
    assert len(seen) > 60


def test_messages_go_by_the_link_that_carries_the_traffic() -> None:
    probe = ProbeRange()
    found = made().channel
    assert found is not None
    assert (found.here, found.there) == (probe.local(4, 1, 1, 0), probe.local(4, 2, 0, 1))


def test_without_a_link_nothing_can_be_asked_but_a_leak_is_looked_for() -> None:
    found = made(pair=None, roamed=None)
    assert (found.channel, found.narrow) == (None, None)
    assert {canary.arrives for canary in found.canaries} == {Place.SLOT}
    assert found.control is not None


def test_the_control_goes_to_where_the_tunnel_goes() -> None:
    found = made(roamed=Endpoint("192.0.2.99", 51823))
    assert found.control == Control("192.0.2.99", 51829, 51829)
    assert found.narrow == Control("192.0.2.99", 51822, 51823)
    assert "192.0.2.99" in found.tunnel.hosts


def test_a_peer_behind_nat_is_reached_by_the_tunnels_own_ports_only() -> None:
    found = made(peer=replace(PEER, endpoints=()), roamed=Endpoint("203.0.113.9", 33333))
    assert found.control is None
    assert found.narrow == Control("203.0.113.9", 51822, 33333)
    assert "203.0.113.9" in found.tunnel.hosts


def test_an_endpoint_set_by_hand_counts_as_announced() -> None:
    by_hand = replace(world(), endpoint_overrides={"n2": Endpoint("198.51.100.7", 51820)})
    found = errand(by_hand, replace(PEER, endpoints=()), (3, 4), None, Random(1))
    assert found.control == Control("198.51.100.7", 51829, 51829)


def test_a_peer_whose_address_is_not_known_may_have_any() -> None:
    assert tunnel_to(world(), replace(PEER, endpoints=())).hosts == frozenset()
    assert tunnel_to(world(), PEER).hosts == {"192.0.2.2", "2001:db8::2"}


@pytest.mark.parametrize("prefixes", [(), (Prefix("fd00:2::/64"),)])
def test_only_families_of_both_are_tried(prefixes: tuple[Prefix, ...]) -> None:
    one = replace(PEER, prefixes=prefixes)
    found = errand(replace(world(), peers={"n2": one}), one, (3, 4), ROAMED, Random(1))
    assert {canary.family for canary in found.canaries} == ({6} if prefixes else set())
    assert (found.channel is None) == (not prefixes)


def test_the_port_is_next_to_that_of_the_probes() -> None:
    assert verify_port(51829) == 51830
