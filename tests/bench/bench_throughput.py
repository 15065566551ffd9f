"""TCP from pod to pod: through our tunnel and door, through our slot without the door, through a tunnel made by hand.

Lab kernel or any kernel with WireGuard. Rounds of the three in turn, medians, ratios in one run: absolute numbers of a
lab kernel mean nothing.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from ground.agents import Deployment
from ground.figures import Figures
from ground.net import Cluster, Node

NEEDS_KERNEL = True
ROUNDS = 5
SECONDS = 3
HAND_PORT, HAND_TABLE, HAND_RULE = 51900, 777, 50


def by_hand(nodes: list[Node]) -> None:
    """A plain WireGuard tunnel between two nodes, with the MTU ours has, as its manual page makes it."""
    keys = {}
    for node in nodes:
        private = subprocess.run(["wg", "genkey"], capture_output=True, text=True, check=True).stdout.strip()
        public = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True).stdout
        keys[node.name] = (private, public.strip())
    for node, peer in (nodes, nodes[::-1]):
        node.ip("link add hand0 mtu 1440 type wireguard", "link set hand0 up")
        node.run(f"echo {keys[node.name][0]} | wg set hand0 listen-port {HAND_PORT} private-key /proc/self/fd/0")
        node.run(f"wg set hand0 peer {keys[peer.name][1]} endpoint {peer.address4}:{HAND_PORT} allowed-ips 0.0.0.0/0")
        node.run("echo 2 > /proc/sys/net/ipv4/conf/hand0/rp_filter")
        node.ip("address add 169.254.9.9/32 scope host dev hand0", f"route add default dev hand0 table {HAND_TABLE}")


def divert(nodes: list[Node], device: str | None) -> None:
    """Send everything for the other's pods into this device instead of where Linkseal sends it; None: no more."""
    for node, peer in (nodes, nodes[::-1]):
        node.run(f"ip rule del pref {HAND_RULE}", check=False)
        if device is not None:
            node.ip(
                f"route replace default dev {device} table {HAND_TABLE}",
                f"rule add pref {HAND_RULE} to {peer.pod_cidr4} lookup {HAND_TABLE}",
            )


def throughput(nodes: list[Node]) -> float:
    """Mbit/s of one iperf3 run from pod to pod."""
    source, target = nodes[0].pods[0], nodes[1].pods[0]
    server = target.popen("iperf3 -s -1 -p 5201", stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    text = source.run(f"iperf3 -J -c {target.address4} -p 5201 -t {SECONDS} -O 1", timeout=SECONDS + 30)
    server.wait(10)
    return float(json.loads(text)["end"]["sum_received"]["bits_per_second"]) / 1e6


def slot_of(linkseal: Deployment, node: Node) -> str:
    """The slot that carries the node's traffic."""
    return next(pair.slot for pair in linkseal.status(node).pairs if pair.carries)


def main() -> int:
    figures = Figures()
    cluster = Cluster(2, pod_mtu=1440)
    try:
        with Deployment(cluster) as linkseal:
            linkseal.start()
            linkseal.wait_sealed()
            nodes = list(cluster)
            by_hand(nodes)
            slots = {slot_of(linkseal, node) for node in nodes}
            assert len(slots) == 1, slots
            ways: dict[str, Callable[[], None]] = {
                "hand": lambda: divert(nodes, "hand0"),
                "slot": lambda: divert(nodes, next(iter(slots))),
                "door": lambda: divert(nodes, None),
            }
            found: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, prepare in ways.items():
                    prepare()
                    found[name].append(throughput(nodes))
    finally:
        cluster.remove()
    median = {name: statistics.median(values) for name, values in found.items()}
    figures.told("tunnel made by hand, TCP pod to pod (lab kernel: no claim)", median["hand"], "Mb/s")
    figures.at_least("our tunnel and door / tunnel made by hand", median["door"] / median["hand"], 0.97)
    figures.told("our slot without the door / tunnel made by hand", median["slot"] / median["hand"])
    figures.told("with the door / without it", median["door"] / median["slot"])
    return figures.status


if __name__ == "__main__":
    sys.exit(main())
