"""What the controller keeps of a Node as the API server has it. No I/O.

A Node's pod CIDRs are written by the cluster; its addresses, annotations and conditions by its own kubelet too, which
may lie (facts of NodeRestriction: it protects neither).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from linkseal.keys.documents import canonical_address, canonical_prefix
from linkseal.keys.values import Prefix, is_node_name
from linkseal.tunnels.controller.taint import PlacedTaint, placed_taints
from linkseal.tunnels.directory.kubedocs import CERTIFICATE, GRANT, restricted_labels

OVN_SUBNETS: Final = "k8s.ovn.org/node-subnets"
"""Annotation that OVN-Kubernetes' cluster manager writes: JSON, network name → prefix, or list of prefixes."""

CALICO_TUNNELS: Final = tuple(
    f"projectcalico.org/{name}"
    for name in ("IPv4VXLANTunnelAddr", "IPv4IPIPTunnelAddr", "IPv6VXLANTunnelAddr", "IPv4WireguardInterfaceAddr")
)
"""Annotations by which Calico tells the addresses that its IPAM gave the node itself."""

MAX_ANNOTATION: Final = 8192
"""Characters of a foreign annotation that are kept; one that is longer counts as not readable."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is kept of a Node; `grant`, `certificate`: as they are there, not verified."""

    uid: str
    addresses: tuple[str, ...]
    pod_cidrs: tuple[Prefix, ...]
    grant: str
    unread: str = ""
    """Pod CIDRs that are none, as JSON."""
    subnets: str = ""
    """OVN's annotation as it is there."""
    tunnels: tuple[str, ...] = ()
    """Addresses that Calico's IPAM gave the node."""
    certificate: str = ""
    taints: tuple[PlacedTaint, ...] = ()
    """Ours among its taints."""
    network: str = ""
    """Reason of the condition NetworkUnavailable: who says that the network is up."""
    labels: tuple[str, ...] = ()
    """Those that no kubelet may set, as `key=value`."""


def node_facts(item: Mapping[str, Any], before: NodeFacts | None) -> NodeFacts | None:
    """Return what the controller keeps of a Node: `before` itself if that has not changed."""
    meta = item["metadata"]
    if not is_node_name(str(meta.get("name", ""))):
        return None
    status, spec, annotations = item.get("status") or {}, item.get("spec") or {}, meta.get("annotations") or {}
    cidrs, unread = read_prefixes(spec.get("podCIDRs"))
    found = NodeFacts(
        uid=str(meta.get("uid", "")),
        addresses=seen_addresses(status),
        pod_cidrs=cidrs,
        grant=str(annotations.get(GRANT, "")),
        certificate=str(annotations.get(CERTIFICATE, "")),
        unread=unread,
        subnets=str(annotations.get(OVN_SUBNETS, ""))[:MAX_ANNOTATION],
        tunnels=tuple(sorted({one for name in CALICO_TUNNELS if (one := _canonical(annotations.get(name)))})),
        taints=placed_taints(spec),
        network=_network(status),
        labels=restricted_labels(meta),
    )
    return before if found == before else found


def seen_addresses(status: Mapping[str, object]) -> tuple[str, ...]:
    """Return the InternalIP addresses of a Node's status, canonical; what is none is left out."""
    entries = status.get("addresses")
    found = [
        _canonical(entry.get("address"))
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict) and entry.get("type") == "InternalIP"
    ]
    return tuple(dict.fromkeys(filter(None, found)))


def read_prefixes(listed: object) -> tuple[tuple[Prefix, ...], str]:
    """Return the prefixes of a list of texts, canonical, none twice; and what could not be read, as JSON.

    >>> read_prefixes(["10.244.1.0/24", "10.244.1.1/24", 7])
    (('10.244.1.0/24',), '["10.244.1.1/24", 7]')
    """
    if listed is None:
        return (), ""
    if not isinstance(listed, list):
        return (), _quoted(listed)
    read = {_text(one): _parsed(canonical_prefix, one) for one in listed}
    bad = [one for one in listed if read[_text(one)] is None]
    return tuple(dict.fromkeys(Prefix(one) for one in read.values() if one)), _quoted(bad) if bad else ""


def _text(value: object) -> str:
    return json.dumps(value)


def _quoted(value: object) -> str:
    return json.dumps(value)[:200]


def _parsed(parse: Callable[[str], str], value: object) -> str | None:
    try:
        return parse(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _canonical(value: object) -> str | None:
    return _parsed(canonical_address, value)


def _network(status: Mapping[str, object]) -> str:
    conditions = status.get("conditions")
    for one in conditions if isinstance(conditions, list) else ():
        if isinstance(one, dict) and one.get("type") == "NetworkUnavailable":
            return str(one.get("reason", ""))[:64]
    return ""
