"""Interfaces of ours and what must be known of the others: read whole, changed one by one.

    lsl0              door: a WireGuard device without key; with the userspace driver a persistent TUN device without
                      reader (egress hooks run before the missing reader matters; what is not forwarded is dropped)
    lsl00 … lsl11     slots, made by the WireGuard driver
    lslp ── lslq      probe pair, no ARP: frames sent into lslq come up in lslp as a pod's would, and what is routed to
                      lslp comes out of lslq with a MAC that is not lslq's, so that the kernel does not take it in again

Filters (rp_filter, accept_local) are set by netlink: /proc/sys is read-only in unprivileged containers.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from errno import EAFNOSUPPORT, EEXIST, ENODEV
from typing import Any, Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.addressing import DOOR, OURS, PROBE, PROBE_PEER, SLOTS
from linkseal.tunnels.host.pyroute import IPRoute, PyrouteError
from linkseal.tunnels.model import Interface, InterfaceState, Kind, SetInterface
from linkseal.wireguard.driver import Driver, DriverKind
from linkseal.wireguard.netlink import NetlinkError, NetlinkSocket
from linkseal.wireguard.nlattr import attribute_u8, attribute_u32, attributes, message, nested

_IFINFO = struct.Struct("=BxHiII")
_RTM_SETLINK, _RTM_GETNETCONF = 19, 82
_AF_SPEC, _INET_CONF, _INET6_ADDR_GEN_MODE, _GEN_MODE_NONE = 26, 1, 8, 1
"""IFLA_AF_SPEC, IFLA_INET_CONF, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE of <linux/if_link.h>."""

_RP_FILTER, _ACCEPT_LOCAL = 8, 23
"""IPV4_DEVCONF_RP_FILTER and _ACCEPT_LOCAL of <linux/ip.h>."""

_NETCONF_IFINDEX, _NETCONF_RP_FILTER, _NETCONF_ALL = 1, 3, 0xFFFFFFFF
"""NETCONFA_IFINDEX, NETCONFA_RP_FILTER and NETCONFA_IFINDEX_ALL of <linux/netconf.h>."""

_UP, _NOARP = 0x1, 0x80
_TUNSETIFF, _TUNSETPERSIST, _IFF_TUN_NO_PI = 0x400454CA, 0x400454CB, 0x1001
"""<linux/if.h> and <linux/if_tun.h>."""

KINDS_WE_MAKE: Final = frozenset({"wireguard", "tun", "veth"})
"""Kernel kinds of our interfaces, with either driver."""

_NOARP_REQUEST = {"flags": _NOARP, "change": _NOARP}


class Links:
    """The interfaces of the calling thread's network namespace.

    `writes` counts changes made through pyroute2 and ioctl; those through `sock` and the driver are counted there.
    """

    def __init__(self, route: Any, sock: NetlinkSocket, driver: Driver) -> None:
        self.writes = 0
        self._route = route
        self._sock = sock
        self._driver = driver

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self) -> dict[str, InterfaceState]:
        """Return every interface by name; the state of the probe pair's two ends is put together under the first.

        HostError.
        """
        found = {state.name: state for state in (self._state(link) for link in self._dump())}
        first, second = found.get(PROBE), found.get(PROBE_PEER)
        if first is not None and second is not None:
            found[PROBE] = first._replace(
                mtu=min(first.mtu, second.mtu), up=first.up and second.up, arp=first.arp or second.arp
            )
        return found

    def kernel_kinds(self) -> dict[str, str]:
        """Return name → kernel kind ("" for a physical one) of every interface."""
        return {link.get_attr("IFLA_IFNAME"): _kernel_kind(link) for link in self._dump()}

    def rp_filter_all(self) -> int:
        """Return `conf.all.rp_filter`, the least that holds for every interface."""
        body = struct.pack("=Bxxx", socket.AF_INET) + attribute_u32(_NETCONF_IFINDEX, _NETCONF_ALL)
        for answer in self._sock.query(message(_RTM_GETNETCONF, body)):
            for kind, start, _ in attributes(answer.data, answer.start + 4, answer.end):
                if kind == _NETCONF_RP_FILTER:
                    return int(struct.unpack_from("=i", answer.data, start)[0])
        return 0

    def _dump(self) -> list[Any]:
        return list(translated("read the interfaces", self._route.get_links))

    def _state(self, link: Any) -> InterfaceState:
        name, kernel_kind = link.get_attr("IFLA_IFNAME"), _kernel_kind(link)
        conf = _inet_conf(link)
        kind = _kind(name, kernel_kind, self._driver.kind)
        return InterfaceState(
            name,
            link["index"],
            kind,
            link.get_attr("IFLA_MTU") or 0,
            bool(link["flags"] & _UP),
            conf.get("rp_filter", 0),
            bool(conf.get("accept_local", 0)),
            not link["flags"] & _NOARP,
            kind is None and name in OURS and kernel_kind in KINDS_WE_MAKE,
            kernel_kind,
        )

    # --- changing --------------------------------------------------------------------------------------------------

    def add(self, interface: Interface) -> None:
        """Create, configure and bring up. One that exists already is taken if it is of the right kind. HostError."""
        try:
            self._create(interface)
        except HostError as error:
            if error.errno != EEXIST:
                raise
            self._require_kind(interface)
        self.set(
            SetInterface(
                interface.name,
                interface.kind,
                mtu=interface.mtu,
                up=True,
                rp_filter=interface.rp_filter,
                accept_local=interface.accept_local,
            )
        )

    def set(self, step: SetInterface) -> None:
        """Change what the step names. HostError."""
        for name in (step.name, PROBE_PEER) if step.kind is Kind.PROBE else (step.name,):
            index = index_of(name)
            if step.mtu is not None:
                self._write(f"set the MTU of {name}", self._route.link, "set", index=index, mtu=step.mtu)
            if step.up:
                self._no_link_local(index)
                if step.kind is Kind.PROBE:
                    self._write(f"switch ARP off on {name}", self._route.link, "set", index=index, **_NOARP_REQUEST)
                if step.kind is Kind.SLOT:
                    self._driver.up(name)  # its message names the port that is taken
                else:
                    self._write(f"set {name} up", self._route.link, "set", index=index, state="up")
        if step.rp_filter is not None:
            self.set_rp_filter(step.name, step.rp_filter)
        if step.accept_local is not None:
            self._set_conf(step.name, _ACCEPT_LOCAL, int(step.accept_local))

    def set_rp_filter(self, name: str, value: int) -> None:
        """Set the reverse path filter of any interface: 0 off, 1 strict, 2 loose. HostError."""
        self._set_conf(name, _RP_FILTER, value)

    def remove(self, name: str, kind: Kind) -> None:
        """Delete an interface of ours; absent is fine. HostError, also for one that we cannot have made."""
        have = self.kernel_kinds().get(name)
        if have is None:
            return
        if have not in KINDS_WE_MAKE:
            raise HostError(f"{name} is a {have or 'physical'} interface, not ours: rename it, then try again")
        if kind is Kind.SLOT:
            self._driver.delete(name)
            return
        try:
            self._write(f"delete {name}", self._route.link, "del", index=index_of(name))
        except HostError as error:
            if error.errno != ENODEV:
                raise

    def _require_kind(self, interface: Interface) -> None:
        """Raise HostError unless the interface that is there already can serve."""
        kinds = self.kernel_kinds()
        for name in (PROBE, PROBE_PEER) if interface.kind is Kind.PROBE else (interface.name,):
            have = kinds.get(name)
            if have is not None and _kind(name, have, self._driver.kind) is not interface.kind:
                what = f"a {have or 'physical'} interface, not ours"
                raise HostError(f"{name} is {what}: remove it, or give it another name", errno=EEXIST)
        if interface.name not in kinds:
            raise HostError(f"{PROBE_PEER} is there without {PROBE}: remove it", errno=EEXIST)

    def _create(self, interface: Interface) -> None:
        if interface.kind is Kind.PROBE:
            peer = {"ifname": PROBE_PEER}
            what = f"create the veth pair {PROBE} and {PROBE_PEER}"
            self._write(what, self._route.link, "add", ifname=interface.name, kind="veth", peer=peer)
        elif interface.kind is Kind.DOOR and self._driver.kind == "userspace":
            self.writes += 1
            _create_tun(interface.name)
        else:
            self._driver.create(interface.name, interface.mtu)

    def _no_link_local(self, index: int) -> None:
        """Keep the kernel from making IPv6 link-local addresses, which nobody asked for and `observe` would report."""
        mode = nested(socket.AF_INET6, attribute_u8(_INET6_ADDR_GEN_MODE, _GEN_MODE_NONE))
        try:
            self._set_af_spec(index, mode)
        except NetlinkError as error:
            if error.errno != EAFNOSUPPORT:  # IPv6 is switched off, or the MTU is below its least
                raise

    def _set_conf(self, name: str, number: int, value: int) -> None:
        conf = nested(_INET_CONF, attribute_u32(number, value))
        try:
            self._set_af_spec(index_of(name), nested(socket.AF_INET, conf))
        except NetlinkError as error:
            what = "rp_filter" if number == _RP_FILTER else "accept_local"
            reason = str(error).partition(": ")[2]
            raise HostError(f"cannot set {what} of {name} to {value}: {reason}", errno=error.errno) from None

    def _set_af_spec(self, index: int, families: bytes) -> None:
        body = _IFINFO.pack(0, 0, index, 0, 0) + nested(_AF_SPEC, families)
        self._sock.request_batch([message(_RTM_SETLINK, body)])

    def _write(self, what: str, call: Callable[..., Any], *args: Any, **fields: Any) -> None:
        self.writes += 1
        translated(what, call, *args, **fields)


def open_route() -> Any:
    """Return pyroute2's IPRoute of the calling thread's network namespace, to be closed. HostError.

    Any: pyroute2 makes its methods at run time and ships no types.
    """
    return translated("open a netlink socket", IPRoute)


def translated(what: str, call: Callable[..., Any], *args: Any, **fields: Any) -> Any:
    """Call pyroute2; its errors become HostError."""
    try:
        return call(*args, **fields)
    except PyrouteError as error:
        raise HostError(f"cannot {what}: {os.strerror(error.code)}", errno=error.code) from None
    except OSError as error:
        raise HostError(f"cannot {what}: {error}", errno=error.errno) from None


def index_of(name: str) -> int:
    """Return an interface's number; HostError (ENODEV) if there is none of that name."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise HostError(f"there is no interface {name}", errno=ENODEV) from None


def _kind(name: str, kernel_kind: str, driver: DriverKind) -> Kind | None:
    wireguard = "wireguard" if driver == "kernel" else "tun"
    if name == DOOR and kernel_kind == wireguard:
        return Kind.DOOR
    if name in SLOTS and kernel_kind == wireguard:
        return Kind.SLOT
    if name in (PROBE, PROBE_PEER) and kernel_kind == "veth":
        return Kind.PROBE
    return None


def _kernel_kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND") or "") if info is not None else ""


def _inet_conf(link: Any) -> dict[str, int]:
    spec = link.get_attr("IFLA_AF_SPEC")
    conf = spec.get_attr("AF_INET") if spec is not None else None
    return dict(_numbers(conf)) if conf is not None else {}


def _numbers(conf: Any) -> Iterator[tuple[str, int]]:
    for key in ("rp_filter", "accept_local"):
        if isinstance(value := conf.get(key), int):
            yield key, value


def _create_tun(name: str) -> None:
    try:
        with open("/dev/net/tun", "r+b", buffering=0) as device:  # noqa: PTH123 - a device, no path to work on
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN_NO_PI))
            fcntl.ioctl(device, _TUNSETPERSIST, 1)
    except FileNotFoundError:
        raise HostError("there is no /dev/net/tun: load the module tun, or give the container that device") from None
    except OSError as error:
        raise HostError(f"cannot create the TUN device {name}: {error}", errno=error.errno) from None
