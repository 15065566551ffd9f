"""Multicast groups that this host listens to: read from /proc, which is readable everywhere."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

_FOLDER: Final = Path("/proc/thread-self/net")
"""Of the network namespace of the thread that reads."""


def groups(folder: Path = _FOLDER) -> frozenset[tuple[str, str]]:
    """Return (interface, group address) of both families; none where /proc does not tell."""
    return frozenset((*_v4(_lines(folder / "igmp")), *_v6(_lines(folder / "igmp6"))))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def _v4(lines: list[str]) -> list[tuple[str, str]]:
    """`2  eth0 : 2 V3`, then for each group a line that is indented: `  120000E0  1 …` (bytes turned round)."""
    found, name = [], ""
    for line in lines[1:]:
        fields = line.split()
        if not line.startswith("\t") and len(fields) > 1:
            name = fields[1]
        elif fields and name:
            number = int.from_bytes(bytes.fromhex(fields[0])[::-1], "big")
            found.append((name, str(IPv4Address(number))))
    return found


def _v6(lines: list[str]) -> list[tuple[str, str]]:
    """`2    eth0            ff020000000000000000000000000012     1 0000000C 0`."""
    rows = [line.split() for line in lines]
    return [(row[1], str(IPv6Address(bytes.fromhex(row[2])))) for row in rows if len(row) > 2]  # noqa: PLR2004
