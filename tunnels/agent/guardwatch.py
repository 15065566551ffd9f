"""What the guard does and has counted, for the report and for findings; owned by the worker's thread.

Counters belong to elements, which come and go; totals are kept here and only grow. Why a packet was plaintext is judged
when it is read: its peer has opted out (`optedOut`), has no agent, is refused or not known (`unknown`), has no proven
link or had none a moment ago (`unproven`), or all that goes there was to go by the tunnels since the last look at the
least (`bypass`): each end moves by itself, so that of what comes from there this is said only when the peer has had
time to move (SETTLED). What goes to nodes that have opted out is an exception on purpose, as an exempt packet is: it is
counted, and neither a finding nor "plaintext was seen" nor a flow that enforce would drop.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final, Literal, cast

from linkseal.keys.errors import HostError
from linkseal.tunnels import codes
from linkseal.tunnels.findings import HOST_SUBJECT, ActiveFindings
from linkseal.tunnels.guard.diff import is_whole
from linkseal.tunnels.guard.exemption import NUMBERS, Exemption
from linkseal.tunnels.guard.model import Guard, GuardTransaction
from linkseal.tunnels.guard.readings import Count, Flow, Readings
from linkseal.tunnels.host.host import Failure
from linkseal.tunnels.model import Desired, Observed, Stage
from linkseal.tunnels.redirect.program import CONTROL, Way
from linkseal.tunnels.redirect.reasons import REASONS, Drops
from linkseal.tunnels.statusparts import (
    MAX_FLOWS,
    NO_NODE,
    GuardMode,
    GuardStatus,
    PlaintextCount,
    PlaintextFlow,
    Reason,
)
from linkseal.tunnels.world import World, protected

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the counters at the least: a report may be asked for many times a second."""

SHOWN: Final = 600.0
"""Seconds a packet that was seen or dropped stays a finding."""

SETTLED: Final = 30.0
"""Seconds a peer has to move its own end: it waits for its own proof, and the stage may reach it later (a watch that
breaks comes back in half of that)."""

_STATE_CODES: Final = frozenset(
    {codes.GUARD_NOT_WHOLE, codes.GUARD_COLLISION, codes.EXEMPTION_EXPIRED, codes.BREAK_GLASS, codes.ENFORCE_REFUSED}
)
_NOBODY, _SOMEBODY = "addresses that no node is known to have", "other nodes"
"""In words, where there is no name of a peer; the programs on the NICs do not tell addresses."""
_PROTOCOLS: Final = {number: name for name, number in NUMBERS.items()}

Key = tuple[str, Reason, str]
"""Direction, reason, verdict."""


class GuardWatch:
    """Totals since the agent started."""

    def __init__(self, read: Callable[[Guard | None], Readings], findings: ActiveFindings) -> None:
        self._read = read
        self._findings = findings
        self._last: Readings | None = None
        self._looked = -LOOK_EVERY
        self._since: dict[str, float] = {}
        """Of peers whose traffic has gone by the tunnels at each look: the time of the first of these."""
        self._packets: Counter[Key] = Counter()
        self._bytes: Counter[Key] = Counter()
        self._flows: tuple[PlaintextFlow, ...] = ()
        self._last_plaintext: float | None = None
        self._refused: str | None = None
        self._programs: Mapping[tuple[Way, int], Drops] | None = None
        """What our programs on the NICs had dropped at the last look."""
        self.broken: str | None = None
        """Why break-glass is in force."""

    # --- counting -----------------------------------------------------------------------------------------------

    def look(self, world: World | None, guard: Guard | None, carried: AbstractSet[str], now: float) -> None:
        """Read the counters, if the last look is not a moment ago. `carried`: see `count`."""
        if world is None or time.monotonic() - self._looked < LOOK_EVERY:
            return
        self.count(world, guard, carried, now)

    def count(self, world: World, guard: Guard | None, carried: AbstractSet[str], now: float) -> None:
        """Read the counters, and add what is new to the totals; what cannot be read is read next time.

        `carried`: peers to whom the kernel, as it was last set up, sends all by the tunnels.
        """
        self._looked = time.monotonic()
        try:
            readings = self._read(guard)
        except HostError:
            return
        before, self._last = self._last, readings
        self._since = {name: since for name, since in self._since.items() if name in carried}
        if before is not None:
            self._add_new(world, before, readings, now)
        self._since = dict.fromkeys(carried, now) | self._since

    def _add_new(self, world: World, before: Readings, readings: Readings, now: float) -> None:
        owners = _Owners(world)
        for spot, count in readings.spots.items():
            new = count.since(before.spots.get(spot))
            if new.packets:
                verdict, _, way = spot.set.partition("_")
                name = owners.of(spot.address)
                self._add(way[:-1], self._reason(world, name, way[:-1], now), verdict, name or _NOBODY, new, now)
        self._exempted(before, readings)
        flows = _flows(readings.flows, owners)
        self._flows = tuple(flow for flow in flows if flow.peer not in world.opted_out)[:MAX_FLOWS]

    def programs(self, counters: Mapping[tuple[Way, int], Drops], now: float) -> None:
        """Add what our programs on the NICs have dropped: inbound they are asked before nftables."""
        before, self._programs = self._programs, counters
        for (way, number), drops in counters.items():
            old = Drops(0, 0) if before is None else before.get((way, number), Drops(0, 0))
            new = Count(drops.packets - old.packets, drops.bytes - old.bytes)
            if before is not None and number != CONTROL and new.packets > 0:
                self._add(way, REASONS.get(number, "unknown"), "drop", _SOMEBODY, new, now)

    def _reason(self, world: World, name: str, direction: str, now: float) -> Reason:
        peer = world.peers.get(name)
        if name in world.opted_out:
            return "optedOut"
        if peer is None or not peer.generations:
            return "unknown"
        since = self._since.get(name)
        moved = since is not None and (direction == "out" or now - since >= SETTLED)
        return "bypass" if moved else "unproven"

    def _add(self, direction: str, reason: Reason, verdict: str, name: str, new: Count, now: float) -> None:
        key = (direction, reason, "dropped" if verdict == "drop" else "counted")
        self._packets[key] += new.packets
        self._bytes[key] += new.bytes
        if reason == "optedOut":
            return
        self._last_plaintext = now
        where = "to" if direction == "out" else "from"
        if verdict == "drop":
            text = f"{new.packets} packets {where} {name} outside the tunnels"
            subject = HOST_SUBJECT if name in (_NOBODY, _SOMEBODY) else name
            self._findings.raise_(codes.GUARD_DROPS, subject, text, now, lasts=SHOWN)
        elif reason == "bypass":
            text = f"{new.packets} packets {where} {name} in plaintext, though its link is sealed"
            self._findings.raise_(codes.BYPASSED, name or HOST_SUBJECT, text, now, lasts=SHOWN)

    def _exempted(self, before: Readings, readings: Readings) -> None:
        """An exempt packet passes both tables: that of the NICs counts where there is one."""
        families = {family for family, _ in readings.counters}
        family = "netdev" if "netdev" in families else "inet"
        for place, count in readings.counters.items():
            kind, _, rest = place[1].partition("_")
            if place[0] == family and kind == "exempt":
                new = count.since(before.counters.get(place))
                key: Key = (rest.partition("_")[0], "exempt", "counted")
                self._packets[key] += new.packets
                self._bytes[key] += new.bytes

    # --- state --------------------------------------------------------------------------------------------------

    def tell(
        self,
        world: World,
        observed: Observed,
        failures: tuple[Failure, ...],
        exemptions: tuple[Exemption, ...],
        now: float,
    ) -> None:
        """Say what is wrong with the guard now; what is not said again is over."""
        failed = [failure.error for failure in failures if isinstance(failure.step, GuardTransaction)]
        self._refused = str(failed[0]) if failed else None
        found: dict[tuple[str, str], str] = {}
        if world.layout.stage is not Stage.OFF:
            lacking = self._lacking(world, observed)
            found.update(lacking)
            if lacking and world.layout.stage is Stage.ENFORCE:
                found[codes.ENFORCE_REFUSED, HOST_SUBJECT] = "; ".join(lacking.values())
            for one in exemptions:
                if not one.is_open(now):
                    text = f"{one.name} of {one.owner} ended at {one.expires.isoformat()}"
                    found[codes.EXEMPTION_EXPIRED, one.name] = text
        if self.broken is not None:
            found[codes.BREAK_GLASS, HOST_SUBJECT] = self.broken
        self._findings.replace(_STATE_CODES, found, now)

    def _lacking(self, world: World, observed: Observed) -> dict[tuple[str, str], str]:
        table = world.layout.guard_table
        if observed.guard is not None and observed.guard.foreign:
            return {
                (codes.GUARD_COLLISION, HOST_SUBJECT): f"the nft table {table} is another's: nothing of it is touched"
            }
        if self._refused is not None:
            return {(codes.GUARD_NOT_WHOLE, HOST_SUBJECT): self._refused}
        if not world.door:
            text = "no netdev egress hook in this kernel: packets that pass by IP (bridges, raw sockets) are not judged"
            return {(codes.GUARD_NOT_WHOLE, HOST_SUBJECT): text}
        return {}

    def status(self, desired: Desired, observed: Observed) -> GuardStatus:
        """The guard's part of the report, by the last observation."""
        whole = self._refused is None and is_whole(desired.guard, observed.guard, observed.interfaces)
        return GuardStatus(
            mode=_mode(observed.guard),
            whole=whole and (desired.guard is None or "netdev" in {family for family, _ in desired.guard.chains}),
            broken_glass=self.broken,
            counts=tuple(self._counts()),
            last_plaintext=self._last_plaintext,
            flows=self._flows,
        )

    def _counts(self) -> Iterator[PlaintextCount]:
        for key, packets in sorted(self._packets.items()):
            if packets:
                direction, reason, verdict = cast("tuple[Any, Reason, Any]", key)
                yield PlaintextCount(direction, reason, verdict, packets, self._bytes[key])


def _mode(guard: Guard | None) -> GuardMode:
    if guard is None or guard.foreign:
        return "none"
    return "drop" if any(element.set.startswith("drop") for element in guard.elements) else "count"


class _Owners:
    """Which peer has an address."""

    def __init__(self, world: World) -> None:
        self._world = world

    @cached_property
    def _protected(self) -> list[IPv4Network | IPv6Network]:
        return [ip_network(one) for one in self._world.layout.protected_cidrs]

    @cached_property
    def _by_length(self) -> dict[tuple[int, int], dict[int, str]]:
        """Made when it is asked for first: as a rule there was no packet to ask for."""
        found: dict[tuple[int, int], dict[int, str]] = {}
        for peer in (*self._world.peers.values(), *self._world.opted_out.values()):
            for prefix in protected(self._world.layout.scope, peer.addresses, peer.prefixes):
                network = ip_network(prefix)
                known = found.setdefault((network.version, network.prefixlen), {})
                known[int(network.network_address)] = peer.name
        return found

    def of(self, text: str) -> str:
        """The peer with the longest prefix around an address; "" if none has one."""
        address = ip_address(text)
        for (version, length), known in sorted(self._by_length.items(), reverse=True):
            if version == address.version:
                shift = address.max_prefixlen - length
                name = known.get(int(address) >> shift << shift)
                if name is not None:
                    return name
        return ""

    def protects(self, text: str) -> bool:
        """Whether an address is protected whoever has it."""
        address = ip_address(text)
        return any(address in network for network in self._protected)


def _flows(flows: Mapping[Flow, Count], owners: _Owners) -> Iterator[PlaintextFlow]:
    """Flows by peer, the largest first; of addresses nobody owns (any more) only those that are protected."""
    found: dict[tuple[str, str, str, int, int], Count] = {}
    for flow, count in flows.items():
        name, address = owners.of(flow.address), ""
        if not name and owners.protects(flow.address):
            name, address = NO_NODE, flow.address
        if name:
            key = (name, address, flow.direction, flow.protocol, flow.port)
            found[key] = found.get(key, Count()) + count
    for key, count in sorted(found.items(), key=lambda item: (-item[1].packets, item[0])):
        name, address, direction, protocol, port = key
        way = cast("Literal['out', 'in']", direction)
        yield PlaintextFlow(name, way, _PROTOCOLS.get(protocol, str(protocol)), port, *count, address=address or None)
