"""What is looked at once more after steps."""

from __future__ import annotations

import pytest
from linkseal.keys.values import Prefix, PublicKey
from linkseal.tunnels.agent.tellings import touched
from linkseal.tunnels.guard.model import GuardTransaction
from linkseal.tunnels.host.host import ALL, Aspect
from linkseal.tunnels.model import Kind, NftTransaction, RemoveRoute, Route, SetInterface, SetRoute, Step
from linkseal.wireguard.model import ConfigureDevice, PeerSpec, RemovePeer, ReprovokePeer, SetPeer

KEY = PublicKey("FjjAe7/8XYncL/+m4z+Egzb2aknvogKTyUiEMegN43Y=")
ROUTE = Route(51820, Prefix("10.244.1.0/24"), "lsl0")


@pytest.mark.parametrize(
    ("steps", "aspects"),
    [
        ([], set()),
        ([SetPeer("lsl00", KEY, add=True)], {Aspect.WIREGUARD}),
        ([RemovePeer("lsl00", KEY)], {Aspect.WIREGUARD}),
        ([ReprovokePeer("lsl00", PeerSpec(KEY, frozenset()))], {Aspect.WIREGUARD}),
        ([SetRoute(ROUTE)], {Aspect.ROUTES}),
        ([RemoveRoute(ROUTE)], {Aspect.ROUTES}),
        ([NftTransaction()], {Aspect.NFT}),
        (
            [SetPeer("lsl00", KEY, add=True), NftTransaction(), SetRoute(ROUTE)],
            {Aspect.WIREGUARD, Aspect.NFT, Aspect.ROUTES},
        ),
        ([SetInterface("lsl00", Kind.SLOT, up=True)], ALL - {Aspect.GUARD}),  # routes go with a device
        ([ConfigureDevice("lsl00", public_key=KEY)], ALL - {Aspect.GUARD}),
        ([SetRoute(ROUTE), GuardTransaction("linkseal_guard")], ALL),
    ],
)
def test_after_a_step_is_looked_where_what_it_changes_lies(steps: list[Step], aspects: set[Aspect]) -> None:
    assert touched(steps) == aspects
