"""The two settings of the whole host that decide what tunnels can carry: read from /proc, which is readable everywhere.

They are those of the network namespace of the thread that reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from linkseal.tunnels.model import V4, V6, Family

_FORWARDING: Final[dict[Family, Path]] = {
    V4: Path("/proc/sys/net/ipv4/ip_forward"),
    V6: Path("/proc/sys/net/ipv6/conf/all/forwarding"),
}


def forwarded() -> frozenset[Family]:
    """Return the families in which this host forwards packets."""
    return frozenset(family for family, path in _FORWARDING.items() if _is_on(path))


def _is_on(path: Path) -> bool:
    try:
        return path.read_text(encoding="ascii").strip() not in ("", "0")
    except OSError:  # a kernel without that family
        return False
