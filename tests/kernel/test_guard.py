"""The guard: in stage enforce nothing crosses in plaintext, whatever becomes of the tunnels or of the agent."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator

import pytest
from ground.agents import Deployment, Nodes
from ground.namespaces import Namespace
from ground.net import Cluster, Node
from ground.probes import Flow, Loss, echo_server, loss_probes, who_am_i
from ground.traffic import assert_no_drift
from linkseal.tunnels.agent import main as agent
from linkseal.tunnels.lab.capture import Capture
from linkseal.tunnels.redirect.kernel import Redirector
from linkseal.tunnels.redirect.model import DetachRedirect

pytestmark = pytest.mark.kernel

DUAL = ("4", "6")
SLOT = "lsl11"

SABOTAGE = [
    "ip route flush table 51820",
    "ip rule del pref 101; ip -6 rule del pref 101",
    "ip route flush table 51821; ip -6 route flush table 51821; ip route flush table 51820",
    "nft delete table netdev linkseal",
    f"wg set {SLOT} peer $(wg show {SLOT} peers) remove",
    f"ip link del {SLOT}",
    "ip link del lsl0",
]
"""What becomes of tunnels."""


@contextlib.contextmanager
def traffic(cluster: Cluster, *, hosts: bool) -> Iterator[list[Loss]]:
    """Packets between pods, and with `hosts` between nodes, both ways and in both families."""
    flows: list[Flow] = []
    for number, (a, b) in enumerate(((cluster[0], cluster[1]), (cluster[1], cluster[0]))):
        ends = [(a.pods[0], b.pods[0]), *([(a, b), (a, b.pods[1])] if hosts else [])]
        for port, (source, target) in enumerate(ends, 9100 + 10 * number):
            for offset, address in ((0, target.address4), (100, target.address6)):
                if address is not None:
                    flows.append(Flow(source, target, address, 20, port=port + offset))
    with loss_probes(flows) as found:
        yield found


def sabotage(node: Node) -> None:
    for line in SABOTAGE:
        node.run(line, check=False)
        time.sleep(0.3)


def plain(wire: Capture) -> list[str]:
    return list(wire.plaintext())


@pytest.mark.parametrize(("scope", "cni"), [("overlay", "none"), ("transparent", "host-gw")])
def test_enforce_lets_no_plaintext_pass_when_tunnels_are_taken_apart(nodes: Nodes, scope: str, cni: str) -> None:
    """Prefer is the control: the same sabotage puts plaintext on the wire there, in transparent."""
    cluster = nodes(2, families=DUAL, cni=cni)
    a, _ = cluster
    with Deployment(cluster, scope=scope, stage="enforce") as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        assert_no_drift(linkseal)
        with cluster.capture() as whole, traffic(cluster, hosts=scope == "transparent") as losses:
            time.sleep(1)
        assert [str(loss) for loss in losses if loss.lost] == []
        assert plain(whole) == []
        for node in cluster:
            linkseal.stop(node, 9)
        with cluster.capture() as broken, traffic(cluster, hosts=scope == "transparent") as losses:
            sabotage(a)
        assert plain(broken) == []
        assert any(loss.lost for loss in losses)
        with cluster.capture() as open_:
            a.run("nft delete table inet linkseal_guard; nft delete table netdev linkseal_guard")
            a.run("ip rule del pref 102; ip -6 rule del pref 102")
            take_off_programs(a)
            with traffic(cluster, hosts=scope == "transparent"):
                time.sleep(0.5)
        assert scope == "overlay" or plain(open_) != [], "without the guard the same traffic is seen"


def test_what_a_cni_may_encapsulate_is_dropped_where_it_leaves(nodes: Nodes) -> None:
    """With `passThrough` packets pass the guard at the CNI's own device; what it makes of them stops at the NIC."""
    cluster = nodes(2, cni="vxlan")
    a, _ = cluster
    with Deployment(cluster, scope="transparent", stage="enforce", guard={"passThrough": ["flannel.1"]}) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        for node in cluster:
            linkseal.stop(node, 9)
        before = encapsulated(a)
        with cluster.capture() as broken, traffic(cluster, hosts=False) as losses:
            sabotage(a)
        assert plain(broken) == []
        assert any(loss.lost for loss in losses)
        assert encapsulated(a) > before, "nothing came to the CNI's device"


def encapsulated(node: Node) -> int:
    """Packets that the CNI's VXLAN device has sent, or could not send because they were dropped further on."""
    counts = json.loads(node.run("ip -j -s link show flannel.1"))[0]["stats64"]["tx"]
    return int(counts["packets"] + counts["dropped"])


def test_both_of_two_guarded_nics_made_anew_are_guarded_again(nodes: Nodes) -> None:
    cluster = nodes(2)
    a, b = cluster
    second = "192.0.2.201"

    def plug() -> None:
        cluster.wire.ip(f"link add up1b type veth peer name eth1 netns {a.ns}", "link set up1b master br0 up")
        a.ip("link set eth1 up", f"address add {second}/32 dev eth1")

    plug()
    with Deployment(cluster, scope="transparent", stage="enforce") as linkseal:
        linkseal.addresses[a.name] = [*a.addresses, second]
        linkseal.sign()
        linkseal.start()
        linkseal.wait_sealed()
        linkseal.until(lambda: guarded(a) == {"eth0", "eth1"}, "programs on both")
        cluster.wire.ip("link del up1b")
        cluster.new_nic(a)
        plug()
        linkseal.until(lambda: guarded(a) == {"eth0", "eth1"}, "programs on both again")
        linkseal.wait_sealed()
        with cluster.capture() as wire, traffic(cluster, hosts=True) as losses:
            b.run(f"ping -c 2 -W 1 {second}")
        assert plain(wire) == []
        assert [str(loss) for loss in losses if loss.lost] == []


def guarded(node: Node) -> set[str]:
    """NICs of which both ways have our program."""
    with node.entered():
        redirector = Redirector()
        standing = redirector.observe().standing
        redirector.close()
    ways = [hook.device for hook in standing]
    return {name for name in ways if ways.count(name) == 2}


def take_off_programs(node: Node) -> None:
    """Take our programs off the node's NICs."""
    with node.entered():
        redirector = Redirector()
        state = redirector.observe()
        for hook in sorted(state.standing | state.strays | state.behind):
            redirector.apply(DetachRedirect(hook))
        redirector.close()


def forge(source: Namespace, target: str, *, port: int, bound: int = 0, user: int = 65534) -> None:
    """Send UDP as an unprivileged user from a source port of its choice; a refusal is as good as a drop."""

    def send() -> None:
        os.setegid(user)
        os.seteuid(user)  # capabilities go with it
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind(("", bound))
            for _ in range(5):
                with contextlib.suppress(OSError):
                    sock.sendto(b"canary in clear", (target, port))
        os.seteuid(0)  # the result is root's

    source.fork(send).result(30)


def counted(linkseal: Deployment, node: Node) -> dict[tuple[str, str, str], int]:
    return {(c.direction, c.reason, c.verdict): c.packets for c in linkseal.status(node).guard.counts}


def codes_of(linkseal: Deployment, node: Node) -> set[str]:
    return {found.code for found in linkseal.status(node).findings}


def past_the_tunnel(node: Node, peer: Node) -> None:
    """A rule of somebody else sends what belongs into the tunnel to the wire."""
    node.run(
        f"ip rule add pref 10 to {peer.address4} lookup main; ip -6 rule add pref 10 to {peer.address6} lookup main"
    )


def test_what_passes_the_tunnel_by_is_dropped_counted_and_told(nodes: Nodes) -> None:
    """Any source port, the tunnel's own ports, inbound plaintext; then prefer, which only counts: the control."""
    cluster = nodes(2, families=DUAL, cni="host-gw")
    a, b = cluster
    with Deployment(cluster, scope="transparent", stage="enforce") as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        linkseal.until(lambda: linkseal.status(a).guard.whole, "a guard that is whole")
        assert linkseal.status(a).guard.mode == "drop"
        past_the_tunnel(a, b)
        with cluster.capture() as wire:
            for target in (b.address4, b.address6):
                for port, bound in ((9, 51820), (51823, 51821), (51820, 0), (9, 6443), (67, 1068)):
                    forge(a, str(target), port=port, bound=bound)
                    forge(a.pods[0], str(target), port=port, bound=bound)
        assert plain(wire) == []
        assert not wire.contains(b"canary in clear")
        linkseal.until(lambda: counted(linkseal, a).get(("out", "bypass", "dropped"), 0) >= 50, "drops counted")
        assert "LS5002" in codes_of(linkseal, a)
        flows = {(f.peer, f.direction, f.protocol, f.port) for f in linkseal.status(a).guard.flows}
        assert {(b.name, "out", "udp", 51820), (b.name, "out", "udp", 9)} <= flows
        a.run("nft flush chain netdev linkseal_guard egress; nft flush chain inet linkseal_guard post")
        forge(a, str(b.address4), port=9)
        linkseal.until(lambda: linkseal.status(a).guard.whole and "LS3009" in linkseal.log(a), "flushed chains healed")
        linkseal.stop(a, 9)
        a.run("nft delete table inet linkseal_guard; nft delete table netdev linkseal_guard")
        take_off_programs(a)
        forge(a, str(b.address4), port=9)
        forge(a, str(b.address6), port=9)
        linkseal.until(
            lambda: (
                sum(n for (way, _, what), n in counted(linkseal, b).items() if (way, what) == ("in", "dropped")) >= 10
            ),
            "inbound plaintext dropped by the peer's guard",
        )
        linkseal.start(a)
        linkseal.until(lambda: linkseal.answers(a) and "LS3018" in codes_of(linkseal, a), "the foreign rule named")
        assert linkseal.status(a).links.sealed == 0, "not sealed while a rule leads past the tunnel"
        linkseal.set(stage="prefer")
        for node in cluster:
            linkseal.until(lambda node=node: linkseal.status(node).guard.mode == "count", "a guard that counts")  # type: ignore[misc]
        with cluster.capture() as clear:
            forge(a, str(b.address4), port=9)
        assert clear.contains(b"canary in clear")
        linkseal.until(lambda: counted(linkseal, a).get(("out", "bypass", "counted"), 0) >= 5, "plaintext counted")
        assert "LS5001" in codes_of(linkseal, a)


def test_exemptions_break_glass_restore_and_cleanup(nodes: Nodes) -> None:
    cluster = nodes(2, families=DUAL, cni="host-gw")
    a, b = cluster
    open_, over = "2100-01-01T00:00:00Z", "2001-01-01T00:00:00Z"
    cidr = f"{b.address4}/32"
    exempt = {"protocol": "tcp", "cidr": cidr, "owner": "tests", "reason": "a test"}
    exemptions = [
        {"name": "open", "port": 8080, "expires": open_, **exempt},
        {"name": "over", "port": 8081, "expires": over, **exempt},
    ]
    with Deployment(cluster, scope="transparent", stage="enforce", exemptions=exemptions) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        with cluster.capture() as wire, echo_server(b, str(b.address4), 8080):
            assert who_am_i(a, str(b.address4), 8080) == a.address4
        assert plain(wire) != [], "what is exempt needs no tunnel"
        assert all(" 8080" in line for line in plain(wire)), plain(wire)
        linkseal.until(lambda: counted(linkseal, b).get(("in", "exempt", "counted"), 0) > 0, "exempt packets counted")
        assert "LS5005" in codes_of(linkseal, a)
        past_the_tunnel(b, a)
        with cluster.capture() as forged:
            forge(b, str(a.address4), port=9, bound=8080)
        assert plain(forged) == []
        # break-glass
        past_the_tunnel(a, b)
        linkseal.run_in(a, agent.break_glass, linkseal.agent_settings(a), "a test", None)
        linkseal.until(lambda: linkseal.status(a).guard.broken_glass is not None, "break-glass told")
        linkseal.until(lambda: linkseal.status(a).guard.mode == "count", "the guard lifted")
        assert "LS5004" in codes_of(linkseal, a)
        with cluster.capture() as lifted:
            forge(a, str(b.address4), port=9)
        assert lifted.contains(b"canary in clear")
        for node in cluster:
            linkseal.stop(node)
        linkseal.run_in(a, agent.restore, linkseal.agent_settings(a))
        assert "elements" not in a.run("nft list set inet linkseal_guard drop_out4"), "restore honours it"
        linkseal.run_in(a, agent.break_glass, linkseal.agent_settings(a), None, None)
        assert b.address4 in a.run("nft list set inet linkseal_guard drop_out4"), "closed without an agent"
        with cluster.capture() as closed:
            forge(a, str(b.address4), port=9)
        assert not closed.contains(b"canary in clear")
        # restore after a reboot, then the way out
        a.run("nft flush ruleset; ip route flush table 51820; ip route flush table 51821; ip link del lsl0")
        linkseal.run_in(a, agent.restore, linkseal.agent_settings(a))
        assert b.address4 in a.run("nft list set netdev linkseal_guard drop_out4")
        assert "unreachable" in a.run("ip route show table 51821")
        linkseal.run_in(a, lambda: agent.cleanup(linkseal.agent_settings(a), withdraw=False))
        assert "linkseal" not in a.run("nft list ruleset")
        assert "proto 76" not in a.run("ip rule; ip route show table all")


def test_fragments_of_our_own_packets_pass_the_guard(nodes: Nodes) -> None:
    """Slots with a larger MTU than the path: each full packet leaves in two fragments, and comes in."""
    cluster = nodes(2, families=DUAL, cni="host-gw")
    a, b = cluster
    with Deployment(cluster, scope="transparent", stage="enforce", wireguard={"mtu": 2000}) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        a.run("ip link set lsl0 mtu 2000", check=False)
        with cluster.capture() as wire:
            a.run(f"ping -c 5 -i 0.2 -W 2 -s 1900 {b.address4}")
            a.run(f"ping -c 5 -i 0.2 -W 2 -s 1900 {b.address6}")
        assert plain(wire) == []
        assert wire.count("wireguard") >= 40
