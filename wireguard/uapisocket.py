"""The sockets of wireguard-go's daemons, one a device, and exchanges with them."""

from __future__ import annotations

import socket
import struct
from errno import ENODEV
from pathlib import Path

from linkseal.wireguard import uapi
from linkseal.wireguard.apply import SendRefused

SOCKET_FOLDER = Path("/var/run/wireguard")
"""Where wireguard-go and `wg` look for sockets; compiled into them."""

_ANSWER_SECONDS = 10.0
"""`get` of 5,000 peers takes 24 ms."""
_AT_ONCE = 1 << 20
"""Bytes of an answer."""

_CREDENTIALS = struct.Struct("=iII")
"""struct ucred: pid, uid, gid (socket(7), SO_PEERCRED)."""


def socket_path(name: str) -> Path:
    """Return where the daemon of a device listens."""
    return SOCKET_FOLDER / f"{name}.sock"


def connect(name: str) -> socket.socket:
    """Connect to a device's daemon; SendRefused (ENODEV) if none listens."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.settimeout(_ANSWER_SECONDS)
    try:
        link.connect(str(socket_path(name)))
    except OSError as error:
        link.close()
        raise SendRefused(0, ENODEV, f"its socket: {error.strerror}") from None
    return link


def exchange(name: str, request: bytes) -> list[str]:
    """Return the lines of the answer without its `errno`; SendRefused if that is not 0 or there is no whole answer."""
    said = bytearray()
    with connect(name) as link:
        try:
            link.sendall(request)
            while not said.endswith(b"\n\n"):
                more = link.recv(_AT_ONCE)
                if not more:
                    raise SendRefused(0, ENODEV, "its daemon ended in the middle of an answer")
                said += more
        except OSError as error:
            raise SendRefused(0, error.errno or ENODEV, "its daemon does not answer") from None
    *lines, last = said.decode("ascii").rstrip("\n").split("\n")
    field, _, value = last.partition("=")
    if field != "errno":
        raise SendRefused(0, ENODEV, "its daemon's answer does not say how it went")
    if errno := abs(int(value)):
        raise SendRefused(0, errno)
    return lines


def serves(name: str) -> bool:
    """Whether a daemon answers for a device."""
    try:
        exchange(name, uapi.GET_REQUEST)
    except SendRefused:
        return False
    return True


def pid_of(name: str) -> int | None:
    """Return the process that listens for a device; None: none does, or one that this process cannot see."""
    try:
        with connect(name) as link:
            said = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except SendRefused:
        return None
    return int(_CREDENTIALS.unpack(said)[0]) or None
