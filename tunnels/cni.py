"""What is known of CNIs by the names of their interfaces. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from linkseal.tunnels.model import V4, V6, Family, Scope

_CNI: Final = re.compile(
    r"cni\d|flannel|cali|tunl0|vxlan|cilium_|lxc|weave|kube-bridge|ovn-k8s|genev|antrea|eni[0-9a-f]{6}"
)

_ENCAPSULATES: Final = re.compile(r"flannel[.-]|vxlan|cilium_vxlan|cilium_geneve|genev|weave|antrea-gw|ovn-k8s")
"""Devices that wrap each packet in VXLAN or Geneve before it goes from node to node."""

_WRAPPING: Final = {V4: 50, V6: 70}
"""Bytes of VXLAN (RFC 7348: 8, UDP 8, inner Ethernet 14) with an IPv4 or IPv6 header."""


def pod_mtu(names: Iterable[str], room: int, scope: Scope, underlay: Family) -> int:
    """Return the MTU the CNI should have where tunnels carry `room` bytes.

    In `transparent` a CNI's own encapsulation goes into the tunnels too.
    """
    wrapped = scope is Scope.TRANSPARENT and any(map(_ENCAPSULATES.match, names))
    return room - _WRAPPING[underlay] if wrapped else room


def of_cni(name: str) -> bool:
    """Whether an interface of this name was made by a CNI."""
    return _CNI.match(name) is not None
