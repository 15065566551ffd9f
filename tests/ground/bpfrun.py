"""Run a tc program on a frame that touches no NIC: BPF_PROG_TEST_RUN."""

from __future__ import annotations

import ctypes
import struct

from linkseal.tunnels.redirect import bpf

TEST_RUN = 10


def run(fd: int, frame: bytes, mark: int = 0) -> int:
    """What the program returns, as a signed number. HostError."""
    data = ctypes.create_string_buffer(frame, len(frame))
    context = ctypes.create_string_buffer(struct.pack("=8xI180x", mark), 192)
    attributes = struct.pack(
        "=IIIIQQIIIIQQ", fd, 0, len(frame), 0, ctypes.addressof(data), 0, 1, 0, len(context), 0,
        ctypes.addressof(context), 0,
    )  # fmt: skip
    raw = bpf._call(TEST_RUN, attributes, "run an eBPF program")[1]
    return int(struct.unpack_from("=i", raw, 4)[0])
