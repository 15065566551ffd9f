"""Netlink messages and attributes as bytes, both ways; no I/O.

    nlmsghdr    u32 length | u16 type | u16 flags | u32 sequence | u32 port     native byte order
    attribute   u16 length | u16 type (| NESTED) | payload | padding to 4

Parsing walks offsets of one `bytes` object and slices nothing: a dump of 5,000 peers holds about 100,000 attributes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr of <linux/netlink.h>; 16 bytes."""

ATTRIBUTE = struct.Struct("=HH")
"""struct nlattr of <linux/netlink.h>; 4 bytes."""

NESTED = 0x8000
TYPE_MASK = 0x3FFF
"""NLA_F_NESTED and NLA_TYPE_MASK of <linux/netlink.h>."""

MAX_ATTRIBUTE = 0xFFFF
"""An attribute's length is a u16: what is longer must be split by the sender."""

_U8, _U16, _U32 = struct.Struct("=B"), struct.Struct("=H"), struct.Struct("=I")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded. ValueError where the payload does not fit the u16 length."""
    length = len(payload) + 4
    if length > MAX_ATTRIBUTE:
        raise ValueError(f"netlink attribute {kind} of {len(payload)} bytes: at most {MAX_ATTRIBUTE - 4} fit")
    if length & 3:
        return ATTRIBUTE.pack(length, kind) + payload + _PADDING[length & 3]
    return ATTRIBUTE.pack(length, kind) + payload


def nested(kind: int, payload: bytes) -> bytes:
    """Return an attribute whose payload is attributes."""
    return attribute(kind | NESTED, payload)


def attribute_u8(kind: int, value: int) -> bytes:
    """Return an attribute of one byte."""
    return attribute(kind, _U8.pack(value))


def attribute_u16(kind: int, value: int) -> bytes:
    """Return an attribute of two bytes, native order."""
    return attribute(kind, _U16.pack(value))


def attribute_u32(kind: int, value: int) -> bytes:
    """Return an attribute of four bytes, native order."""
    return attribute(kind, _U32.pack(value))


def attribute_text(kind: int, value: str) -> bytes:
    """Return an attribute that is a NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    """Return one message; `NetlinkSocket` fills in sequence number and the flags of its way of sending."""
    padding = _PADDING[len(body) & 3]
    return HEADER.pack(HEADER.size + len(body), kind, flags, 0, 0) + body + padding


def attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (type, payload start, payload end) of the attributes in data[start:end]; ValueError where one is cut."""
    unpack = ATTRIBUTE.unpack_from
    while start + 4 <= end:
        length, kind = unpack(data, start)
        stop = start + length
        if length < ATTRIBUTE.size or stop > end:
            raise ValueError(f"netlink attribute at byte {start} says {length} bytes, {end - start} are left")
        yield kind & TYPE_MASK, start + 4, stop
        start += (length + 3) & ~3
