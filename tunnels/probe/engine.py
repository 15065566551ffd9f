"""Proves links for as long as it runs: the sockets, the clock and the ladders of all links.

    set_targets ─► a Ladder a link ─► heap by when they are due ─ paced ─► requests ─► lslq / UDP
    lslq / UDP ─► reply, known nonce, right link ─► its Ladder ─► Outcome ─► on_outcome
               └► request ─► Responder ─► reply

One timer, set to the head of the heap, serves all links; a ladder that is due waits in the heap until the pace allows,
so that no queue grows. While the probe device is missing nothing is asked and nothing judged: that would blame a link
for what is missing here.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import logging
import os
import random
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from linkseal.keys.errors import HostError
from linkseal.tunnels.addressing import PROBE, PROBE_PEER, ProbeRange
from linkseal.tunnels.model import Family, LinkKey
from linkseal.tunnels.probe.bucket import TokenBucket
from linkseal.tunnels.probe.climb import Answer, Ask
from linkseal.tunnels.probe.ladder import DEFAULT_INTERVAL, LONGEST_PAUSE, Ladder
from linkseal.tunnels.probe.outcomes import Outcome, Target
from linkseal.tunnels.probe.packet import (
    DEFAULT_PORT,
    NONCE_BYTES,
    PROBE_SLOT,
    Datagram,
    Reply,
    Request,
    Rung,
    encode_packet,
    encode_payload,
    header_size,
    parse_packet,
    parse_payload,
)
from linkseal.tunnels.probe.responder import Outgoing, Responder
from linkseal.tunnels.probe.sockets import DeviceGone, PacketSocket, UdpSocket

DEFAULT_RATE: Final = 500.0
"""Packets a second. 5,000 links of two families take 20,000 to be proven: 40 s after a start, at 4 % of one core (80 µs
for a request and its reply, measured). Once proven they take 170 a second."""

REPLY_FACTOR: Final = 2
"""Replies to all peers together, in multiples of the rate: peers ask as often as we do, and may start together."""

BURST_SECONDS: Final = 0.1
"""How much of a second's packets may leave at once: 50, which no queue on the way drops."""

PENDING_SECONDS: Final = 15.0
"""A nonce is known that long; two round trips of the slowest path that can be proven at all take 8 s."""

REOPEN_SECONDS: Final = 1.0
"""How often a missing probe device is looked for."""

_BATCH: Final = 64
"""Packets read, or ladders served, before the loop serves others."""

_FAMILIES: Final[tuple[Family, ...]] = (4, 6)
_NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})  # a kernel without IPv6

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """This node as it probes. `index` is from its grant; `interval` in seconds, `rate` in packets a second."""

    node: str
    index: int
    ranges: ProbeRange
    port: int = DEFAULT_PORT
    interval: float = DEFAULT_INTERVAL
    rate: float = DEFAULT_RATE


class _Pending(NamedTuple):
    key: LinkKey
    ask: Ask
    sent: float


class ProbeEngine:
    """The probes of one node. Everything runs in the event loop of `start`; `on_outcome` is called there.

    `uses`, `peer_index` and `owner` are asked for each request that comes in: the generations (ours, the peer's) by
    which we send to a node now, the index of its grant (None for a node we do not know), and the addresses besides its
    probe addresses that its probes come from.
    """

    def __init__(
        self,
        settings: ProbeSettings,
        on_outcome: Callable[[Outcome], None],
        uses: Callable[[str], tuple[int, int] | None],
        peer_index: Callable[[str], int | None],
        owner: Callable[[str], Collection[str]],
    ) -> None:
        self._settings = settings
        self._on_outcome = on_outcome
        self._responder = Responder(settings.node, settings.index, settings.ranges, uses, peer_index, owner)
        self._ladders: dict[LinkKey, Ladder] = {}
        self._heap: list[tuple[float, int, Ladder]] = []
        self._pushed = 0
        self._pending: OrderedDict[bytes, _Pending] = OrderedDict()
        self._pace = TokenBucket(settings.rate, max(1.0, settings.rate * BURST_SECONDS), 0.0)
        self._reply_pace = TokenBucket(REPLY_FACTOR * settings.rate, max(1.0, settings.rate), 0.0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._packets: PacketSocket | None = None
        self._udp: dict[Family, UdpSocket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._reopening: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Open the sockets in the running loop. HostError: the port is taken, or the kernel refuses packet sockets."""
        self._loop = asyncio.get_running_loop()
        try:
            for family in _FAMILIES:
                self._open_udp(family, self._loop)
            self._open_packets(quiet=False)
        except BaseException:
            self.close()
            raise

    def _open_udp(self, family: Family, loop: asyncio.AbstractEventLoop) -> None:
        try:
            udp = UdpSocket(family, self._settings.port)
        except HostError as error:
            if error.errno in _NO_SUCH_FAMILY:
                return
            raise
        self._udp[family] = udp
        loop.add_reader(udp, self._read_udp, family, udp)

    def close(self) -> None:
        """Stop; what was under way is forgotten. Closing twice does nothing."""
        for timer in (self._timer, self._reopening):
            if timer is not None:
                timer.cancel()
        self._timer = self._reopening = None
        self._close_packets()
        for udp in self._udp.values():
            if self._loop is not None:
                self._loop.remove_reader(udp)
            udp.close()
        self._udp.clear()
        self._loop = None
        self._pending.clear()

    def set_own_sources(self, sources: Mapping[Family, tuple[str, ...]]) -> None:
        """Set this node's protected addresses, from which it answers; the order is that of the slots."""
        self._responder.set_own_sources(sources)

    def set_targets(self, targets: Mapping[LinkKey, Target]) -> None:
        """Set the links to prove. Those whose target is unchanged go on as if nothing had happened."""
        now = asyncio.get_running_loop().time()
        for key in self._ladders.keys() - targets.keys():
            del self._ladders[key]
        for key, target in targets.items():
            ladder = self._ladders.get(key)
            if ladder is None:
                self._ladders[key] = ladder = Ladder(key, target, now, self._settings.interval)
            elif ladder.target == target:
                continue
            else:
                ladder.retarget(target, now)
            self._push(ladder)
        self._arm()

    def poke(self, key: LinkKey) -> None:
        """Prove this link now, not when its time comes; unknown links are ignored."""
        ladder = self._ladders.get(key)
        if ladder is not None:
            ladder.poke(asyncio.get_running_loop().time())
            self._push(ladder)
            self._arm()

    # --- time ---

    def _push(self, ladder: Ladder) -> None:
        """Enter a ladder under its present due time; entries under other times are skipped when they come up."""
        self._pushed += 1
        heapq.heappush(self._heap, (ladder.due, self._pushed, ladder))

    def _arm(self) -> None:
        """Set the timer to when the next ladder is due and the pace allows it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._loop is not None and self._packets is not None and self._heap:
            at = max(self._heap[0][0], self._pace.ready_at(self._loop.time()))
            self._timer = self._loop.call_at(at, self._serve)

    def _serve(self) -> None:
        """Serve the ladders that are due."""
        if self._loop is None:
            return
        try:
            now = self._loop.time()
            self._forget_old(now)
            for _ in range(_BATCH):
                if not self._heap or self._heap[0][0] > now or self._pace.ready_at(now) > now:
                    break
                due, _, ladder = heapq.heappop(self._heap)
                if self._ladders.get(ladder.key) is ladder and ladder.due == due:
                    self._tick(ladder, now)
        except DeviceGone:
            self._lose_packets()
        finally:
            self._arm()

    def _tick(self, ladder: Ladder, now: float) -> None:
        beat = ladder.tick(now, random.random())  # noqa: S311 - spreads load, protects nothing
        self._push(ladder)
        self._pace.spend(len(beat.asks))
        if beat.outcome is not None:
            self._on_outcome(beat.outcome)
        for ask in beat.asks:
            self._ask(ladder, ask, now)

    def _forget_old(self, now: float) -> None:
        """Forget nonces past their time, the oldest first."""
        while self._pending and now - next(iter(self._pending.values())).sent > PENDING_SECONDS:
            self._pending.popitem(last=False)

    # --- sending ---

    def _ask(self, ladder: Ladder, ask: Ask, now: float) -> None:
        key, target, ranges, index = ladder.key, ladder.target, self._settings.ranges, self._settings.index
        by_host = ask.rung is Rung.LOCAL
        if by_host:
            source = ranges.local(ask.family, index, key.own, key.remote)
        elif ask.source == PROBE_SLOT:
            source = ranges.forwarded(ask.family, index, key.own, key.remote)
        else:
            source = target.ways[ask.family].sources[ask.source].address
        to = ranges.local if ask.rung.answered_by_host else ranges.forwarded
        destination = to(ask.family, target.peer_index, key.remote, key.own)
        nonce = os.urandom(NONCE_BYTES)
        request = Request(nonce, self._settings.node, key.own, key.remote, ask.rung, ask.reply_size, ask.slot)
        self._pending[nonce] = _Pending(key, ask, now)
        self._send(Outgoing(by_host, ask.family, source, destination, ask.size, request))

    def _send(self, out: Outgoing) -> None:
        port = self._settings.port
        if not out.by_host:
            if self._packets is not None:
                packet = encode_packet(out.probe, out.source, out.destination, port, out.size)
                self._packets.send(packet, out.family)
        elif out.family in self._udp:
            payload = encode_payload(out.probe, out.family, out.size)
            self._udp[out.family].send(payload, out.source, out.destination, port)

    # --- receiving ---

    def _read_packets(self) -> None:
        try:
            for _ in range(_BATCH):
                data = self._packets.receive() if self._packets is not None else None
                if data is None:
                    break
                datagram = parse_packet(data, self._settings.port)
                if datagram is not None:
                    self._take(datagram, by_host=False)
        except DeviceGone:
            self._lose_packets()
        self._arm()

    def _read_udp(self, family: Family, udp: UdpSocket) -> None:
        for _ in range(_BATCH):
            message = udp.receive()
            if message is None:
                break
            probe = parse_payload(message.payload, family)
            if probe is not None:
                size = len(message.payload) + header_size(family)
                self._take(Datagram(family, message.source, message.destination, size, probe), by_host=True)
        self._arm()

    def _take(self, datagram: Datagram, *, by_host: bool) -> None:
        now = asyncio.get_running_loop().time()
        if isinstance(datagram.probe, Reply):
            self._take_reply(datagram, datagram.probe, now, by_host=by_host)
            return
        out = self._responder.answer(datagram, datagram.probe, now, by_host=by_host)
        if out is not None and self._reply_pace.take(now):
            self._send(out)

    def _take_reply(self, datagram: Datagram, reply: Reply, now: float, *, by_host: bool) -> None:
        """Hand a reply to its ladder, if it answers what we asked, whole, on the link we asked it on."""
        pending = self._pending.get(reply.nonce)
        if pending is None:
            return
        key, ask, sent = pending
        address = self._settings.ranges.local if by_host else self._settings.ranges.forwarded
        here = address(ask.family, self._settings.index, key.own, key.remote)
        if (
            (datagram.destination, datagram.size) != (here, ask.reply_size)
            or (reply.node, reply.own, reply.remote, reply.rung) != (key.peer, key.remote, key.own, ask.rung)
            or by_host != ask.rung.answered_by_host
        ):
            return
        del self._pending[reply.nonce]
        ladder = self._ladders.get(key)
        if ladder is not None:
            rtt = now - sent
            answer = Answer(datagram.source, reply.slot, reply.saw, reply.named, reply.uses, reply.offers, rtt)
            was_due = ladder.due
            ladder.answer(ask, answer, now)
            if ladder.due != was_due:
                self._push(ladder)

    # --- the probe device ---

    def _open_packets(self, *, quiet: bool) -> None:
        """Open the packet socket, or look again later. HostError only if not `quiet`."""
        loop = asyncio.get_running_loop()
        self._reopening = None
        try:
            self._packets = PacketSocket(PROBE_PEER, PROBE, self._settings.port)
        except DeviceGone:
            if not quiet:
                log.info("probe device %s is not there: no link is probed until it is", PROBE_PEER)
            self._reopening = loop.call_later(REOPEN_SECONDS, self._reopen)
            return
        loop.add_reader(self._packets, self._read_packets)
        now = loop.time()
        for ladder in self._ladders.values():
            if ladder.climbing:
                ladder.restart(now)
                self._push(ladder)
        self._arm()

    def _reopen(self) -> None:
        try:
            self._open_packets(quiet=True)
        except HostError as error:
            log.warning("%s", error)
            self._reopening = asyncio.get_running_loop().call_later(LONGEST_PAUSE, self._reopen)

    def _lose_packets(self) -> None:
        self._close_packets()
        if self._loop is not None:
            self._open_packets(quiet=False)

    def _close_packets(self) -> None:
        if self._packets is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._packets)
            self._packets.close()
            self._packets = None
