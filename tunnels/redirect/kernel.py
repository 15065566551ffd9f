"""Our programs, their maps and hooks in this thread's network namespace: `observe` them, `apply` steps to them.

One set of maps serves all NICs and both directions. Whoever starts anew finds it by the programs that stand (needs
CAP_SYS_ADMIN; without it a new set is made, filled and put in the place of the old one, which is as safe).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from errno import EEXIST, ENOENT, EPERM
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.redirect import bpf
from linkseal.tunnels.redirect.assembler import encode
from linkseal.tunnels.redirect.detect import af_xdp_sockets, xdp_programs
from linkseal.tunnels.redirect.hooks import Hooks, Place, Standing
from linkseal.tunnels.redirect.maps import MAPS, TABLES, entry_of, key_bytes, value_bytes
from linkseal.tunnels.redirect.model import (
    AttachRedirect,
    DetachRedirect,
    Foreign,
    ForgetRedirect,
    Hook,
    RedirectState,
    RedirectStep,
    SetRedirect,
    Table,
)
from linkseal.tunnels.redirect.program import COUNTERS, PREFIX, WAYS, Way, instructions, name_of
from linkseal.tunnels.redirect.reasons import Drops
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket

_COUNTER: Final = struct.Struct("=QQ")


class Redirector:
    """The part of the host that is about redirected packets; not for use by two threads.

    `writes` counts what was changed in the kernel: an idle reconcile leaves it as it was.
    """

    def __init__(self) -> None:
        self._sock = NetlinkSocket(NETLINK_ROUTE)
        self._hooks = Hooks(self._sock)
        self._written = 0
        self._maps: dict[str, int] = {}
        self._map_ids: dict[str, int] = {}
        self._programs: dict[Way, int] = {}
        self._current: dict[Way, set[int]] = {way: set() for way in WAYS}
        """Numbers of programs of this version that use our maps."""
        self._held: set[int] = set()
        """Numbers of programs whose descriptors we have."""
        self._attached: set[Hook] = set()
        """Where a program was put since the last look."""
        self._tried: dict[Hook, list[Standing]] = {}
        self._before: dict[tuple[Way, int], Drops] = {}
        """What the counters of maps that were taken over said then."""
        self._seen: dict[Table, tuple[bpf.Held, dict[str, int]]] = {}

    @property
    def writes(self) -> int:
        """How many operations that change something were made so far."""
        return self._written + self._hooks.writes + self._sock.writes

    def close(self) -> None:
        """Give back descriptors and the socket; what stands goes on standing."""
        self._drop()
        self._sock.close()

    def unable(self) -> HostError | None:
        """Return why this kernel cannot have our programs; None: it can. Tries, and leaves nothing behind."""
        maps: dict[str, int] = {}
        try:
            for name, shape in MAPS.items():
                maps[name] = bpf.create_map(PREFIX + name, shape)
            for way in WAYS:
                os.close(bpf.load(name_of(way), encode(instructions(way), maps)))
        except HostError as error:
            return error
        finally:
            _close(maps.values())
        return None

    # --- reading ------------------------------------------------------------------------------------------------------

    def observe(self) -> RedirectState:
        """Return what is there of ours, and what of others. HostError."""
        standing = self._hooks.read()
        if not self._maps:
            self._adopt(standing)
        good, strays = set[Hook](), set[Hook]()
        foreign: list[Foreign] = [*xdp_programs(self._sock), *af_xdp_sockets()]
        asked: set[Hook] = set()
        ours: set[Hook] = set()
        for one in standing:
            first = one.hook not in asked
            asked.add(one.hook)
            if not one.ours:
                foreign.append(_foreign(one, first=one.hook not in ours))
                continue
            ours.add(one.hook)
            if first and self._is_current(one):
                good.add(one.hook)
            else:
                strays.add(one.hook)
        numbers = {one.program for one in standing} | self._held
        self._current = {way: current & numbers for way, current in self._current.items()}
        behind = self._behind(standing, good)
        return RedirectState(
            self._tables(),
            frozenset(good),
            frozenset(strays - behind),
            tuple(dict.fromkeys(foreign)),
            frozenset(behind & strays),
        )

    def _behind(self, standing: list[Standing], good: set[Hook]) -> set[Hook]:
        """Hooks where putting ours first has come to nothing, and nothing has changed since."""
        chains: dict[Hook, list[Standing]] = {}
        for one in standing:
            chains.setdefault(one.hook, []).append(one)
        for hook in self._attached - good:
            self._tried[hook] = chains.get(hook, [])
        self._attached.clear()
        self._tried = {hook: tried for hook, tried in self._tried.items() if chains.get(hook) == tried}
        return set(self._tried)

    def counters(self) -> dict[tuple[Way, int], Drops]:
        """Return (direction, counter) → what was dropped since this process has the maps. HostError."""
        return {
            key: Drops(now.packets - before.packets, now.bytes - before.bytes)
            for key, now in self._counted().items()
            for before in (self._before.get(key, Drops(0, 0)),)
        }

    def _counted(self) -> dict[tuple[Way, int], Drops]:
        fd = self._maps.get("count")
        if fd is None:
            return {}
        found = {}
        for place, way in enumerate(WAYS):
            for number in range(COUNTERS):
                raw = bpf.lookup(fd, struct.pack("=I", place * COUNTERS + number), _COUNTER.size)
                if raw is not None:
                    found[way, number] = Drops._make(_COUNTER.unpack(raw))
        return found

    def _tables(self) -> dict[Table, dict[str, int]]:
        return {table: self._held_by(table, self._maps[table]) for table in TABLES if table in self._maps}

    def _held_by(self, table: Table, fd: int) -> dict[str, int]:
        """Decode a map, unless it is as it was at the last look: 5,000 nodes have 40,000 entries."""
        shape = MAPS[table]
        now = bpf.dump(fd, shape)
        before = self._seen.get(table)
        if before is not None and before[0] == now:
            return before[1]
        width, size = shape.key_size, shape.value_size
        decoded = dict(
            entry_of(table, now.keys[n * width : (n + 1) * width], now.values[n * size : (n + 1) * size])
            for n in range(len(now.keys) // width)
        )
        self._seen[table] = (now, decoded)
        return decoded

    def _is_current(self, one: Standing) -> bool:
        if one.program in self._current[one.hook.way]:
            return one.place == "tcx" or not self._tcx()
        return False

    # --- finding again ------------------------------------------------------------------------------------------------

    def _adopt(self, standing: list[Standing]) -> None:
        """Take over the maps of programs that stand already, and the programs where they are of this version."""
        for one in standing:
            info = self._hooks.info(one.program) if one.ours else None
            if info is None:
                continue
            maps = self._open_maps(info.map_ids)
            if any(self._map_ids.get(name, number) != number for name, (number, _) in maps.items()):
                _close(fd for _, fd in maps.values())  # of another set: it is replaced
                continue
            for name, (number, fd) in maps.items():
                if name in self._maps:
                    os.close(fd)
                else:
                    self._maps[name], self._map_ids[name] = fd, number
            if maps and info.name == name_of(one.hook.way):
                self._current[one.hook.way].add(one.program)
        self._before = self._counted()

    def _open_maps(self, ids: tuple[int, ...]) -> dict[str, tuple[int, int]]:
        """Return name → (number, descriptor); empty where one has another shape than we make today."""
        found: dict[str, tuple[int, int]] = {}
        for number in ids:
            try:
                fd = bpf.map_by_id(number)
            except HostError as error:
                if error.errno not in (EPERM, ENOENT):
                    raise
                _close(fd for _, fd in found.values())
                return {}
            info = bpf.map_info(fd)
            name = info.name.removeprefix(PREFIX)
            found[name] = (number, fd)
            if MAPS.get(name) != info.shape:
                _close(fd for _, fd in found.values())
                return {}
        return found

    # --- changing -----------------------------------------------------------------------------------------------------

    def apply(self, step: RedirectStep) -> None:
        """Carry out one step. HostError."""
        match step:
            case SetRedirect(entries):
                self._make_maps()
                for entry, value in entries:
                    self._written += 1
                    bpf.update(self._maps[entry.table], key_bytes(entry), value_bytes(entry, value))
            case ForgetRedirect(forgotten):
                for entry in forgotten:
                    if entry.table in self._maps:
                        self._written += 1
                        bpf.delete(self._maps[entry.table], key_bytes(entry))
            case AttachRedirect(hook):
                self._attach(hook)
                self._attached.add(hook)
            case DetachRedirect(hook):
                self._hooks.take_out(hook)

    def _make_maps(self) -> None:
        for name, shape in MAPS.items():
            if name not in self._maps:
                self._written += 1
                self._maps[name] = bpf.create_map(PREFIX + name, shape)
                self._map_ids[name] = bpf.map_info(self._maps[name]).id

    def _attach(self, hook: Hook) -> None:
        fd = self._program(hook.way)
        place: Place = "tcx" if self._tcx() else "clsact"
        name = name_of(hook.way)
        try:
            self._hooks.put_first(hook, name, fd, place)
        except HostError as error:
            if error.errno != EEXIST or place != "tcx":
                raise
            # It stands there already, not as the first or not alone: a second copy goes to the front, the first out.
            self._forget_program(hook.way)
            self._hooks.put_first(hook, name, self._program(hook.way), place)

    def _program(self, way: Way) -> int:
        """Return the descriptor of our program, loaded now if this process has not."""
        if way not in self._programs:
            self._make_maps()
            self._written += 1
            fd = self._programs[way] = bpf.load(name_of(way), encode(instructions(way), self._maps))
            number = bpf.program_info(fd).id
            self._held.add(number)
            self._current[way].add(number)
        return self._programs[way]

    def _forget_program(self, way: Way) -> None:
        fd = self._programs.pop(way, None)
        if fd is not None:
            self._held.discard(bpf.program_info(fd).id)
            os.close(fd)

    def _tcx(self) -> bool:
        return self._hooks.tcx_usable()

    def _drop(self) -> None:
        _close((*self._maps.values(), *self._programs.values()))
        self._maps, self._map_ids, self._programs = {}, {}, {}
        self._held = set()


def _foreign(one: Standing, *, first: bool) -> Foreign:
    what = one.name or (f"program {one.program}" if one.program else one.kind)
    return Foreign(one.hook.device, one.place, one.hook.way, what, first)


def _close(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        with suppress(OSError):
            os.close(fd)
