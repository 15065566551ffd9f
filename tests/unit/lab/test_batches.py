"""Many packets by one system call, over loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from linkseal.tunnels.lab.batches import NUMBER, Incoming, Outgoing


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Where packets come out, and where they go in."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inlet,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outlet,
    ):
        inlet.bind(("127.0.0.1", 0))
        outlet.connect(inlet.getsockname())
        yield inlet, outlet


def test_all_come_in_order_with_their_times_however_little_room_there_is(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    inlet, outlet = ends
    incoming = Incoming(inlet, packets=4, size=NUMBER.size)
    before = time.time()
    Outgoing(outlet, packets=3, size=100).send(7, 20)
    got = incoming.receive()
    assert [number for number, _ in got] == list(range(7, 27))
    assert all(before - 0.001 <= at <= time.time() + 0.001 for _, at in got)
    assert incoming.receive() == []


def test_what_is_too_short_for_a_number_is_nobodys(ends: tuple[socket.socket, socket.socket]) -> None:
    inlet, outlet = ends
    incoming = Incoming(inlet, packets=4, size=NUMBER.size)
    outlet.send(b"short")
    Outgoing(outlet, packets=1, size=50).send(9, 1)
    assert [number for number, _ in incoming.receive()] == [9]


def test_packets_are_of_the_size_asked_for(ends: tuple[socket.socket, socket.socket]) -> None:
    inlet, outlet = ends
    Outgoing(outlet, packets=2, size=300).send(1, 2)
    first, second = inlet.recv(1000), inlet.recv(1000)
    assert (len(first), len(second)) == (300, 300)
    assert (NUMBER.unpack_from(first)[0], NUMBER.unpack_from(second)[0]) == (1, 2)


def test_one_that_an_error_befalls_is_left_out_and_the_rest_go_on(ends: tuple[socket.socket, socket.socket]) -> None:
    """Nobody listens: the kernel tells of it at the next packet, which is not sent. Then somebody does."""
    inlet, outlet = ends
    address = inlet.getsockname()
    inlet.close()
    outgoing = Outgoing(outlet, packets=4, size=50)
    outgoing.send(0, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        incoming = Incoming(again, packets=4, size=NUMBER.size)
        again.bind(address)
        outgoing.send(1, 3)
        assert [number for number, _ in incoming.receive()] == [2, 3]
