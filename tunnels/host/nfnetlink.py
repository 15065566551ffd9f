"""The little of nfnetlink that nft's JSON leaves out: which of our tables there are, and what device a chain hooks.

nft 1.0.6 prints no device for a netdev egress chain. Reading it here also spares starting nft where there is no table.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from errno import EPROTONOSUPPORT

from linkseal.keys.errors import HostError
from linkseal.tunnels.nftables import TABLE
from linkseal.wireguard.netlink import NetlinkSocket
from linkseal.wireguard.nlattr import attributes, message

NETLINK_NETFILTER = 12
NFGEN = struct.Struct("=BBH")
"""struct nfgenmsg of <linux/netfilter/nfnetlink.h>: family, version, resource id."""

NFT_SUBSYSTEM = 10
_GET_TABLE, _GET_CHAIN, _GET_GENERATION, _GENERATION_ID = 1, 4, 16, 1
"""NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN and NFT_MSG_GETGEN with NFTA_GEN_ID."""

TABLE_NAME = 1
"""NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, NFTA_SET_ELEM_LIST_TABLE: all 1."""

_CHAIN_NAME, _CHAIN_HOOK, _HOOK_DEVICE, _HOOK_DEVICES, _DEVICE_NAME = 3, 4, 3, 4, 1
_FAMILY_NAMES = {1: "inet", 5: "netdev"}
_NETDEV = 5
"""NFPROTO_INET and NFPROTO_NETDEV."""


def our_tables(table: str = TABLE) -> list[str]:
    """Return the families in which a table of ours exists, `netdev` first; none without nftables. HostError."""
    try:
        sock = NetlinkSocket(NETLINK_NETFILTER)
    except HostError as error:
        if error.errno == EPROTONOSUPPORT:
            return []
        raise
    with sock:
        question = message(NFT_SUBSYSTEM << 8 | _GET_TABLE, NFGEN.pack(0, 0, 0))
        found = [
            _FAMILY_NAMES[answer.data[answer.start]]
            for answer in sock.dump(question)
            if answer.data[answer.start] in _FAMILY_NAMES
            and text_attribute(answer.data, answer.start, answer.end, TABLE_NAME) == table
        ]
    return sorted(found, reverse=True)


def generation() -> int | None:
    """Return the number of the namespace's ruleset, which every transaction of anybody raises. HostError.

    Not raised by an interface that goes, though a chain that hooks it goes with it. None: no nftables.
    """
    try:
        sock = NetlinkSocket(NETLINK_NETFILTER)
    except HostError as error:
        if error.errno == EPROTONOSUPPORT:
            return None
        raise
    with sock:
        for answer in sock.query(message(NFT_SUBSYSTEM << 8 | _GET_GENERATION, NFGEN.pack(0, 0, 0))):
            for kind, start, end in attributes(answer.data, answer.start + NFGEN.size, answer.end):
                if kind == _GENERATION_ID:
                    return int.from_bytes(answer.data[start:end], "big")
    return None


def hook_devices(table: str = TABLE) -> dict[str, str | None]:
    """Return the device of each chain of a netdev table of ours; None: it has lost it."""
    devices: dict[str, str | None] = {}
    with NetlinkSocket(NETLINK_NETFILTER) as sock:
        for answer in sock.dump(message(NFT_SUBSYSTEM << 8 | _GET_CHAIN, NFGEN.pack(_NETDEV, 0, 0))):
            if text_attribute(answer.data, answer.start, answer.end, TABLE_NAME) != table:
                continue
            name = text_attribute(answer.data, answer.start, answer.end, _CHAIN_NAME)
            devices[name or ""] = next(_devices(answer.data, answer.start + NFGEN.size, answer.end), None)
    return devices


def text_attribute(data: bytes, start: int, end: int, wanted: int) -> str | None:
    """Return a text attribute of the nfnetlink message at data[start:end] (from its nfgenmsg on)."""
    for kind, begin, stop in attributes(data, start + NFGEN.size, end):
        if kind == wanted:
            return data[begin:stop].rstrip(b"\0").decode(errors="replace")
    return None


def _devices(data: bytes, start: int, end: int) -> Iterator[str]:
    for kind, begin, stop in attributes(data, start, end):
        if kind != _CHAIN_HOOK:
            continue
        for part, first, last in attributes(data, begin, stop):
            if part == _HOOK_DEVICE:
                yield data[first:last].rstrip(b"\0").decode()
            elif part == _HOOK_DEVICES:
                for name, here, there in attributes(data, first, last):
                    if name == _DEVICE_NAME:
                        yield data[here:there].rstrip(b"\0").decode()
