"""Numbered packets on several ways at once, for as long as a cluster is walked through faults.

One process sends, one receives; both write into memory that is shared with the test, which can so look at any stretch
of time while packets go on. Few system calls on purpose: each costs some 55 µs in the lab kernel.
"""

from __future__ import annotations

import contextlib
import mmap
import selectors
import signal
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from ground.namespaces import ForkedProcess, Namespace

RATE = 50
"""Packets a second on each way."""

LONGEST = 3600 * RATE
"""Packets there is room for on each way: an hour. The memory is taken only as it is written."""

UNDER_WAY = 0.4
"""Seconds a packet may be under way on a busy machine before it counts as lost."""

_NUMBER = struct.Struct("!II")


class Way(NamedTuple):
    """Where packets go: to an address of the target, on a port of its own."""

    name: str
    source: Namespace
    target: Namespace
    address: str


class Flows:
    """Packets on all ways from the beginning of the block to its end."""

    def __init__(self, ways: Sequence[Way], *, size: int = 200) -> None:
        self.ways = tuple(ways)
        self._padding = bytes(size - _NUMBER.size)
        self._memory = mmap.mmap(-1, 8 * (1 + 2 * LONGEST) * len(self.ways))
        whole, length = memoryview(self._memory), 8 * (1 + 2 * LONGEST)
        parts = [whole[at * length : (at + 1) * length] for at in range(len(self.ways))]
        self._counts = [part[:8].cast("Q") for part in parts]
        self._sent = [part[8 : 8 + 8 * LONGEST].cast("d") for part in parts]
        self._arrived = [part[8 + 8 * LONGEST :].cast("d") for part in parts]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        inlets, outlets = [], []
        with contextlib.ExitStack() as ours:
            for port, way in enumerate(self.ways, 9000):
                family = socket.AF_INET6 if ":" in way.address else socket.AF_INET
                with way.target.entered():
                    inlets.append(ours.enter_context(socket.socket(family, socket.SOCK_DGRAM)))
                with way.source.entered():
                    outlets.append(ours.enter_context(socket.socket(family, socket.SOCK_DGRAM)))
                inlets[-1].bind((way.address, port))
                outlets[-1].connect((way.address, port))
            for work in (self._receive, self._send):
                sockets = inlets if work == self._receive else outlets
                stopping: list[int] = []
                process = ForkedProcess(lambda w=work, s=sockets, e=stopping: w(s, e), stopping=stopping)
                self._stack.callback(process.forget)
                self._stack.callback(process.kill, signal.SIGTERM)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- the two processes ----------------------------------------------------------------------------------------

    def _send(self, outlets: Sequence[socket.socket], stopping: list[int]) -> None:
        number = 0
        while not stopping and number < LONGEST:
            began = time.monotonic()
            for way, outlet in enumerate(outlets):
                self._sent[way][number] = time.monotonic()
                with contextlib.suppress(OSError):  # no route, an ICMP error about an earlier one: it counts as lost
                    outlet.send(_NUMBER.pack(way, number) + self._padding, socket.MSG_DONTWAIT)
                self._counts[way][0] = number + 1
            number += 1
            time.sleep(max(0.0, began + 1 / RATE - time.monotonic()))

    def _receive(self, inlets: Sequence[socket.socket], stopping: list[int]) -> None:
        selector = selectors.DefaultSelector()
        for inlet in inlets:
            inlet.setblocking(False)  # noqa: FBT003 - the standard library's own signature
            selector.register(inlet, selectors.EVENT_READ)
        while not stopping:
            for key, _ in selector.select(0.1):
                with contextlib.suppress(OSError):
                    while packet := key.fileobj.recv(2048):  # type: ignore[union-attr]
                        way, number = _NUMBER.unpack_from(packet)
                        self._arrived[way][number] = time.monotonic()

    # --- looking --------------------------------------------------------------------------------------------------

    def lost(self, since: float, until: float) -> dict[str, list[float]]:
        """When packets were sent, within this stretch of the steady clock, that have not arrived; by way."""
        return {
            way.name: [at for at, arrived in self._stretch(number, since, until) if not arrived]
            for number, way in enumerate(self.ways)
        }

    def sent(self, since: float, until: float) -> int:
        """How many packets were sent within this stretch."""
        return sum(1 for number in range(len(self.ways)) for _ in self._stretch(number, since, until))

    def quiet(self, seconds: float) -> bool:
        """Whether packets were sent on every way in the last `seconds` (but what may be under way), and all arrived."""
        until = time.monotonic() - UNDER_WAY
        stretches = [list(self._stretch(number, until - seconds, until)) for number in range(len(self.ways))]
        return all(stretch and all(arrived for _, arrived in stretch) for stretch in stretches)

    def _stretch(self, way: int, since: float, until: float) -> Iterator[tuple[float, float]]:
        """When packets were sent and arrived (0.0: not), of those sent within a stretch; the newest first."""
        sent, arrived = self._sent[way], self._arrived[way]
        for number in range(self._counts[way][0] - 1, -1, -1):
            if sent[number] < since:
                return
            if sent[number] <= until:
                yield sent[number], arrived[number]
