"""The host driver against the kernel: what is applied is observed again, and only what is ours is removed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import pytest
from ground.hosts import PEER, TABLE, desired, fresh_namespace, reconcile, secrets, sh
from ground.namespaces import ForkedProcess, private_mounts
from linkseal.keys.errors import HostError
from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import DOOR, PROBE, SLOT_ADDRESS
from linkseal.tunnels.diff import diff
from linkseal.tunnels.host import nft, nftcache
from linkseal.tunnels.host.cleanup import cleanup
from linkseal.tunnels.host.host import Aspect, Host
from linkseal.tunnels.host.nft import Nft
from linkseal.tunnels.model import (
    AddAddress,
    AddInterface,
    Address,
    Desired,
    Kind,
    MoveSlot,
    NftTransaction,
    RemoveAddress,
    RemoveInterface,
    RemoveRoute,
    RemoveRule,
    Route,
    Rule,
    SetRoute,
)
from linkseal.wireguard.kernel import KernelDriver
from linkseal.wireguard.uapisocket import SOCKET_FOLDER
from linkseal.wireguard.userspace import UserspaceDriver


@pytest.fixture
def host() -> Iterator[Host]:
    with fresh_namespace():
        driver = KernelDriver()
        made = Host(driver, TABLE)
        yield made
        made.close()
        driver.close()


# --- round trip ----------------------------------------------------------------------------------------------------


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
def test_everything_wanted_no_more_is_removed(host: Host) -> None:
    before = host.observe()
    reconcile(host, desired())
    assert reconcile(host, Desired()) == ()
    after = host.observe()
    assert (after.nft, after.routes, after.rules, after.addresses) == (None, {}, frozenset(), frozenset())
    assert after.interfaces.keys() == before.interfaces.keys()


@pytest.mark.kernel
def test_rp_filter_all_is_read(host: Host) -> None:
    sh("sysctl -qw net.ipv4.conf.all.rp_filter=1")
    assert host.observe(frozenset({Aspect.LINKS})).rp_filter_all == 1


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
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


@pytest.mark.kernel
def test_each_failed_route_is_reported_and_the_others_are_set(host: Host) -> None:
    reconcile(host, desired())
    good = [SetRoute(Route(TABLE, Prefix(f"10.7.{i}.0/24"), DOOR)) for i in range(50)]
    bad = [SetRoute(Route(TABLE, Prefix(f"10.8.{i}.0/24"), DOOR, source="203.0.113.9")) for i in range(3)]
    gone = SetRoute(Route(TABLE, Prefix("10.9.0.0/24"), "lsl11"))
    failed = host.apply([*good[:20], bad[0], *good[20:], *bad[1:], gone], secrets)
    assert {failure.step for failure in failed} == {*bad, gone}
    assert {step.route.prefix for step in good} <= {prefix for _, prefix in host.observe().routes}


@pytest.mark.kernel
def test_a_move_survives_elements_changed_behind_our_back(host: Host) -> None:
    reconcile(host, desired())
    sh("nft 'delete element netdev linkseal slot4 { 10.244.2.0/24 }'")
    moved = NftTransaction(moves=(MoveSlot(Prefix("10.244.2.0/24"), "lsl00", "lsl01"),))
    assert host.apply([moved], secrets) == ()
    assert host.observe().nft.slots[Prefix("10.244.2.0/24")] == "lsl01"


@pytest.mark.kernel
def test_what_is_taken_for_granted_of_the_door_is_what_is_there(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    reconcile(host, desired())
    host.observe()
    pod, new = Prefix("10.244.2.0/24"), Prefix("10.77.0.0/24")
    steps = (MoveSlot(pod, "lsl00", "lsl01"), MoveSlot(new, None, "lsl00")), (MoveSlot(new, "lsl00", None),)
    for moves in steps:
        assert host.apply([NftTransaction(moves=moves)], secrets) == ()
        with monkeypatch.context() as patch:
            patch.setattr(Nft, "read", None)  # it is not asked
            granted = host.observe().nft
        assert granted == Nft().read()
        assert host.granted == {Aspect.NFT}
    monkeypatch.setattr(nftcache, "monotonic", lambda: inf)
    assert host.observe().nft == Nft().read()
    assert host.granted == frozenset()
    sh("nft 'delete element netdev linkseal slot4 { 10.244.2.0/24 }'")
    assert pod not in host.observe().nft.slots, "what another did since is seen"


@pytest.mark.kernel
def test_what_another_did_while_ours_did_nothing_is_seen(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ruleset's number has risen by one, as it would have by ours."""
    reconcile(host, desired())
    assert host.observe().nft is not None
    real, once = nft._execute, ["nft flush ruleset"]

    def execute(wanted: Sequence[dict[str, Any]], *options: str) -> None:
        while once:
            sh(once.pop())
        real(wanted, *options)

    monkeypatch.setattr(nft, "_execute", execute)
    gone = NftTransaction(moves=(MoveSlot(Prefix("10.244.2.0/24"), "lsl00", None),))
    assert host.apply([gone], secrets) == ()
    seen = host.observe()
    assert (seen.nft, seen.guard) == (None, None)


@pytest.mark.kernel
def test_an_interface_that_is_not_ours_is_not_deleted(host: Host) -> None:
    sh("ip link add lsl0 type bridge")
    [failure] = host.apply([RemoveInterface("lsl0", Kind.DOOR)], secrets)
    assert isinstance(failure.error, HostError)
    assert "lsl0" in host.observe().interfaces


# --- cleanup -------------------------------------------------------------------------------------------------------


@pytest.mark.kernel
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


def userspace_round_trip() -> tuple[object, ...]:
    """Apply, look, clean up; returns (failures, differences, writes of a second pass, what is left)."""
    with fresh_namespace():
        driver = UserspaceDriver()
        host = Host(driver, TABLE)
        try:
            failures = reconcile(host, desired())
            writes = host.writes
            steps = diff(desired(), host.observe())
            kinds = {name: host.links.kernel_kinds().get(name) for name in (DOOR, "lsl00")}
            second = host.writes - writes
        finally:
            cleanup(host, {})
        left = [name for name in host.observe().interfaces if name.startswith("lsl")]
        host.close()
        driver.close()
    return failures, steps, kinds, second, left


@pytest.mark.userspace
def test_the_userspace_driver_has_a_door_too_and_a_second_pass_writes_nothing() -> None:
    def inside() -> tuple[object, ...]:
        private_mounts([str(SOCKET_FOLDER)])  # sockets are named by interface, the same in every namespace
        return userspace_round_trip()

    process = ForkedProcess(inside)
    try:
        assert process.result(60) == ((), (), {DOOR: "tun", "lsl00": "tun"}, 0, [])
    finally:
        process.forget()
