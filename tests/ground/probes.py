"""Watch traffic while something is done to the cluster: numbered packets, and long-lived TCP connections.

Few system calls on purpose: each costs some 55 µs in the lab kernel, where all namespaces share one CPU.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ground.namespaces import ForkedProcess, Namespace
from linkseal.tunnels.lab.loss import Flow, Loss, LostPacket, loss_probe, loss_probes

__all__ = [
    "Connections",
    "Flow",
    "Loss",
    "LostPacket",
    "echo_server",
    "loss_probe",
    "loss_probes",
    "tcp_probe",
    "who_am_i",
]

ECHO_PATIENCE_SECONDS = 5.0
"""An unanswered connection counts as dead after this; TCP sends again after 0.2, 0.4, 0.8 … s."""


@dataclass
class Connections:
    """What became of long-lived TCP connections."""

    opened: int = 0
    alive: int = 0
    """Answered an echo after the block had ended."""
    reset: int = 0
    """Ended by the other side, or by an error."""
    slowest_echo: float = 0.0
    """Seconds."""

    def __str__(self) -> str:
        return (
            f"{self.alive} of {self.opened} alive, {self.reset} reset, slowest echo {self.slowest_echo * 1000:.0f} ms"
        )


@contextlib.contextmanager
def tcp_probe(
    client: Namespace, address: str, port: int, *, connections: int = 20, interval: float = 0.1
) -> Iterator[Connections]:
    """Hold TCP connections to an echo service open while in the block, a message on each every `interval` seconds.

    The yielded `Connections` is filled when the block ends. All connections stand before the block begins.
    """
    seen = Connections()
    with client.entered():
        sockets = [socket.create_connection((address, port), timeout=10) for _ in range(connections)]
    seen.opened = len(sockets)
    stopping: list[int] = []
    process = ForkedProcess(lambda: _hold(sockets, interval, stopping), stopping=stopping)
    for sock in sockets:
        sock.close()
    try:
        yield seen
        process.kill(signal.SIGTERM)
        seen.alive, seen.reset, seen.slowest_echo = process.result()
    finally:
        process.forget()


def _hold(sockets: Sequence[socket.socket], interval: float, stopping: list[int]) -> tuple[int, int, float]:
    """Echo on all connections until `stopping` is filled, then once more; (alive, reset, slowest echo)."""
    living, slowest, resets = {sock.fileno(): sock for sock in sockets}, 0.0, 0
    waiting: dict[int, float] = {}
    poll = select.poll()
    for sock in sockets:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        poll.register(sock, select.POLLIN)
    last_round = False
    while living:
        began = time.monotonic()
        if stopping and not waiting:
            last_round = True
        resets += _say_something(living, waiting, poll)
        patience = ECHO_PATIENCE_SECONDS if stopping else interval
        while waiting and time.monotonic() - began < patience:
            broken, slow = _hear(living, waiting, poll, max(0.0, began + patience - time.monotonic()))
            resets, slowest = resets + broken, max(slowest, slow)
        if last_round or (stopping and waiting):
            break
        time.sleep(max(0.0, began + interval - time.monotonic()))
    unanswered = [time.monotonic() - since for since in waiting.values()]
    return len(living) - len(waiting), resets, max([slowest, *unanswered])


def _say_something(living: dict[int, socket.socket], waiting: dict[int, float], poll: select.poll) -> int:
    """Send eight bytes on each connection that owes no answer; return how many turned out broken."""
    broken = 0
    for number, sock in list(living.items()):
        if number not in waiting:
            try:
                sock.send(b"linkseal")
                waiting[number] = time.monotonic()
            except OSError:
                broken += _bury(number, living, waiting, poll)
    return broken


def _hear(
    living: dict[int, socket.socket], waiting: dict[int, float], poll: select.poll, seconds: float
) -> tuple[int, float]:
    """Take what answers there are; return how many connections broke and the slowest answer."""
    broken, slowest = 0, 0.0
    for number, _ in poll.poll(seconds * 1000):
        try:
            answer = living[number].recv(4096)
        except OSError:
            answer = b""
        if not answer:
            broken += _bury(number, living, waiting, poll)
        elif number in waiting:
            slowest = max(slowest, time.monotonic() - waiting.pop(number))
    return broken, slowest


def _bury(number: int, living: dict[int, socket.socket], waiting: dict[int, float], poll: select.poll) -> int:
    poll.unregister(number)
    living.pop(number).close()
    waiting.pop(number, None)
    return 1


@contextlib.contextmanager
def echo_server(where: Namespace, address: str, port: int = 8080) -> Iterator[None]:
    """Answer every TCP byte with itself, and every new connection's first line `who` with the client's address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with where.entered():
        listener = socket.create_server((address, port), family=family, backlog=256)
    with listener:
        process = ForkedProcess(lambda: _echo(listener))
    try:
        yield
    finally:
        process.forget()


def _echo(listener: socket.socket) -> None:
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                selector.register(connection, selectors.EVENT_READ)
                continue
            connection = key.fileobj  # type: ignore[assignment]
            try:
                data = connection.recv(65536)
                if data == b"who\n":
                    data = connection.getpeername()[0].encode()
                connection.sendall(data)
            except OSError:
                data = b""
            if not data:
                selector.unregister(connection)
                connection.close()


def who_am_i(client: Namespace, address: str, port: int, *, timeout: float = 5) -> str:
    """The address an `echo_server` sees for a connection of this client; OSError if there is no answer."""
    with client.entered(), socket.create_connection((address, port), timeout=timeout) as connection:
        connection.sendall(b"who\n")
        return connection.recv(100).decode()
