"""See what crosses the bridge: every frame, each once, and what it is.

A `Capture` runs a process that reads an AF_PACKET ring (no system call per packet: the lab kernel's are dear) and
writes a pcap file. A frame the ring had no room for is an error: what was not seen proves nothing.
"""

from __future__ import annotations

import mmap
import select
import signal
import socket
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Self

from linkseal.keys.errors import HostError
from linkseal.tunnels.lab.forked import ForkedProcess
from linkseal.tunnels.lab.frames import Frame, classify
from linkseal.tunnels.lab.namespaces import Namespace

BLOCK = 1 << 17
BLOCKS = 256
"""32 MiB: ten seconds of 3,000 packets/s of 1 KB, should the reader not get the CPU. In small blocks: one that is
handed over nearly empty is as full as any other."""

RETIRE_MS = 50
"""After this the kernel hands over a block that is not full."""

SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION = 263, 1, 5, 6, 10
TPACKET_V3, PACKET_MR_PROMISC, TP_STATUS_KERNEL, TP_STATUS_USER, ETH_P_ALL = 2, 1, 0, 1, 3

_BLOCK_HEADER = struct.Struct("=IIIII")  # version, private offset, status, packets, offset of the first
_PACKET_HEADER = struct.Struct("=IIIIIIHH")  # next offset, sec, nsec, captured, length, status, mac, net
_PCAP_FILE = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 1 << 18, 1)  # nanoseconds, Ethernet
_PCAP_RECORD = struct.Struct("=IIII")


ALLOWED = frozenset({"wireguard", "esp", "ike", "arp", "nd", "mld", "pmtu", "control"})
"""What may cross while everything between nodes is encrypted: tunnels, neighbours, routers' errors about tunnels, and
the controls of `verify`: random bytes, in clear on purpose."""


class Capture:
    """A capture on the wire's bridge; a context manager. Ask it after the block."""

    def __init__(self, wire: Namespace, device: str = "br0") -> None:
        self._wire = wire
        self._device = device
        self.file = Path(tempfile.mkstemp(prefix="wire-", suffix=".pcap")[1])
        """What was seen, for tcpdump or Wireshark."""
        self._process: ForkedProcess | None = None

    def __enter__(self) -> Self:
        with self._wire.entered():
            ring = _open_ring(self._device)
        with ring:
            stopping: list[int] = []
            self._process = ForkedProcess(lambda: _copy_ring(ring, self.file, stopping), stopping=stopping)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill(signal.SIGTERM)
        dropped = self._process.result()
        self._process.forget()
        if dropped:
            raise HostError(f"the capture lost {dropped} frames, so it proves nothing: try again on a quieter machine")

    @cached_property
    def frames(self) -> list[Frame]:
        """All frames in the order they crossed."""
        fragments: dict[tuple[bytes, bytes, bytes], str] = {}
        return [classify(at, data, fragments) for at, data in _read_pcap(self.file)]

    def count(self, kind: str) -> int:
        """How many frames are of this kind: `wireguard`, `arp`, `nd`, `control`, `plaintext` … (see frames.py)."""
        return self.kinds()[kind]

    def kinds(self) -> Counter[str]:
        """Frames by kind."""
        return Counter(frame.kind for frame in self.frames)

    def plaintext(self) -> list[str]:
        """Descriptions of the frames that should not be there when everything is encrypted; empty is the proof."""
        return [frame.text for frame in self.frames if frame.kind not in ALLOWED]

    def contains(self, data: bytes) -> bool:
        """Whether any frame carries these bytes."""
        return any(data in frame.data for frame in self.frames)


def _open_ring(device: str) -> socket.socket:
    """An AF_PACKET socket on a bridge in promiscuous mode: the bridge passes a copy of all it forwards to it."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
    request = struct.pack("=7I", BLOCK, BLOCKS, 2048, BLOCK * BLOCKS // 2048, RETIRE_MS, 0, 0)
    sock.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
    membership = struct.pack("=iHH8s", socket.if_nametoindex(device), PACKET_MR_PROMISC, 0, b"")
    sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
    sock.bind((device, ETH_P_ALL))
    return sock


def _copy_ring(sock: socket.socket, file: Path, stopping: list[int]) -> int:
    """Write what arrives to a pcap file until `stopping` is filled; return how many frames the ring had no room for."""
    ring = mmap.mmap(sock.fileno(), BLOCK * BLOCKS)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    block = 0
    with file.open("wb") as out:
        out.write(_PCAP_FILE)
        last_look = False
        while True:
            while _BLOCK_HEADER.unpack_from(ring, block * BLOCK)[2] & TP_STATUS_USER:
                out.writelines(_records(ring, block * BLOCK))
                struct.pack_into("=I", ring, block * BLOCK + 8, TP_STATUS_KERNEL)
                block = (block + 1) % BLOCKS
            if last_look:
                break
            if stopping:
                time.sleep(RETIRE_MS * 5 / 1000)  # the kernel hands over the block it is filling
                last_look = True
            else:
                poll.poll(100)  # not for ever: the signal may have come just before
    _packets, dropped, _freezes = struct.unpack("=III", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12))
    return int(dropped)


def _records(ring: mmap.mmap, start: int) -> Iterator[bytes]:
    """Pcap records of a block of the ring."""
    _, _, _, packets, first = _BLOCK_HEADER.unpack_from(ring, start)
    at = start + first
    for _ in range(packets):
        following, sec, nsec, captured, length, _, mac, _ = _PACKET_HEADER.unpack_from(ring, at)
        yield _PCAP_RECORD.pack(sec, nsec, captured, length)
        yield ring[at + mac : at + mac + captured]
        at += following


def _read_pcap(file: Path) -> Iterator[tuple[float, bytes]]:
    """Time (Unix seconds) and bytes of each frame."""
    data = file.read_bytes()
    at = len(_PCAP_FILE)
    while at < len(data):
        sec, nsec, captured, _ = _PCAP_RECORD.unpack_from(data, at)
        at += _PCAP_RECORD.size
        yield sec + nsec / 1e9, data[at : at + captured]
        at += captured
