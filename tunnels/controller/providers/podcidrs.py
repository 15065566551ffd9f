"""`podCIDRs`: what the cluster wrote into `spec.podCIDRs` of each Node. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from linkseal.tunnels.controller.nodefacts import NodeFacts
from linkseal.tunnels.controller.providers.base import Offered, Provider


def _offer(nodes: Mapping[str, NodeFacts], _objects: Mapping[str, Any]) -> Offered:
    unread = {name: facts.unread for name, facts in nodes.items() if facts.unread}
    return Offered(
        {name: facts.pod_cidrs for name, facts in nodes.items()},
        frozenset(unread),
        tuple(f"{name}: spec.podCIDRs holds what is no prefix: {text}" for name, text in sorted(unread.items())),
    )


POD_CIDRS: Final[Provider[Any]] = Provider("podCIDRs", _offer)
