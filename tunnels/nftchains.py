"""The chains of our tables, each rule spelled as `nft -j list` of nft 1.0.6 spells it. Pure.

door                          picks the slot of what is routed to the door
probe_in probe_local probe_out   probes use their own slot and nothing else, and no CNI rewrites them (ADR 3)
clamp                         TCP segments that fit the tunnels
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import DOOR, PROBE
from linkseal.tunnels.model import Chain, family_of

_RAW = -300
"""NF_IP_PRI_RAW of <linux/netfilter_ipv4.h>: before connection tracking (-200), as `notrack` demands."""

_MANGLE = -150
"""NF_IP_PRI_MANGLE."""

_ANY_OF_OURS = "lsl*"

Expression = dict[str, Any]


def door_chain() -> Chain:
    """Forward what is routed to the door into the slot its destination has in the map.

    What has no element stays in the door, which has no peer: it is dropped.
    """
    rules = tuple(
        _rule({"fwd": {"dev": {"map": {"key": _field(protocol, "daddr"), "data": f"@{name}"}}}})
        for protocol, name in (("ip", "slot4"), ("ip6", "slot6"))
    )
    return Chain("netdev", "door", "egress", 0, DOOR, rules)


def probe_chains(probe_prefix4: Prefix, probe_prefix6: Prefix, own: Mapping[Prefix, str]) -> tuple[Chain, ...]:
    """Keep probes on their way; `own` maps this node's address pairs to the slot that each must come in by.

    - `probe_in`: what comes for a pair by another interface (loopback included) is dropped; probes are not tracked,
      so that no NAT rule rewrites them. Packets injected at the probe device go to a peer's pair, not to one of `own`.
    - `probe_local`: those this node sends itself are not tracked either.
    - `probe_out`: what is from or to a probe address leaves by an interface of ours or not at all.
    """
    ranges = (probe_prefix4, probe_prefix6)
    astray = [_rule(_to(pair), _meta("!=", "iifname", slot), _DROP) for pair, slot in sorted(own.items())]
    injected = _rule(_meta("==", "iifname", PROBE), _NOTRACK)
    untracked = [_rule(_to(prefix), _NOTRACK) for prefix in ranges]
    leaving = [
        _rule(_address(field, prefix), _meta("!=", "oifname", _ANY_OF_OURS), _DROP)
        for prefix in ranges
        for field in ("daddr", "saddr")
    ]
    return (
        Chain("inet", "probe_in", "prerouting", _RAW, None, (*astray, injected, *untracked)),
        Chain("inet", "probe_local", "output", _RAW, None, tuple(untracked)),
        Chain("inet", "probe_out", "postrouting", _RAW, None, tuple(leaving)),
    )


def clamp_chain() -> Chain:
    """Lower the MSS of forwarded connections to what the route's MTU leaves, IPv4 and IPv6.

    Both ways: the peer's SYN is clamped by our MTU too, which may be the smaller one. `rt mtu` takes the smaller of
    the routes there and back, and an MSS is never raised.
    """
    syn = {"match": {"op": "==", "left": {"&": [_field("tcp", "flags"), ["syn", "rst"]]}, "right": "syn"}}
    clamp = {"mangle": {"key": {"tcp option": {"name": "maxseg", "field": "size"}}, "value": {"rt": {"key": "mtu"}}}}
    rules = tuple(_rule(_meta("==", key, _ANY_OF_OURS), syn, clamp) for key in ("oifname", "iifname"))
    return Chain("inet", "clamp", "forward", _MANGLE, None, rules)


def prefix_expression(prefix: Prefix) -> Any:
    """Return a prefix as nft lists it: one address is no prefix to it."""
    address, _, length = prefix.partition("/")
    if int(length) == (128 if family_of(prefix) == 6 else 32):  # noqa: PLR2004 - the IP version
        return address
    return {"prefix": {"addr": address, "len": int(length)}}


_DROP: Expression = {"drop": None}
_NOTRACK: Expression = {"notrack": None}


def _rule(*expressions: Expression) -> str:
    return json.dumps(expressions, sort_keys=True, separators=(",", ":"))


def _field(protocol: str, field: str) -> Expression:
    return {"payload": {"protocol": protocol, "field": field}}


def _to(prefix: Prefix) -> Expression:
    return _address("daddr", prefix)


def _address(field: str, prefix: Prefix) -> Expression:
    protocol = "ip" if family_of(prefix) == 4 else "ip6"  # noqa: PLR2004 - the IP version
    return {"match": {"op": "==", "left": _field(protocol, field), "right": prefix_expression(prefix)}}


def _meta(op: str, key: str, interface: str) -> Expression:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": interface}}
