"""Routes of one table, thousands at once: our own codec, since pyroute2 takes 0.3 ms for each.

Only routes with our protocol number are ours; another's in the same table are neither seen nor removed.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from errno import EAFNOSUPPORT, ENODEV, ENOENT, EOPNOTSUPP, ESRCH
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.keys.values import Prefix
from linkseal.tunnels.model import V6, RemoveRoute, Route, SetRoute, family_of
from linkseal.wireguard.netlink import NLM_F_CREATE, NLM_F_REPLACE, Answer, NetlinkError, NetlinkSocket
from linkseal.wireguard.nlattr import attribute, attribute_u32, attributes, message, nested

PROTOCOL: Final = 76
"""rtm_protocol of our routes and rules ("L"): free in iproute2's rt_protos, which the kernel passes on unread."""

RTMSG = struct.Struct("=BBBBBBBBI")
"""struct rtmsg of <linux/rtnetlink.h>: family, destination and source length, tos, table, protocol, scope, type."""

_NEW, _DELETE, _GET = 24, 25, 26
_DST, _OIF, _PREFSRC, _METRICS, _MULTIPATH, RTA_TABLE, _METRIC_MTU = 1, 4, 7, 8, 9, 15, 2
_SCOPE_LINK, _SCOPE_NOWHERE, _SCOPE_UNIVERSE, _UNICAST, _UNREACHABLE = 253, 255, 0, 1, 7
_LOCAL = 2
_ENDS = frozenset(range(1, 9))
"""RTN_LOCAL of <linux/rtnetlink.h>; all types from RTN_UNICAST to RTN_PROHIBIT end a lookup, RTN_THROW does not."""

LOCAL_TABLE: Final = 255
"""RT_TABLE_LOCAL."""
_U32 = struct.Struct("=I")
_NEXT_HOP = struct.Struct("=HBBi")
_MAIN = 254

RouteStep = SetRoute | RemoveRoute
Failed = tuple[RouteStep, HostError]


def read_routes(sock: NetlinkSocket, table: int) -> dict[tuple[int, Prefix], Route]:
    """Return our routes in `table` by (table, prefix), both families. HostError."""
    found: dict[tuple[int, Prefix], Route] = {}
    names: dict[int, str] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for answer in _dump(sock, family, table, PROTOCOL):
            route = _decode(answer, family, table, names)
            if route is not None:
                found[table, route.prefix] = route
    return found


def read_main(sock: NetlinkSocket) -> frozenset[tuple[Prefix, str]]:
    """Return everybody's IPv4 routes in the main table, prefix and interface, several for several next hops. HostError.

    A route to a prefix that another one with a better metric hides is there too: it is what comes when that goes.
    """
    found: set[tuple[Prefix, str]] = set()
    names: dict[int, str] = {}
    for answer in _dump(sock, socket.AF_INET, _MAIN, 0):
        data = answer.data
        _, length, _, _, _, _, _, kind, _ = RTMSG.unpack_from(data, answer.start)
        address, indexes = "0.0.0.0", set[int]()  # noqa: S104 - the default route's text
        for attr, start, end in attributes(data, answer.start + RTMSG.size, answer.end):
            if attr == _DST:
                address = socket.inet_ntop(socket.AF_INET, data[start:end])
            elif attr == _OIF:
                indexes.update(_U32.unpack_from(data, start))
            elif attr == _MULTIPATH:
                indexes.update(_next_hops(data, start, end))
        if kind == _UNICAST:
            for index in indexes:
                if index not in names:
                    names[index] = _name(index)
                found.add((Prefix(f"{address}/{length}"), names[index]))
    return frozenset(found)


def _next_hops(data: bytes, start: int, end: int) -> Iterator[int]:
    """Yield the interfaces of a list of struct rtnexthop: length, flags, hops, interface; attributes follow each."""
    while start + _NEXT_HOP.size <= end:
        size, _, _, index = _NEXT_HOP.unpack_from(data, start)
        yield index
        start += max(_NEXT_HOP.size, (size + 3) & ~3)


def read_table(sock: NetlinkSocket, table: int) -> tuple[dict[tuple[int, Prefix], Route], set[tuple[int, Prefix]]]:
    """Return our routes in `table`, and where the others there lead that could take packets from them. HostError."""
    found: dict[tuple[int, Prefix], Route] = {}
    strangers: set[tuple[int, Prefix]] = set()
    names: dict[int, str] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for answer in _dump(sock, family, table, 0):
            route = _decode(answer, family, table, names)
            _, _, source_length, tos, *_ = RTMSG.unpack_from(answer.data, answer.start)
            if route is None or source_length or tos or (table, route.prefix) in found:  # twice: by another metric
                strangers.add((table, _destination(answer, family)))
            else:
                found[table, route.prefix] = route
    return found, strangers


def read_destinations(sock: NetlinkSocket, table: int) -> set[tuple[int, Prefix]]:
    """Return (table, prefix) of every route of another's table that ends a lookup there. HostError.

    Of the table `local` only what makes an address this host's own: there, broadcast and anycast take nothing else.
    """
    kind = _LOCAL if table == LOCAL_TABLE else 0
    return {
        (table, _destination(answer, family))
        for family in (socket.AF_INET, socket.AF_INET6)
        for answer in _dump(sock, family, table, 0, kind)
        if answer.data[answer.start + 7] in ({kind} if kind else _ENDS)
    }


def _destination(answer: Answer, family: int) -> Prefix:
    length = answer.data[answer.start + 1]
    for attr, start, end in attributes(answer.data, answer.start + RTMSG.size, answer.end):
        if attr == _DST:
            return Prefix(f"{socket.inet_ntop(family, answer.data[start:end])}/{length}")
    return Prefix("0.0.0.0/0" if family == socket.AF_INET else "::/0")


def _dump(sock: NetlinkSocket, family: int, table: int, protocol: int = PROTOCOL, kind: int = 0) -> list[Answer]:
    # A strict dump: the kernel itself leaves out other tables and, unless 0 is asked for, other protocols and types.
    question = RTMSG.pack(family, 0, 0, 0, 0, protocol, 0, kind, 0) + attribute_u32(RTA_TABLE, table)
    try:
        return sock.dump(message(_GET, question))
    except NetlinkError as error:
        if error.errno in (ENOENT, EAFNOSUPPORT, EOPNOTSUPP):  # no such table yet; a kernel without IPv6
            return []
        raise


def _decode(answer: Answer, family: int, table: int, names: dict[int, str]) -> Route | None:
    data = answer.data
    _, length, _, _, small_table, protocol, _, kind, _ = RTMSG.unpack_from(data, answer.start)
    address, source, mtu, index, in_table = "0.0.0.0" if family == socket.AF_INET else "::", None, None, 0, small_table  # noqa: S104 - the default route's text
    for attr, start, end in attributes(data, answer.start + RTMSG.size, answer.end):
        if attr == _DST:
            address = socket.inet_ntop(family, data[start:end])
        elif attr == _OIF:
            (index,) = _U32.unpack_from(data, start)
        elif attr == _PREFSRC:
            source = socket.inet_ntop(family, data[start:end])
        elif attr == RTA_TABLE:
            (in_table,) = _U32.unpack_from(data, start)
        elif attr == _METRICS:
            mtu = _metric_mtu(data, start, end)
    if protocol != PROTOCOL or in_table != table or kind not in (_UNICAST, _UNREACHABLE):
        return None
    if kind == _UNREACHABLE:
        return Route(table, Prefix(f"{address}/{length}"), "")  # IPv6 calls it one by `lo`
    if index not in names:
        names[index] = _name(index)
    return Route(table, Prefix(f"{address}/{length}"), names[index], source, mtu)


def _metric_mtu(data: bytes, start: int, end: int) -> int | None:
    for attr, begin, _ in attributes(data, start, end):
        if attr == _METRIC_MTU:
            return int(_U32.unpack_from(data, begin)[0])
    return None


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"#{index}"  # gone since the dump; no name of ours, so it is set again


def apply_routes(sock: NetlinkSocket, steps: Sequence[RouteStep]) -> Iterator[Failed]:
    """Carry out route steps in order; yield those that failed. Removing what is not there is no failure."""
    indexes: dict[str, int] = {}
    ready: list[tuple[RouteStep, bytes]] = []
    for step in steps:
        try:
            ready.append((step, _encode(step, indexes)))
        except OSError:
            if isinstance(step, SetRoute):
                name = step.route.interface
                yield step, HostError(f"no route {step.route.prefix}: there is no interface {name}", errno=ENODEV)
    try:
        sock.request_batch([one for _, one in ready])
    except NetlinkError as error:
        # Only the first refusal of a batch is known: each after it is sent again, alone. All are safe to repeat.
        yield from _judged(ready[error.index][0], error)
        yield from _singly(sock, ready[error.index + 1 :])


def _singly(sock: NetlinkSocket, ready: Sequence[tuple[RouteStep, bytes]]) -> Iterator[Failed]:
    for step, one in ready:
        try:
            sock.request_batch([one])
        except NetlinkError as error:
            yield from _judged(step, error)


def _judged(step: RouteStep, error: NetlinkError) -> Iterator[Failed]:
    if isinstance(step, RemoveRoute) and error.errno in (ESRCH, ENODEV, ENOENT):
        return
    verb = "set" if isinstance(step, SetRoute) else "remove"
    route = step.route
    reason = str(error).partition(": ")[2]
    source = f" from {route.source}" if route.source else ""
    way = f" by {route.interface}" if route.interface else ""
    yield (
        step,
        HostError(
            f"cannot {verb} the route {route.prefix}{way}{source} in table {route.table}: {reason}",
            errno=error.errno,
        ),
    )


def _encode(step: RouteStep, indexes: dict[str, int]) -> bytes:
    """Return the message; OSError if the interface does not exist."""
    route = step.route
    family = socket.AF_INET6 if family_of(route.prefix) == V6 else socket.AF_INET
    address, _, length = route.prefix.partition("/")
    if isinstance(step, RemoveRoute):
        # By destination, table and protocol: a route whose interface is unknown can be removed too.
        header = RTMSG.pack(family, int(length), 0, 0, 0, PROTOCOL, _SCOPE_NOWHERE, 0, 0)
        body = attribute(_DST, socket.inet_pton(family, address)) + attribute_u32(RTA_TABLE, route.table)
        return message(_DELETE, header + body)
    destination = attribute(_DST, socket.inet_pton(family, address)) + attribute_u32(RTA_TABLE, route.table)
    if not route.interface:
        header = RTMSG.pack(family, int(length), 0, 0, 0, PROTOCOL, _SCOPE_UNIVERSE, _UNREACHABLE, 0)
        return message(_NEW, header + destination, NLM_F_CREATE | NLM_F_REPLACE)
    if route.interface not in indexes:
        indexes[route.interface] = socket.if_nametoindex(route.interface)
    body = RTMSG.pack(family, int(length), 0, 0, 0, PROTOCOL, _SCOPE_LINK, _UNICAST, 0)
    body += destination + attribute_u32(_OIF, indexes[route.interface])
    if route.source is not None:
        body += attribute(_PREFSRC, socket.inet_pton(family, route.source))
    if route.mtu is not None:
        body += nested(_METRICS, attribute_u32(_METRIC_MTU, route.mtu))
    return message(_NEW, body, NLM_F_CREATE | NLM_F_REPLACE)
