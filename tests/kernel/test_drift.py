"""Drift: what another program changes or removes is put back, named in the log, and traffic flows again."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Node, Pod
from ground.traffic import uncounted
from linkseal.tunnels.host.links import Links, open_route
from linkseal.wireguard.kernel import KernelDriver
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket

pytestmark = pytest.mark.kernel

EVENT = 6.0
"""Seconds in which what the kernel announces is healed."""

POLL = 2.0 + 2.0
"""Seconds in which what nobody announces is healed: a poll of a `Deployment`, and the lab kernel's slowness."""

ONE_WAY = 4.0
"""Seconds after a heal in which a packet of the other end must arrive though this end sends nothing: it takes 15 where
the end that lost its session does not start a handshake itself."""

SLOT = "lsl11"
"""Where links of first generations live."""


class Damage(NamedTuple):
    """What is done to a node: a shell line, or a function; `named` is what the log must say was put back."""

    do: str | Callable[[Node], None]
    named: str
    within: float = EVENT


LOOK = r"""
printf 'link show\naddr show\nrule\nroute show table 51820\n' | ip -o -batch -
printf 'rule\nroute show table 51820\n' | ip -6 -batch -
nft list ruleset
wg show all dump
grep . /proc/sys/net/ipv4/conf/lsl*/rp_filter /proc/sys/net/ipv4/conf/lsl*/accept_local
"""


def look(node: Node) -> list[str]:
    """Everything of ours on a node as the usual tools show it, but for keys, numbers and what changes all the time."""
    lines = []
    for line in uncounted(node.run(LOOK, check=False)).splitlines():
        fields = line.split("\t")
        if len(fields) == 5:  # a WireGuard device: name, private key, public key, port, mark
            lines.append(f"{fields[0]} {fields[2]} {fields[3] if fields[0] != 'lsl0' else ''} {fields[4]}")
        elif len(fields) == 9:  # device, key, preshared, endpoint, allowed, handshake, received, sent, keepalive
            lines.append(f"{fields[0]} {fields[1]} {sorted(fields[4].split(','))} {fields[8]}")
        elif "lsl" in line or not re.match(r"\d+: ", line):
            lines.append(re.sub(r"^\d+: |link/ether.*", "", line))
    return sorted(lines)


def reach(source: Pod, target: Pod, seconds: float) -> float:
    """Send UDP packets until one arrives, the target never answering; the seconds that took. AssertionError."""
    with target.entered():
        inlet = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with source.entered():
        outlet = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with inlet, outlet:
        inlet.bind((target.address6, 9999))
        inlet.settimeout(0.05)
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            outlet.sendto(b"there?", (target.address6, 9999))
            try:
                inlet.recv(100)
            except TimeoutError:
                continue
            return time.monotonic() - began
    raise AssertionError(f"no packet from {source} reached {target} in {seconds} s")


def heals(linkseal: Deployment, node: Node, other: Node, damage: Damage) -> str:
    """Do the damage; see that it is one, is told and put back, and that packets arrive. Returns what it took."""
    whole, told = look(node), len(linkseal.log(node))
    if callable(damage.do):
        damage.do(node)
    else:
        node.run(damage.do)
    began = time.monotonic()
    assert look(node) != whole or damage.named in linkseal.log(node)[told:], f"{damage.do} changes nothing"
    linkseal.until(
        lambda: "LS3009" in linkseal.log(node)[told:] and damage.named in linkseal.log(node)[told:],
        f"`{damage.named}` told after {damage.do}",
        damage.within,
    )
    linkseal.until(lambda: look(node) == whole, f"everything as it was after {damage.do}", damage.within)
    took = time.monotonic() - began
    first = reach(other.pods[0], node.pods[0], ONE_WAY)
    return f"{took:4.1f} s, packets after {first:.2f} s: {damage.do}"


def filters(act: Callable[[Links], None]) -> Callable[[Node], None]:
    """Something done to a node's interfaces by netlink, of which the kernel tells nobody."""

    def do(node: Node) -> None:
        with node.entered(), open_route() as route, NetlinkSocket(NETLINK_ROUTE) as sock:
            driver = KernelDriver()
            act(Links(route, sock, driver))
            driver.close()

    return do


PEER = f"$(wg show {SLOT} peers)"
PROC = "/proc/sys/net/ipv4/conf"

SESSIONS = [
    Damage(f"wg set {SLOT} peer {PEER} remove", "wg set lsl11 peer", POLL),
    Damage(f"ip link del {SLOT}", "ip link add lsl11"),
    Damage(f"ip link set {SLOT} down", "ip link set lsl11 up"),
    Damage(f"wg genkey > /tmp/other; wg set {SLOT} private-key /tmp/other", "wg set lsl11 private-key", POLL),
]
"""What ends the session: the other end goes on sending into it until it is told."""

INTERFACES = [
    Damage("ip link del lsl0", "ip link add lsl0"),
    Damage("ip link set lsl0 down", "ip link set lsl0 up"),
    Damage("ip link del lslp", "ip link add lslp"),
    Damage("ip link set lslq down", "ip link set lslp up"),
    Damage(f"ip link set {SLOT} mtu 1300", "ip link set lsl11 mtu 1440"),
    Damage("ip addr del 10.244.1.0/32 dev lsl0", "ip addr add 10.244.1.0/32 dev lsl0"),
    Damage("ip addr del fd00:244:1::/128 dev lsl0", "ip addr add fd00:244:1::/128 dev lsl0"),
    Damage(f"ip addr flush dev {SLOT}", "ip addr add 169.254.51.82/32 dev lsl11"),
    Damage(f"echo 1 > {PROC}/{SLOT}/rp_filter", "conf/lsl11/rp_filter=2"),
    Damage(f"echo 0 > {PROC}/lslp/accept_local", "conf/lslp/accept_local=1", POLL),
    Damage(filters(lambda links: links.set_rp_filter(SLOT, 1)), "conf/lsl11/rp_filter=2", POLL),
]

ROUTING = [
    Damage("ip route del 10.244.2.0/24 table 51820", "ip route replace 10.244.2.0/24 dev lsl0"),
    Damage("ip -6 route del fd00:244:2::/64 table 51820", "ip -6 route replace fd00:244:2::/64 dev lsl0"),
    Damage("ip route flush table 51820", "ip route replace 198.18.0.0/15 dev lsl0"),
    Damage("ip rule del pref 100", "ip rule add pref 100 fwmark"),
    Damage("ip -6 rule del pref 101", "ip -6 rule add pref 101 not fwmark 0x4c530c00/0xffffffff lookup 51820"),
    Damage("nft delete element netdev linkseal slot6 '{ fd00:244:2::/64 }'", 'fd00:244:2::/64 : "lsl11"'),
    Damage("nft add element netdev linkseal slot4 '{ 10.9.0.0/16 : lsl11 }'", "10.9.0.0/16"),
    Damage("nft delete chain netdev linkseal door", "chain netdev linkseal door"),
    Damage("nft add rule inet linkseal probe_out drop", "chain inet linkseal probe_out"),
    Damage("nft delete table inet linkseal", "chain inet linkseal clamp"),
    Damage("nft flush ruleset", "add table netdev linkseal"),
]

DEVICES = [
    Damage(f"wg set {SLOT} peer $(wg genkey | wg pubkey) allowed-ips 10.9.0.0/16", "remove", POLL),
    Damage(f"wg set {SLOT} peer $(wg genkey | wg pubkey) allowed-ips fd00:244:2::/64", "fd00:244:2::/64", POLL),
    Damage(f"wg set {SLOT} peer {PEER} allowed-ips 10.9.0.0/16", "allowed-ips", POLL),
    Damage(f"wg set {SLOT} listen-port 5555", "listen-port 51823", POLL),
    Damage(f"wg set {SLOT} fwmark 0", "fwmark", POLL),
    Damage(f"wg set {SLOT} peer {PEER} persistent-keepalive 77", "persistent-keepalive", POLL),
]


@pytest.mark.parametrize(
    ("damages", "both"),
    [
        pytest.param(SESSIONS, True, id="sessions"),
        pytest.param(INTERFACES, False, id="interfaces"),
        pytest.param(ROUTING, False, id="routing"),
        pytest.param(DEVICES, False, id="devices"),
    ],
)
def test_drift_is_healed_told_and_traffic_flows(nodes: Nodes, damages: list[Damage], both: bool) -> None:  # noqa: FBT001 - of a parametrization
    """`both`: at each end, as one starts handshakes and the other only answers."""
    cluster = nodes(2, families=("4", "6"))
    a, b = cluster
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        time.sleep(1)  # what follows a proof is done
        for node, other in ((a, b), (b, a)) if both else ((a, b),):
            for damage in damages:
                print(node.name, heals(linkseal, node, other, damage))
        linkseal.wait_sealed()


def test_a_foreign_interface_of_our_name_is_left_alone_and_told_and_one_of_the_other_driver_replaced(
    nodes: Nodes,
) -> None:
    cluster = nodes(2)
    a, b = cluster
    a.run("ip link add lsl0 type bridge && ip addr add 10.99.0.1/24 dev lsl0")
    b.run(f"ip tuntap add {SLOT} mode tun")
    foreign = a.run("ip -o link show lsl0; ip addr show lsl0")
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.until(lambda: "LS3010" in linkseal.log(a), "told")
        linkseal.until(lambda: "wireguard" in b.run(f"ip -d link show {SLOT}"), "the tun device replaced")
        findings = {found.code: found.message for found in linkseal.status(a).findings}
        assert "lsl0 is a bridge interface, not ours: remove it, or give it another name" in findings["LS3010"]
        time.sleep(3)  # a retry or two
        assert a.run("ip -o link show lsl0; ip addr show lsl0") == foreign
        assert "dev lsl0" not in a.run("ip route show table 51820")
        assert "chain door" not in a.run("nft list ruleset")
        assert "drift" not in linkseal.log(a)
        a.run("ip link del lsl0")
        linkseal.wait_sealed()
        assert "LS3010" not in {found.code for found in linkseal.status(a).findings}
