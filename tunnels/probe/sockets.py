"""The two ways a probe leaves and comes in: raw IP packets at the probe device, and ordinary UDP. Only I/O.

    PacketSocket   AF_PACKET on `lslq`: what it writes arrives at `lslp` as a pod's packet would and is forwarded; what
                   the node forwards to its probe addresses leaves by `lslp` and is read here
    UdpSocket      bound to any address: answers and asks host to host, from the local probe address

Errors of the network are no exceptions here: a packet that cannot be sent is a packet lost, and the ladder says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import socket
import struct
import time
from typing import Final, NamedTuple

from linkseal.keys.errors import HostError
from linkseal.tunnels.model import Family

_ETH_P_ALL: Final = 3
_ETH_P: Final[dict[Family, int]] = {4: 0x0800, 6: 0x86DD}
_PACKET_OUTGOING: Final = 4  # linux/if_packet.h: what this end sent itself
_PACKET_TYPE: Final = 0xFFFFF000 + 4  # linux/filter.h: SKF_AD_OFF + SKF_AD_PKTTYPE
_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
_SIOCGIFHWADDR: Final = 0x8927
_IP_PKTINFO: Final = 8  # linux/in.h; Python 3.11 does not name it
_IPV6_RECVPKTINFO, _IPV6_PKTINFO = 49, 50  # linux/in6.h
_PKTINFO4, _PKTINFO6 = struct.Struct("=I4s4s"), struct.Struct("=16sI")  # ip(7), ipv6(7)
_INSTRUCTION: Final = struct.Struct("=HBBI")  # struct sock_filter
_SO_RCVBUFFORCE: Final = 33
_LARGEST: Final = 65535
V4: Final = 4

_MAC_SECONDS: Final = 1.0
"""How long the device's MAC address is taken as known: udev changes that of a new veth shortly after it appears."""

_RECEIVE_BUFFER: Final = 4 << 20
"""Bytes: 2,000 full-size packets, what 5,000 peers starting together send while the loop is busy for a second."""

_GONE: Final = frozenset({errno.ENODEV, errno.ENXIO, errno.ENETDOWN})


class DeviceGone(Exception):  # noqa: N818 - not an error: the device was removed, taken down or made anew
    """The probe device is not there any more: open a new PacketSocket when it is back."""


class UdpMessage(NamedTuple):
    """A datagram with both of its addresses."""

    payload: bytes
    source: str
    destination: str


class PacketSocket:
    """Raw IP packets into and out of the probe device; never blocks.

    Raises DeviceGone if `device` or `behind` is missing or down, HostError if the kernel refuses (no CAP_NET_RAW).
    """

    def __init__(self, device: str, behind: str, port: int) -> None:
        self._device = device
        self._behind = behind
        self._mac = b""
        self._mac_read = float("-inf")
        try:
            # Protocol 0 receives nothing: the filter is in place before the first packet.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        except OSError as error:
            raise HostError(f"no packet socket for probes: {error.strerror}", errno=error.errno) from error
        try:
            self._open(port)
        except OSError as error:
            self._socket.close()
            if error.errno in _GONE:
                raise DeviceGone(device) from error
            raise HostError(f"cannot probe by {device}: {error.strerror}", errno=error.errno) from error

    def _open(self, port: int) -> None:
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in _probe_filter(port))
        held = ctypes.create_string_buffer(code)
        program = struct.pack("@HP", len(code) // _INSTRUCTION.size, ctypes.addressof(held))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        self._socket.bind((self._device, _ETH_P_ALL))
        self._gateway(time.monotonic())

    def fileno(self) -> int:
        """File descriptor, for the event loop."""
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        """Take the next IP packet; None when there is none now. Raises DeviceGone."""
        try:
            return self._socket.recv(_LARGEST)
        except BlockingIOError:
            return None
        except OSError as error:
            raise DeviceGone(self._device) from error

    def send(self, packet: bytes, family: Family) -> None:
        """Inject an IP packet; one the kernel will not take is lost. Raises DeviceGone."""
        try:
            gateway = self._gateway(time.monotonic())
            self._socket.sendto(packet, (self._device, _ETH_P[family], 0, 0, gateway))
        except OSError as error:
            if error.errno in _GONE:
                raise DeviceGone(self._device) from error

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _gateway(self, now: float) -> bytes:
        """MAC address of the device our packets arrive at: to any other they would not be taken as the host's."""
        if now - self._mac_read > _MAC_SECONDS:
            request = struct.pack("16s24x", self._behind.encode())
            self._mac = fcntl.ioctl(self._socket, _SIOCGIFHWADDR, request)[18:24]
            self._mac_read = now
        return self._mac


class UdpSocket:
    """UDP at `port` on every address of one family; never blocks. HostError if the port is taken."""

    def __init__(self, family: Family, port: int) -> None:
        self._family = family
        self._level = socket.IPPROTO_IP if family == V4 else socket.IPPROTO_IPV6
        domain = socket.AF_INET if family == V4 else socket.AF_INET6
        self._socket = socket.socket(domain, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if family == V4:
                self._socket.setsockopt(self._level, _IP_PKTINFO, 1)
            else:
                self._socket.setsockopt(self._level, socket.IPV6_V6ONLY, 1)
                self._socket.setsockopt(self._level, _IPV6_RECVPKTINFO, 1)
            self._socket.bind(("", port))
        except OSError as error:
            self._socket.close()
            problem = f"UDP port {port} for probes cannot be used (IPv{family}): {error.strerror}"
            raise HostError(f"{problem}; free it or set another probe port", errno=error.errno) from error

    def fileno(self) -> int:
        """File descriptor, for the event loop."""
        return self._socket.fileno()

    def receive(self) -> UdpMessage | None:
        """Take the next datagram; None when there is none now."""
        try:
            payload, ancillary, _, address = self._socket.recvmsg(_LARGEST, socket.CMSG_SPACE(_PKTINFO6.size))
        except OSError:
            return None
        for level, kind, data in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                return UdpMessage(payload, address[0], socket.inet_ntop(socket.AF_INET, data[8:12]))
            if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
                return UdpMessage(payload, address[0], socket.inet_ntop(socket.AF_INET6, data[:16]))
        return None

    def send(self, payload: bytes, source: str, destination: str, port: int) -> None:
        """Send from one of this host's addresses; a datagram the kernel will not take is lost."""
        if self._family == V4:
            info = (_IP_PKTINFO, _PKTINFO4.pack(0, socket.inet_aton(source), bytes(4)))
        else:
            info = (_IPV6_PKTINFO, _PKTINFO6.pack(socket.inet_pton(socket.AF_INET6, source), 0))
        with contextlib.suppress(OSError):
            self._socket.sendmsg([payload], [(self._level, *info)], 0, (destination, port))

    def send_any(self, payload: bytes, destination: str, port: int) -> None:
        """Send from the address that the kernel chooses; a datagram it will not take is lost."""
        with contextlib.suppress(OSError):
            self._socket.sendto(payload, (destination, port))

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def _probe_filter(port: int) -> tuple[tuple[int, int, int, int], ...]:
    """Classic BPF over the IP header: not what we sent ourselves, UDP to `port`, no later fragment.

    It runs in the kernel, so that foreign packets on the device (a scan of the probe range) wake nobody. Each line is
    code, lines to skip if true, if false, operand; line 17 refuses, line 18 accepts.
    """
    byte, half, word, half_at_x, header_length = 0x30, 0x28, 0x20, 0x48, 0xB1
    and_, equals, has_bits, return_ = 0x54, 0x15, 0x45, 0x06
    return (
        (word, 0, 0, _PACKET_TYPE),
        (equals, 15, 0, _PACKET_OUTGOING),
        (byte, 0, 0, 0),
        (and_, 0, 0, 0xF0),  # 3: version
        (equals, 0, 7, 0x40),
        (byte, 0, 0, 9),  # 5: IPv4: protocol
        (equals, 0, 10, socket.IPPROTO_UDP),
        (half, 0, 0, 6),  # 7: fragment offset
        (has_bits, 8, 0, 0x1FFF),
        (header_length, 0, 0, 0),
        (half_at_x, 0, 0, 2),
        (equals, 6, 5, port),
        (equals, 0, 4, 0x60),  # 12: IPv6?
        (byte, 0, 0, 6),
        (equals, 0, 2, socket.IPPROTO_UDP),
        (half, 0, 0, 42),
        (equals, 1, 0, port),
        (return_, 0, 0, 0),
        (return_, 0, 0, _LARGEST),
    )
