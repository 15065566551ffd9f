"""plan and diff of 5,000 nodes. Prints one line per figure: name, value, target, PASS or FAIL.

CPU time of the fastest of several runs, so that what else the machine does is left out.
`python tests/bench/bench_plan.py`
"""

from __future__ import annotations

import base64
import dataclasses
import pickle
import random
import sys
import time
from collections.abc import Callable

from ground.figures import Figures, best
from linkseal.keys.values import Prefix, PublicKey
from linkseal.tunnels.diff import diff
from linkseal.tunnels.model import Desired, InterfaceState, KeyOfGeneration, Observed, Scope
from linkseal.tunnels.plan import plan
from linkseal.tunnels.world import Layout, Me, Peer, PeerLinks, Underlay, World
from linkseal.wireguard.model import DeviceState, Endpoint, PeerState

NODES = 5000
TARGET = 150.0
FIGURES = Figures()
NIC = InterfaceState("eth0", 2, None, 1500, up=True, rp_filter=0)


def make_world(scope: Scope) -> World:
    """A dual-stack cluster, every link proven and in use."""
    rng = random.Random(1)
    peers, links = {}, {}
    for n in range(2, NODES + 1):
        key = PublicKey(base64.b64encode(rng.randbytes(32)).decode())
        addresses = (f"172.16.{n >> 8}.{n & 255}", f"2001:db8::{n:x}")
        prefixes = (Prefix(f"10.{n >> 8}.{n & 255}.0/24"), Prefix(f"fd00:244:0:{n:x}::/64"))
        endpoints = tuple(Endpoint(address, 51820) for address in addresses)
        peers[f"node-{n}"] = Peer(f"node-{n}", n, addresses, prefixes, (KeyOfGeneration(1, key),), endpoints)
        links[f"node-{n}"] = PeerLinks((1, 1))
    own = (KeyOfGeneration(1, PublicKey(base64.b64encode(rng.randbytes(32)).decode())),)
    me = Me("node-1", 1, ("172.16.0.1", "2001:db8::1"), (Prefix("10.0.1.0/24"), Prefix("fd00:244:0:1::/64")), own)
    underlay = Underlay("eth0", 1500, frozenset({4, 6}))
    return World(me, Layout(scope=scope), underlay, peers, links)


def with_one_changed(world: World) -> World:
    name = "node-2500"
    peer = dataclasses.replace(world.peers[name], prefixes=(*world.peers[name].prefixes, Prefix("10.200.0.0/24")))
    return dataclasses.replace(world, peers={**world.peers, name: peer})


def in_place(desired: Desired) -> Observed:
    """A host as the kernel shows it: equal, but no object shared with what was planned."""
    devices = {
        name: DeviceState(
            name,
            spec.public_key,
            spec.listen_port,
            spec.fwmark,
            {key: PeerState(key, p.allowed_ips, p.endpoint, p.keepalive, 1e9) for key, p in spec.peers.items()},
        )
        for name, spec in desired.devices.items()
    }
    interfaces = {
        name: InterfaceState(name, 9, i.kind, i.mtu, up=True, rp_filter=i.rp_filter, accept_local=i.accept_local)
        for name, i in desired.interfaces.items()
    }
    seen = Observed(
        interfaces={"eth0": NIC, **interfaces},
        addresses=desired.addresses,
        devices=devices,
        routes=desired.routes,
        rules=desired.rules,
        nft=desired.nft,
        guard=desired.guard,
    )
    copied: Observed = pickle.loads(pickle.dumps(seen))  # noqa: S301 - our own
    assert diff(desired, copied) == ()
    return copied


def measure(scope: Scope) -> None:
    world = make_world(scope)
    changed = with_one_changed(world)
    desired = plan(world)
    seen = in_place(desired)
    fresh = Observed(interfaces={"eth0": NIC})
    name = scope.value

    def cpu(run: Callable[[], object]) -> float:
        return best(run, 7, time.process_time)

    FIGURES.told(f"plan, {NODES} nodes, {name}", cpu(lambda: plan(world)), "ms")
    FIGURES.told("diff, nothing differs", cpu(lambda: diff(desired, seen)), "ms")
    FIGURES.at_most("plan + diff, nothing differs", cpu(lambda: diff(plan(world), seen)), TARGET, "ms")
    FIGURES.at_most("plan + diff, one peer has a prefix more", cpu(lambda: diff(plan(changed), seen)), TARGET, "ms")
    FIGURES.told("plan + diff, fresh host", cpu(lambda: diff(plan(world), fresh)), "ms")
    assert diff(plan(world), seen) == ()
    assert len(diff(plan(changed), seen)) == 4  # the guard, the peer, its element, its route


def main() -> int:
    measure(Scope.OVERLAY)
    measure(Scope.TRANSPARENT)
    return FIGURES.status


if __name__ == "__main__":
    sys.exit(main())
