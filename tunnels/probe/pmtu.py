"""The path MTU of the underlay to a peer's endpoint, as its routers tell it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Final

from linkseal.tunnels.model import family_of

SETTLE_SECONDS: Final = 0.5
"""How long an ICMP "too big" is waited for: routers send it at once, so a round trip of any cluster is enough."""

ROUNDS: Final = 8
"""Each round finds one router with a smaller MTU than all before it; real paths have one or two."""

_IP_MTU_DISCOVER, _IP_MTU, _IPV6_MTU_DISCOVER, _IPV6_MTU, _DO = 10, 14, 23, 24, 2  # linux/in.h, linux/in6.h
_SO_MARK: Final = 36  # asm-generic/socket.h
_OVERHEAD: Final = {4: 28, 6: 48}
_DATA: Final = b"\x04\0\0\0"
_LARGEST: Final = 65507  # payload of a UDP datagram over IPv4


async def path_mtu(host: str, port: int, *, mark: int = 0, settle: float = SETTLE_SECONDS) -> int | None:
    """Return the largest packet, in bytes, that the routers to `host` (an address) carry whole; None if no way.

    Sends a datagram of the full size, unfragmentable, to the peer's WireGuard port: a data message of no session, of
    random bytes, which the peer drops silently. `mark` keeps it out of the tunnel (0: none; else CAP_NET_ADMIN).
    The kernel keeps what it learns for ten minutes. A router that drops without a word is not found here but by the
    full-size probe (LS2004).
    """
    family = family_of(host)
    domain = socket.AF_INET if family == 4 else socket.AF_INET6  # noqa: PLR2004 - IP version
    try:
        with socket.socket(domain, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
            if mark:
                udp.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
            option = (socket.IPPROTO_IP, _IP_MTU_DISCOVER) if family == 4 else (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)  # noqa: PLR2004
            udp.setsockopt(*option, _DO)
            udp.connect((host, port))
            return await _settled(udp, family, settle)
    except OSError:
        return None


async def _settled(udp: socket.socket, family: int, settle: float) -> int:
    """Send at the size known until nothing smaller is learned."""
    mtu = _known(udp, family)
    for _ in range(ROUNDS):
        _send(udp, mtu - _OVERHEAD[family])
        await asyncio.sleep(settle)
        before, mtu = mtu, _known(udp, family)
        if mtu >= before:
            break
    return mtu


def _known(udp: socket.socket, family: int) -> int:
    if family == 4:  # noqa: PLR2004 - IP version
        return udp.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    return udp.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)


def _send(udp: socket.socket, size: int) -> None:
    """Send a filler; twice if need be, since the first call may only report the ICMP message about an earlier packet.

    Too big: the kernel has learned better meanwhile. Refused: an earlier packet came through whole.
    """
    for _ in range(2):
        try:
            udp.send(_filler(max(0, min(size, _LARGEST))))
        except OSError as error:
            if error.errno not in {errno.EMSGSIZE, errno.ECONNREFUSED, errno.EAGAIN}:
                raise
        else:
            return


def _filler(size: int) -> bytes:
    """A transport data message (WireGuard paper, 5.4.6) with a random receiver index and random contents."""
    return (_DATA + os.urandom(max(0, size - len(_DATA))))[:size]
