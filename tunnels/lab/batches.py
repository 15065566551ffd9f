"""Many UDP packets by one system call: sendmmsg(2) and recvmmsg(2).

Python has neither. In the lab kernel a system call takes some 55 µs, so that one for each packet of a dozen flows would
be most of what its CPU does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)

_SO_TIMESTAMPNS = 35
"""include/uapi/asm-generic/socket.h: SO_TIMESTAMPNS_OLD, a timespec of the host's clock with each packet."""

_TIMESPEC = struct.Struct("@ll")
_CONTROL_BYTES = 32
"""CMSG_SPACE of a timespec: 16 bytes of header (cmsg(3)) and 16 of data."""

_CONTROL_HEADER_BYTES = 16

NUMBER = struct.Struct("!Q")
"""How a packet begins: with its number."""


class _Buffer(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """`struct msghdr` (sendmsg(2))."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("buffer_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """`struct mmsghdr` (sendmmsg(2))."""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


class _Batch:
    """Room for so many packets of `size` bytes at a time."""

    def __init__(self, sock: socket.socket, *, packets: int, size: int) -> None:
        self._sock = sock
        self._size = size
        self._data = bytearray(packets * size)
        data = ctypes.addressof(ctypes.c_char.from_buffer(self._data))
        self._buffers = (_Buffer * packets)(*[_Buffer(data + number * size, size) for number in range(packets)])
        self._messages = (_Message * packets)()
        for number, message in enumerate(self._messages):
            message.header.buffers = ctypes.pointer(self._buffers[number])
            message.header.buffer_count = 1


class Outgoing(_Batch):
    """For a connected socket."""

    def send(self, first: int, count: int) -> None:
        """Send packets numbered from `first`.

        One that an error befalls is left out: no route, say, or an ICMP error about an earlier one, which the kernel
        tells at the next.
        """
        while count > 0:
            batch = min(count, len(self._messages))
            for at in range(batch):
                NUMBER.pack_into(self._data, at * self._size, first + at)
            self._send_all(batch)
            first, count = first + batch, count - batch

    def _send_all(self, packets: int) -> None:
        done = 0
        while done < packets:
            rest = ctypes.byref(self._messages, done * ctypes.sizeof(_Message))
            sent = _LIBC.sendmmsg(self._sock.fileno(), rest, packets - done, 0)
            if sent > 0:
                done += sent
            elif ctypes.get_errno() != errno.EINTR:
                done += 1


class Incoming(_Batch):
    """For a bound socket, whose packets' times of arrival the kernel is to note."""

    def __init__(self, sock: socket.socket, *, packets: int, size: int) -> None:
        super().__init__(sock, packets=packets, size=size)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._control = bytearray(packets * _CONTROL_BYTES)
        self._control_at = ctypes.addressof(ctypes.c_char.from_buffer(self._control))
        self._make_room(packets)

    def receive(self) -> list[tuple[int, float]]:
        """Number and time (of the host's clock, Unix seconds) of each packet that waits, in the order of arrival.

        OSError where the kernel refuses.
        """
        seen: list[tuple[int, float]] = []
        while True:
            got = _LIBC.recvmmsg(self._sock.fileno(), self._messages, len(self._messages), socket.MSG_DONTWAIT, None)
            if got < 0 and ctypes.get_errno() not in {errno.EAGAIN, errno.EINTR}:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            whole = [at for at in range(got) if self._messages[at].length >= NUMBER.size]
            seen += [(self._number(at), self._time(at)) for at in whole]
            self._make_room(got)
            if 0 <= got < len(self._messages) or (got < 0 and ctypes.get_errno() == errno.EAGAIN):
                return seen

    def _number(self, at: int) -> int:
        return int(NUMBER.unpack_from(self._data, at * self._size)[0])

    def _time(self, at: int) -> float:
        second, nanosecond = _TIMESPEC.unpack_from(self._control, at * _CONTROL_BYTES + _CONTROL_HEADER_BYTES)
        return float(second + nanosecond / 1e9)

    def _make_room(self, packets: int) -> None:
        """For what the kernel says of each packet: it writes over how much room there is."""
        for number in range(packets):
            self._messages[number].header.control = self._control_at + number * _CONTROL_BYTES
            self._messages[number].header.control_length = _CONTROL_BYTES
