"""Who else can send packets past nftables without tc: XDP programs and AF_XDP sockets. Reads only."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from linkseal.tunnels.redirect.model import Foreign
from linkseal.wireguard.netlink import NetlinkSocket
from linkseal.wireguard.nlattr import attribute_u32, attributes, message

_GET_LINK: Final = 18
_IFINFO: Final = struct.Struct("=BxHiII")
_IFNAME, _EXT_MASK, _XDP, _XDP_PROGRAM, _SKIP_STATS = 3, 29, 43, 4, 8
"""RTM_GETLINK, and of <linux/if_link.h> IFLA_IFNAME, IFLA_EXT_MASK, IFLA_XDP, IFLA_XDP_PROG_ID,
RTEXT_FILTER_SKIP_STATS."""

_PROTOCOLS: Final = Path("/proc/net/protocols")
"""Sockets in use by protocol: the only place that tells of AF_XDP where the kernel has no XDP_SOCKETS_DIAG."""


def xdp_programs(sock: NetlinkSocket) -> list[Foreign]:
    """Return the interfaces with an XDP program, which may redirect to any other. HostError."""
    found = []
    question = _IFINFO.pack(0, 0, 0, 0, 0) + attribute_u32(_EXT_MASK, _SKIP_STATS)
    for answer in sock.dump(message(_GET_LINK, question)):
        name, program = "", 0
        for kind, start, end in attributes(answer.data, answer.start + _IFINFO.size, answer.end):
            if kind == _IFNAME:
                name = answer.data[start:end].rstrip(b"\0").decode(errors="replace")
            elif kind == _XDP:
                program = _program(answer.data, start, end)
        if program:
            found.append(Foreign(name, "xdp", name=f"program {program}"))
    return found


def af_xdp_sockets() -> list[Foreign]:
    """Return one entry if this network namespace has AF_XDP sockets: they send straight into a driver's queue."""
    try:
        text = Path("/proc/thread-self/net/protocols").read_text(encoding="ascii", errors="replace")
    except OSError:
        text = _PROTOCOLS.read_text(encoding="ascii", errors="replace")
    return [Foreign("", "af_xdp", name=f"{count} sockets")] if (count := socket_count(text)) else []


def socket_count(protocols: str) -> int:
    r"""Return the number of AF_XDP sockets by the text of /proc/net/protocols.

    >>> socket_count("protocol  size sockets  memory press maxhdr\nXDP       1088      2      -1   NI       0\n")
    2
    """
    for line in protocols.splitlines():
        words = line.split()
        if words[:1] == ["XDP"]:
            return int(words[2])
    return 0


def _program(data: bytes, start: int, end: int) -> int:
    number = 0
    for kind, first, _ in attributes(data, start, end):
        if kind == _XDP_PROGRAM:
            (number,) = struct.unpack_from("=I", data, first)
    return number
