"""Slot names, ports and probe addresses."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from linkseal.tunnels.addressing import MAX_INDEX, SLOTS, ProbeRange, slot_name, slot_port
from linkseal.tunnels.model import V4, V6

RANGES = (
    ProbeRange(),
    ProbeRange(IPv4Network("10.64.0.0/15"), IPv6Network("fd00:0:0:1::/64")),
    ProbeRange(IPv4Network("10.64.0.0/15"), IPv6Network("fd00:0:0:1:1::/96")),
    ProbeRange(IPv4Network("10.64.0.0/15"), IPv6Network("fd00::/64")),
    ProbeRange(IPv4Network("10.64.0.0/15"), IPv6Network("fd00:1:2:3:4:5::/96")),
)


@pytest.mark.parametrize(("own", "remote"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_both_ends_of_a_link_name_the_same_two_ports(own: int, remote: int) -> None:
    mine, theirs = slot_name(own, remote), slot_name(remote, own)
    assert mine == f"lsl{own % 2}{remote % 2}"
    assert mine == theirs[:3] + theirs[:2:-1]
    assert slot_port(51820, own, remote) == 51820 + SLOTS.index(mine)


@pytest.mark.parametrize("probe", RANGES, ids=str)
@pytest.mark.parametrize("index", [1, 2, 31, 8191, 8192, 8193, MAX_INDEX])
def test_probe_addresses_are_canonical_and_where_the_formula_puts_them(probe: ProbeRange, index: int) -> None:
    for family, network in ((V4, probe.v4), (V6, probe.v6)):
        for own in (0, 1):
            for remote in (0, 1):
                forwarded = probe.forwarded(family, index, own, remote)
                assert forwarded == str(network[8 * index + 4 * own + 2 * remote])
                assert probe.local(family, index, own, remote) == str(ip_address(forwarded) + 1)
                pair = ip_network(probe.pair(family, index, own, remote))
                assert [str(address) for address in pair] == [forwarded, probe.local(family, index, own, remote)]
                assert pair.subnet_of(ip_network(probe.node(family, index)))  # type: ignore[arg-type]
        assert ip_network(probe.node(family, index)).subnet_of(ip_network(probe.network(family)))  # type: ignore[arg-type]


def test_an_index_beyond_the_range_is_refused_not_put_outside_it() -> None:
    with pytest.raises(ValueError, match="16383"):
        ProbeRange().pair(V4, MAX_INDEX + 1, 0, 0)


def test_generations_of_equal_parity_share_a_slot() -> None:
    probe = ProbeRange()
    assert probe.pair(V4, 7, 3, 4) == probe.pair(V4, 7, 5, 2)
    assert slot_name(3, 4) == slot_name(5, 2)
