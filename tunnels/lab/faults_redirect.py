"""Faults of a CNI that sends a pod's packets to the NIC by itself: by a tc action, or by an eBPF program.

They meet neither routes nor netfilter then (docs of the program on the NIC). What goes out is addressed to nobody on
the wire, as this CNI rewrites nothing, and so is lost: but it is there to be read.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.fault import STATUS, WIRE, Fault, Faults, done
from linkseal.tunnels.lab.lab import Lab
from linkseal.tunnels.redirect import bpf, tc
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket

POD: Final = "pod1"
"""The node's end of its first pod's cable."""

_IP: Final = "1,6 0 0 4294967295"
_IP6: Final = "4,48 0 0 20,21 0 1 58,6 0 0 0,6 0 0 4294967295"
"""Classic BPF for tc's filter `bpf`: take every packet; every IPv6 packet but ICMPv6 (byte 20 of the frame: the next
header), by which the pod finds its gateway."""

_PREFERENCE: Final = 7


def _redirect(_: Lab, node: Node) -> str:
    action = "action mirred egress redirect dev eth0"
    node.tc(
        f"qdisc add dev {POD} clsact",
        f'filter add dev {POD} ingress protocol ip pref {_PREFERENCE} bpf bytecode "{_IP}" {action}',
        f'filter add dev {POD} ingress protocol ipv6 pref {_PREFERENCE + 1} bpf bytecode "{_IP6}" {action}',
    )
    return f"{node.name}: a tc action sends whatever {node.name}.p1 sends straight to eth0"


def _program(interface: int) -> bytes:
    """Return an eBPF program that redirects IP packets to an interface (instructions as in RFC 9669).

    r2 = skb->protocol          r0 = 0 (TC_ACT_OK)
    if r2 == IPv4 goto +1       if r2 != IPv6 goto exit
    r1 = interface, r2 = 0      call bpf_redirect        exit
    """
    ip, ip6 = (socket.htons(number) for number in (0x0800, 0x86DD))
    instructions = [
        (0x61, 0x12, 16, 0),  # r2 = *(u32 *)(r1 + 16): __sk_buff.protocol, in network order
        (0xB7, 0x00, 0, 0),  # r0 = 0
        (0x15, 0x02, 1, ip),
        (0x55, 0x02, 3, ip6),
        (0xB7, 0x01, 0, interface),  # r1 = interface
        (0xB7, 0x02, 0, 0),  # r2 = 0
        (0x85, 0x00, 0, 23),  # call bpf_redirect
        (0x95, 0x00, 0, 0),  # exit
    ]
    return b"".join(struct.pack("<BBhi", *instruction) for instruction in instructions)


def _redirect_ebpf(_: Lab, node: Node) -> str:
    with node.entered(), NetlinkSocket(NETLINK_ROUTE) as sock:
        pod, nic = socket.if_nametoindex(POD), socket.if_nametoindex("eth0")
        program = bpf.load("lab_redirect", _program(nic))
        try:
            tc.add_clsact(sock, pod)
            tc.add_filter(sock, pod, "in", _PREFERENCE, 1, "lab_redirect", program)
        finally:
            os.close(program)
    return f"{node.name}: an eBPF program sends whatever {node.name}.p1 sends straight to eth0"


def _redirect_ok(_: Lab, node: Node) -> str:
    if "clsact" not in node.run(f"tc qdisc show dev {POD}"):
        raise HostError(f"nothing is redirected on {node.name}")
    return done(node, f"tc qdisc del dev {POD} clsact")


REDIRECT: Final[Faults] = {
    "redirect": Fault(
        _redirect, "send a pod's packets to the NIC by a tc action, past all routes", WIRE, "redirect-ok"
    ),
    "redirect-ebpf": Fault(_redirect_ebpf, "the same by an eBPF program", WIRE, "redirect-ok"),
    "redirect-ok": Fault(_redirect_ok, "undo either", STATUS),
}
