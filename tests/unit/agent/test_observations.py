"""What a pass says is wrong, from plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from linkseal.keys.announcement import Announcement, GenerationKey, SignedAnnouncement
from linkseal.keys.grant import Grant, SignedGrant
from linkseal.keys.values import Prefix
from linkseal.tunnels import codes
from linkseal.tunnels.agent.observations import observations
from linkseal.tunnels.model import InterfaceState, Observed, Scope, Stage
from linkseal.tunnels.register import NodeDocuments, Peer
from linkseal.tunnels.world import Layout, PeerLinks, Underlay, World
from linkseal.wireguard.model import Endpoint
from property.worlds import as_me, make_peer, public_key

NOW = datetime(2026, 11, 2, tzinfo=UTC)
ME, OTHER = as_me(make_peer(1, 1)), make_peer(2, 1)
WORLD = World(ME, Layout(), Underlay("eth0", 1500, frozenset({4})), {"n2": OTHER}, {"n2": PeerLinks()})


def accepted(protocol: Any = "wireguard", *, announced: bool = True, opted_out: bool = False) -> Peer:
    """Node n2 as the register has it."""
    grant = Grant("n2", "uid", 2, 1, NOW, OTHER.addresses, OTHER.prefixes, opted_out=opted_out)
    said = Announcement("n2", "uid", 1, NOW, (GenerationKey(1, protocol, public_key("n2", 1)),))
    signed = SignedAnnouncement("text", "signature", "certificate")
    documents = NodeDocuments(signed if announced else None, SignedGrant("text", "signature"))
    return Peer("n2", "uid", grant, said if announced else None, documents)


def said(
    world: World = WORLD,
    observed: Observed | None = None,
    peer: Peer | None = None,
    loosened: Mapping[str, int] | None = None,
    heard: tuple[str, ...] = (),
) -> dict[tuple[str, str], str]:
    return observations(world, observed or Observed(), {"n2": peer or accepted()}, loosened or {}, heard)


def cni(**mtus: int) -> Observed:
    return Observed({name: InterfaceState(name, 9, None, mtu, up=True, rp_filter=0) for name, mtu in mtus.items()})


def test_a_fine_host_with_a_fine_peer_has_nothing_to_say() -> None:
    assert said() == {}


def test_a_kernel_without_door_is_told() -> None:
    assert (codes.NO_DOOR, "") in said(replace(WORLD, door=False))


def test_forwarding_that_is_off_is_told_by_family_in_an_overlay_only() -> None:
    off = Observed(forwards=frozenset({6}))
    assert said(observed=off)[codes.NO_FORWARDING, ""].startswith("IPv4:")
    assert said(replace(WORLD, layout=Layout(scope=Scope.TRANSPARENT)), off) == {}
    assert said(observed=Observed(forwards=frozenset({4}))) == {}  # nobody owns anything of IPv6


def test_ipv6_that_is_off_is_told_where_somebody_owns_some() -> None:
    theirs = replace(OTHER, prefixes=(*OTHER.prefixes, Prefix("fd00:2::/64")))
    assert "n2" in said(replace(WORLD, peers={"n2": theirs}, ipv6=False))[codes.NO_IPV6, ""]
    assert said(replace(WORLD, ipv6=False)) == {}


@pytest.mark.parametrize(
    ("scope", "interfaces", "wanted"),
    [
        (Scope.OVERLAY, {"cni0": 1500}, "set it to 1440"),
        (Scope.OVERLAY, {"cni0": 1440, "eth1": 9000, "lsl0": 9000}, None),
        (Scope.TRANSPARENT, {"cni0": 1450, "flannel.1": 1450}, "set it to 1390"),
        (Scope.TRANSPARENT, {"cni0": 1390, "flannel.1": 1390}, None),
        (Scope.TRANSPARENT, {"cali1234": 1450}, "set it to 1440"),
    ],
)
def test_a_cni_mtu_above_what_tunnels_carry_is_told_with_the_right_one(
    scope: Scope, interfaces: dict[str, int], wanted: str | None
) -> None:
    message = said(replace(WORLD, layout=Layout(scope=scope)), cni(**interfaces)).get((codes.CNI_MTU, ""))
    assert (message and message.partition(" (")[0]) == wanted


def test_a_device_that_is_down_wraps_nothing_and_is_too_large_for_nobody() -> None:
    down = {name: state._replace(up=False) for name, state in cni(tunl0=1480, cni0=1500).interfaces.items()}
    assert said(observed=Observed(down)) == {}


def test_a_narrow_path_is_told_with_what_its_routes_got() -> None:
    narrow = replace(WORLD, links={"n2": PeerLinks(path_mtu=1400)})
    message = said(narrow)[codes.PATH_MTU, "n2"]
    assert "1400" in message
    assert "1340" in message
    assert said(replace(WORLD, links={"n2": PeerLinks(path_mtu=1500)})) == {}


def test_a_filter_that_was_loosened_is_told_as_long_as_it_is_to_be_put_back() -> None:
    assert "was 1" in said(loosened={"eth0": 1})[codes.RP_FILTER_LOOSENED, "eth0"]


def test_two_ends_without_endpoint_are_told_unless_they_found_each_other() -> None:
    silent = replace(WORLD, me=replace(ME, reachable=False), peers={"n2": replace(OTHER, endpoints=())})
    assert (codes.NO_ENDPOINT, "n2") in said(silent)
    assert said(silent, heard=("n2",)) == {}
    assert said(replace(silent, endpoint_overrides={"n2": Endpoint("203.0.113.1", 51820)})) == {}
    assert said(replace(silent, me=ME)) == {}  # it initiates


def test_endpoints_of_a_family_this_host_has_not_are_told() -> None:
    there = replace(WORLD, peers={"n2": replace(OTHER, endpoints=(Endpoint("2001:db8::2", 51820),))})
    assert "2001:db8::2" in said(there)[codes.NO_ENDPOINT, "n2"]


def test_a_peer_of_another_protocol_is_told() -> None:
    gone = replace(WORLD, peers={"n2": replace(OTHER, generations=())})
    assert "ipsec" in said(gone, peer=accepted("ipsec"))[codes.INCOMPATIBLE, "n2"]


def test_a_node_without_agent_is_told_with_what_is_not_encrypted() -> None:
    gone = replace(WORLD, peers={"n2": replace(OTHER, generations=())})
    assert "10.244.2.0/24" in said(gone, peer=accepted(announced=False))[codes.NO_AGENT, "n2"]


def test_a_node_that_lost_its_key_to_another_is_not_said_to_have_no_agent() -> None:
    assert said(peer=replace(accepted(), announcement=None)) == {}


def test_a_node_that_is_opted_out_is_told_and_its_lack_of_an_agent_is_not() -> None:
    assert list(said(peer=accepted(announced=False, opted_out=True))) == [(codes.OPTED_OUT, "n2")]


def test_while_the_stage_is_off_only_documents_count() -> None:
    off = replace(WORLD, layout=Layout(stage=Stage.OFF), door=False)
    assert said(off, Observed(forwards=frozenset()), loosened={"eth0": 1}) == {}
