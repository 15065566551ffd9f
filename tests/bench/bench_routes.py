"""5,000 routes: our codec against `ip -batch` and pyroute2. Needs root; prints ratios.

Runs in a network namespace of its own; each contestant sets the same routes into a table that the last one left empty.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable

from ground.figures import Figures
from linkseal.keys.values import Prefix
from linkseal.tunnels.host.links import open_route
from linkseal.tunnels.host.routes import PROTOCOL, apply_routes, read_routes
from linkseal.tunnels.model import RemoveRoute, Route, SetRoute
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket

COUNT, TABLE = 5000, 51820
CLONE_NEWNET = 0x40000000


def own_namespace() -> None:
    """Move into a network namespace of our own with a device to route to."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise SystemExit(f"needs root: {os.strerror(ctypes.get_errno())}")
    line = "ip link add lsl0 type veth peer name far; ip link set lsl0 up; ip link set far up; ip link set lo up"
    subprocess.run(line, shell=True, check=True)


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> int:
    own_namespace()
    figures = Figures()
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
    figures.told(f"set {COUNT} routes", ours * 1e3, "ms")
    figures.told("set: `ip -batch` / ours", batch / ours)
    figures.at_least("set: pyroute2 / ours", pyroute / ours, 10)
    figures.told(f"read {COUNT} routes", reading * 1e3, "ms")
    figures.told("read: `ip -j route` / ours", showing / reading)
    figures.told(f"remove {COUNT} routes", removing * 1e3, "ms")
    return figures.status


if __name__ == "__main__":
    sys.exit(main())
