"""Whose traffic a refused step concerns."""

from __future__ import annotations

import pytest
from linkseal.keys.errors import HostError
from linkseal.keys.values import Prefix
from linkseal.tunnels.agent.unfit import unfit
from linkseal.tunnels.host.host import Failure
from linkseal.tunnels.model import (
    AddAddress,
    AddInterface,
    Address,
    AddRule,
    Interface,
    Kind,
    NftTransaction,
    Route,
    Rule,
    SetInterface,
    SetRoute,
    Step,
)
from linkseal.tunnels.world import Layout, PeerLinks, Underlay, World
from linkseal.wireguard.model import ConfigureDevice, RemovePeer
from property.worlds import as_me, make_peer

WORLD = World(
    as_me(make_peer(1, 1, 2)),
    Layout(),
    Underlay("eth0", 1500, frozenset({4})),
    {"n2": make_peer(2, 1), "n3": make_peer(3, 1)},
    {"n2": PeerLinks(current=(1, 1)), "n3": PeerLinks(current=(2, 1))},
)


@pytest.mark.parametrize(
    ("step", "concerned"),
    [
        (ConfigureDevice("lsl01"), {"n3"}),
        (AddInterface(Interface("lsl11", Kind.SLOT, 1440)), {"n2"}),
        (SetInterface("lsl11", Kind.SLOT, up=True), {"n2"}),
        (AddAddress(Address("lsl01", "169.254.51.82/32", "host")), {"n3"}),
        (ConfigureDevice("lsl00"), set()),
        (SetRoute(Route(51820, Prefix("10.244.2.0/24"), "lsl0")), {"n2"}),
        (RemovePeer("lsl11", make_peer(2, 1).generations[0].public_key), set()),
        (AddInterface(Interface("lsl0", Kind.DOOR, 1440)), None),
        (AddAddress(Address("lsl0", "10.244.1.0/32")), None),
        (AddRule(Rule(4, 101, 51820)), None),
        (NftTransaction(create=True), None),
    ],
)
def test_a_refused_step_concerns_who_is_reached_by_it_or_everybody(step: Step, concerned: set[str] | None) -> None:
    assert unfit([Failure(step, HostError("refused"))], WORLD) == concerned


def test_nobody_is_concerned_where_nothing_was_refused() -> None:
    assert unfit([], WORLD) == frozenset()
