"""An exemption: what may pass outside the tunnels, who wants it and why, and until when. No I/O."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal, NamedTuple

Protocol = Literal["tcp", "udp", "sctp", "icmp", "icmpv6"]

NUMBERS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
"""IANA protocol numbers."""


class Exemption(NamedTuple):
    """Connections to `port` (None where the protocol has none) of addresses in `cidr`, and their replies."""

    name: str
    protocol: Protocol
    port: int | None
    cidr: str
    owner: str
    reason: str
    expires: datetime

    def is_open(self, now: float) -> bool:
        """Whether it holds at `now` (Unix seconds)."""
        return now < self.expires.timestamp()
