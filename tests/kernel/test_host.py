"""The host driver against the kernel: what is applied is observed again, and what others break is noticed."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from linkseal.keys.errors import HostError
from linkseal.keys.secrets import PrivateKey
from linkseal.keys.values import Prefix, PublicKey
from linkseal.tunnels.addressing import DOOR, PROBE, SLOT_ADDRESS, ProbeRange
from linkseal.tunnels.diff import diff
from linkseal.tunnels.host.cleanup import cleanup
from linkseal.tunnels.host.events import Events
from linkseal.tunnels.host.host import ALL, Aspect, Failure, Host
from linkseal.tunnels.model import (
    AddAddress,
    AddInterface,
    Address,
    Desired,
    Interface,
    Kind,
    MoveSlot,
    NftTransaction,
    RemoveAddress,
    RemoveInterface,
    RemoveRoute,
    RemoveRule,
    Route,
    Rule,
    Ruleset,
    SetRoute,
)
from linkseal.tunnels.nftables import clamp_chain, door_chain, probe_chains
from linkseal.wireguard.kernel import KernelDriver
from linkseal.wireguard.model import DeviceSpec, Endpoint, PeerSpec

T = TypeVar("T")
pytestmark = pytest.mark.kernel

CLONE_NEWNET = 0x40000000
TABLE = 51820
OWN, PEER = PrivateKey.generate(), PrivateKey.generate().public_key


def secrets(key: PublicKey) -> PrivateKey:
    assert key == OWN.public_key
    return OWN


def sh(line: str) -> None:
    subprocess.run(line, shell=True, check=True)


@pytest.fixture
def namespace() -> Iterator[None]:
    """A fresh network namespace around the test, with an underlay NIC and an rp_filter of 1 on it."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        sh("ip link set lo up; ip link add eth0 type veth peer name far; ip link set eth0 up; ip link set far up")
        sh("ip addr add 192.0.2.1/24 dev eth0; sysctl -qw net.ipv4.conf.eth0.rp_filter=1")
        yield
    finally:
        assert libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


@pytest.fixture
def host(namespace: None) -> Iterator[Host]:
    driver = KernelDriver()
    made = Host(driver, TABLE)
    yield made
    made.close()
    driver.close()


class Threaded:
    """A host in a thread of its own, as the agent has it: its calls do not run inside an event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._driver = self._thread.submit(KernelDriver).result()
        self.host = self._thread.submit(Host, self._driver, TABLE).result()

    async def __call__(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    def close(self) -> None:
        self._thread.submit(self.host.close).result()
        self._thread.submit(self._driver.close).result()
        self._thread.shutdown()


def run(test: Coroutine[None, None, None]) -> None:
    """Run in a loop of its own: one that pytest's plugins also set would be dropped unclosed between tests."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(test)


@pytest.fixture
def threaded(namespace: None) -> Iterator[Threaded]:
    made = Threaded()
    yield made
    made.close()


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


# --- round trip ----------------------------------------------------------------------------------------------------


def test_what_is_applied_is_observed_and_a_second_pass_writes_nothing(host: Host) -> None:
    want = desired()
    assert reconcile(host, want) == ()
    seen = host.observe()
    assert seen.nft == want.nft
    assert seen.routes == want.routes
    assert seen.rules == want.rules
    assert seen.addresses == want.addresses
    for name, interface in want.interfaces.items():
        state = seen.interfaces[name]
        assert (state.kind, state.mtu, state.up, state.rp_filter) == (interface.kind, 1420, True, 2), name
        assert state.accept_local == interface.accept_local
    assert not seen.interfaces[PROBE].arp
    assert seen.interfaces["eth0"].rp_filter == 2
    assert seen.host_addresses["192.0.2.1"] == "eth0"
    assert set(seen.devices["lsl00"].peers) == {PEER}
    writes = host.writes
    assert writes > 0
    assert diff(want, host.observe()) == ()
    assert host.apply((), secrets) == ()
    assert host.writes == writes


def test_a_move_touches_one_element_and_an_aspect_not_asked_for_is_taken_from_before(host: Host) -> None:
    reconcile(host, desired())
    before = host.observe()
    steps = diff(desired("lsl01"), before)
    assert [type(step) for step in steps] == [NftTransaction]
    assert host.apply(steps, secrets) == ()
    after = host.observe(frozenset({Aspect.NFT}), before)
    assert after.nft == desired("lsl01").nft
    assert after.routes is before.routes
    assert after.interfaces is before.interfaces
    assert diff(desired("lsl01"), after) == ()


def test_everything_wanted_no_more_is_removed(host: Host) -> None:
    before = host.observe()
    reconcile(host, desired())
    assert reconcile(host, Desired()) == ()
    after = host.observe()
    assert (after.nft, after.routes, after.rules, after.addresses) == (None, {}, frozenset(), frozenset())
    assert after.interfaces.keys() == before.interfaces.keys()


def test_rp_filter_all_is_read(host: Host) -> None:
    sh("sysctl -qw net.ipv4.conf.all.rp_filter=1")
    assert host.observe(frozenset({Aspect.LINKS})).rp_filter_all == 1


def test_features_tell_of_the_door(host: Host) -> None:
    writes = host.writes
    features = host.features()
    assert features.door
    assert features.driver == "kernel"
    assert features.nft is not None
    assert features.kernel == os.uname().release
    assert host.observe().nft is None
    assert host.writes == writes


# --- failures ------------------------------------------------------------------------------------------------------


def test_removing_the_absent_and_adding_the_present_is_no_failure(host: Host) -> None:
    reconcile(host, desired())
    want = desired()
    again = [
        *(AddInterface(one) for one in want.interfaces.values()),
        *(AddAddress(one) for one in want.addresses),
        *(SetRoute(one) for one in want.routes.values()),
        RemoveAddress(Address("lsl11", SLOT_ADDRESS)),
        RemoveAddress(Address(DOOR, "10.9.9.9/32")),
        RemoveRoute(Route(TABLE, Prefix("10.9.9.0/24"), DOOR)),
        RemoveRoute(Route(TABLE, Prefix("fd00:9::/64"), DOOR)),
        RemoveRule(Rule(4, 102, TABLE)),
        RemoveInterface("lsl10", Kind.SLOT),
    ]
    assert host.apply(again, secrets) == ()
    assert diff(want, host.observe()) == ()


def test_a_failed_interface_stops_only_what_needs_it(host: Host) -> None:
    sh("ip link add lsl01 type dummy 2>/dev/null || ip link add lsl01 type bridge")
    want = desired()
    steps = [
        *(AddInterface(one) for one in want.interfaces.values()),
        *(step for step in diff(want, host.observe()) if not isinstance(step, AddInterface)),
    ]
    failed = host.apply(steps, secrets)
    assert isinstance(failed[0].step, AddInterface)
    assert all("lsl01" in str(failure.error) for failure in failed)
    seen = host.observe()
    assert seen.routes == want.routes
    assert set(seen.nft.chains) == set(want.nft.chains)
    assert seen.nft.slots == {prefix: slot for prefix, slot in want.nft.slots.items() if slot != "lsl01"}
    assert set(seen.devices["lsl00"].peers) == {PEER}


def test_each_failed_route_is_reported_and_the_others_are_set(host: Host) -> None:
    reconcile(host, desired())
    good = [SetRoute(Route(TABLE, Prefix(f"10.7.{i}.0/24"), DOOR)) for i in range(50)]
    bad = [SetRoute(Route(TABLE, Prefix(f"10.8.{i}.0/24"), DOOR, source="203.0.113.9")) for i in range(3)]
    gone = SetRoute(Route(TABLE, Prefix("10.9.0.0/24"), "lsl11"))
    failed = host.apply([*good[:20], bad[0], *good[20:], *bad[1:], gone], secrets)
    assert {failure.step for failure in failed} == {*bad, gone}
    assert {step.route.prefix for step in good} <= {prefix for _, prefix in host.observe().routes}


def test_a_move_survives_elements_changed_behind_our_back(host: Host) -> None:
    reconcile(host, desired())
    sh("nft 'delete element netdev linkseal slot4 { 10.244.2.0/24 }'")
    moved = NftTransaction(moves=(MoveSlot(Prefix("10.244.2.0/24"), "lsl00", "lsl01"),))
    assert host.apply([moved], secrets) == ()
    assert host.observe().nft.slots[Prefix("10.244.2.0/24")] == "lsl01"


def test_an_interface_that_is_not_ours_is_not_deleted(host: Host) -> None:
    sh("ip link add lsl0 type bridge")
    [failure] = host.apply([RemoveInterface("lsl0", Kind.DOOR)], secrets)
    assert isinstance(failure.error, HostError)
    assert "lsl0" in host.observe().interfaces


# --- drift ---------------------------------------------------------------------------------------------------------

DRIFT = {
    "slot deleted": ("ip link del lsl01", {Aspect.LINKS, Aspect.WIREGUARD}),
    "door deleted": ("ip link del lsl0", {Aspect.LINKS, Aspect.ROUTES, Aspect.NFT}),
    "probe pair deleted": ("ip link del lslq", {Aspect.LINKS}),
    "door down": ("ip link set lsl0 down", {Aspect.LINKS, Aspect.ROUTES}),
    "mtu": ("ip link set lsl00 mtu 1300", {Aspect.LINKS}),
    "route": ("ip route del 10.244.2.0/24 table 51820", {Aspect.ROUTES}),
    "route v6": ("ip -6 route del fd00:2::/64 table 51820", {Aspect.ROUTES}),
    "rule": ("ip rule del pref 101", {Aspect.RULES}),
    "rule v6": ("ip -6 rule del pref 101", {Aspect.RULES}),
    "address": ("ip addr del 10.244.1.1/32 dev lsl0", {Aspect.LINKS}),
    "rp_filter": ("sysctl -qw net.ipv4.conf.lsl00.rp_filter=1", {Aspect.LINKS}),
    "underlay rp_filter": ("sysctl -qw net.ipv4.conf.eth0.rp_filter=1", {Aspect.LINKS}),
    "element": ("nft 'delete element netdev linkseal slot4 { 10.244.2.0/24 }'", {Aspect.NFT}),
    "chain": ("nft 'flush chain inet linkseal probe_in'", {Aspect.NFT}),
    "door chain": ("nft 'delete chain netdev linkseal door'", {Aspect.NFT}),
    "table": ("nft 'delete table inet linkseal'", {Aspect.NFT}),
    "flush ruleset": ("nft flush ruleset", {Aspect.NFT}),
}


@pytest.mark.parametrize("what", DRIFT)
def test_drift_is_told_within_a_second_and_repaired(threaded: Threaded, what: str) -> None:
    run(_drift_is_told_within_a_second_and_repaired(threaded, what))


async def _drift_is_told_within_a_second_and_repaired(threaded: Threaded, what: str) -> None:
    line, aspects = DRIFT[what]
    want, host = desired(), threaded.host
    assert await threaded(reconcile, host, want) == ()
    seen = await threaded(host.observe)
    dirty: set[Aspect] = set()
    told = asyncio.Event()

    def on_dirty(more: frozenset[Aspect]) -> None:
        dirty.update(more)
        if aspects <= dirty:
            told.set()

    events = Events(on_dirty, TABLE)
    events.start(asyncio.get_running_loop())
    try:
        sh(line)
        await asyncio.wait_for(told.wait(), 1.0)
        # Repaired from what was told alone; a device made anew may need a second pass.
        steps = diff(want, await threaded(host.observe, frozenset(dirty), seen))
        assert steps
        assert await threaded(host.apply, steps, secrets) == ()
        assert await threaded(reconcile, host, want) == ()
        assert diff(want, await threaded(host.observe)) == ()
    finally:
        events.close()


NOISE = [
    "ip route add 10.99.0.0/24 dev eth0 && ip route del 10.99.0.0/24",
    "ip route add 10.99.0.0/24 dev eth0 table 77",
    "nft add table inet other && nft add chain inet other c && nft delete table inet other",
    "ip link set far alias noise",
    "ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev eth0",
]


@pytest.mark.parametrize("line", NOISE)
def test_what_others_do_for_themselves_is_not_told(threaded: Threaded, line: str) -> None:
    run(_what_others_do_for_themselves_is_not_told(threaded, line))


async def _what_others_do_for_themselves_is_not_told(threaded: Threaded, line: str) -> None:
    await threaded(reconcile, threaded.host, desired())
    dirty: list[frozenset[Aspect]] = []
    events = Events(dirty.append, TABLE)
    events.start(asyncio.get_running_loop())
    try:
        sh("ip link set far alias first")  # the first word of a link is news
        await asyncio.sleep(0.2)
        dirty.clear()
        sh(line)
        await asyncio.sleep(0.3)
        assert dirty == []
    finally:
        events.close()


def test_lost_notifications_make_everything_dirty_and_listening_goes_on(threaded: Threaded) -> None:
    run(_lost_notifications_make_everything_dirty_and_listening_goes_on(threaded))


async def _lost_notifications_make_everything_dirty_and_listening_goes_on(threaded: Threaded) -> None:
    await threaded(reconcile, threaded.host, desired())
    dirty: list[frozenset[Aspect]] = []
    events = Events(dirty.append, TABLE)
    events.start(asyncio.get_running_loop())
    try:
        for sock in events._sockets.values():
            sock.setsockopt(1, 33, 4096)  # SO_RCVBUFFORCE: as small as a flood is large
        routes = [SetRoute(Route(TABLE, Prefix(f"10.7.{i}.0/24"), DOOR)) for i in range(250)]
        assert await threaded(threaded.host.apply, routes, secrets) == ()
        await asyncio.sleep(0.2)
        assert ALL in dirty
        dirty.clear()
        sh("ip rule del pref 101")
        await asyncio.sleep(0.3)
        assert {Aspect.RULES} in dirty
    finally:
        events.close()


# --- cleanup -------------------------------------------------------------------------------------------------------


def test_cleanup_removes_all_of_ours_and_nothing_else(host: Host) -> None:
    sh("ip link add lsl10 type bridge; ip link add other type wireguard;ip route add 10.50.0.0/16 dev eth0 table 51820")
    sh("ip rule add pref 105 from 10.0.0.0/8 lookup 51820; nft add table inet foreign")
    assert reconcile(host, desired()) == ()
    lines = cleanup(host, {"eth0": 1, "vanished": 0})
    assert not [line for line in lines if line.startswith("failed")], lines
    for word in (
        "rule 101",
        "route 10.244.2.0/24",
        "nft tables",
        "interface lsl0",
        "interface lslp",
        "rp_filter of eth0",
    ):
        assert any(word in line for line in lines), word
    seen = host.observe()
    assert {name for name in seen.interfaces if name.startswith("lsl")} == {"lsl10"}
    assert "other" in seen.interfaces
    assert seen.interfaces["eth0"].rp_filter == 1
    assert (seen.nft, seen.routes, seen.rules) == (None, {}, frozenset())
    left = subprocess.getoutput("ip route show table 51820; ip rule; nft list tables")
    assert "10.50.0.0/16" in left
    assert "from 10.0.0.0/8 lookup 51820" in left
    assert "table inet foreign" in left
    writes = host.writes
    assert cleanup(host, {"eth0": 1}) == ["left alone: lsl10 (bridge), not ours"]
    assert host.writes == writes
