"""`ovn`: the subnet that OVN-Kubernetes gave each node, in the annotation `k8s.ovn.org/node-subnets`. No I/O.

The cluster manager writes it, as `{"default": "10.130.0.0/23"}` or, with two families, `{"default": ["10.130.0.0/23",
"fd01::/64"]}`. Other names are networks of tenants, which may overlap each other: their packets go encapsulated between
node addresses, and their addresses are nobody's outside. A kubelet may write the annotation too, of its own Node.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from linkseal.keys.values import Prefix
from linkseal.tunnels.controller.nodefacts import OVN_SUBNETS, NodeFacts
from linkseal.tunnels.controller.providers.base import Offered, Provider, prefix_of

_NETWORK: Final = "default"


def subnets(text: str) -> tuple[Prefix, ...]:
    """Return the node's subnets of the default network. Raises ValueError with what is wrong.

    >>> subnets('{"default": "10.130.0.0/23", "blue": ["10.130.0.0/23"]}')
    ('10.130.0.0/23',)
    """
    try:
        networks = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(networks, dict) or _NETWORK not in networks:
        raise ValueError(f"it names no network {_NETWORK!r}")
    found = networks[_NETWORK]
    try:
        return tuple(dict.fromkeys(map(prefix_of, found if isinstance(found, list) else [found])))
    except TypeError as error:
        raise ValueError(str(error)) from None


def _offer(nodes: Mapping[str, NodeFacts], _objects: Mapping[str, Any]) -> Offered:
    prefixes: dict[str, tuple[Prefix, ...]] = {}
    problems: list[str] = []
    for name, facts in sorted(nodes.items()):
        try:
            if not facts.subnets:
                raise ValueError("there is none")  # noqa: TRY301 - told like what is there and wrong
            prefixes[name] = subnets(facts.subnets)
        except ValueError as error:
            problems.append(f"{name}: the annotation {OVN_SUBNETS} gives no prefixes: {error}")
    return Offered(prefixes, frozenset(nodes.keys() - prefixes.keys()), tuple(problems))


OVN: Final[Provider[Any]] = Provider("ovn", _offer)
