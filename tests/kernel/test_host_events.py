"""Change notifications against the kernel: what others break is told and repaired, what is theirs is not told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from ground.hosts import TABLE, Threaded, desired, fresh_namespace, reconcile, run, secrets, sh
from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import DOOR
from linkseal.tunnels.diff import diff
from linkseal.tunnels.host.events import Events
from linkseal.tunnels.host.host import ALL, Aspect
from linkseal.tunnels.model import Route, SetRoute

pytestmark = pytest.mark.kernel


@pytest.fixture
def threaded() -> Iterator[Threaded]:
    with fresh_namespace():
        made = Threaded()
        yield made
        made.close()


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
        await asyncio.sleep(0.3)
        while dirty:  # links just made have more to say: an IPv6 address is tentative for a second or two
            dirty.clear()
            await asyncio.sleep(1.5)
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
        assert threaded.at_a_stroke(threaded.host.apply, routes, secrets) == ()  # or all are read as they come
        await asyncio.sleep(0.2)
        assert ALL in dirty
        dirty.clear()
        sh("ip rule del pref 101")
        await asyncio.sleep(0.3)
        assert {Aspect.RULES} in dirty
    finally:
        events.close()
