"""Names, ports and probe addresses of slots: everything that follows from parities and a node's index.

A slot is where a link lives: at node x the link (g of x, h of y) is in `lsl{g%2}{h%2}`. This file does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from linkseal.keys.values import Prefix
from linkseal.tunnels.model import Family

DOOR: Final = "lsl0"
PROBE: Final = "lslp"
PROBE_PEER: Final = "lslq"
SLOTS: Final = ("lsl00", "lsl01", "lsl10", "lsl11")
OURS: Final = (DOOR, *SLOTS, PROBE, PROBE_PEER)

SLOT_ADDRESS: Final = "169.254.51.82/32"
"""On every slot, scope host: loose reverse path filtering drops everything on an interface without IPv4 address."""

MAX_INDEX: Final = (1 << 14) - 1
"""131,072 addresses of 198.18.0.0/15, eight a node."""


def slot_name(own: int, remote: int) -> str:
    """The interface of the link between our generation and the peer's."""
    return f"lsl{own % 2}{remote % 2}"


def slot_port(base: int, own: int, remote: int) -> int:
    """The UDP port a node listens on for that slot; `base` is that node's base port."""
    return base + 2 * (own % 2) + remote % 2


@dataclass(frozen=True, slots=True)
class ProbeRange:
    """Where the probe addresses of all nodes are.

    Eight addresses a node, in pairs: for own parity a and peer parity b the even one is forwarded to the probe
    device, the odd one next to it is the node's own (delivered locally).
    """

    v4: IPv4Network = IPv4Network("198.18.0.0/15")
    v6: IPv6Network = IPv6Network("fd6c:736c:7072:6f62::/64")

    def network(self, family: Family) -> Prefix:
        """The whole range, as a prefix."""
        return Prefix(str(self.v4 if family == 4 else self.v6))

    def forwarded(self, family: Family, index: int, own: int, remote: int) -> str:
        """The address that the node forwards to its probe device; `own` and `remote` seen from that node."""
        return self._address(family, 8 * index + 4 * (own % 2) + 2 * (remote % 2))

    def local(self, family: Family, index: int, own: int, remote: int) -> str:
        """The address that the node answers itself."""
        return self._address(family, 8 * index + 4 * (own % 2) + 2 * (remote % 2) + 1)

    def pair(self, family: Family, index: int, own: int, remote: int) -> Prefix:
        """Both of a slot as one prefix: /31 or /127."""
        length = 31 if family == 4 else 127
        return Prefix(f"{self.forwarded(family, index, own, remote)}/{length}")

    def node(self, family: Family, index: int) -> Prefix:
        """All eight of a node as one prefix: /29 or /125."""
        length = 29 if family == 4 else 125
        return Prefix(f"{self._address(family, 8 * index)}/{length}")

    def _address(self, family: Family, offset: int) -> str:
        network = self.v4 if family == 4 else self.v6
        return str(network[offset])
