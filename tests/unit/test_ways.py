"""Which interfaces lead to peers without Linkseal, and what becomes of their reverse path filters."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from linkseal.keys.values import Prefix
from linkseal.tunnels.model import InterfaceState, Observed, Scope
from linkseal.tunnels.ways import ways
from linkseal.tunnels.world import Peer

PEERS = [
    Peer("n2", 2, ("192.0.2.2", "2001:db8::2"), (Prefix("10.244.2.0/24"), Prefix("fd00:2::/64"))),
    Peer("n3", 3, ("192.0.2.3",), (Prefix("10.244.3.0/24"),)),
]

NIC = {"192.0.2.0/24": "eth0", "0.0.0.0/0": "eth1"}


def found(routes: Mapping[str, str], scope: Scope = Scope.OVERLAY) -> dict[str, int]:
    names = {"eth0", "eth1", "lsl0", "lo", *routes.values()}
    interfaces = {name: InterfaceState(name, 1, None, 1500, up=True, rp_filter=1) for name in names}
    main = frozenset((Prefix(prefix), name) for prefix, name in routes.items())
    return ways(Observed(interfaces=interfaces, main_routes=main), PEERS, scope)


@pytest.mark.parametrize(
    ("routes", "overlay"),
    [
        ({}, set()),
        ({"10.244.2.0/24": "eth0", "10.244.3.0/24": "eth0"}, {"eth0"}),
        ({"10.244.2.0/24": "flannel.1", "10.244.3.0/24": "eth0"}, {"eth0", "flannel.1"}),
        ({"10.244.0.0/16": "vxlan0", "10.244.1.0/24": "cni0"}, {"vxlan0"}),
        ({"10.244.0.0/16": "vxlan0", "10.244.2.0/24": "eth0"}, {"vxlan0", "eth0"}),
        ({"10.244.2.64/26": "cali7", "10.244.9.0/24": "other"}, {"cali7"}),
        ({"10.244.2.0/24": "lsl0"}, set()),
        ({"10.244.2.0/24": "gone", "10.245.0.0/16": "other"}, {"gone"}),
    ],
)
def test_what_the_main_table_says_of_peers_prefixes(routes: dict[str, str], overlay: set[str]) -> None:
    assert set(found(routes)) == overlay


def test_the_default_route_counts_for_what_nothing_else_leads_to() -> None:
    assert set(found(NIC)) == {"eth1"}
    assert set(found({**NIC, "10.244.0.0/16": "vxlan0"})) == {"vxlan0"}
    assert set(found({**NIC, "10.244.0.0/16": "vxlan0"}, Scope.TRANSPARENT)) == {"vxlan0", "eth0"}


def test_an_interface_that_is_gone_is_left_out() -> None:
    observed = Observed(main_routes=frozenset({(Prefix("10.244.2.0/24"), "gone")}))
    assert ways(observed, PEERS, Scope.OVERLAY) == {}
