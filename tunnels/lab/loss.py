"""Numbered packets from one place to another: how many are lost while something is done to the cluster.

Few system calls on purpose: each costs some 10 µs in the lab kernel, where all namespaces share one CPU.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from linkseal.tunnels.lab.forked import ForkedProcess
from linkseal.tunnels.lab.namespaces import Namespace

TICK_SECONDS = 0.01
"""Packets go out in a burst each tick: the lab kernel's clock has no finer one."""

GRACE_SECONDS = 0.5
"""How long packets may be under way after the last was sent."""

_NUMBER = struct.Struct("!Q")

_SO_RCVBUFFORCE = 33
"""include/uapi/asm-generic/socket.h: SO_RCVBUF without the limit of net.core.rmem_max, 0.2 s of packets."""
_BUFFER = 1 << 23
"""Bytes: ten seconds of packets, so that a receiver without CPU loses none; that would be blamed on the tunnels."""

_WAIT = struct.pack("@ll", 0, 100_000)
"""A timeval: the receiver looks ten times a second whether it should stop. In the kernel, so it costs no call."""


class LostPacket(NamedTuple):
    """One that did not arrive."""

    number: int
    at: float
    """Seconds since the probe began."""


@dataclass
class Loss:
    """What became of numbered packets."""

    sent: int = 0
    seconds: float = 0.0
    """How long packets were sent."""
    received: int = 0
    lost: list[LostPacket] = field(default_factory=list)
    reordered: int = 0
    longest_gap: float = 0.0
    """Longest silence at the receiver between two packets, seconds."""

    def __str__(self) -> str:
        first = f", the first at {self.lost[0].at:.2f} s" if self.lost else ""
        return (
            f"{len(self.lost)} of {self.sent} lost{first}, {self.reordered} reordered, "
            f"longest gap {self.longest_gap * 1000:.0f} ms"
        )


@contextlib.contextmanager
def loss_probe(
    source: Namespace, target: Namespace, address: str, *, pps: int = 1000, size: int = 200, port: int = 9000
) -> Iterator[Loss]:
    """Send numbered UDP packets while in the block; the yielded `Loss` is filled when it ends.

    `address` is the target's; `size` is the payload in bytes.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with target.entered():
        inlet = socket.socket(family, socket.SOCK_DGRAM)
    with source.entered():
        outlet = socket.socket(family, socket.SOCK_DGRAM)
    loss = Loss()
    with inlet, outlet:
        inlet.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        inlet.bind((address, port))
        outlet.connect((address, port))
        inlet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _WAIT)
        heard_enough: list[int] = []
        receiver = ForkedProcess(lambda: _receive(inlet, heard_enough), stopping=heard_enough)
        sent_enough: list[int] = []
        sender = ForkedProcess(lambda: _send(outlet, pps, size, sent_enough), stopping=sent_enough)
    try:
        yield loss
        sender.kill(signal.SIGTERM)
        ticks = sender.result()
        time.sleep(GRACE_SECONDS)
        receiver.kill(signal.SIGTERM)
        _judge(loss, ticks, receiver.result())
    finally:
        sender.forget()
        receiver.forget()


def _send(outlet: socket.socket, pps: int, size: int, stopping: list[int]) -> list[tuple[int, float]]:
    """Send until `stopping` is filled; (first number, time) of each tick, at the end (how many were sent, time)."""
    padding = bytes(max(0, size - _NUMBER.size))
    began = time.monotonic()
    number, ticks = 0, []
    while not stopping:
        now = time.monotonic()
        ticks.append((number, now))
        due = int((now - began + TICK_SECONDS) * pps)
        if due - number > pps // 2:  # half a second without the CPU: catching up would be a flood
            began += (due - number) / pps
            due = number
        while number < due:
            with contextlib.suppress(OSError):  # an ICMP error about an earlier packet; this one counts as lost
                outlet.send(_NUMBER.pack(number) + padding)
            number += 1
        time.sleep(max(0.0, now + TICK_SECONDS - time.monotonic()))
    return [*ticks, (number, time.monotonic())]


def _receive(inlet: socket.socket, stopping: list[int]) -> list[tuple[int, float]]:
    """Number and time of each packet in the order of arrival, until `stopping` is filled."""
    seen: list[tuple[int, float]] = []
    while not stopping:
        with contextlib.suppress(BlockingIOError):
            packet = inlet.recv(65535)
            seen.append((_NUMBER.unpack_from(packet)[0], time.monotonic()))
    return seen


def _judge(loss: Loss, ticks: list[tuple[int, float]], seen: list[tuple[int, float]]) -> None:
    began = ticks[0][1]
    loss.sent = ticks[-1][0]
    loss.seconds = ticks[-1][1] - began
    arrived = {number for number, _ in seen}
    loss.received = len(arrived)
    at = 0
    for number in range(loss.sent):
        while at + 1 < len(ticks) and ticks[at + 1][0] <= number:
            at += 1
        if number not in arrived:
            loss.lost.append(LostPacket(number, ticks[at][1] - began))
    loss.reordered = sum(1 for (a, _), (b, _) in itertools.pairwise(seen) if b < a)
    times = [began, *(at for _, at in seen), ticks[-1][1]]
    loss.longest_gap = max((b - a for a, b in itertools.pairwise(times)), default=0.0)
