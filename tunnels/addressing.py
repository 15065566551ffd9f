"""Names, ports and probe addresses of slots: everything that follows from parities and a node's index.

A slot is where a link lives: at node x the link (g of x, h of y) is in `lsl{g%2}{h%2}`. This file does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from linkseal.keys.values import Prefix
from linkseal.tunnels.model import V4, Family

DOOR: Final = "lsl0"
PROBE: Final = "lslp"
PROBE_PEER: Final = "lslq"
SLOTS: Final = ("lsl00", "lsl01", "lsl10", "lsl11")
OURS: Final = (DOOR, *SLOTS, PROBE, PROBE_PEER)

SLOT_ADDRESS: Final = "169.254.51.82/32"
"""On every slot, scope host: loose reverse path filtering drops everything on an interface without IPv4 address."""

MAX_INDEX: Final = (1 << 14) - 1
"""131,072 addresses of 198.18.0.0/15, eight a node."""

_ADDRESSES: Final = 8 * (MAX_INDEX + 1)
_PROBE4: Final = IPv4Network("198.18.0.0/15")
_PROBE6: Final = IPv6Network("fd6c:736c:7072:6f62::/64")


def slot_name(own: int, remote: int) -> str:
    """Return the interface of the link between our generation and the peer's."""
    return SLOTS[2 * (own % 2) + remote % 2]


def slot_port(base: int, own: int, remote: int) -> int:
    """Return the UDP port a node listens on for that slot; `base` is that node's base port."""
    return base + 2 * (own % 2) + remote % 2


@dataclass(frozen=True, slots=True)
class ProbeRange:
    """Where the probe addresses of all nodes are.

    Eight addresses a node, in pairs: for own parity a and peer parity b the even one is forwarded to the probe
    device, the odd one next to it is the node's own (delivered locally).
    """

    v4: IPv4Network = _PROBE4
    v6: IPv6Network = _PROBE6
    _base4: int = field(init=False, repr=False, compare=False)
    _stem6: str = field(init=False, repr=False, compare=False)
    """The IPv6 network up to its `::`, empty if its text does not end so: see `_address`."""

    def __post_init__(self) -> None:
        stem = str(self.v6.network_address)
        object.__setattr__(self, "_base4", int(self.v4.network_address))
        object.__setattr__(self, "_stem6", stem if stem.endswith("::") and self.v6.prefixlen <= 64 else "")  # noqa: PLR2004

    def network(self, family: Family) -> Prefix:
        """Return the whole range, as a prefix."""
        return Prefix(str(self.v4 if family == V4 else self.v6))

    def forwarded(self, family: Family, index: int, own: int, remote: int) -> str:
        """Return the address that the node forwards to its probe device; `own` and `remote` seen from that node."""
        return self._address(family, 8 * index + 4 * (own % 2) + 2 * (remote % 2))

    def local(self, family: Family, index: int, own: int, remote: int) -> str:
        """Return the address that the node answers itself."""
        return self._address(family, 8 * index + 4 * (own % 2) + 2 * (remote % 2) + 1)

    def pair(self, family: Family, index: int, own: int, remote: int) -> Prefix:
        """Return both of a slot as one prefix: /31 or /127."""
        address = self.forwarded(family, index, own, remote)
        return Prefix(f"{address}/31" if family == V4 else f"{address}/127")

    def node(self, family: Family, index: int) -> Prefix:
        """Return all eight of a node as one prefix: /29 or /125."""
        length = 29 if family == V4 else 125
        return Prefix(f"{self._address(family, 8 * index)}/{length}")

    def _address(self, family: Family, offset: int) -> str:
        """Return the text of one address. Two or more a peer: `ipaddress` alone would take half of plan's time."""
        if offset >= _ADDRESSES:
            raise ValueError(f"probe addresses end with index {MAX_INDEX}")
        if family == V4:
            number = self._base4 + offset
            return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        if self._stem6 and 0 < offset < 1 << 16:
            return f"{self._stem6}{offset:x}"
        return str(self.v6[offset])
