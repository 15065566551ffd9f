"""What of this host the tunnels do not cover at all, as far as the host shows it. Pure.

Linkseal protects what is granted to nodes and reached by their underlay address. Other networks of the host, those that
pods have of their own (Multus), and multicast are outside: `status` says so in every stage.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import ip_address
from typing import Final

from linkseal.tunnels.addressing import OURS
from linkseal.tunnels.cni import of_cni
from linkseal.tunnels.model import Observed

MAX_LINES: Final = 20
"""As many as a report holds."""

_POD_KINDS: Final = ("macvlan", "macvtap", "ipvlan", "ipvtap")
"""Kernel kinds by which Multus and the like give pods a NIC of the underlay's own network."""

_LOCAL_KINDS: Final = ("bridge", "dummy", "veth", "tun", "wireguard", "ipip", "sit", "ip6tnl", "gre", "vxlan", "geneve")
"""Kinds that lead to no network of their own: what they carry leaves by another NIC, or not at all."""

_VRRP: Final = ("224.0.0.18", "ff02::12")
"""RFC 9568, 5.1.1.2 and 5.1.2.2."""


def uncovered(observed: Observed, underlay: str, groups: Collection[tuple[str, str]]) -> tuple[str, ...]:
    """Return a line for each thing not covered. `groups`: (interface, multicast group) that the host listens to."""
    lines = [*_further_nics(observed, underlay), *_pod_networks(observed), *_vrrp(groups)]
    return tuple(lines[:MAX_LINES])


def _further_nics(observed: Observed, underlay: str) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for address, name in observed.host_addresses.items():
        state = observed.interfaces.get(name)
        serves = state is not None and state.up and state.kernel_kind not in (*_LOCAL_KINDS, *_POD_KINDS)
        if serves and name not in (underlay, "lo", *OURS) and not of_cni(name) and not _own(address):
            found.setdefault(name, []).append(address)
    for name, addresses in sorted(found.items()):
        yield f"interface {name} ({', '.join(sorted(addresses)[:3])}): what other hosts reach by it is not encrypted"


def _own(address: str) -> bool:
    """Whether it is of no use beyond one link or host."""
    one = ip_address(address)
    return one.is_link_local or one.is_loopback


def _pod_networks(observed: Observed) -> Iterator[str]:
    for name, state in sorted(observed.interfaces.items()):
        if state.kernel_kind in _POD_KINDS and name not in OURS:
            yield f"interface {name} is a {state.kernel_kind}: such networks of pods (Multus) pass the tunnels by"


def _vrrp(groups: Collection[tuple[str, str]]) -> Iterator[str]:
    for name, group in sorted(groups):
        if group in _VRRP and name not in OURS:
            yield f"VRRP on {name} ({group}): multicast is neither encrypted nor dropped"
