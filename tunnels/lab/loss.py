"""Numbered packets from one place to another: how many are lost while something is done to the cluster.

One process sends and one receives, however many flows there are, with few system calls: each costs some 55 µs in the
lab kernel, where all namespaces share one CPU.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from linkseal.tunnels.lab.batches import NUMBER, Incoming, Outgoing
from linkseal.tunnels.lab.forked import ForkedProcess
from linkseal.tunnels.lab.namespaces import Namespace

TICK_SECONDS = 0.01
"""Packets go out in a burst each tick: the lab kernel's clock has no finer one."""

GRACE_SECONDS = 0.5
"""How long packets may be under way after the last was sent."""

_LOOK_SECONDS = 0.2
"""How often the receiver takes what came; the kernel noted when."""

_PACKETS_AT_ONCE = 256

_SO_RCVBUFFORCE = 33
"""include/uapi/asm-generic/socket.h: SO_RCVBUF without the limit of net.core.rmem_max, 0.2 s of packets."""
_SO_SNDBUFFORCE = 32
"""Likewise of SO_SNDBUF: a flow whose packets wait somewhere must not hold up the others, which one process sends."""
_BUFFER = 1 << 23
"""Bytes: ten seconds of packets, so that a receiver without CPU loses none; that would be blamed on the tunnels."""


class Flow(NamedTuple):
    """Packets to send: `size` is the payload in bytes, `address` the target's, `pps` packets a second."""

    source: Namespace
    target: Namespace
    address: str
    pps: int = 1000
    size: int = 200
    port: int = 9000


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
    """Longest silence at the receiver between two packets, seconds; wrong where the host's clock was set meanwhile."""

    def __str__(self) -> str:
        first = f", the first at {self.lost[0].at:.2f} s" if self.lost else ""
        return (
            f"{len(self.lost)} of {self.sent} lost{first}, {self.reordered} reordered, "
            f"longest gap {self.longest_gap * 1000:.0f} ms"
        )


class _Sent(NamedTuple):
    """Number of the first packet of each burst, at the end how many there were; when (steady clock). Begins at 0."""

    firsts: array[int]
    times: array[float]


class _Arrived(NamedTuple):
    """Number and time (steady clock) of each packet in the order of arrival."""

    numbers: array[int]
    times: array[float]


@contextlib.contextmanager
def loss_probe(
    source: Namespace, target: Namespace, address: str, *, pps: int = 1000, size: int = 200, port: int = 9000
) -> Iterator[Loss]:
    """Send numbered UDP packets while in the block; the yielded `Loss` is filled when it ends."""
    with loss_probes([Flow(source, target, address, pps, size, port)]) as (loss,):
        yield loss


@contextlib.contextmanager
def loss_probes(flows: Sequence[Flow]) -> Iterator[list[Loss]]:
    """Send numbered UDP packets on all flows while in the block; the yielded losses are filled when it ends."""
    losses = [Loss() for _ in flows]
    with contextlib.ExitStack() as ours:
        ends = [_ends(flow, ours) for flow in flows]
        heard_enough: list[int] = []
        receiver = ForkedProcess(lambda: _receive([inlet for inlet, _ in ends], heard_enough), stopping=heard_enough)
        sent_enough: list[int] = []
        sender = ForkedProcess(lambda: _send(flows, [outlet for _, outlet in ends], sent_enough), stopping=sent_enough)
    try:
        yield losses
        sender.kill(signal.SIGTERM)
        sent = sender.result()
        time.sleep(GRACE_SECONDS)
        receiver.kill(signal.SIGTERM)
        for loss, went, came in zip(losses, sent, receiver.result(), strict=True):
            _judge(loss, went, came)
    finally:
        sender.forget()
        receiver.forget()


def _ends(flow: Flow, stack: contextlib.ExitStack) -> tuple[Incoming, socket.socket]:
    """Where a flow comes out and where it goes in; their sockets are closed with the stack."""
    family = socket.AF_INET6 if ":" in flow.address else socket.AF_INET
    with flow.target.entered():
        inlet = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    with flow.source.entered():
        outlet = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    inlet.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    outlet.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
    incoming = Incoming(inlet, packets=_PACKETS_AT_ONCE, size=NUMBER.size)  # the rest is cut off
    inlet.bind((flow.address, flow.port))
    outlet.connect((flow.address, flow.port))
    return incoming, outlet


def _send(flows: Sequence[Flow], outlets: Sequence[socket.socket], stopping: list[int]) -> list[_Sent]:
    """Send on all flows until `stopping` is filled."""
    began = time.monotonic()
    senders = [_Sender(flow, outlet, began) for flow, outlet in zip(flows, outlets, strict=True)]
    while not stopping:
        now = time.monotonic()
        for sender in senders:
            sender.send(now)
        time.sleep(max(0.0, now + TICK_SECONDS - time.monotonic()))
    return [sender.ended(time.monotonic()) for sender in senders]


class _Sender:
    """One flow's sender."""

    def __init__(self, flow: Flow, outlet: socket.socket, began: float) -> None:
        self._pps = flow.pps
        self._batch = Outgoing(outlet, packets=min(_PACKETS_AT_ONCE, flow.pps), size=max(NUMBER.size, flow.size))
        self._began = began
        self._number = 0
        self._sent = _Sent(array("Q", [0]), array("d", [began]))

    def send(self, now: float) -> None:
        """Send what is due."""
        due = int((now - self._began + TICK_SECONDS) * self._pps)
        if due - self._number > max(self._pps // 2, 1):  # half a second without CPU: catching up would be a flood
            self._began += (due - self._number) / self._pps
            due = self._number
        if due > self._number:
            self._sent.firsts.append(self._number)
            self._sent.times.append(now)
            self._batch.send(self._number, due - self._number)
            self._number = due

    def ended(self, now: float) -> _Sent:
        """All that was sent."""
        self._sent.firsts.append(self._number)
        self._sent.times.append(now)
        return self._sent


def _receive(inlets: Sequence[Incoming], stopping: list[int]) -> list[_Arrived]:
    """Take what comes on all flows until `stopping` is filled."""
    arrived = [_Arrived(array("Q"), array("d")) for _ in inlets]
    while True:
        last = bool(stopping)
        behind = time.time() - time.monotonic()
        for inlet, seen in zip(inlets, arrived, strict=True):
            for number, at in inlet.receive():
                seen.numbers.append(number)
                seen.times.append(at - behind)
        if last:
            return arrived
        time.sleep(_LOOK_SECONDS)


def _judge(loss: Loss, sent: _Sent, arrived: _Arrived) -> None:
    began, ended = sent.times[0], sent.times[-1]
    loss.sent = sent.firsts[-1]
    loss.seconds = ended - began
    came = set(arrived.numbers)
    loss.received = len(came)
    for number in sorted(set(range(loss.sent)) - came):
        loss.lost.append(LostPacket(number, sent.times[bisect_right(sent.firsts, number) - 1] - began))
    loss.reordered = sum(1 for a, b in itertools.pairwise(arrived.numbers) if b < a)
    times = [began, *arrived.times, ended]
    loss.longest_gap = max(b - a for a, b in itertools.pairwise(times))
