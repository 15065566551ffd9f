"""The netlink socket against this kernel's routing and control families, which every kernel has."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from errno import EINTR, ENODEV, ENOENT, EPERM

import pytest
from linkseal.keys.errors import HostError
from linkseal.wireguard.netlink import (
    NETLINK_GENERIC,
    NETLINK_ROUTE,
    Answer,
    NetlinkError,
    NetlinkSocket,
    attribute,
    attribute_text,
    attributes,
    family_id,
    message,
    nested,
)

IFINFO = bytes(16)
NEW_LINK, GET_LINK, IFNAME = 16, 18, 3


def test_attributes_are_padded_and_nested_as_the_kernel_wants_them() -> None:
    assert attribute(2, b"lsl00\0").hex(" ", 4) == "0a000200 6c736c30 30000000"
    assert nested(8, attribute(1, b"\x01")).hex(" ", 4) == "0c000880 05000100 01000000"
    assert message(0x1D, b"\x01\x01\0\0").hex(" ", 4) == "14000000 1d000000 00000000 00000000 01010000"


def test_an_attribute_longer_than_its_length_field_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 65531 fit"):
        attribute(1, bytes(65532))


def test_attributes_are_walked_without_their_flags() -> None:
    data = nested(8, b"abcd") + attribute(2, b"x")
    assert [(kind, data[start:end]) for kind, start, end in attributes(data, 0, len(data))] == [(8, b"abcd"), (2, b"x")]


@pytest.mark.parametrize("data", [b"\x03\0\1\0", b"\xff\xff\1\0", b"\0\0\0\0"])
def test_a_lying_attribute_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="netlink attribute at byte 0"):
        list(attributes(data, 0, len(data)))


def test_a_family_is_found_by_name() -> None:
    with NetlinkSocket(NETLINK_GENERIC) as generic:
        assert family_id(generic, "nlctrl") == 0x10


def test_an_unknown_family_is_an_error_with_its_errno() -> None:
    with NetlinkSocket(NETLINK_GENERIC) as generic, pytest.raises(NetlinkError) as caught:
        family_id(generic, "nonesuch")
    assert (caught.value.errno, caught.value.index) == (ENOENT, 0)


def test_a_dump_holds_the_loopback_and_writes_nothing() -> None:
    with NetlinkSocket(NETLINK_ROUTE) as route:
        names = [
            answer.data[start:end]
            for answer in route.dump(message(GET_LINK, IFINFO))
            for kind, start, end in attributes(answer.data, answer.start + 16, answer.end)
            if kind == IFNAME
        ]
        assert b"lo\0" in names
        assert route.writes == 0


def test_a_refused_write_names_its_place_and_counts() -> None:
    with NetlinkSocket(NETLINK_ROUTE) as route:
        absent = message(NEW_LINK, IFINFO + attribute_text(IFNAME, "nonesuch0"))
        with pytest.raises(NetlinkError) as caught:
            route.request_batch([absent, absent])
        assert caught.value.errno in (ENODEV, EPERM)
        assert caught.value.index == 0
        assert "the kernel refused message 0" in str(caught.value)
        assert route.writes == 2


def test_the_kernels_own_words_are_passed_on() -> None:
    """An attribute that `ip link show` may not have."""
    with (
        NetlinkSocket(NETLINK_ROUTE) as route,
        pytest.raises(NetlinkError, match="refused message 0") as caught,
    ):
        route.query(message(GET_LINK, IFINFO + attribute_text(IFNAME, "lo") + attribute(4, bytes(4))))
    assert "attribute" in caught.value.reason


def test_an_empty_batch_sends_nothing() -> None:
    with NetlinkSocket(NETLINK_ROUTE) as route:
        route.request_batch([])
        assert route.writes == 0


def test_no_answer_in_time_is_an_error() -> None:
    with NetlinkSocket(NETLINK_ROUTE, timeout=0.05) as route, pytest.raises(HostError, match="did not answer in time"):
        list(route._receive())


class ScriptedSocket(NetlinkSocket):
    """Answers from a list, as an interrupted dump cannot be forced on a quiet kernel."""

    def __init__(self, dumps: list[list[tuple[int, int]]]) -> None:
        super().__init__(NETLINK_ROUTE)
        self._dumps = iter(dumps)

    def _send(self, buffer: bytearray) -> None:  # noqa: ARG002 - overrides
        self._now = next(self._dumps)

    def _receive(self) -> Iterator[tuple[Answer, int, int]]:
        for kind, flags in self._now:
            data = struct.pack("=i", 0)
            yield Answer(kind, data, 0, 4), self._sequence, flags


DONE, LINK, INTERRUPTED = 3, 16, 0x10


@pytest.mark.parametrize("where", [0, 1, 2])
def test_an_interrupted_dump_is_taken_again(where: int) -> None:
    kinds = [LINK, LINK, DONE]
    broken = [(kind, INTERRUPTED if place == where else 0) for place, kind in enumerate(kinds)]
    with ScriptedSocket([broken, [(LINK, 0), (DONE, 0)]]) as route:
        assert len(route.dump(message(GET_LINK, IFINFO))) == 1


def test_a_dump_that_is_always_interrupted_ends_with_an_error() -> None:
    with ScriptedSocket([[(DONE, INTERRUPTED)]] * 10) as route, pytest.raises(HostError) as caught:
        route.dump(message(GET_LINK, IFINFO))
    assert caught.value.errno == EINTR
