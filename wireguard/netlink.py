"""A plain netlink socket: batches of writes, dumps, one thread.

    request_batch(messages)   many messages in one sendmsg; one acknowledgement per sendmsg, every error by its message
    query(message)            one question, its answers
    dump(message)             a whole dump, taken again when the kernel says it changed meanwhile
    stream(message)           a dump of what is numerous and changes all the time, message by message

The kernel handles the messages of one sendmsg in order and answers each failure even unasked (`netlink_rcv_skb`), so
only the last message of a sendmsg asks for an acknowledgement: when that has come, the others are known to be fine.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from errno import EAGAIN, EINTR, ENOBUFS, EPERM
from types import TracebackType
from typing import NamedTuple, Self

from linkseal.keys.errors import HostError
from linkseal.wireguard.nlattr import (
    HEADER,
    attribute,
    attribute_text,
    attribute_u8,
    attribute_u16,
    attribute_u32,
    attributes,
    message,
    nested,
)

__all__ = [
    "Answer",
    "NetlinkError",
    "NetlinkSocket",
    "attribute",
    "attribute_text",
    "attribute_u8",
    "attribute_u16",
    "attribute_u32",
    "attributes",
    "family_id",
    "message",
    "nested",
]

NETLINK_ROUTE, NETLINK_GENERIC = 0, 16
"""Protocols of <linux/netlink.h>."""

NLM_F_REQUEST, NLM_F_ACK, NLM_F_ROOT, NLM_F_MATCH = 0x1, 0x4, 0x100, 0x200
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
_DUMP = NLM_F_ROOT | NLM_F_MATCH
_DUMP_INTR, _CAPPED, _ACK_TLVS = 0x10, 0x100, 0x200
_ERROR, _DONE = 2, 3
_ERROR_TEXT = 1
"""Flags, message types and NLMSGERR_ATTR_MSG of <linux/netlink.h>."""

_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT_CHECK = 270, 10, 11, 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
"""Socket options of <linux/netlink.h> and <asm-generic/socket.h>; Python has no names for them."""

_BUFFER_BYTES = 4 << 20
_BATCH_BYTES = 192 << 10
"""One sendmsg stays below the default send buffer (212,992 bytes), forced or not."""

_BATCH_MESSAGES = 1000
"""Even if each of them fails, the answers (about 1 kB of buffer each) fit the receive buffer."""

_DUMP_TRIES = 10
_ERRNO = struct.Struct("=i")


class Answer(NamedTuple):
    """One message the kernel sent: `data[start:end]` is what follows its nlmsghdr."""

    kind: int
    data: bytes
    start: int
    end: int


class NetlinkError(HostError):
    """The kernel refused one message of a batch.

    `index` is its place in the batch, `reason` the kernel's own words where it gave some ("" if not). Messages after
    it in the same sendmsg were carried out, those of later ones were not sent.
    """

    def __init__(self, errno: int, index: int, reason: str) -> None:
        text = os.strerror(errno) + (f": {reason}" if reason else "")
        super().__init__(f"the kernel refused message {index}: {text}", errno=errno)
        self.index = index
        self.reason = reason


class NetlinkSocket:
    """One netlink socket of the calling thread's network namespace; not for use by two threads.

    `writes` counts messages sent by `request_batch`: an idle reconcile leaves it as it was.
    HostError if the socket cannot be made or the kernel does not answer within `timeout` seconds.
    """

    def __init__(self, protocol: int, *, timeout: float = 10.0) -> None:
        self.writes = 0
        self._sequence = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
            self._socket.bind((0, 0))
        except OSError as error:
            raise HostError(f"cannot open a netlink socket (protocol {protocol}): {error}", errno=error.errno) from None
        # A receive timeout in the kernel: settimeout() would add a poll() to every recv().
        seconds = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT_CHECK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._force_buffer(_SO_RCVBUFFORCE, socket.SO_RCVBUF)
        self._force_buffer(_SO_SNDBUFFORCE, socket.SO_SNDBUF)

    def _force_buffer(self, force: int, ask: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, force, _BUFFER_BYTES)
        except OSError as error:
            if error.errno != EPERM:
                raise
            self._socket.setsockopt(socket.SOL_SOCKET, ask, _BUFFER_BYTES)

    def close(self) -> None:
        """Close the socket; a second time does nothing."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def request_batch(self, messages: Sequence[bytes]) -> None:
        """Send writes, in order; NetlinkError for the first one refused.

        Messages that share a sendmsg (up to 1,000, 192 kB) are all carried out, whatever becomes of the ones before:
        what may only happen after a success belongs into the next call.
        """
        start = 0
        while start < len(messages):
            stop, size = start, 0
            while stop < len(messages) and stop - start < _BATCH_MESSAGES:
                size += len(messages[stop])
                if size > _BATCH_BYTES and stop > start:
                    break
                stop += 1
            self._send_batch(messages[start:stop], start)
            start = stop

    def _send_batch(self, messages: Sequence[bytes], index: int) -> None:
        first = self._sequence + 1
        buffer, offset = bytearray().join(messages), 0
        for number, one in enumerate(messages):
            flags = NLM_F_REQUEST | (NLM_F_ACK if number == len(messages) - 1 else 0)
            self._stamp(buffer, offset, flags)
            offset += len(one)
        self._send(buffer)
        self.writes += len(messages)
        failed: NetlinkError | None = None
        acknowledged = False
        while not acknowledged:
            for answer, sequence, flags in self._receive():
                if answer.kind != _ERROR or not first <= sequence <= self._sequence:
                    continue  # left over from a call that timed out
                errno, reason = _error(answer, flags)
                if errno and failed is None:
                    failed = NetlinkError(errno, index + sequence - first, reason)
                acknowledged |= sequence == self._sequence
        if failed is not None:
            raise failed

    def query(self, question: bytes) -> list[Answer]:
        """Send one question and return its answers; NetlinkError (index 0) if it is refused."""
        return self._ask(question, NLM_F_REQUEST | NLM_F_ACK)[0]

    def dump(self, question: bytes) -> list[Answer]:
        """Return all messages of a consistent dump; NetlinkError (index 0) if it is refused.

        A dump during which the objects changed (NLM_F_DUMP_INTR) is thrown away and taken again, ten times at most.
        """
        for _ in range(_DUMP_TRIES):
            answers, interrupted = self._ask(question, NLM_F_REQUEST | _DUMP)
            if not interrupted:
                return answers
        raise HostError(
            f"the kernel's state changed during each of {_DUMP_TRIES} dumps: something else keeps writing it",
            errno=EINTR,
        )

    def stream(self, question: bytes) -> Iterator[Answer]:
        """Yield the messages of a dump as they come, consistent or not; NetlinkError (index 0) if it is refused.

        Holds one datagram. Who stops early leaves the rest unread: close the socket then.
        """
        buffer = bytearray(question)
        self._stamp(buffer, 0, NLM_F_REQUEST | _DUMP)
        self._send(buffer)
        while True:
            for answer, sequence, seen in self._receive():
                if sequence != self._sequence:
                    continue
                if answer.kind not in (_ERROR, _DONE):
                    yield answer
                    continue
                errno, reason = _error(answer, seen)
                if errno:
                    raise NetlinkError(errno, 0, reason)
                return

    def _ask(self, question: bytes, flags: int) -> tuple[list[Answer], bool]:
        buffer = bytearray(question)
        self._stamp(buffer, 0, flags)
        self._send(buffer)
        answers: list[Answer] = []
        interrupted = False
        while True:
            for answer, sequence, seen in self._receive():
                if sequence != self._sequence:
                    continue
                interrupted |= bool(seen & _DUMP_INTR)
                if answer.kind not in (_ERROR, _DONE):
                    answers.append(answer)
                    continue
                errno, reason = _error(answer, seen)
                if errno:
                    raise NetlinkError(errno, 0, reason)
                return answers, interrupted

    def _stamp(self, buffer: bytearray, offset: int, flags: int) -> None:
        length, kind, own, _, _ = HEADER.unpack_from(buffer, offset)
        self._sequence += 1
        HEADER.pack_into(buffer, offset, length, kind, own | flags, self._sequence, 0)

    def _send(self, buffer: bytearray) -> None:
        try:
            self._socket.send(buffer)
        except OSError as error:
            raise HostError(f"cannot send {len(buffer)} bytes by netlink: {error}", errno=error.errno) from None

    def _receive(self) -> Iterator[tuple[Answer, int, int]]:
        """Yield (message, sequence, flags) of one datagram."""
        try:
            data = self._socket.recv(1 << 16)
        except OSError as error:
            raise HostError(f"netlink: {_RECEIVE_HINTS.get(error.errno or 0, error)}", errno=error.errno) from None
        offset = 0
        while offset + HEADER.size <= len(data):
            length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
            if length < HEADER.size or offset + length > len(data):
                raise HostError(f"netlink: a message says {length} bytes, {len(data) - offset} are left")
            yield Answer(kind, data, offset + HEADER.size, offset + length), sequence, flags
            offset += (length + 3) & ~3


_RECEIVE_HINTS = {
    EAGAIN: "the kernel did not answer in time",
    ENOBUFS: "answers were lost because the socket's buffer was full; read the state again",
}


def _error(answer: Answer, flags: int) -> tuple[int, str]:
    """Return (errno, the kernel's words) of an acknowledgement or the end of a dump."""
    if answer.end - answer.start < _ERRNO.size:
        return 0, ""
    errno = -_ERRNO.unpack_from(answer.data, answer.start)[0]
    if not errno or not flags & _ACK_TLVS:
        return errno, ""
    start = answer.start + _ERRNO.size
    if answer.kind == _ERROR:
        # struct nlmsgerr repeats our header, and unless capped the whole message, before the attributes.
        length = HEADER.size if flags & _CAPPED else HEADER.unpack_from(answer.data, start)[0]
        start += (length + 3) & ~3
    for kind, begin, end in attributes(answer.data, start, answer.end):
        if kind == _ERROR_TEXT:
            return errno, answer.data[begin:end].rstrip(b"\0").decode(errors="replace")
    return errno, ""


_GENL_HEADER = struct.Struct("=BBH")
_GENL_CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 0x10, 3, 1, 2
"""GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID and _NAME of <linux/genetlink.h>."""


def generic_message(family: int, command: int, version: int, body: bytes) -> bytes:
    """Return a generic netlink message."""
    return message(family, _GENL_HEADER.pack(command, version, 0) + body)


def family_id(sock: NetlinkSocket, name: str) -> int:
    """Return the number of a generic netlink family; NetlinkError (ENOENT) if the kernel has none of that name."""
    question = generic_message(_GENL_CONTROL, _GET_FAMILY, 1, attribute_text(_FAMILY_NAME, name))
    for answer in sock.query(question):
        for kind, start, _ in attributes(answer.data, answer.start + _GENL_HEADER.size, answer.end):
            if kind == _FAMILY_ID:
                return int(struct.unpack_from("=H", answer.data, start)[0])
    raise HostError(f"the kernel's answer about the netlink family {name!r} has no number")
