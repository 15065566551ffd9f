"""Tells which aspects of the host may have changed, from the kernel's own notifications.

    link of ours          LINKS ROUTES WIREGUARD (routes lost by a link going down are not told); NFT if it comes, goes
    another's link        LINKS, if it comes, goes, or changes name, MTU or being up: it may be the underlay
    address, netconf      LINKS (of filters only rp_filter is told, and not when it was set by netlink)
    route of our table    ROUTES
    rule                  RULES
    our nft tables        NFT; the guard's GUARD
    clsact filter, link   REDIRECT (tcx programs are told by nobody)
    lost notifications    everything

WireGuard's own configuration is told by nobody: it must be read now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from errno import ENOBUFS, EPROTONOSUPPORT
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.addressing import OURS
from linkseal.tunnels.host.host import ALL, Aspect
from linkseal.tunnels.host.nfnetlink import NETLINK_NETFILTER, NFT_SUBSYSTEM, TABLE_NAME, text_attribute
from linkseal.tunnels.host.routes import RTA_TABLE, RTMSG
from linkseal.tunnels.nftables import TABLE
from linkseal.tunnels.plan import FALLBACK_TABLE
from linkseal.tunnels.redirect.tc import CLSACT_PARENTS, parent_of
from linkseal.wireguard.netlink import NETLINK_ROUTE
from linkseal.wireguard.nlattr import HEADER, attributes

_ROUTE_GROUPS: Final = (1, 4, 5, 7, 8, 9, 11, 19, 24)
"""RTNLGRP_LINK, TC, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, IPV4_NETCONF."""

_NFT_GROUPS: Final = (7,)
"""NFNLGRP_NFTABLES."""

_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 16, 17, 20, 21, 24, 25
_NEWRULE, _DELRULE, _NEWNETCONF = 32, 33, 80
_NEWQDISC, _DELQDISC, _NEWFILTER, _DELFILTER = 36, 37, 44, 45
_NFT_NEWGEN = 15
_ELEMENTS, _SET_NAME = (12, 14), 2
"""NFT_MSG_NEWSETELEM and DELSETELEM; NFTA_SET_ELEM_LIST_SET."""
_IFINFO, _IFADDR = struct.Struct("=BxHiII"), struct.Struct("=BBBBI")
_IFNAME, _MTU, _IFA_ADDRESS, _IFA_LOCAL, _NETCONF_RP_FILTER = 3, 4, 1, 2, 3
_AF_BRIDGE = 7
_UP_OR_RUNNING = 0x1 | 0x40
_TABLE_COMPAT = 252
"""RT_TABLE_COMPAT: stands in the header's byte for every table number above 255."""

_SOL_NETLINK, _ADD_MEMBERSHIP, _SO_RCVBUFFORCE = 270, 1, 33
_BUFFER_BYTES = 4 << 20
_DATAGRAMS_AT_ONCE = 256
"""Then the event loop has its turn; the reader is called again while there is more."""

_NOTHING: Final[frozenset[Aspect]] = frozenset()
_OUR_LINK: Final = frozenset({Aspect.LINKS, Aspect.ROUTES, Aspect.WIREGUARD})
_LINKS, _ROUTES = frozenset({Aspect.LINKS}), frozenset({Aspect.ROUTES})
_RULES, _NFT, _GUARD = frozenset({Aspect.RULES}), frozenset({Aspect.NFT}), frozenset({Aspect.GUARD})
_REDIRECT = frozenset({Aspect.REDIRECT})

_Message = tuple[int, bytes, int, int]
"""Type, datagram, where what follows the nlmsghdr starts and ends."""


class Events:
    """Listens in the network namespace of the thread that calls `start`; `on_dirty` is called in the event loop."""

    def __init__(self, on_dirty: Callable[[frozenset[Aspect]], None], table: int, guard: str = "") -> None:
        self._on_dirty = on_dirty
        self._judge = Judge(table, guard)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets: dict[int, socket.socket] = {}

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen from now on. HostError. What happened before is not told: observe everything after this."""
        self._loop = loop
        self._open(NETLINK_ROUTE, _ROUTE_GROUPS)
        try:
            self._open(NETLINK_NETFILTER, _NFT_GROUPS)
        except HostError as error:
            if error.errno != EPROTONOSUPPORT:  # a kernel without nftables has none of ours
                self.close()
                raise

    def close(self) -> None:
        """Stop; a second time does nothing."""
        for sock in self._sockets.values():
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    def _open(self, protocol: int, groups: tuple[int, ...]) -> None:
        assert self._loop is not None
        try:
            sock = _listening(protocol, groups)
        except OSError as error:
            raise HostError(f"cannot listen to the kernel's changes: {error}", errno=error.errno) from None
        self._sockets[protocol] = sock
        self._loop.add_reader(sock.fileno(), self._read, protocol, groups)

    def _reopen(self, protocol: int, groups: tuple[int, ...]) -> None:
        assert self._loop is not None
        old = self._sockets[protocol]
        self._loop.remove_reader(old.fileno())
        old.close()
        self._judge.forget()
        self._open(protocol, groups)

    def _read(self, protocol: int, groups: tuple[int, ...]) -> None:
        dirty: set[Aspect] = set()
        try:
            for _ in range(_DATAGRAMS_AT_ONCE):
                for one in _messages(self._sockets[protocol].recv(1 << 16)):
                    dirty |= self._judge.dirt(protocol, *one)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != ENOBUFS:
                raise
            self._reopen(protocol, groups)
            dirty |= ALL
        if dirty:
            self._on_dirty(frozenset(dirty))


class Judge:
    """Says of each notification what it makes dirty; remembers links and addresses, as many of those change nothing."""

    def __init__(self, table: int, guard: str = "") -> None:
        self._tables = (table, table + 1, FALLBACK_TABLE)
        self._guard = guard
        self._links: dict[int, tuple[str | None, int | None, int]] = {}
        self._addresses: set[bytes] = set()
        self._judges: dict[int, Callable[[int, bytes, int, int], frozenset[Aspect]]] = {
            **dict.fromkeys((_NEWLINK, _DELLINK), self._link),
            **dict.fromkeys((_NEWADDR, _DELADDR), self._address),
            **dict.fromkeys((_NEWROUTE, _DELROUTE), self._route),
            **dict.fromkeys((_NEWRULE, _DELRULE), self._rule),
            **dict.fromkeys((_NEWQDISC, _DELQDISC, _NEWFILTER, _DELFILTER), self._clsact),
            _NEWNETCONF: self._netconf,
        }

    def forget(self) -> None:
        """Start afresh, after notifications were lost."""
        self._links.clear()
        self._addresses.clear()

    def dirt(self, protocol: int, kind: int, data: bytes, start: int, end: int) -> frozenset[Aspect]:
        """Return the aspects that the message at data[start:end] makes dirty."""
        if protocol == NETLINK_NETFILTER:
            return _nft_dirt(self._guard, kind, data, start, end)
        judge = self._judges.get(kind)
        return _NOTHING if judge is None else judge(kind, data, start, end)

    def _netconf(self, _: int, data: bytes, start: int, end: int) -> frozenset[Aspect]:
        told = {attr for attr, _, _ in attributes(data, start + 4, end)}
        return _LINKS if _NETCONF_RP_FILTER in told else _NOTHING

    def _rule(self, *_: object) -> frozenset[Aspect]:
        return _RULES

    def _clsact(self, _: int, data: bytes, start: int, __: int) -> frozenset[Aspect]:
        return _REDIRECT if parent_of(data, start) in CLSACT_PARENTS else _NOTHING

    def _link(self, kind: int, data: bytes, start: int, end: int) -> frozenset[Aspect]:
        family, _, index, flags, _ = _IFINFO.unpack_from(data, start)
        if family == _AF_BRIDGE:
            return _NOTHING
        name: str | None = None
        mtu: int | None = None
        for attr, begin, stop in attributes(data, start + _IFINFO.size, end):
            if attr == _IFNAME:
                name = data[begin:stop].rstrip(b"\0").decode(errors="replace")
            elif attr == _MTU:
                (mtu,) = struct.unpack_from("=I", data, begin)
        known = self._links.get(index)
        if kind == _DELLINK:
            self._links.pop(index, None)
            return _OUR_LINK | _NFT if name in OURS else _LINKS | _REDIRECT
        now = (name, mtu, flags & _UP_OR_RUNNING)
        self._links[index] = now
        if name in OURS:
            return _OUR_LINK | _NFT if known is None else _OUR_LINK
        if known is None:
            return _LINKS | _REDIRECT
        return _NOTHING if known == now else _LINKS

    def _address(self, kind: int, data: bytes, start: int, end: int) -> frozenset[Aspect]:
        family, length, _, scope, index = _IFADDR.unpack_from(data, start)
        texts = [
            data[begin:stop]
            for attr, begin, stop in attributes(data, start + _IFADDR.size, end)
            if attr in (_IFA_ADDRESS, _IFA_LOCAL)
        ]
        identity = _IFADDR.pack(family, length, 0, scope, index) + b"".join(texts)
        if kind == _NEWADDR and identity in self._addresses:
            return _NOTHING  # a router advertisement renewed its lifetime
        if kind == _NEWADDR:
            self._addresses.add(identity)
        else:
            self._addresses.discard(identity)
        return _LINKS

    def _route(self, _: int, data: bytes, start: int, end: int) -> frozenset[Aspect]:
        table = int(data[start + 4])
        if table == _TABLE_COMPAT:
            for attr, begin, _stop in attributes(data, start + RTMSG.size, end):
                if attr == RTA_TABLE:
                    (table,) = struct.unpack_from("=I", data, begin)
        return _ROUTES if table in self._tables else _NOTHING


def _nft_dirt(guard: str, kind: int, data: bytes, start: int, end: int) -> frozenset[Aspect]:
    if kind >> 8 != NFT_SUBSYSTEM or kind & 0xFF == _NFT_NEWGEN:
        return _NOTHING
    table = text_attribute(data, start, end, TABLE_NAME)
    if table == guard and kind & 0xFF in _ELEMENTS:  # of flows packets make and time removes
        name = text_attribute(data, start, end, _SET_NAME) or ""
        return _NOTHING if name.startswith(("flow", "plain")) else _GUARD
    return _NFT if table == TABLE else _GUARD if table == guard else _NOTHING


def _messages(data: bytes) -> Iterator[_Message]:
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, _, _, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield kind, data, offset + HEADER.size, offset + length
        offset += (length + 3) & ~3


def _listening(protocol: int, groups: tuple[int, ...]) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    sock = socket.socket(socket.AF_NETLINK, kind, protocol)
    try:
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError:
        sock.close()
        raise
    return sock
