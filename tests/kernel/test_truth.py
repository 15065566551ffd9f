"""Status truth on a real kernel: whatever was taken away or put in the way, `sealed` is said only if a packet sent now
crosses the wire as WireGuard and arrives.

The agent is one that nothing wakes: it answers, and heals only when it is told to.
"""

from __future__ import annotations

import random
import socket
import time
from typing import NamedTuple

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Cluster, Node
from linkseal.tunnels.agent import loop
from linkseal.tunnels.agent import main as agent
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.model import LinkState
from linkseal.tunnels.settings import AgentSettings

pytestmark = pytest.mark.kernel

ARRIVES = 1.5
"""Seconds a packet may take: a handshake with 5 s between attempts would be too late, and need not be waited for."""

TRIES = 3
"""How often an act is done at most where a pass puts it back at once: probes that are late bring one."""

PARTS = 4
"""Tests that the acts are dealt out to: one takes the lab kernel 10 s."""


class Deaf:
    """In place of the kernel's events."""

    def __init__(self, *_: object) -> None:
        pass

    def start(self, _loop: object) -> None:
        """Hear nothing."""

    def close(self) -> None:
        """Nothing to close."""


def deaf_agent(settings: AgentSettings) -> int:
    """An agent that no change of the kernel wakes."""
    loop.Events = Deaf  # type: ignore[assignment,misc]
    return agent.run(settings)


class Sabotage(NamedTuple):
    """Shell lines; `undo` where the agent, told to, would leave it."""

    do: str
    undo: str = ""
    harmless: bool = False


PEER = "$(wg show lsl11 peers)"
BREAKING = [
    Sabotage("ip rule del pref 101"),
    Sabotage("ip rule del pref 100"),
    Sabotage("ip rule add pref 50 lookup main", "ip rule del pref 50"),
    Sabotage("ip rule add pref 50 lookup main suppress_prefixlength 0", "ip rule del pref 50"),
    Sabotage("ip rule add pref 50 ipproto udp lookup main", "ip rule del pref 50"),
    Sabotage("ip rule add pref 50 not fwmark 0x1 lookup main", "ip rule del pref 50"),
    Sabotage("ip rule add pref 50 to 10.244.2.0/24 blackhole", "ip rule del pref 50"),
    Sabotage("ip rule add pref 50 goto 32766", "ip rule del pref 50"),
    Sabotage("ip route del 10.244.2.0/24 table 51820"),
    Sabotage("ip route replace blackhole 10.244.2.0/24 table 51820 proto 76"),
    Sabotage("ip route add 10.244.2.0/25 dev lo table 51820", "ip route del 10.244.2.0/25 table 51820"),
    Sabotage("ip route add local 10.244.2.0/24 dev lo table local", "ip route del local 10.244.2.0/24 table local"),
    Sabotage("nft delete element netdev linkseal slot4 '{ 10.244.2.0/24 }'"),
    Sabotage("nft delete element netdev linkseal slot4 '{ 10.244.2.0/24 }'; "
             "nft add element netdev linkseal slot4 '{ 10.244.2.0/24 : lsl10 }'"),
    Sabotage("nft delete chain netdev linkseal door"),
    Sabotage("nft insert rule netdev linkseal door drop"),
    Sabotage("nft add chain inet linkseal x '{ type filter hook forward priority 0; policy drop; }'"),
    Sabotage("nft flush ruleset"),
    Sabotage("ip link set lsl0 down"),
    Sabotage("ip link del lsl0"),
    Sabotage("ip link set lsl11 down"),
    Sabotage("ip link del lsl11"),
    Sabotage("ip link del lsl11; ip link add lsl11 type wireguard; ip link set lsl11 up"),
    Sabotage(f"wg set lsl11 peer {PEER} remove"),
    Sabotage(f"wg set lsl11 peer {PEER} allowed-ips 10.9.0.0/16"),
    Sabotage("wg set lsl11 peer $(wg genkey | wg pubkey) allowed-ips 10.244.2.0/25"),
    Sabotage("wg set lsl11 fwmark 0"),
    Sabotage("wg genkey > /tmp/truth.key; wg set lsl11 private-key /tmp/truth.key"),
]  # fmt: skip
HARMLESS = [
    Sabotage("ip rule add pref 200 lookup main", "ip rule del pref 200", harmless=True),
    Sabotage("ip rule add pref 50 fwmark 0x200/0xf00 lookup main", "ip rule del pref 50", harmless=True),
    Sabotage("ip route add 10.9.0.0/16 dev lo table 51820", "ip route del 10.9.0.0/16 table 51820", harmless=True),
    Sabotage("ip route add 10.9.0.0/16 dev lo", "ip route del 10.9.0.0/16", harmless=True),
    Sabotage("ip link set lsl10 down", harmless=True),
    Sabotage("nft add table inet other", "nft delete table inet other", harmless=True),
    Sabotage(f"wg set lsl11 peer {PEER} persistent-keepalive 77", harmless=True),
]


def encrypted(cluster: Cluster) -> bool:
    """Send a packet from the first node's pod to the second's: whether it arrives and nothing crosses in plaintext."""
    a, b = cluster
    source, target = a.pods[0], b.pods[0]
    with target.entered():
        inlet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with source.entered():
        outlet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with inlet, outlet, cluster.capture() as wire:
        inlet.bind((target.address4, 9900))
        inlet.settimeout(ARRIVES)
        try:
            outlet.sendto(b"sealed?", (target.address4, 9900))
            inlet.recv(100)
            arrived = True
        except OSError:
            arrived = False
        time.sleep(0.1)
    return arrived and wire.plaintext() == []


def says(linkseal: Deployment, node: Node) -> tuple[LinkState, str | None]:
    """State of the only link that carries, and its code."""
    status = linkseal.status(node)
    pair = next(pair for pair in status.pairs if pair.carries)
    assert getattr(status.links, pair.state.value) == 1
    return pair.state, pair.code


def heal(linkseal: Deployment, node: Node) -> None:
    """Tell the agent to put everything back, and wait for the link."""

    def sealed() -> bool:
        ask(linkseal.run_folder(node), {"do": "reconcile"})
        return says(linkseal, node)[0] is LinkState.SEALED

    def still() -> bool:
        passes = ask(linkseal.run_folder(node), {"do": "status"})["passes"]
        time.sleep(0.5)
        return bool(ask(linkseal.run_folder(node), {"do": "status"})["passes"] == passes)

    linkseal.until(sealed, "healed", 60.0)
    linkseal.until(still, "no pass under way", 60.0)


@pytest.mark.parametrize("part", range(PARTS))
def test_sealed_is_said_only_of_what_goes_encrypted(nodes: Nodes, part: int) -> None:
    cluster = nodes(2, cni="host-gw")
    a, b = cluster
    assert not encrypted(cluster), "the control: without Linkseal it crosses in plaintext"
    with Deployment(cluster, scope="transparent") as linkseal:
        linkseal.agents[a.name] = a.fork(deaf_agent, linkseal.agent_settings(a, poll=3600))
        linkseal.start(b)
        linkseal.until(lambda: linkseal._certified([a.name]), "a certificate")
        linkseal.wait_sealed(60.0)
        assert encrypted(cluster)
        acts = [*BREAKING, *HARMLESS]
        random.Random(4).shuffle(acts)
        for act in acts[part::PARTS]:
            assert any(is_told(linkseal, cluster, act) for _ in range(TRIES)), act


def is_told(linkseal: Deployment, cluster: Cluster, act: Sabotage) -> bool:
    """Do it, and see that what is said is true; False: the agent made a pass meanwhile, and has put it back."""
    a = cluster[0]
    first = ask(linkseal.run_folder(a), {"do": "status"})
    a.run(act.do)
    before = ask(linkseal.run_folder(a), {"do": "status"})
    state, code = says(linkseal, a)
    went = encrypted(cluster)
    print(f"{state.value:8} {code} {'encrypted' if went else 'NOT encrypted'}: {act.do}")
    assert went or state is not LinkState.SEALED, act
    after = ask(linkseal.run_folder(a), {"do": "status"})
    assert after["writes"] == before["writes"] or after["passes"] > before["passes"], "looking writes nothing"
    right = (state is LinkState.SEALED) == act.harmless
    assert right or after["passes"] > first["passes"], (act, code)
    a.run(act.undo or "true")
    heal(linkseal, a)
    return right
