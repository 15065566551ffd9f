"""Codec of `verify`: what the two ends of a session say to each other, and what is looked for on the wire. No I/O.

Control messages go inside the tunnel, host to host between the nodes' local probe addresses, by UDP:

    magic 4 | version 1 | kind 1 | session 16 | length of the name 1 | name of the sender | body

    ARM     seed 32, canaries 1            watch your underlay for what follows from this seed
    ARMED   answer 1, length 1, note       ready, busy or unable, and why
    ASK     number 1                       what have you seen so far?
    REPORT  number 1, watched 1, zero 1, lost 4, control 2, ciphertext 2, canaries 1,
            then for each: clear 2, slot 2, forwarded 2
    BYE                                    watch no more

No message contains what is looked for: both ends derive it from the seed, so that a control message is never taken for
a canary, and a peer cannot make this node search its underlay for bytes of the peer's choice. WireGuard has
authenticated the sender's address; whoever reads a message checks that it is the named node's. The parser returns None
for anything that is no message; it raises nothing.
"""

from __future__ import annotations

import re
import struct
from enum import IntEnum
from hashlib import sha256
from typing import Final, NamedTuple

from linkseal.keys.values import NODE_PATTERN
from linkseal.tunnels.model import V4, V6, Family
from linkseal.tunnels.probe.packet import header_size

SESSION_BYTES: Final = 16
SEED_BYTES: Final = 32

MARKER_BYTES: Final = 16
TAG_BYTES: Final = 16
"""A token is the session's marker and a tag of its own: 256 bits, one search a frame for all tokens of a session."""

CANARY_SIZE: Final = 576
"""Bytes of a canary and of the control, as IP packets: what every IPv4 path carries whole (RFC 791). The token is at
the end, so that an ICMP error about a canary does not contain it: it quotes 548 bytes at most (RFC 1812, 4.3.2.3)."""

CIPHERTEXT_SIZE: Final = CANARY_SIZE + 32
"""A canary as WireGuard data message: a multiple of 16 is not padded; header 16 and tag 16 (whitepaper, 5.4.6)."""

MAX_CANARIES: Final = 16
"""One for each way that is tried; bounds what a peer can make this node look for."""

MAX_COUNT: Final = 0xFFFF
MAX_LOST: Final = 0xFFFFFFFF
"""Counts stop there."""

MAX_NOTE: Final = 120
"""Bytes."""

_MAGIC: Final = b"LSVF"
_CANARY_MAGIC: Final = b"LSVC"
CONTROL_MAGIC: Final = b"LSVP"
"""Begins the payload of a control: whoever looks at the wire can tell it from plaintext that should not be there."""

_VERSION: Final = 1
_ARM, _ARMED, _ASK, _REPORT, _BYE = range(1, 6)
_HEAD: Final = struct.Struct(f"!4sBB{SESSION_BYTES}sB")
_REPORT_HEAD: Final = struct.Struct("!BBIHHB")
_SEEN: Final = struct.Struct("!HHH")
_LONGEST_NAME: Final = 253  # RFC 1123
_NAME: Final = re.compile(NODE_PATTERN[1:-1].encode())
_NOTE: Final = re.compile(rb"[\x20-\x7e]*")


class Answer(IntEnum):
    """What a node says to ARM."""

    READY = 0
    BUSY = 1
    """With others' sessions: try again."""
    UNABLE = 2
    """It has no capture; the note says why."""


class Seen(NamedTuple):
    """How often one canary was seen at an end."""

    clear: int = 0
    """In clear on the underlay: a leak."""
    slot: int = 0
    """Decrypted, at the interface of the link."""
    forwarded: int = 0
    """At the probe device, after this node forwarded it."""


class End(NamedTuple):
    """What the capture at one end has seen so far."""

    watched: int
    """Interfaces of the underlay."""
    lost: int
    """Frames the kernel had no room for, or that could not be read."""
    control: int
    ciphertext: int
    """Tunnel packets of the canaries' size between the two nodes."""
    canaries: tuple[Seen, ...]


class Arm(NamedTuple):
    """Watch."""

    session: bytes
    node: str
    seed: bytes
    canaries: int


class Armed(NamedTuple):
    """Whether it watches."""

    session: bytes
    node: str
    answer: Answer
    note: str = ""


class Ask(NamedTuple):
    """What was seen? The number ties a report to its question: only what was seen after it counts as complete."""

    session: bytes
    node: str
    number: int


class Report(NamedTuple):
    """What was seen."""

    session: bytes
    node: str
    number: int
    end: End


class Bye(NamedTuple):
    """The session is over."""

    session: bytes
    node: str


Message = Arm | Armed | Ask | Report | Bye


class Tokens(NamedTuple):
    """What is looked for on the wire in one session."""

    marker: bytes
    control: bytes
    canaries: tuple[bytes, ...]


def tokens(seed: bytes, canaries: int) -> Tokens:
    """Return what follows from a seed: all begin with the marker and are MARKER_BYTES + TAG_BYTES long."""
    marker = _derived(seed, b"marker")[:MARKER_BYTES]
    control, *others = (marker + _derived(seed, b"tag", bytes([number]))[:TAG_BYTES] for number in range(canaries + 1))
    return Tokens(marker, control, tuple(others))


def _derived(*parts: bytes) -> bytes:
    return sha256(b"linkseal verify 1\0" + b"\0".join(parts)).digest()


def canary_payload(token: bytes, family: Family) -> bytes:
    """Return the UDP payload of a canary: CANARY_SIZE bytes as IP packet, the token at its end."""
    return _padded(_CANARY_MAGIC, token, family)


def control_payload(token: bytes, family: Family) -> bytes:
    """Return the UDP payload of the control, of the same form."""
    return _padded(CONTROL_MAGIC, token, family)


def is_control(payload: bytes) -> bool:
    """Whether a UDP payload on the wire has the form of a control, and carries nothing but random bytes."""
    end = len(payload) - MARKER_BYTES - TAG_BYTES
    sizes = {CANARY_SIZE - header_size(family) for family in (V4, V6)}
    return len(payload) in sizes and payload[:end] == CONTROL_MAGIC.ljust(end, b"\0")


def _padded(magic: bytes, token: bytes, family: Family) -> bytes:
    return magic.ljust(CANARY_SIZE - header_size(family) - len(token), b"\0") + token


def encode(message: Message) -> bytes:
    """Return the UDP payload of a message. ValueError for a name or number of canaries that no reader takes."""
    match message:
        case Arm(seed=seed, canaries=canaries):
            kind, body = _ARM, seed + bytes([canaries])
        case Armed(answer=answer, note=note):
            text = note.encode("ascii", "replace")[:MAX_NOTE]
            kind, body = _ARMED, bytes([answer, len(text)]) + text
        case Ask(number=number):
            kind, body = _ASK, bytes([number])
        case Report(number=number, end=end):
            kind, body = _REPORT, bytes([number]) + _encode_end(end)
        case Bye():
            kind, body = _BYE, b""
    name = message.node.encode()
    if not 0 < len(name) <= _LONGEST_NAME:
        raise ValueError("no node name")
    return _HEAD.pack(_MAGIC, _VERSION, kind, message.session, len(name)) + name + body


def _encode_end(end: End) -> bytes:
    if len(end.canaries) > MAX_CANARIES:
        raise ValueError(f"{len(end.canaries)} canaries are too many")
    counts = (min(count, MAX_COUNT) for count in (end.control, end.ciphertext))
    lost, watched = min(end.lost, MAX_LOST), min(end.watched, 0xFF)
    head = _REPORT_HEAD.pack(watched, 0, lost, *counts, len(end.canaries))
    return head + b"".join(_SEEN.pack(*(min(count, MAX_COUNT) for count in seen)) for seen in end.canaries)


def parse(payload: bytes) -> Message | None:
    """Read a UDP payload; None unless it is exactly what `encode` makes."""
    if len(payload) < _HEAD.size:
        return None
    magic, version, kind, session, length = _HEAD.unpack_from(payload)
    name, body = payload[_HEAD.size : _HEAD.size + length], payload[_HEAD.size + length :]
    if (magic, version) != (_MAGIC, _VERSION) or len(name) != length or length > _LONGEST_NAME:
        return None
    if not _NAME.fullmatch(name):
        return None
    return _parse_body(kind, session, name.decode(), body)


def _parse_body(kind: int, session: bytes, node: str, body: bytes) -> Message | None:
    if kind == _ARM and len(body) == SEED_BYTES + 1 and 0 < body[-1] <= MAX_CANARIES:
        return Arm(session, node, body[:SEED_BYTES], body[-1])
    if kind == _ARMED:
        return _parse_armed(session, node, body)
    if kind == _ASK and len(body) == 1:
        return Ask(session, node, body[0])
    if kind == _REPORT and body:
        end = _parse_end(body[1:])
        return None if end is None else Report(session, node, body[0], end)
    if kind == _BYE and not body:
        return Bye(session, node)
    return None


def _parse_armed(session: bytes, node: str, body: bytes) -> Armed | None:
    if len(body) < 2 or len(body) != 2 + body[1] or body[1] > MAX_NOTE:  # noqa: PLR2004 - answer and length
        return None
    if body[0] not in {*Answer} or not _NOTE.fullmatch(body[2:]):
        return None
    return Armed(session, node, Answer(body[0]), body[2:].decode())


def _parse_end(body: bytes) -> End | None:
    if len(body) < _REPORT_HEAD.size:
        return None
    watched, zero, lost, control, ciphertext, count = _REPORT_HEAD.unpack_from(body)
    if zero or count > MAX_CANARIES or len(body) != _REPORT_HEAD.size + count * _SEEN.size:
        return None
    seen = tuple(Seen(*_SEEN.unpack_from(body, _REPORT_HEAD.size + n * _SEEN.size)) for n in range(count))
    return End(watched, lost, control, ciphertext, seen)
