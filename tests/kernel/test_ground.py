"""The test ground itself: what the other kernel tests rely on sees what it should, and fails when it should."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from ground.namespaces import NETNS_FOLDER
from ground.net import Cluster
from ground.probes import echo_server, loss_probe, tcp_probe, who_am_i
from ground.service import Service
from linkseal.keys.errors import HostError

pytestmark = pytest.mark.kernel

Nodes = Callable[..., Cluster]

BOTH = ("4", "6")


@pytest.mark.parametrize("cni", ["host-gw", "vxlan"])
def test_plaintext_between_pods_is_seen_on_the_wire(nodes: Nodes, cni: str) -> None:
    """The negative control of every capture in this suite: unencrypted traffic is seen as such, and its content."""
    cluster = nodes(2, cni=cni, families=BOTH)
    a, b = cluster
    with cluster.capture() as wire:
        for address in (b.pods[0].address4, b.pods[0].address6):
            a.pods[0].run(f"ping -c 1 -W 2 -p 6c696e6b7365616c {address}")
    assert wire.contains(b"linkseal")
    assert len(wire.plaintext()) == 4
    expected = "UDP" if cni == "vxlan" else "10.244.1.2 > 10.244.2.2 ICMP type 8"
    assert expected in wire.plaintext()[0]


def test_an_idle_cluster_is_silent(nodes: Nodes) -> None:
    """Nothing but neighbour traffic crosses when nobody speaks: else a proof of silence would prove nothing."""
    cluster = nodes(3, families=BOTH)
    with cluster.capture() as wire:
        time.sleep(1)
    assert wire.plaintext() == []


def test_pods_do_not_reach_each_other_without_a_cni(nodes: Nodes) -> None:
    a, b = nodes(2)
    a.run(f"ping -c 1 -W 2 {b.address4}")
    a.pods[0].run(f"ping -c 1 -W 2 {a.pods[1].address4}")
    with pytest.raises(HostError, match=r"ping.*ended with"):
        a.pods[0].run(f"ping -c 1 -W 1 {b.pods[0].address4}")


def test_wireguard_on_the_wire_is_not_called_plaintext(nodes: Nodes) -> None:
    cluster = nodes(2)
    a, b = cluster
    with cluster.capture() as wire:
        for node in cluster:
            node.run("umask 077; wg genkey >/run/tmp-$$.key; ip link add wg0 type wireguard;"
                     " wg set wg0 private-key /run/tmp-$$.key listen-port 51820; rm /run/tmp-$$.key")  # fmt: skip
            node.run(f"ip address add 172.16.0.{node.index}/24 dev wg0; ip link set wg0 up")
        for node, peer in ((a, b), (b, a)):
            key = peer.run("wg show wg0 public-key").strip()
            node.run(f"wg set wg0 peer {key} endpoint {peer.address4}:51820 allowed-ips 172.16.0.{peer.index}/32")
        a.run("ping -c 2 -i 0.2 -W 5 172.16.0.2")
    assert wire.plaintext() == []
    assert wire.count("wireguard") >= 6  # two handshake messages, two pings, two answers


def test_junk_on_the_wireguard_port_is_plaintext(nodes: Nodes) -> None:
    """A port alone makes no WireGuard packet."""
    cluster = nodes(2)
    a, b = cluster
    with cluster.capture() as wire, a.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 51820))
        sock.sendto(b"GET / HTTP/1.1 and so on, long enough to be a packet", (b.address4, 51820))
        time.sleep(0.05)
    assert any("UDP 51820 > 51820" in text for text in wire.plaintext())


def test_loss_probe_counts_exactly_what_is_dropped(nodes: Nodes) -> None:
    cluster = nodes(2)
    a, b = cluster
    b.run("nft add table inet t; nft add chain inet t in '{ type filter hook input priority 0; }'")
    with loss_probe(a, b, b.address4) as untouched:
        time.sleep(1)
    # the payload begins with the packet's number (64 bits): number 100 to 102 are dropped
    b.run("nft add rule inet t in udp dport 9000 @th,64,64 100-102 counter drop")
    with loss_probe(a, b, b.address4) as loss:
        time.sleep(2)
    assert untouched.sent > 500
    assert not untouched.lost, untouched
    assert [packet.number for packet in loss.lost] == [100, 101, 102]
    assert 0.05 < loss.lost[0].at < 0.25
    assert loss.received == loss.sent - 3


def test_loss_probe_keeps_its_pace(nodes: Nodes) -> None:
    """1,000 packets/s, as the rotation tests promise, with the capture running."""
    cluster = nodes(2)
    a, b = cluster
    with cluster.capture() as wire, loss_probe(a, b, b.address4, pps=1000) as loss:
        time.sleep(3)
    assert loss.sent / loss.seconds > 980, loss
    assert not loss.lost, loss
    assert wire.count("plaintext") == loss.sent


def test_tcp_probe_through_a_service_sees_a_reset(nodes: Nodes) -> None:
    """Connections live as long as conntrack knows them; flushed, those of the masqueraded service die."""
    cluster = nodes(3, cni="host-gw")
    a, b, c = cluster
    service = Service([b.pods[0], c.pods[0]])
    service.install(cluster)
    with ExitStack() as stack:
        for backend in service.backends:
            stack.enter_context(echo_server(backend, str(backend.address4)))
        with tcp_probe(a.pods[0], service.address4, service.port) as quiet:
            time.sleep(1)
        with tcp_probe(a.pods[0], service.address4, service.port) as flushed:
            time.sleep(0.5)
            a.run("conntrack -F")
            time.sleep(1)
        seen = who_am_i(a.pods[0], service.address4, service.port)
    assert (quiet.opened, quiet.alive, quiet.reset) == (20, 20, 0), quiet
    assert flushed.reset > 0, flushed  # those that came to the other backend, about half
    assert flushed.alive + flushed.reset == 20, flushed
    assert seen == a.address4, "the service masquerades"


@pytest.mark.parametrize(("policy", "seen"), [("Cluster", "192.0.2.11"), ("Local", "192.0.2.1")])
def test_node_port_follows_the_traffic_policy(nodes: Nodes, policy: str, seen: str) -> None:
    """Cluster masquerades the client; Local keeps its address and refuses where there is no backend."""
    cluster = nodes(2, cni="host-gw", outside=True)
    a, b = cluster
    pod = a.pods[0] if policy == "Local" else b.pods[0]
    service = Service([pod], external_traffic_policy=policy)  # type: ignore[arg-type]
    service.install(cluster)
    with echo_server(pod, str(pod.address4)):
        assert cluster.outside is not None
        assert who_am_i(cluster.outside, str(a.address4), service.node_port) == seen
        if policy == "Local":
            with pytest.raises(OSError, match="timed out"):
                who_am_i(cluster.outside, str(b.address4), service.node_port, timeout=1)


def test_a_node_behind_nat_reaches_out_and_is_seen_as_its_router(nodes: Nodes) -> None:
    a, b = nodes(2, nat=[2])
    with echo_server(a, str(a.address4)):
        assert who_am_i(b, str(a.address4), 8080) == "192.0.2.102"
    with pytest.raises(HostError, match="ended with"):
        a.run(f"ping -c 1 -W 1 {b.address4}")


def test_a_narrow_path_drops_what_does_not_fit(nodes: Nodes) -> None:
    a, b = nodes(2, narrow={2: 1400})
    a.run(f"ping -c 1 -W 2 -M do -s 1372 {b.address4}")
    with pytest.raises(HostError, match="ended with"):
        a.run(f"ping -c 1 -W 1 -M probe -s 1373 {b.address4}")


def test_delay_is_added_in_both_directions(nodes: Nodes) -> None:
    a, b = nodes(2, delay_ms=20)
    a.run(f"ping -c 1 {b.address4}")  # neighbours resolved
    times = a.run(f"ping -c 3 -i 0.2 {b.address4}").rsplit("=", 1)[1].split("/")
    assert 40 <= float(times[0]) < 80


def test_forked_process_lives_in_the_node_with_private_folders(nodes: Nodes) -> None:
    (a,) = nodes(1)

    def inside(folder: str) -> tuple[list[str], list[str], int]:
        names = [name for _, name in socket.if_nameindex()]
        print("hello from inside")
        return names, [entry.name for entry in Path(folder).iterdir()], os.getpid()

    process = a.fork(inside, "/run/linkseal")
    names, listing, pid = process.result()
    assert {"eth0", "cni0"} <= set(names)
    assert listing == []
    assert pid == process.pid
    assert process.text() == "hello from inside\n"


def test_forked_process_dies_by_the_signal_it_is_sent(nodes: Nodes) -> None:
    (a,) = nodes(1)
    process = a.fork(time.sleep, 100)
    process.kill(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_cluster_leaves_nothing_behind() -> None:
    cluster = Cluster(2, nat=[2], outside=True)
    left = cluster[0].popen("sleep 1000")
    names = [space.ns for space in cluster.namespaces()]
    cluster.remove()
    assert left.wait(5) == -signal.SIGKILL
    assert not [name for name in names if Path(NETNS_FOLDER, name).exists()]
