"""The API server's own exemption: what an EndpointSlice names, on nodes, in scope transparent."""

from __future__ import annotations

from typing import Any

import pytest
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.controller.apiserver import endpoints_of, with_api_server
from linkseal.tunnels.guard.policy import MAX_EXEMPTIONS
from linkseal.tunnels.policy import parse_policy

TRANSPARENT: dict[str, Any] = {"scope": "transparent", "stage": "prepare"}
OWN = {
    "name": "ssh", "protocol": "tcp", "port": 22, "cidr": "192.0.2.0/24", "owner": "ops", "reason": "rescue",
    "expires": "2030-01-01T00:00:00Z",
}  # fmt: skip
NAMED = {("192.0.2.2", 6443), ("2001:db8::2", 6443), ("203.0.113.7", 443)}
NODES = {"192.0.2.1", "192.0.2.2", "2001:db8::2"}


def exempt(
    spec: dict[str, Any], endpoints: set[tuple[str, int]] = NAMED, present: Any = None
) -> list[tuple[str, str, int]]:
    found = with_api_server(spec, parse_policy(spec), endpoints, NODES, present)
    parse_policy(found)
    return [(one["name"], one["cidr"], one["port"]) for one in found.get("exemptions", [])]


def test_the_endpoints_that_are_nodes_are_exempt_after_the_operators_own() -> None:
    assert exempt({**TRANSPARENT, "exemptions": [OWN]}) == [
        ("ssh", "192.0.2.0/24", 22),
        ("kube-apiserver-1", "192.0.2.2/32", 6443),
        ("kube-apiserver-2", "2001:db8::2/128", 6443),
    ]
    assert exempt({"scope": "overlay", "stage": "prepare"}) == [], "node addresses are not protected there"


def test_those_in_force_stay_while_no_endpoint_is_named() -> None:
    present = with_api_server(TRANSPARENT, parse_policy(TRANSPARENT), NAMED, NODES, None)
    assert len(exempt(TRANSPARENT, set(), present)) == 2
    assert exempt(TRANSPARENT, set(), None) == []


def test_their_names_are_taken_and_their_number_is_bounded() -> None:
    with pytest.raises(ConfigError, match="kube-apiserver"):
        exempt({**TRANSPARENT, "exemptions": [{**OWN, "name": "kube-apiserver-9"}]})
    many = [{**OWN, "name": f"e{number}"} for number in range(MAX_EXEMPTIONS - 1)]
    assert len(exempt({**TRANSPARENT, "exemptions": many})) == MAX_EXEMPTIONS


def test_a_slice_is_read_as_far_as_it_can_be() -> None:
    item = {
        "endpoints": [{"addresses": ["192.0.2.2", "api.example"]}, {}],
        "ports": [{"port": 6443}, {"port": 53, "protocol": "UDP"}, {"name": "none"}],
    }
    found = endpoints_of(item, None)
    assert found == {("192.0.2.2", 6443)}
    assert endpoints_of(item, found) is found
    assert endpoints_of({}, None) == frozenset()
