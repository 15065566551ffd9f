"""Where programs stand: tcx and clsact hooks of this thread's network namespace, read and changed.

    tcx      Linux 6.6: programs in an order of their own, asked before all filters; ours goes first
    clsact   filters by preference; of one preference the youngest is asked first

Both hold the program, and the program its maps, when the process that made them has gone. A program is always put in
before an older one of ours is taken out: there is no moment without.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from errno import EEXIST, EINVAL, ENODEV, ENOENT, ENOSPC, EOPNOTSUPP, EPERM, ESTALE
from typing import Final, Literal, NamedTuple

from linkseal.keys.errors import HostError
from linkseal.tunnels.redirect import bpf, tc
from linkseal.tunnels.redirect.model import Hook
from linkseal.tunnels.redirect.program import PREFIX, WAYS
from linkseal.wireguard.netlink import NetlinkSocket

Place = Literal["tcx", "clsact"]

_PREFERENCES: Final = range(1, 9)
"""Tried in turn: a preference that another kind of filter or protocol uses cannot be shared."""

_HANDLES: Final = (0x4C530001, 0x4C530002)
"""Ours in clsact ("LS"): the second while the first is being replaced."""

_TRIES: Final = 64
"""Programs that a hook takes at most (BPF_MPROG_MAX), each taken out in a call of its own."""


_GET_ADDRESS, _ETHERNET = 0x8927, 1
"""SIOCGIFHWADDR of <linux/sockios.h>, ARPHRD_ETHER of <linux/if_arp.h>."""

_NO_PROGRAM: Final = 0x7FFFFFFE


class Standing(NamedTuple):
    """A program or filter at a hook; those of one hook are listed in the order in which they are asked."""

    hook: Hook
    place: Place
    program: int
    """Number of the program; 0: a filter without eBPF."""
    name: str
    kind: str = "bpf"
    """Of the filter."""

    @property
    def ours(self) -> bool:
        """Whether a process of Linkseal's put it there."""
        return self.name.startswith(PREFIX)


class Hooks:
    """tcx and clsact hooks. `writes` counts changes made by bpf(2); those by netlink are counted by `sock`."""

    def __init__(self, sock: NetlinkSocket) -> None:
        self.writes = 0
        self._sock = sock
        self._infos: dict[int, bpf.ProgramInfo | None] = {}
        self._tcx: bool | None = None

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self) -> list[Standing]:
        """Return all programs and filters at all hooks of all interfaces. HostError."""
        with_clsact = tc.clsact_interfaces(self._sock)
        found: list[Standing] = []
        for index, name in socket.if_nameindex():
            try:
                found += self._of_interface(index, name, clsact=index in with_clsact)
            except HostError as error:
                if error.errno not in (ENODEV, ENOENT, EINVAL):  # gone meanwhile
                    raise
        self._infos = {one.program: self._infos.get(one.program) for one in found if one.program in self._infos}
        return found

    def _of_interface(self, index: int, name: str, *, clsact: bool) -> list[Standing]:
        found: list[Standing] = []
        for way in WAYS:
            hook = Hook(name, way)
            chain = bpf.tcx_chain(index, bpf.TCX[way])
            for number in () if chain is None else chain.ids:
                info = self.info(number)
                found.append(Standing(hook, "tcx", number, "" if info is None else info.name))
            if clsact:
                found += [
                    Standing(hook, "clsact", one.program, self._name(one), one.kind)
                    for one in tc.filters(self._sock, index, way)
                ]
        return found

    def _name(self, one: tc.Filter) -> str:
        info = self.info(one.program) if one.program else None
        return one.name if info is None else info.name

    def info(self, number: int) -> bpf.ProgramInfo | None:
        """Return what the kernel says of a program; None: it is gone, or we may not ask (CAP_SYS_ADMIN)."""
        if number not in self._infos:
            try:
                fd = bpf.program_by_id(number)
            except HostError as error:
                if error.errno not in (EPERM, ENOENT):
                    raise
                self._infos[number] = None
                return None
            try:
                self._infos[number] = bpf.program_info(fd)
            finally:
                os.close(fd)
        return self._infos[number]

    # --- changing ----------------------------------------------------------------------------------------------------

    def put_first(self, hook: Hook, name: str, fd: int, place: Place) -> None:
        """Put a program before all others of its hook, then take out every other one of ours. HostError."""
        index = _index(hook.device)
        _require_ethernet(hook.device)
        number = bpf.program_info(fd).id
        if place == "tcx":
            self.writes += 1
            bpf.tcx_attach_first(index, bpf.TCX[hook.way], fd)
        else:
            tc.add_clsact(self._sock, index)
            self._add_filter(index, hook, name, fd)
        self._take_out(index, hook, keep=number, place=place)

    def take_out(self, hook: Hook) -> None:
        """Take out whatever of ours is at a hook; nothing there, or no such interface, is fine. HostError.

        A clsact qdisc stays, empty: to take it away stops the NIC as adding it does (`tc.add_clsact`).
        """
        try:
            index = socket.if_nametoindex(hook.device)
        except OSError:
            return
        self._take_out(index, hook, keep=0, place=None)

    def tcx_usable(self) -> bool:
        """Whether this kernel has tcx and we may ask whose programs are there, without which it is of no use."""
        if self._tcx is None:
            self._tcx = _may_open() and bpf.tcx_chain(_index("lo"), bpf.TCX["in"]) is not None
        return self._tcx

    def _add_filter(self, index: int, hook: Hook, name: str, fd: int) -> None:
        refusal: HostError | None = None
        there = {one.handle for one in tc.filters(self._sock, index, hook.way)}
        handle = next((one for one in _HANDLES if one not in there), _HANDLES[0])
        for preference in _PREFERENCES:
            try:
                tc.add_filter(self._sock, index, hook.way, preference, handle, name, fd)
            except HostError as error:
                if error.errno not in (EEXIST, EINVAL, ENOSPC, EOPNOTSUPP, ENOENT):
                    raise
                refusal = error
            else:
                return
        assert refusal is not None
        raise HostError(f"cannot add a filter to {hook.device} ({hook.way}): {refusal}", errno=refusal.errno)

    def _take_out(self, index: int, hook: Hook, *, keep: int, place: Place | None) -> None:
        """Take out programs of ours but the first in `place` with the number `keep`."""
        kept = place != "clsact"
        for one in tc.filters(self._sock, index, hook.way):
            if not kept and one.program == keep:
                kept = True
            elif one.kind == "bpf" and self._name(one).startswith(PREFIX):
                tc.remove_filter(self._sock, index, hook.way, one)
        for _ in range(_TRIES):
            chain = bpf.tcx_chain(index, bpf.TCX[hook.way])
            if chain is None:
                return
            keeps = keep if place == "tcx" else 0
            old = [n for n, number in enumerate(chain.ids) if number != keeps and self._is_ours(number)]
            if not old:
                return
            try:
                self.writes += 1
                bpf.tcx_detach(index, bpf.TCX[hook.way], old[0], chain)
            except HostError as error:
                if error.errno != ESTALE:
                    raise

    def _is_ours(self, number: int) -> bool:
        info = self.info(number)
        return info is not None and info.name.startswith(PREFIX)


def _index(device: str) -> int:
    try:
        return socket.if_nametoindex(device)
    except OSError:
        raise HostError(f"there is no interface {device}", errno=ENODEV) from None


def _require_ethernet(device: str) -> None:
    """Raise HostError for an interface without Ethernet header: the program would look for addresses elsewhere."""
    request = struct.pack("16s24x", device.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        kind = struct.unpack_from("=H", fcntl.ioctl(sock, _GET_ADDRESS, request), 16)[0]
    if kind != _ETHERNET:
        raise HostError(f"{device} is no Ethernet interface (type {kind}): redirected packets are not stopped there")


def _may_open() -> bool:
    """Whether this process may open programs by their number; asked with one that does not exist."""
    try:
        os.close(bpf.program_by_id(_NO_PROGRAM))
    except HostError as error:
        return error.errno != EPERM
    return True
