"""Making, deleting and raising a link by name: the little of rtnetlink that a WireGuard driver needs."""

from __future__ import annotations

import struct
from errno import EEXIST, ENODEV, EOPNOTSUPP, EPERM

from linkseal.keys.errors import HostError
from linkseal.wireguard.netlink import NLM_F_CREATE, NLM_F_EXCL, NetlinkError, NetlinkSocket
from linkseal.wireguard.nlattr import attribute_text, attribute_u32, message, nested

_IFINFO = struct.Struct("=BxHiII")
_NEW, _DELETE, _GET = 16, 17, 18
_NAME, _MTU, _LINKINFO, _INFO_KIND = 3, 4, 18, 1
_UP = 1
"""struct ifinfomsg, RTM_*LINK, IFLA_* and IFF_UP of <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if.h>."""

_ADVICE = {
    EPERM: "run as root, or with CAP_NET_ADMIN in this network namespace",
    EEXIST: "a device of that name exists; delete it, or let Linkseal clean up (`linkseal agent cleanup`)",
    EOPNOTSUPP: "this kernel has no such devices; load its module (`modprobe wireguard`) or install wireguard-go",
}


def create_link(route: NetlinkSocket, name: str, kind: str, mtu: int) -> None:
    """Create a link, down. HostError."""
    info = nested(_LINKINFO, attribute_text(_INFO_KIND, kind))
    body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute_text(_NAME, name) + attribute_u32(_MTU, mtu) + info
    _write(route, message(_NEW, body, NLM_F_CREATE | NLM_F_EXCL), f"create {kind} device {name}")


def delete_link(route: NetlinkSocket, name: str) -> None:
    """Delete a link; one that is absent is fine. HostError."""
    try:
        _write(route, message(_DELETE, _IFINFO.pack(0, 0, 0, 0, 0) + attribute_text(_NAME, name)), f"delete {name}")
    except HostError as error:
        if error.errno != ENODEV:
            raise


def set_link_up(route: NetlinkSocket, name: str) -> None:
    """Set a link up. HostError; EADDRINUSE from a WireGuard device whose port is taken."""
    _write(route, message(_NEW, _IFINFO.pack(0, 0, 0, _UP, _UP) + attribute_text(_NAME, name)), f"set {name} up")


def set_link_mtu(route: NetlinkSocket, name: str, mtu: int) -> None:
    """Set a link's MTU, bytes. HostError."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute_text(_NAME, name) + attribute_u32(_MTU, mtu)
    _write(route, message(_NEW, body), f"set the MTU of {name} to {mtu}")


def link_exists(route: NetlinkSocket, name: str) -> bool:
    """Whether there is a link of that name. HostError."""
    return _flags(route, name) is not None


def link_is_up(route: NetlinkSocket, name: str) -> bool:
    """Whether there is a link of that name and it is set up. HostError."""
    return bool((_flags(route, name) or 0) & _UP)


def _flags(route: NetlinkSocket, name: str) -> int | None:
    try:
        answers = route.query(message(_GET, _IFINFO.pack(0, 0, 0, 0, 0) + attribute_text(_NAME, name)))
    except NetlinkError as error:
        if error.errno == ENODEV:
            return None
        raise
    return int(_IFINFO.unpack_from(answers[0].data, answers[0].start)[3]) if answers else None


def _write(route: NetlinkSocket, one: bytes, what: str) -> None:
    try:
        route.request_batch([one])
    except NetlinkError as error:
        reason = str(error).partition(": ")[2]
        advice = _ADVICE.get(error.errno or 0, "")
        raise HostError(f"cannot {what}: {reason}{advice and '; '}{advice}", errno=error.errno) from None
