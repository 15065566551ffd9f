"""A host with a NIC and a pod, and a CNI that redirects between them, for the tests of the program on the NIC.

    podp ══ pod ─ ─ redirect ─ ─ nic ══ wire       all in one network namespace; what leaves the NIC is seen on `wire`

Frames are made by hand, so that addresses need not exist anywhere.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from ground.hosts import fresh_namespace, sh
from linkseal.keys.values import Prefix
from linkseal.tunnels.redirect import bpf
from linkseal.tunnels.redirect.assembler import Instruction, assemble, encode
from linkseal.tunnels.redirect.diff import diff_redirect
from linkseal.tunnels.redirect.kernel import Redirector
from linkseal.tunnels.redirect.model import Exemption, Mark, Ports, RedirectSpec, RedirectState, RedirectStep
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket
from linkseal.wireguard.nlattr import attribute_u32, message, nested

OWN, PEER, REMOTE_POD, ELSEWHERE, POD = "192.0.2.1", "192.0.2.2", "10.244.2.9", "203.0.113.7", "10.244.1.5"
OWN6, REMOTE_POD6, POD6 = "2001:db8::1", "fd00:244:0:2::9", "fd00:244:0:1::5"
MARK, PORT = 0x4C530C00, 51820
SO_MARK, ALL_FRAMES = 36, 3
FRAMES, PATIENCE = 20, 60.0
EVERYTHING = "bpf bytecode '1,6 0 0 4294967295'"
"""A filter that takes all: classic BPF, which every kernel with cls_bpf has (`ret -1`)."""

SPEC = RedirectSpec(
    frozenset({"nic"}),
    {Prefix("10.244.2.0/24"): 3, Prefix("fd00:244:0:2::/64"): 2, Prefix(f"{PEER}/32"): 3},
    frozenset({OWN, OWN6}),
    Mark(MARK),
    Ports(PORT, PORT + 3),
    frozenset({Exemption(Prefix(f"{PEER}/32"), 6, 6443)}),
)


@contextlib.contextmanager
def host_with_pod() -> Iterator[None]:
    """Move this thread into a namespace with NIC and pod, and back."""
    with fresh_namespace():
        sh("ip link add nic type veth peer name wire; ip link add pod type veth peer name podp")
        sh("for i in nic wire pod podp; do ip link set $i addrgenmode none; ip link set $i up; done")
        yield


def frame(source: str, target: str, protocol: int = 17, ports: tuple[int, int] = (4000, 4001), **more: int) -> bytes:
    """An Ethernet frame; `more`: id, fragment (the 16-bit field), hop_limit."""
    a, b = ip_address(source), ip_address(target)
    body = struct.pack(">HH", *ports) + b"\0\x1c" + bytes(22)
    if a.version == 6:
        head = struct.pack(">IHBB", 6 << 28, len(body), protocol, more.get("hop_limit", 64)) + a.packed + b.packed
        return b"\x02" * 12 + b"\x86\xdd" + head + body
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, more.get("fragment", 0), 64, protocol, 0)
    return b"\x02" * 12 + b"\x08\0" + head + a.packed + b.packed + body


def neighbour(source: str, target: str, kind: int = 135) -> bytes:
    """A neighbour solicitation (or what `kind` says)."""
    return frame(source, target, 58, (kind << 8, 0), hop_limit=255)


def crossing(one: bytes, entry: str, exit_: str, mark: int = 0) -> int:
    """Send a frame FRAMES times into an interface; return how many come out of the other one.

    A last frame of a kind nobody judges tells that all have had their time.
    """
    end = b"\x02" * 12 + b"\x88\xb5" + os.urandom(50)
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES)) as seen,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
    ):
        seen.bind((exit_, ALL_FRAMES))
        sender.bind((entry, 0))
        sender.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        for _ in range(FRAMES):
            with contextlib.suppress(OSError):  # ENOBUFS: dropped by a hook of the interface itself
                sender.send(one)
        sender.send(end)
        return _count(seen, one, end)


def _count(seen: socket.socket, one: bytes, end: bytes) -> int:
    count, until = 0, time.monotonic() + PATIENCE
    seen.settimeout(PATIENCE)
    while time.monotonic() < until:
        data, (_, _, kind, *_) = seen.recvfrom(2048)
        if kind == socket.PACKET_OUTGOING:
            continue
        if data[14:] == end[14:]:
            return count
        count += data[14 : len(one)] == one[14:]
    raise AssertionError("the frame after the last did not come out")


def lines(*shell: str) -> str:
    """What these shell lines print."""
    return subprocess.run("; ".join(shell), shell=True, check=True, capture_output=True, text=True).stdout


# --- others' programs ----------------------------------------------------------------------------------------------


def mirred(entry: str, exit_: str) -> None:
    """A CNI that redirects by tc: what comes in at `entry` goes out of `exit_`."""
    sh(f"tc qdisc add dev {entry} clsact 2>/dev/null; true")
    match = f"protocol all {EVERYTHING}"
    sh(f"tc filter add dev {entry} ingress pref 10 {match} action mirred egress redirect dev {exit_}")


def ebpf_redirect(exit_: str) -> int:
    """Load a CNI's program that redirects all to `exit_`."""
    ready = assemble(f"r1 = {socket.if_nametoindex(exit_)}\nr2 = 0")
    return bpf.load("cni_redirect", encode((*ready, Instruction(0x85, value=23), Instruction(0x95)), {}))


def ebpf_pass() -> int:
    """Load a program that says: this frame is fine, ask nobody else (TC_ACT_OK)."""
    return bpf.load("cni_pass", encode(assemble("r0 = 0\nexit"), {}))


def xdp_pass(device: str) -> None:
    """Attach an XDP program that lets all pass."""
    code = encode(assemble("r0 = 2\nexit"), {})
    whole = bpf._SCHED_CLS
    try:
        bpf._SCHED_CLS = 6  # type: ignore[misc]  # BPF_PROG_TYPE_XDP
        fd = bpf.load("cni_xdp", code)
    finally:
        bpf._SCHED_CLS = whole  # type: ignore[misc]
    header = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(device), 0, 0)
    with NetlinkSocket(NETLINK_ROUTE) as sock:  # RTM_SETLINK, IFLA_XDP: fd, flags (XDP_FLAGS_SKB_MODE)
        sock.request_batch([message(19, header + nested(43, attribute_u32(1, fd) + attribute_u32(3, 2)))])
    os.close(fd)


# --- ours ----------------------------------------------------------------------------------------------------------


def reconcile(one: Redirector, spec: RedirectSpec | None = SPEC) -> tuple[RedirectStep, ...]:
    """Do what a pass does; the steps it took."""
    names = [name for _, name in socket.if_nameindex()]
    steps = diff_redirect(spec, one.observe(), names)
    for step in (*steps.early, *steps.late):
        one.apply(step)
    return (*steps.early, *steps.late)


@contextlib.contextmanager
def redirector(prepare: Callable[[Redirector], None] = lambda _: None) -> Iterator[Redirector]:
    """One process's view of the kernel; `prepare` may limit it."""
    one = Redirector()
    try:
        prepare(one)
        yield one
    finally:
        one.close()


def settled(one: Redirector) -> RedirectState:
    """What is there once nothing is left to do; the second look must find nothing and write nothing."""
    reconcile(one)
    writes = one.writes
    assert reconcile(one) == ()
    assert one.writes == writes
    return one.observe()
