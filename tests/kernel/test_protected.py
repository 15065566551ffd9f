"""Protected networks: at enforce nothing crosses to or from an address in them that no node is known to have."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Node, Pod
from ground.probes import Flow, Loss, loss_probes
from ground.traffic import assert_no_drift
from linkseal.tunnels.lab.cluster import POD_NETWORKS
from linkseal.tunnels.model import Stage

pytestmark = pytest.mark.kernel

DUAL = ("4", "6")
OUT, IN = b"leaves in clear", b"comes in clear"
PORT = 9999
SENT = 5


def say(source: Pod, target: Pod, words: bytes) -> None:
    """Send a few packets over both families."""

    def send() -> None:
        for family, address in ((socket.AF_INET, target.address4), (socket.AF_INET6, target.address6)):
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                for _ in range(SENT):
                    with contextlib.suppress(OSError):  # a refusal is as good as a drop
                        sock.sendto(words, (address, PORT))

    source.fork(send).result(30)


def listen(pod: Pod) -> int:
    """Count what comes until nothing has come for a while."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", PORT))
        sock.settimeout(5)
        heard = 0
        with contextlib.suppress(TimeoutError):
            while True:
                heard += sock.recv(100) in (OUT, IN)
    return heard


def exchange(ours: Pod, theirs: Pod) -> tuple[int, int]:
    """Send both ways; return what came at the other's end and what came at ours."""
    there, here = theirs.fork(listen, theirs), ours.fork(listen, ours)
    say(ours, theirs, OUT)
    say(theirs, ours, IN)
    return int(there.result(30)), int(here.result(30))


def counted(linkseal: Deployment, node: Node, verdict: str) -> dict[str, int]:
    """Packets of nobody known, by direction."""
    counts = linkseal.status(node).guard.counts
    return {one.direction: one.packets for one in counts if (one.reason, one.verdict) == ("unknown", verdict)}


@contextlib.contextmanager
def allowed_traffic(a: Node, b: Node) -> Iterator[list[Loss]]:
    """What must not notice anything: pods of two nodes, two pods of one, a node with its own pod, by both families."""
    first, second = a.pods
    ways = [(first, b.pods[0]), (b.pods[1], second), (first, second), (a, first), (first, a)]
    flows = [
        Flow(source, target, str(address), 20, port=port + offset)
        for port, (source, target) in enumerate(ways, 9100)
        for offset, address in ((0, target.address4), (100, target.address6))
    ]
    with loss_probes(flows) as losses:
        yield losses


def test_who_was_granted_nothing_is_cut_off_at_enforce_and_comes_in_once_granted(nodes: Nodes) -> None:
    cluster = nodes(3, families=DUAL, cni="host-gw")
    a, b, stranger = cluster
    pod, other = a.pods[0], stranger.pods[0]
    with Deployment(cluster, stage="prefer", protectedCIDRs=list(POD_NETWORKS)) as linkseal:
        linkseal.remove_node(stranger)
        linkseal.start(a, b)
        linkseal.wait_sealed()
        linkseal.until(lambda: linkseal.status(a).guard.whole, "a guard that is whole")
        with cluster.capture() as clear:
            assert exchange(pod, other) == (2 * SENT, 2 * SENT)
        assert clear.contains(OUT)
        linkseal.until(lambda: counted(linkseal, a, "counted") == {"out": 2 * SENT, "in": 2 * SENT}, "both counted")
        flows = {(flow.address, flow.direction, flow.port) for flow in linkseal.status(a).guard.flows}
        assert flows == {(one, way, PORT) for one in (other.address4, other.address6) for way in ("out", "in")}

        linkseal.set(stage="enforce")
        for node in (a, b):
            linkseal.until(lambda node=node: linkseal.status(node).guard.mode == "drop", "a guard that drops")  # type: ignore[misc]
        with cluster.capture() as wire, allowed_traffic(a, b) as losses:
            assert exchange(pod, other) == (0, 0)
        assert not wire.contains(OUT)
        assert wire.contains(IN), "it was sent, and came to the node"
        assert [str(loss) for loss in losses if loss.lost] == []
        linkseal.until(lambda: counted(linkseal, a, "dropped") == {"out": 2 * SENT, "in": 2 * SENT}, "both dropped")
        assert_no_drift(linkseal)

        linkseal.members.append(stranger)
        linkseal.start(stranger)
        linkseal.wait_sealed()
        linkseal.until(lambda: linkseal.status(stranger).stage is Stage.ENFORCE, "the new node in stage enforce")
        with cluster.capture() as sealed, allowed_traffic(a, stranger) as losses:
            assert exchange(pod, other) == (2 * SENT, 2 * SENT)
        assert sealed.plaintext() == []
        assert [str(loss) for loss in losses if loss.lost] == []
        assert_no_drift(linkseal)


def test_they_are_taken_up_and_given_up_by_agents_as_they_run(nodes: Nodes) -> None:
    cluster = nodes(3, families=DUAL, cni="host-gw")
    a, b, stranger = cluster
    with Deployment(cluster, stage="enforce") as linkseal:
        linkseal.remove_node(stranger)
        linkseal.start(a, b)
        linkseal.wait_sealed()
        for networks in ([], list(POD_NETWORKS), []):
            linkseal.set(protectedCIDRs=networks)
            linkseal.until(lambda networks=networks: guards_rest(a) == bool(networks), "the networks taken up")  # type: ignore[misc]
            with cluster.capture() as wire:
                say(a.pods[0], stranger.pods[0], OUT)
            assert wire.contains(OUT) == (not networks)


def guards_rest(node: Node) -> bool:
    """Whether the guard has what no node has of the pods' IPv4 network."""
    return "10.244.3.0-10.244.255.255" in node.run("nft list set inet linkseal_guard drop_out4")
