"""Captures that count and keep nothing: AF_PACKET sockets on the underlay, the slots and the probe device.

The kernel hands over only packets of about a canary's length, so that bulk traffic (full packets, acknowledgements)
costs nothing; each is searched and forgotten. A capture is bounded in time by its session, in memory by its buffers.

One end of IPsec tunnel mode will show packets twice, the second time decrypted: that needs a filter by secpath here
when the protocol comes; WireGuard's decrypted packets come up on the slots alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from linkseal.keys.errors import HostError
from linkseal.tunnels.addressing import OURS, PROBE_PEER, SLOTS
from linkseal.tunnels.host.routes import RTMSG
from linkseal.tunnels.model import family_of
from linkseal.tunnels.verify.frames import Place, Sieve
from linkseal.tunnels.verify.packet import CANARY_SIZE, End
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket, attribute, attribute_u32, attributes, message

HEADROOM: Final = 324
"""Bytes of encapsulation around a canary in clear: VXLAN and Geneve over IPv6 take 70, Geneve's options 252 more."""

MAX_INTERFACES: Final = 32
"""Of further hardware: a host with more (virtual functions) is watched where its addresses are."""

DRAIN: Final = 4096
"""Packets read in one go at most; more than that waiting is counted as a loss."""

BUFFER: Final = 2 << 20
"""Bytes for each interface: 1,000 packets of this size, 100 ms of 10,000 a second."""

_ETH_P_ALL: Final = 3
_PACKET_OUTGOING: Final = 4  # linux/if_packet.h
_SOL_PACKET, _PACKET_STATISTICS = 263, 6  # linux/if_packet.h
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33  # asm-generic/socket.h
_SIOCGIFFLAGS, _IFF_UP, _IFF_LOOPBACK = 0x8913, 1, 8  # linux/sockios.h, linux/if.h
_INSTRUCTION: Final = struct.Struct("=HBBI")  # struct sock_filter
_RTM_GETROUTE, _RTA_DST, _RTA_OIF, _RTA_MARK = 26, 1, 4, 16  # linux/rtnetlink.h


class _Socket(NamedTuple):
    place: Place
    outgoing: bool
    """What leaves by it counts too."""
    socket: socket.socket


class Capture:
    """Sockets on some interfaces, whose packets go through a sieve. HostError if none of the underlay can be had."""

    def __init__(self, sieve: Sieve, underlay: Iterable[str], others: Iterable[str], *, arriving: bool) -> None:
        """Watch the interfaces that carry the tunnels (`underlay`), and other hardware.

        `arriving`: this is the far end, so the slots and the probe device too, where canaries come out of the tunnel.
        What it then sends on by other hardware is on its way to a pod there, and no leak.
        """
        self._sieve = sieve
        self._sockets: list[_Socket] = []
        self._lost = 0
        self._end: End | None = None
        places = {name: (Place.UNDERLAY, True) for name in underlay if name not in OURS}
        places |= {name: (Place.UNDERLAY, not arriving) for name in others if name not in places}
        if arriving:
            places |= dict.fromkeys(SLOTS, (Place.SLOT, False)) | {PROBE_PEER: (Place.PROBE, False)}
        try:
            for name, (place, outgoing) in places.items():
                self._open(name, place, outgoing=outgoing)
        except BaseException:
            self.close()
            raise

    def _open(self, name: str, place: Place, *, outgoing: bool) -> None:
        try:
            found = _packet_socket(name)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENXIO, errno.ENETDOWN):
                return  # a slot that is not there carries nothing; too few of the underlay is judged by the number
            raise HostError(f"cannot capture on {name}: {error.strerror}", errno=error.errno) from error
        self._sockets.append(_Socket(place, outgoing, found))

    def filenos(self) -> list[int]:
        """File descriptors, for the event loop."""
        return [one.socket.fileno() for one in self._sockets]

    def read(self) -> None:
        """Look through what has arrived. Never blocks."""
        for one in list(self._sockets):
            if not self._read(one):
                self._lost += 1

    def _read(self, one: _Socket) -> bool:
        """Whether everything was read."""
        for _ in range(DRAIN):
            try:
                packet, address = one.socket.recvfrom(CANARY_SIZE + HEADROOM)
            except BlockingIOError:
                return True
            except OSError:  # the interface went down or away: what crossed it meanwhile is not known
                return False
            if one.outgoing or address[2] != _PACKET_OUTGOING:
                self._sieve.look(packet, one.place)
        return False

    def look(self) -> End:
        """Return what has been seen up to now, or up to the end."""
        if self._end is not None:
            return self._end
        self.read()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                _, dropped = struct.unpack("=II", one.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
                self._lost += dropped  # reading it sets it back to zero
        watched = sum(one.place is Place.UNDERLAY for one in self._sockets)
        return self._sieve.end(watched, self._lost)

    def close(self) -> None:
        """Watch no more; what was seen can still be asked for."""
        if self._sockets:
            self._end = self.look()
        for one in self._sockets:
            one.socket.close()
        self._sockets.clear()


def other_hardware(named: Collection[str]) -> list[str]:
    """Return the interfaces beside `named` that have hardware behind them and are up, MAX_INTERFACES at most.

    A bond, bridge or VLAN is seen at its hardware, whoever carries the tunnels; a NIC without any (a namespace's) only
    because the tunnels use it.
    """
    hardware = (name for _, name in socket.if_nameindex() if Path(f"/sys/class/net/{name}/device").exists())
    return [name for name in hardware if name not in named and _is_up(name)][:MAX_INTERFACES]


def route_interface(host: str, mark: int) -> str | None:
    """Return the interface by which the tunnels' packets to `host` leave now; None: by none, or not known."""
    family = socket.AF_INET6 if family_of(host) == 6 else socket.AF_INET  # noqa: PLR2004 - IP version
    address = socket.inet_pton(family, host)
    question = RTMSG.pack(family, 8 * len(address), 0, 0, 0, 0, 0, 0, 0)
    question += attribute(_RTA_DST, address) + attribute_u32(_RTA_MARK, mark)
    try:
        with NetlinkSocket(NETLINK_ROUTE, timeout=1.0) as sock:
            answers = sock.query(message(_RTM_GETROUTE, question))
        for answer in answers:
            for kind, start, _ in attributes(answer.data, answer.start + RTMSG.size, answer.end):
                if kind == _RTA_OIF:
                    return socket.if_indextoname(struct.unpack_from("=I", answer.data, start)[0])
    except (HostError, OSError):
        return None
    return None


def _is_up(name: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16s24x", name.encode()))
        except OSError:
            return False
    flags = struct.unpack_from("=H", answer, 16)[0]
    return bool(flags & _IFF_UP) and not flags & _IFF_LOOPBACK


def _packet_socket(name: str) -> socket.socket:
    """A socket that sees both directions of an interface, packets from their network header on. OSError."""
    # Protocol 0 receives nothing: the filter is in place before the first packet.
    found = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
    try:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
        code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in length_filter())
        held = ctypes.create_string_buffer(code)
        program = struct.pack("@HP", len(code) // _INSTRUCTION.size, ctypes.addressof(held))
        found.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        found.bind((name, _ETH_P_ALL))
    except BaseException:
        found.close()
        raise
    return found


def length_filter() -> Iterator[tuple[int, int, int, int]]:
    """Classic BPF: packets from a canary's length to that of one with HEADROOM around it. Code, jumps, operand."""
    load_length, at_least, more_than, return_ = 0x80, 0x35, 0x25, 0x06
    yield load_length, 0, 0, 0
    yield at_least, 0, 2, CANARY_SIZE
    yield more_than, 1, 0, CANARY_SIZE + HEADROOM
    yield return_, 0, 0, CANARY_SIZE + HEADROOM
    yield return_, 0, 0, 0
