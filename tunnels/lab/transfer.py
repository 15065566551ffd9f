"""Traffic that can be recognised: a sentence and a file from one pod to another, and what a frame looks like."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from linkseal.tunnels.lab.namespaces import Namespace

MARKER: Final = b"nobody on the wire may read this"
"""In every line of the file."""

PORT: Final = 7000

_SECONDS: Final = 20.0
"""Past this a transfer hangs."""

_WIDTH: Final = 16


@dataclass(frozen=True, slots=True)
class Copied:
    """A file that was copied: what arrived, and how long it took."""

    size: int
    whole: bool
    """The checksum of what arrived is that of what was sent."""
    seconds: float


def say(source: Namespace, target: Namespace, address: str, sentence: bytes) -> bool:
    """Send one datagram; whether it arrived."""
    family = _family(address)
    with target.entered():
        inlet = socket.socket(family, socket.SOCK_DGRAM)
    with source.entered():
        outlet = socket.socket(family, socket.SOCK_DGRAM)
    with inlet, outlet:
        inlet.settimeout(2)
        inlet.bind((address, PORT))
        for _ in range(3):  # the first may wait for ARP in vain
            outlet.sendto(sentence, (address, PORT))
            try:
                return inlet.recv(65535) == sentence
            except TimeoutError:
                continue
    return False


def lines_of_text(size: int) -> bytes:
    """Return `size` bytes of numbered lines, each with MARKER."""
    each = len(_line(0))
    return b"".join(_line(number) for number in range(size // each + 1))[:size]


def _line(number: int) -> bytes:
    return b"line %09d: " % number + MARKER + b"\n"


def copy(source: Namespace, target: Namespace, address: str, data: bytes) -> Copied:
    """Copy `data` over TCP from one place to another. HostError if it does not get through."""
    family = _family(address)
    with target.entered():
        listener = socket.create_server((address, PORT), family=family)
    with source.entered():
        outlet = socket.socket(family, socket.SOCK_STREAM)
    with listener, outlet:
        began = time.monotonic()
        receiver = target.fork(_receive, listener, private=())
        sender = source.fork(_send, outlet, address, data, private=())
        try:
            sender.result(_SECONDS)
            digest, size = receiver.result(_SECONDS)
        finally:
            sender.forget()
            receiver.forget()
    return Copied(size, digest == hashlib.sha256(data).hexdigest(), time.monotonic() - began)


def _send(outlet: socket.socket, address: str, data: bytes) -> None:
    outlet.settimeout(_SECONDS)
    outlet.connect((address, PORT))
    outlet.sendall(data)
    outlet.shutdown(socket.SHUT_WR)  # the parent has this socket too: closing it here would end nothing


def _receive(listener: socket.socket) -> tuple[str, int]:
    listener.settimeout(_SECONDS)
    connection, _ = listener.accept()
    connection.settimeout(_SECONDS)
    digest, size = hashlib.sha256(), 0
    with connection:
        while piece := connection.recv(1 << 16):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


def hexdump(data: bytes, part: bytes) -> Iterator[str]:
    """Yield the lines of a hexdump of `data` that show `part`."""
    start = data.find(part)
    if start < 0:
        return
    for at in range(start - start % _WIDTH, start + len(part), _WIDTH):
        row = data[at : at + _WIDTH]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)  # noqa: PLR2004 - printable ASCII
        yield f"{at:04x}  {row.hex(' '):<{3 * _WIDTH}} {shown}"


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
