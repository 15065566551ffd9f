"""The guard's counters by netlink: a look costs a millisecond, where starting nft costs eighty in the lab kernel."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from errno import ENOENT
from typing import Final

from linkseal.tunnels.guard.model import Family, Place
from linkseal.tunnels.guard.readings import Count, Flow, Readings, Spot
from linkseal.tunnels.host.nfnetlink import NETLINK_NETFILTER, NFGEN, NFT_SUBSYSTEM, text_attribute
from linkseal.wireguard.netlink import Answer, NetlinkError, NetlinkSocket
from linkseal.wireguard.nlattr import attribute_text, attributes, message

_GET_ELEMENTS, _GET_OBJECTS = 13, 19
"""NFT_MSG_GETSETELEM and NFT_MSG_GETOBJ of <linux/netfilter/nf_tables.h>; below the NFTA_… of their messages."""
_TABLE, _SET, _ELEMENTS, _OBJECT_NAME, _OBJECT_DATA = 1, 2, 3, 2, 4
_KEY, _FLAGS, _EXPRESSION, _EXPRESSIONS, _VALUE, _EXPRESSION_DATA = 1, 3, 7, 11, 1, 2
_BYTES, _PACKETS = 1, 2
_INTERVAL_END: Final = 1
_SILENT: Final = struct.pack("=HH8xHH8x", 12, _BYTES, 12, _PACKETS)
"""What a counter that has counted nothing says: thousands of peers have one each, and hardly one sends past the
tunnels."""
_COUNTER_BYTES: Final = 4 + 12 + 4 + len(_SILENT)
"""Of an expression "counter": what is shorter has none, as the ends of intervals."""
_NUMBERS: Final[dict[Family, int]] = {"inet": 1, "netdev": 5}
_SIZES: Final = {4: 4, 6: 16}
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


def read_counters(table: str, sets: Iterator[Place], families: list[Family]) -> Readings:
    """Return what the guard's tables have counted; what is not there counts nothing. HostError."""
    spots: dict[Spot, Count] = {}
    flows: dict[Flow, Count] = {}
    counters: dict[Place, Count] = {}
    with NetlinkSocket(NETLINK_NETFILTER) as sock:
        for family, name in sets:
            version = 6 if name.endswith("6") else 4
            dynamic = name.startswith(("flow", "plain"))
            for key, count in _elements(sock, family, table, name, silent=dynamic):
                address = socket.inet_ntop(_FAMILIES[version], key[: _SIZES[version]])
                if dynamic:
                    flow = Flow(name.partition("_")[2][:-1], address, *_rest(key[_SIZES[version] :]))
                    flows[flow] = flows.get(flow, Count()) + count
                elif count.packets:
                    spots[Spot(family, name, address)] = count
        for family in families:
            counters.update(_objects(sock, family, table))
    return Readings(spots, counters, flows)


def _rest(key: bytes) -> tuple[int, int]:
    """Protocol and port: each part of a concatenation is padded to four bytes."""
    port = struct.unpack_from("!H", key, 4)[0] if len(key) > 4 else 0  # noqa: PLR2004 - one part more
    return key[0], int(port)


def _dump(sock: NetlinkSocket, family: Family, kind: int, body: bytes) -> list[Answer]:
    try:
        return sock.dump(message(NFT_SUBSYSTEM << 8 | kind, NFGEN.pack(_NUMBERS[family], 0, 0) + body))
    except NetlinkError as error:
        if error.errno == ENOENT:
            return []
        raise


def _elements(
    sock: NetlinkSocket, family: Family, table: str, name: str, *, silent: bool
) -> Iterator[tuple[bytes, Count]]:
    """Yield keys and counts of a set; `silent`: those that have counted nothing too."""
    for answer in _dump(sock, family, _GET_ELEMENTS, attribute_text(_TABLE, table) + attribute_text(_SET, name)):
        data = answer.data
        for kind, start, end in attributes(data, answer.start + NFGEN.size, answer.end):
            if kind == _ELEMENTS:
                for _, begin, stop in attributes(data, start, end):
                    if stop - begin >= _COUNTER_BYTES and (silent or data.find(_SILENT, begin, stop) < 0):
                        yield from _element(data, begin, stop)


def _element(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, Count]]:
    key, count, last = b"", None, False
    for kind, begin, stop in attributes(data, start, end):
        if kind == _KEY:
            key = next((data[a:b] for part, a, b in attributes(data, begin, stop) if part == _VALUE), b"")
        elif kind == _FLAGS:
            last = bool(struct.unpack_from("!I", data, begin)[0] & _INTERVAL_END)
        elif kind == _EXPRESSION:
            count = _expression(data, begin, stop)
        elif kind == _EXPRESSIONS:
            count = next((_expression(data, a, b) for _, a, b in attributes(data, begin, stop)), None)
    if key and count is not None and not last:
        yield key, count


def _expression(data: bytes, start: int, end: int) -> Count | None:
    for kind, begin, stop in attributes(data, start, end):
        if kind == _EXPRESSION_DATA:
            return _count(data, begin, stop)
    return None


def _count(data: bytes, start: int, end: int) -> Count:
    found = dict.fromkeys((_BYTES, _PACKETS), 0)
    for kind, begin, _ in attributes(data, start, end):
        if kind in found:
            (found[kind],) = struct.unpack_from("!Q", data, begin)
    return Count(found[_PACKETS], found[_BYTES])


def _objects(sock: NetlinkSocket, family: Family, table: str) -> Iterator[tuple[Place, Count]]:
    for answer in _dump(sock, family, _GET_OBJECTS, attribute_text(_TABLE, table)):
        data, start, end = answer.data, answer.start, answer.end
        if text_attribute(data, start, end, _TABLE) != table:
            continue
        name = text_attribute(data, start, end, _OBJECT_NAME) or ""
        for kind, begin, stop in attributes(data, start + NFGEN.size, end):
            if kind == _OBJECT_DATA:
                yield (family, name), _count(data, begin, stop)
