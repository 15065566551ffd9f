"""The little of tc that is needed: the clsact qdisc and its filters, by netlink.

tcmsg   u8 family | 3 pad | i32 interface | u32 handle | u32 parent | u32 preference << 16 | protocol    (20 bytes)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from errno import EEXIST, EINVAL, ENOENT
from socket import htons
from typing import Final, NamedTuple

from linkseal.keys.errors import HostError
from linkseal.tunnels.redirect.program import Way
from linkseal.wireguard.netlink import NLM_F_CREATE, NLM_F_EXCL, Answer, NetlinkError, NetlinkSocket
from linkseal.wireguard.nlattr import attribute_text, attribute_u32, attributes, message, nested

_TCMSG: Final = struct.Struct("=BxxxiIII")
_NEW_QDISC, _GET_QDISC, _NEW_FILTER, _DEL_FILTER, _GET_FILTER = 36, 38, 44, 45, 46
_KIND, _OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_ID, _DIRECT_ACTION = 6, 7, 8, 11, 1
"""<linux/rtnetlink.h> and <linux/pkt_cls.h>."""

CLSACT: Final = 0xFFFFFFF1
"""TC_H_CLSACT, which is TC_H_INGRESS too."""

_CLSACT_HANDLE: Final = 0xFFFF0000
PARENTS: Final[dict[Way, int]] = {"in": 0xFFFFFFF2, "out": 0xFFFFFFF3}
"""Major number of clsact with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS."""

CLSACT_PARENTS: Final = frozenset({CLSACT, *PARENTS.values()})
"""Parents of the qdisc itself and of its filters."""

_ALL_PROTOCOLS: Final = htons(0x0003)
"""ETH_P_ALL."""


class Filter(NamedTuple):
    """A filter at a clsact hook; `program` is the number of its eBPF program, 0: it is none of eBPF's."""

    preference: int
    protocol: int
    handle: int
    kind: str
    name: str
    program: int


def add_clsact(sock: NetlinkSocket, index: int) -> bool:
    """Give an interface its clsact qdisc; False: it has one. HostError, also where it has `ingress` instead.

    The kernel stops the interface for that (qdisc_graft of net/sched/sch_api.c) and drops what is sent in these few
    milliseconds; so it does to remove it. So it is done once, and never undone.
    """
    have = qdisc_kind(sock, index)
    if have == "clsact":
        return False
    body = _TCMSG.pack(0, index, _CLSACT_HANDLE, CLSACT, 0) + attribute_text(_KIND, "clsact")
    try:
        sock.request_batch([message(_NEW_QDISC, body, NLM_F_CREATE | NLM_F_EXCL)])
    except NetlinkError as error:
        if error.errno == EEXIST:
            return False
        reason = str(error).partition(": ")[2]
        there = f" beside the qdisc {have} of somebody else" if have else ""
        raise HostError(f"cannot add a clsact qdisc{there}: {reason}", errno=error.errno) from None
    return True


def qdisc_kind(sock: NetlinkSocket, index: int) -> str:
    """Return `clsact`, `ingress`, or "" where an interface has neither. HostError."""
    for answer in sock.dump(message(_GET_QDISC, _TCMSG.pack(0, index, 0, 0, 0))):
        _, at, _, parent, _ = _TCMSG.unpack_from(answer.data, answer.start)
        if at == index and parent == CLSACT:
            return _text(answer, _KIND)
    return ""


def clsact_interfaces(sock: NetlinkSocket) -> set[int]:
    """Return the numbers of all interfaces that have a clsact (or ingress) qdisc. HostError."""
    found = set()
    for answer in sock.dump(message(_GET_QDISC, _TCMSG.pack(0, 0, 0, 0, 0))):
        _, index, _, parent, _ = _TCMSG.unpack_from(answer.data, answer.start)
        if parent == CLSACT:
            found.add(index)
    return found


def filters(sock: NetlinkSocket, index: int, way: Way) -> list[Filter]:
    """Return the filters of one direction in the order in which they are asked. HostError."""
    try:
        answers = sock.dump(message(_GET_FILTER, _TCMSG.pack(0, index, 0, PARENTS[way], 0)))
    except NetlinkError as error:
        if error.errno in (EINVAL, ENOENT):  # no clsact there
            return []
        raise
    return [one for answer in answers if (one := _filter(answer)) is not None]


def add_filter(sock: NetlinkSocket, index: int, way: Way, preference: int, handle: int, name: str, fd: int) -> None:
    """Add an eBPF filter in direct-action mode, before others of the same preference. HostError."""
    options = attribute_u32(_BPF_FD, fd) + attribute_text(_BPF_NAME, name) + attribute_u32(_BPF_FLAGS, _DIRECT_ACTION)
    header = _TCMSG.pack(0, index, handle, PARENTS[way], preference << 16 | _ALL_PROTOCOLS)
    body = header + attribute_text(_KIND, "bpf") + nested(_OPTIONS, options)
    sock.request_batch([message(_NEW_FILTER, body, NLM_F_CREATE | NLM_F_EXCL)])


def remove_filter(sock: NetlinkSocket, index: int, way: Way, one: Filter) -> None:
    """Remove a filter; absent is fine. HostError."""
    header = _TCMSG.pack(0, index, one.handle, PARENTS[way], one.preference << 16 | one.protocol)
    try:
        sock.request_batch([message(_DEL_FILTER, header + attribute_text(_KIND, one.kind))])
    except NetlinkError as error:
        if error.errno not in (ENOENT, EINVAL):
            raise


def parent_of(data: bytes, start: int) -> int:
    """Return the parent that a message about a qdisc or filter names."""
    return int(_TCMSG.unpack_from(data, start)[3])


def _filter(answer: Answer) -> Filter | None:
    _, _, handle, _, info = _TCMSG.unpack_from(answer.data, answer.start)
    if not handle:
        return None  # the head of a preference, before its filters
    name, program = "", 0
    for kind, start, end in _options(answer):
        if kind == _BPF_NAME:
            name = answer.data[start:end].rstrip(b"\0").decode(errors="replace")
        elif kind == _BPF_ID:
            (program,) = struct.unpack_from("=I", answer.data, start)
    kind_name = _text(answer, _KIND)
    if kind_name != "bpf":
        name, program = "", 0
    return Filter(info >> 16, info & 0xFFFF, handle, kind_name, name, program)


def _options(answer: Answer) -> Iterator[tuple[int, int, int]]:
    for kind, start, end in attributes(answer.data, answer.start + _TCMSG.size, answer.end):
        if kind == _OPTIONS:
            yield from attributes(answer.data, start, end)


def _text(answer: Answer, wanted: int) -> str:
    for kind, start, end in attributes(answer.data, answer.start + _TCMSG.size, answer.end):
        if kind == wanted:
            return answer.data[start:end].rstrip(b"\0").decode(errors="replace")
    return ""
