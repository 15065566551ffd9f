"""One host as Linkseal wants it (door, two slots, probe pair, a peer), for the tests of the host driver."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from linkseal.keys.secrets import PrivateKey
from linkseal.keys.values import Prefix, PublicKey
from linkseal.tunnels.addressing import DOOR, PROBE, SLOT_ADDRESS, ProbeRange
from linkseal.tunnels.diff import diff
from linkseal.tunnels.host.host import Failure, Host
from linkseal.tunnels.model import Address, Desired, Interface, Kind, Route, Rule, Ruleset
from linkseal.tunnels.nftables import clamp_chain, door_chain, probe_chains
from linkseal.wireguard.kernel import KernelDriver
from linkseal.wireguard.model import DeviceSpec, Endpoint, PeerSpec

CLONE_NEWNET = 0x40000000
TABLE = 51820
OWN, PEER = PrivateKey.generate(), PrivateKey.generate().public_key
T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def secrets(key: PublicKey) -> PrivateKey:
    assert key == OWN.public_key
    return OWN


def sh(line: str) -> None:
    subprocess.run(line, shell=True, check=True)


@contextlib.contextmanager
def fresh_namespace() -> Iterator[None]:
    """Move this thread into a new network namespace with an underlay NIC `eth0` whose rp_filter is strict, and back."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert _libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        sh("ip link set lo up; ip link add eth0 type veth peer name far; ip link set eth0 up; ip link set far up")
        sh("ip addr add 192.0.2.1/24 dev eth0; sysctl -qw net.ipv4.conf.eth0.rp_filter=1")
        yield
    finally:
        assert _libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


def desired(slot: str = "lsl00") -> Desired:
    probe = ProbeRange()
    own = {probe.pair(family, 1, a, b): f"lsl{a}{b}" for family in (4, 6) for a in (0, 1) for b in (0, 1)}
    chains = [*probe_chains(probe.network(4), probe.network(6), own), clamp_chain(), door_chain()]
    slots = ("lsl00", "lsl01")
    peer = PeerSpec(PEER, frozenset({Prefix("10.244.2.0/24"), Prefix("fd00:2::/64")}), Endpoint("192.0.2.2", 51820))
    routes = [
        Route(TABLE, Prefix("10.244.2.0/24"), DOOR, source="10.244.1.1", mtu=1380),
        Route(TABLE, Prefix("fd00:2::/64"), DOOR, source="fd00:1::1"),
        Route(TABLE, Prefix("198.18.0.16/29"), DOOR),
        Route(TABLE, Prefix("198.18.0.8/32"), PROBE),
    ]
    interfaces = [
        Interface(DOOR, Kind.DOOR, 1420),
        *(Interface(name, Kind.SLOT, 1420) for name in slots),
        Interface(PROBE, Kind.PROBE, 1420, accept_local=True),
    ]
    addresses = [Address(DOOR, "10.244.1.1/32"), Address(DOOR, "fd00:1::1/128")]
    addresses += [Address(name, SLOT_ADDRESS, "host") for name in (*slots, PROBE)]
    devices = [
        DeviceSpec("lsl00", OWN.public_key, 51820, 0x200000, {PEER: peer}),
        DeviceSpec("lsl01", OWN.public_key, 51821, 0x200000, {PEER: peer}),
    ]
    return Desired(
        interfaces={one.name: one for one in interfaces},
        addresses=frozenset(addresses),
        devices={one.name: one for one in devices},
        routes={(one.table, one.prefix): one for one in routes},
        rules=frozenset({Rule(4, 100, 254, (0x200000, 0x200000)), Rule(4, 101, TABLE), Rule(6, 101, TABLE)}),
        nft=Ruleset(
            {(chain.family, chain.name): chain for chain in chains},
            {
                Prefix("10.244.2.0/24"): slot,
                Prefix("fd00:2::/64"): slot,
                Prefix("192.0.2.2/32"): slot,
                Prefix("198.18.0.16/31"): "lsl00",
                Prefix("198.18.0.18/31"): "lsl01",
            },
        ),
        underlay_rp_filter={"eth0": 2},
    )


def reconcile(host: Host, want: Desired) -> tuple[Failure, ...]:
    return host.apply(diff(want, host.observe()), secrets)


class Threaded:
    """A host in a thread of its own, as the agent has it: its calls do not run inside an event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._driver = self._thread.submit(KernelDriver).result()
        self.host = self._thread.submit(Host, self._driver, TABLE).result()

    async def __call__(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    def at_a_stroke(self, call: Callable[..., T], *args: object) -> T:
        """The event loop of the caller stands still meanwhile."""
        return self._thread.submit(call, *args).result()

    def close(self) -> None:
        self._thread.submit(self.host.close).result()
        self._thread.submit(self._driver.close).result()
        self._thread.shutdown()


def run(test: Coroutine[None, None, None]) -> None:
    """Run in a loop of its own: one that pytest's plugins also set would be dropped unclosed between tests."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(test)
