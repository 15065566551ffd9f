"""Paths between nodes: narrow ones, strict filters, NAT, roaming, endpoints set by hand, IPv6 alone."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from ground.agents import Deployment, Nodes
from ground.namespaces import ForkedProcess, Namespace
from ground.net import Cluster, Node
from ground.probes import Flow, loss_probes
from ground.wire import Capture
from linkseal.tunnels import codes
from linkseal.tunnels.addressing import ProbeRange
from linkseal.tunnels.agent import main as agent

pytestmark = pytest.mark.kernel

SLOT = "lsl11"
PROBES = ProbeRange()

COPIED = 2_000_000
"""Bytes."""


class Copied(NamedTuple):
    seconds: float
    segment: int
    """The receiver's, bytes."""


def copy(source: Namespace, target: Namespace, address: str) -> Copied:
    """Send COPIED bytes by TCP."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with target.entered():
        listener = socket.create_server((address, 7000), family=family)

    def receive() -> tuple[int, int]:
        connection, _ = listener.accept()
        total = 0
        while data := connection.recv(1 << 16):
            total += len(data)
        return total, connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)

    with listener:
        receiver = ForkedProcess(receive)
    began = time.monotonic()
    with source.entered(), socket.create_connection((address, 7000), timeout=10) as connection:
        connection.sendall(bytes(COPIED))
    total, segment = receiver.result()
    receiver.forget()
    assert total == COPIED
    return Copied(time.monotonic() - began, segment)


def offered_segments(capture: Capture, node: Node) -> Iterator[int]:
    """The MSS option of every SYN and SYN-ACK in a capture that goes to a pod of the node."""
    pods = tuple(f"> {address} TCP" for pod in node.pods for address in (pod.address4, pod.address6))
    for frame in capture.frames:
        if not any(pod in frame.text for pod in pods):
            continue
        version = frame.data[14] >> 4
        at = 14 + (40 if version == 6 else (frame.data[14] & 15) * 4)
        if frame.data[at + 13] & 2:
            options = frame.data[at + 20 :]
            while options and options[0] != 2:
                options = options[1 if options[0] == 1 else options[1] :]
            yield struct.unpack_from("!H", options, 2)[0]


def routes(node: Node, peer: Node) -> list[str]:
    """Our routes to what a peer owns."""
    lines = node.run("ip route show table 51820; ip -6 route show table 51820", check=False).splitlines()
    return [line for line in lines if re.split(r"[\s/]", line)[0] in owned(peer)]


def owned(peer: Node) -> set[str]:
    return {text.split("/")[0] for text in (*peer.pod_cidrs, *peer.addresses)}


def test_a_path_narrower_than_the_nic_is_found_and_what_crosses_it_fits(nodes: Nodes) -> None:
    """Also: strict filters everywhere, loosened on the underlay and put back by cleanup; pods of 1,500 bytes."""
    cluster = nodes(3, families=("4", "6"), narrow={3: 1400})
    a, b, c = cluster
    strict = "cat /proc/sys/net/ipv4/conf/all/rp_filter /proc/sys/net/ipv4/conf/eth0/rp_filter"
    assert a.run(strict).split() == ["1", "1"]
    with Deployment(cluster, scope="transparent") as linkseal:
        linkseal.start()
        linkseal.until(lambda: sizes(linkseal, a) == {b.name: 1440, c.name: 1340}, "both paths measured and proven")
        linkseal.until(lambda: sizes(linkseal, c) == {a.name: 1340, b.name: 1340}, "from the other end too")
        linkseal.wait_sealed()
        assert [line for line in routes(a, c) if "mtu 1340" not in line] == []
        assert len(routes(a, c)) == len(routes(a, b)) == 4
        assert [line for line in routes(a, b) if "mtu" in line] == []
        with cluster.capture() as wire, Capture(c, "cni0") as arriving:
            copied = [copy(a.pods[0], c.pods[0], str(address)) for address in (c.pods[0].address4, c.pods[0].address6)]
            copied += [copy(c.pods[1], a.pods[1], str(a.pods[1].address4)), copy(a, c, str(c.address4))]
        assert wire.plaintext() == []
        assert [frame.text for frame in wire.frames if "fragment" in frame.text] == []
        data = [len(frame.data) for frame in wire.frames if frame.kind == "wireguard"]
        assert max(data) == 14 + 1400
        assert sum(size for size in data if size == max(data)) > 0.8 * len(copied) * COPIED, "full-size packets"
        assert set(offered_segments(arriving, c)) == {1340 - 40, 1340 - 60}
        found = {(one.code, one.subject): one.message for one in linkseal.status(a).findings}
        assert [subject for code, subject in found if code == codes.PATH_MTU] == [c.name]
        assert "set it to 1440" in found[codes.CNI_MTU, ""]
        assert "eth0 was 1" in found[codes.RP_FILTER_LOOSENED, "eth0"]
        assert a.run(strict).split() == ["1", "2"]
        a.run("echo 1 > /proc/sys/net/ipv4/conf/eth0/rp_filter")
        linkseal.until(lambda: "conf/eth0/rp_filter=2" in linkseal.log(a), "healed and told", 6)
        assert a.run(strict).split() == ["1", "2"]
        assert json.loads((linkseal.state(a) / "host.json").read_text()) == {"rp_filter": {"eth0": 1}}
        linkseal.stop(a)
        removed = linkseal.run_in(a, lambda: agent.cleanup(linkseal.agent_settings(a), withdraw=True))
        assert "rp_filter of eth0 back to 1" in removed
        assert a.run(strict).split() == ["1", "1"]


def test_a_path_that_grows_is_proven_at_its_new_size(nodes: Nodes) -> None:
    """IPv6 believes "too big" for ten minutes, of what it forwards as well: a peer that is late must not say it."""
    cluster = nodes(3, families=("4", "6"))
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        for _ in range(2):
            for mtu in (1400, 1500):
                carry(cluster, mtu)
                linkseal.until(
                    lambda: all(set(sizes(linkseal, node).values()) == {mtu - 60} for node in cluster),  # noqa: B023
                    f"proven with {mtu - 60} bytes",
                )
        believed = [line for node in cluster for line in ways_to_probes(node, len(cluster)) if "expires" in line]
        assert believed == []
        linkseal.wait_sealed()


def test_with_no_way_to_a_peer_packets_of_the_tunnels_are_not_encrypted_again(nodes: Nodes) -> None:
    """Also: a route by a peer as its gateway, made without a NIC, leads into the door; that is told."""
    cluster = nodes(2)
    a, b = cluster
    with Deployment(cluster, scope="transparent") as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        [connected] = [line for line in a.run("ip route show table main").splitlines() if "dev eth0" in line]
        a.run(f"ip route del {connected.split()[0]} dev eth0")
        before = sent(a)
        a.pods[0].run(f"ping -c 5 -i 0.2 -W 1 {b.pods[0].address4}", check=False)
        assert "unreachable" in a.run(f"ip route get {b.address4} mark 0x4c530c00 2>&1", check=False)
        assert sent(a) - before < 10_000
        a.run(f"ip route add {connected}; ip route add 10.99.0.0/24 via {b.address4}")
        linkseal.until(
            lambda: "1 received" in a.pods[0].run(f"ping -c 1 -W 1 {b.pods[0].address4}", check=False), "back"
        )
        linkseal.until(lambda: codes.ROUTE_INTO_TUNNEL in linkseal.codes(a), "told")
        assert "10.99.0.0/24 dev lsl0" in linkseal.log(a)
        a.run("ip route del 10.99.0.0/24")
        linkseal.until(lambda: codes.ROUTE_INTO_TUNNEL not in linkseal.codes(a), "over")
        linkseal.wait_sealed()


def sent(node: Node) -> int:
    """Bytes that went into the slot."""
    return int(json.loads(node.run(f"ip -j -s link show {SLOT}"))[0]["stats64"]["tx"]["bytes"])


def ways_to_probes(node: Node, nodes: int) -> list[str]:
    """What the kernel knows of the way to each probe address of every node."""
    addresses = [str(PROBES.v6[offset]) for offset in range(8, 8 * (nodes + 1))]
    return node.run("\n".join(f"ip -6 route get {address}" for address in addresses)).splitlines()


def carry(cluster: Cluster, mtu: int) -> None:
    """Give the wire and every NIC an MTU."""
    for node in cluster:
        node.ip(f"link set eth0 mtu {mtu}")
    cluster.wire.ip(*(f"link set up{node.index} mtu {mtu}" for node in cluster))


def sizes(linkseal: Deployment, node: Node) -> dict[str, int | None]:
    """Largest packet proven to each peer."""
    return {pair.peer: pair.path_mtu for pair in linkseal.status(node).pairs}


def test_links_are_proven_before_anything_is_routed_to_them_though_there_is_no_default_route(nodes: Nodes) -> None:
    """Stage `prepare`: the kernel's loose filter drops what comes from where no route leads."""
    cluster = nodes(2)
    a, b = cluster
    with Deployment(cluster, stage="prepare") as linkseal:
        linkseal.start()
        linkseal.until(lambda: all(linkseal.status(node).links.proven == 1 for node in cluster), "proven")
        assert a.run("ip route show default") == ""
        assert routes(a, b) == []
        assert "Unreachable" in a.pods[0].run(f"ping -c 1 -W 1 {b.pods[0].address4}", check=False)
        linkseal.set(stage="prefer")
        linkseal.wait_sealed()
        a.pods[0].run(f"ping -c 1 -W 2 {b.pods[0].address4}")
        assert a.run("ip route show table default") == ""


def peers(node: Node) -> dict[str, tuple[str, str]]:
    """Public key → endpoint and keepalive of each peer in the slot of first generations."""
    lines = node.run(f"wg show {SLOT} dump").splitlines()[1:]
    return {fields[0]: (fields[2], fields[7]) for fields in (line.split("\t") for line in lines)}


def key(node: Node) -> str:
    return node.run(f"wg show {SLOT} public-key").strip()


def flows_both_ways(*pairs: tuple[Node, Node], seconds: float) -> None:
    """No packet between pods of each pair is lost in so many seconds."""
    ways = [way for pair in pairs for way in (pair, pair[::-1])]
    flows = [Flow(x.pods[0], y.pods[0], str(y.pods[0].address4), 20, port=9000 + x.index) for x, y in ways]
    with loss_probes(flows) as probes:
        time.sleep(seconds)
    names = [f"{x.name} → {y.name}" for x, y in ways]
    assert [f"{name}: {probe}" for name, probe in zip(names, probes, strict=True) if probe.lost] == []


def test_nat_roaming_and_endpoints_set_by_hand(nodes: Nodes) -> None:
    """c is behind NAT and announces nothing. Of a and b, x begins handshakes; it is told where y is, and y moves."""
    cluster = nodes(3, nat=[3])
    a, b, c = cluster
    with Deployment(cluster) as linkseal:
        linkseal.settings[c.name] = {"endpoints": []}
        for node in (a, b):
            node.ip(f"address add 192.0.2.{50 + node.index}/24 dev eth0")
            linkseal.settings[node.name] = {"endpoints": [node.address4], "interface": "eth0"}
        linkseal.start()
        linkseal.wait_sealed()
        assert {keepalive for _, keepalive in peers(c).values()} == {"25"}
        assert (peers(a)[key(c)][1], peers(b)[key(c)][1]) == ("off", "off")
        assert peers(a)[key(c)][0].startswith("192.0.2.103:")

        x, y = (a, b) if peers(a)[key(b)][1] == "25" else (b, a)
        linkseal.stop(x)
        linkseal.start(x, peerEndpoints={y.name: f"192.0.2.{50 + y.index}"})
        linkseal.until(lambda: peers(x)[key(y)][0] == f"192.0.2.{50 + y.index}:51823", "the endpoint set by hand")
        flows_both_ways((x, c), (x, y), seconds=0.5)
        assert peers(x)[key(y)][0] == f"192.0.2.{50 + y.index}:51823"

        router = cluster.routers[c.index]
        router.run("ip address flush dev wan; ip address add 192.0.2.113/24 dev wan")  # its mappings go too
        y.run(f"ip address flush dev eth0; ip address add 192.0.2.{60 + y.index}/24 dev eth0")
        for moved in (y, c):
            moved.pods[0].run(f"ping -c 1 -W 1 {x.pods[0].address4}", check=False)  # whoever moves speaks first
        flows_both_ways((x, c), (x, y), seconds=4.5)  # two polls
        assert peers(x)[key(c)][0].startswith("192.0.2.113:")
        assert peers(x)[key(y)][0] == f"192.0.2.{60 + y.index}:51823"
        assert "drift" not in linkseal.log(x)


def test_an_underlay_of_ipv6_alone_carries_pods_and_hosts(nodes: Nodes) -> None:
    cluster = nodes(2, families=("6",), cni="host-gw")
    a, b = cluster
    with Deployment(cluster, scope="transparent") as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        with cluster.capture() as wire:
            copied = [copy(a.pods[0], b.pods[0], str(b.pods[0].address6)), copy(b, a, str(a.address6))]
        assert [one.segment for one in copied] == [1420 - 60 - 12] * 2  # less TCP timestamps
        assert wire.plaintext() == []
        assert [frame.text for frame in wire.frames if "fragment" in frame.text] == []
        assert sizes(linkseal, a) == {b.name: 1420}
