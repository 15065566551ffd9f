"""The two programs, egress and ingress, as text for the assembler. Pure.

What they decide, for a frame on the NIC (docs/adr/0009):

    not IP                                                   next
    egress: destination / ingress: source not in the map     next
    the tunnels' own packets, neighbour discovery, exempt    next
    else                                                     drop, counted by the number found in the map

`next` is TC_ACT_UNSPEC, which is also TCX_NEXT: filters and programs of others still run. The match needs addresses
only, so that IPv4 options, IPv6 extension headers and fragments are no way past; what is let through needs more, and
where that cannot be read with certainty it is not let through.

Registers   r6 context · r7 where the IP header starts · r8 verdict · r9 where what follows it starts, later "is ours"
Stack       r10-24 destination key · r10-48 source key (maps.py) · r10-88 header read last · r10-96 source port ·
            r10-94 destination port · r10-100 index · r10-102 1: protocol and ports known, 2: a later fragment ·
            r10-103 1: neighbour discovery · r10-104 protocol
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Final, Literal

from linkseal.tunnels.redirect.assembler import Instruction, assemble

Way = Literal["out", "in"]
WAYS: Final[tuple[Way, ...]] = ("out", "in")

COUNTERS: Final = 8
"""Counters of each direction: 0 malformed, else by the verdict in the map; those of `in` come after those of `out`."""

CONTROL: Final = 4
"""Counter of what `verify` sends in clear on purpose."""

SERVED: Final = 0x20
LATER: Final = 0x40
"""Flags in the family of an exempt key: the server is at this node; for fragments that are not the first."""

PREFIX: Final = "lsl_"
"""Names of our programs and maps begin so."""


@cache
def instructions(way: Way) -> tuple[Instruction, ...]:
    """Return the program of one direction."""
    return assemble(source(way))


@cache
def name_of(way: Way) -> str:
    """Return the name it is loaded under (15 characters at most): it tells direction and version of the text."""
    return f"{PREFIX}{way}_{hashlib.sha256(source(way).encode()).hexdigest()[:7]}"


def source(way: Way) -> str:
    """Return the text of the program of one direction."""
    return _BEGIN + _links() + _ADDRESSES + (_EGRESS if way == "out" else _INGRESS) + _end(way)


def _load(where: str, length: int, to: int) -> str:
    return f"""
    r1 = r6
    r2 = {where}
    r3 = r10
    r3 += {to}
    r4 = {length}
    call skb_load_bytes
"""


def _find(name: str, key: int) -> str:
    return f"""
    r1 = map {name}
    r2 = r10
    r2 += {key}
    call map_lookup_elem
"""


_BEGIN: Final = """
    r6 = r1
""" + "".join(f"    u64 [r10{slot}] = 0\n" for slot in (-8, -16, -24, -32, -40, -48, -96, -104))


def _links() -> str:
    """Ethernet header, and up to two VLAN tags in the frame (one that is offloaded is not in the frame)."""
    text = "    r7 = 12\n"
    for tag in range(3):
        text += _load("r7", 2, -88)
        text += f"""
    if r0 s< 0 goto next
    r7 += 2
    r1 = u16 [r10-88]
    r1 = be16 r1
    if r1 == 0x0800 goto v4
    if r1 == 0x86dd goto v6
    if r1 == 0x8100 goto tag{tag}
    if r1 != 0x88a8 goto next
tag{tag}:
    r7 += 2
"""
    return text + "    goto next\n"


_ADDRESSES: Final = (
    "v4:"
    + _load("r7", 20, -88)
    + """
    if r0 s< 0 goto malformed
    u32 [r10-24] = 64               # length of a whole key: 32 bits in front, 32 of the address
    u32 [r10-48] = 64
    u8 [r10-20] = 4
    u8 [r10-44] = 4
    r1 = u32 [r10-76]
    u32 [r10-40] = r1
    r1 = u32 [r10-72]
    u32 [r10-16] = r1
    r1 = u8 [r10-79]
    u8 [r10-104] = r1
    r9 = u8 [r10-88]
    r9 &= 15
    r9 <<= 2                        # options are part of the header
    if r9 < 20 goto match
    r9 += r7
    r1 = u16 [r10-82]
    r1 = be16 r1
    r1 &= 0x1fff
    if r1 != 0 goto later
    goto ports
v6:"""
    + _load("r7", 40, -88)
    + """
    if r0 s< 0 goto malformed
    u32 [r10-24] = 160
    u32 [r10-48] = 160
    u8 [r10-20] = 6
    u8 [r10-44] = 6
    r1 = u64 [r10-80]
    u64 [r10-40] = r1
    r1 = u64 [r10-72]
    u64 [r10-32] = r1
    r1 = u64 [r10-64]
    u64 [r10-16] = r1
    r1 = u64 [r10-56]
    u64 [r10-8] = r1
    r9 = r7
    r9 += 40
    r1 = u8 [r10-82]
    if r1 == 44 goto fragment
    u8 [r10-104] = r1
    if r1 != 58 goto ports
    r1 = u8 [r10-81]                # neighbour discovery (RFC 4861): hop limit 255, types 133 to 137
    if r1 != 255 goto portless
"""
    + _load("r9", 1, -96)
    + """
    if r0 s< 0 goto portless
    r1 = u8 [r10-96]
    if r1 < 133 goto portless
    if r1 > 137 goto portless
    u8 [r10-103] = 1
    goto portless
fragment:"""
    + _load("r9", 4, -96)
    + """
    if r0 s< 0 goto match
    r1 = u8 [r10-96]
    u8 [r10-104] = r1
    r1 = u16 [r10-94]
    r1 = be16 r1
    r1 &= 0xfff8
    if r1 != 0 goto later
    r9 += 8
ports:
    r1 = u8 [r10-104]
    if r1 == 6 goto read
    if r1 == 17 goto read
    if r1 == 132 goto read          # TCP, UDP and SCTP begin with their ports
    if r1 == 1 goto portless
    if r1 != 58 goto match          # ICMP has none: exempt by protocol
portless:
    u32 [r10-96] = 0
    u8 [r10-102] = 1
    goto match
read:"""
    + _load("r9", 4, -96)
    + """
    if r0 s< 0 goto match
    u8 [r10-102] = 1
    goto match
later:
    u8 [r10-102] = 2
match:
"""
)


def _exempt(key: int, port: int, label: str, flag: int = 0) -> str:
    """Look for the server of this key by protocol and port, by protocol, by address alone; as the one or other end."""
    family, protocol = key + 4, key + 5
    return (
        f"""
    r1 = u8 [r10{family}]
    r1 |= {flag}
    u8 [r10{family}] = r1
    r2 = u8 [r10-102]
    if r2 == 1 goto {label}_ports
    if r2 != 2 goto {label}_any
    r1 |= {LATER}
    u8 [r10{family}] = r1
    r1 = u8 [r10-104]
    u8 [r10{protocol}] = r1
"""
        + _find("exempt", key)
        + f"""
    if r0 != 0 goto next
    r1 = u8 [r10{family}]
    r1 &= {0xFF ^ LATER}
    u8 [r10{family}] = r1
    u8 [r10{protocol}] = 0
    goto {label}_any
{label}_ports:
    r1 = u8 [r10-104]
    u8 [r10{protocol}] = r1
    r1 = u16 [r10{port}]
    u16 [r10{key + 6}] = r1
"""
        + _find("exempt", key)
        + f"""
    if r0 != 0 goto next
    u16 [r10{key + 6}] = 0
"""
        + _find("exempt", key)
        + f"""
    if r0 != 0 goto next
    u8 [r10{protocol}] = 0
{label}_any:
"""
        + _find("exempt", key)
        + "    if r0 != 0 goto next\n"
    )


def _verdict(name: Way, key: int) -> str:
    return (
        _find(name, key)
        + """
    if r0 == 0 goto next
    r8 = u32 [r0+0]
    if r8 == 0 goto next
"""
    )


_EGRESS: Final = (
    _verdict("out", -24)
    + _find("own", -44)
    + """
    r9 = 0
    if r0 == 0 goto discovery
    r9 = 1
    u32 [r10-100] = 0
"""
    + _find("number", -100)
    + """
    if r0 == 0 goto discovery
    r1 = u32 [r0+4]                 # the tunnels' mark: mask, then value
    if r1 == 0 goto discovery
    r2 = u32 [r6+8]
    r2 &= r1
    r1 = u32 [r0+0]
    if r2 == r1 goto next
discovery:
    r1 = u8 [r10-103]
    if r1 == 0 goto exempt
    if r9 != 0 goto next
    r1 = u16 [r10-40]
    r1 = be16 r1
    r1 &= 0xffc0
    if r1 == 0xfe80 goto next
exempt:
"""
    + _exempt(-24, -94, "to")
    + _exempt(-48, -96, "from", SERVED)
)

_INGRESS: Final = (
    _verdict("in", -48)
    + _find("own", -20)
    + """
    if r0 == 0 goto discovery
    r1 = u8 [r10-104]
    if r1 != 17 goto discovery
    r1 = u8 [r10-102]
    if r1 == 2 goto next            # nftables judges it after defragmentation
    if r1 != 1 goto discovery
    u32 [r10-100] = 1
"""
    + _find("number", -100)
    + """
    if r0 == 0 goto discovery
    r1 = u16 [r10-94]
    r1 = be16 r1
    r2 = u32 [r0+0]                 # the slots' ports: first, last
    if r1 < r2 goto discovery
    r2 = u32 [r0+4]
    if r1 <= r2 goto next
discovery:
    r1 = u8 [r10-103]
    if r1 != 0 goto next
"""
    + _exempt(-48, -96, "from")
    + _exempt(-24, -94, "to", SERVED)
    + """
    r1 = u8 [r10-104]               # what `verify` sends in clear on purpose is dropped, and no alarm
    if r1 != 17 goto drop
    r1 = u8 [r10-102]
    if r1 != 1 goto drop
    u32 [r10-100] = 2
"""
    + _find("number", -100)
    + f"""
    if r0 == 0 goto drop
    r1 = u16 [r10-94]
    r1 = be16 r1
    r2 = u32 [r0+0]
    if r1 < r2 goto drop
    r2 = u32 [r0+4]
    if r1 > r2 goto drop
    r8 = {CONTROL}
"""
)


def _end(way: Way) -> str:
    return (
        f"""
    goto drop
malformed:
    r8 = 0
drop:
    r8 += {COUNTERS * WAYS.index(way)}
    u32 [r10-100] = r8
"""
        + _find("count", -100)
        + """
    if r0 == 0 goto shot
    r1 = 1
    lock u64 [r0+0] += r1
    r1 = u32 [r6+0]
    lock u64 [r0+8] += r1
shot:
    r0 = 2
    exit
next:
    r0 = -1
    exit
"""
    )
