"""5,000 routes: our codec against `ip -batch` and pyroute2. Run as root by `make bench`; prints ratios.

Runs in a network namespace of its own; each contestant sets the same routes into a table that the last one left empty.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from linkseal.keys.values import Prefix
from linkseal.tunnels.host.links import open_route
from linkseal.tunnels.host.routes import PROTOCOL, apply_routes, read_routes
from linkseal.tunnels.model import RemoveRoute, Route, SetRoute
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket

pytestmark = pytest.mark.bench

COUNT, TABLE = 5000, 51820
CLONE_NEWNET = 0x40000000


@pytest.fixture
def namespace() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        line = "ip link add lsl0 type veth peer name far; ip link set lsl0 up; ip link set far up; ip link set lo up"
        subprocess.run(line, shell=True, check=True)
        yield
    finally:
        assert libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def test_setting_and_reading_5000_routes(namespace: None) -> None:
    routes = [Route(TABLE, Prefix(f"10.{i >> 8}.{i & 255}.0/24"), "lsl0", mtu=1380) for i in range(COUNT)]
    lines = "".join(f"route replace {r.prefix} dev lsl0 table {TABLE} proto {PROTOCOL} mtu 1380\n" for r in routes)
    with NetlinkSocket(NETLINK_ROUTE) as sock:
        ours = timed(lambda: list(apply_routes(sock, [SetRoute(route) for route in routes])))
        reading = timed(lambda: read_routes(sock, TABLE))
        assert list(read_routes(sock, TABLE).values()) == routes
        removing = timed(lambda: list(apply_routes(sock, [RemoveRoute(route) for route in routes])))
        assert read_routes(sock, TABLE) == {}
        batch = timed(lambda: subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True))
        listing = ["ip", "-j", "route", "show", "table", str(TABLE)]
        showing = timed(lambda: subprocess.run(listing, capture_output=True, check=True))
        library = open_route()
        index = library.link_lookup(ifname="lsl0")[0]
        some = routes[: COUNT // 10]
        spec = {"oif": index, "table": TABLE, "proto": PROTOCOL, "scope": 253}
        pyroute = 10 * timed(lambda: [library.route("replace", dst=one.prefix, **spec) for one in some])
        library.close()
    print(f"\nset {COUNT}: ours {ours * 1e3:.0f} ms; ip -batch {batch / ours:.1f} x; pyroute2 {pyroute / ours:.1f} x")
    print(
        f"read them: ours {reading * 1e3:.0f} ms, ip -j {showing / reading:.1f} x; remove them: {removing * 1e3:.0f} ms"
    )
    assert pyroute > 10 * ours
