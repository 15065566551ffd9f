"""The sockets of `verify`: one node's end of all its sessions. Everything runs in the event loop of `start`.

prove(errand) ─► Source ─► messages (UDP inside the tunnel), canaries (probe pair, UDP), control (raw) ─► Proof
UDP ─► message of a known peer from its own probe address ─┬► Source
                                                          └► Target ─► Capture, answers
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.addressing import PROBE, PROBE_PEER, ProbeRange
from linkseal.tunnels.model import Family, family_of
from linkseal.tunnels.probe.packet import encode_udp
from linkseal.tunnels.probe.sockets import DeviceGone, PacketSocket, UdpMessage, UdpSocket
from linkseal.tunnels.verify.capture import Capture, other_hardware, route_interface
from linkseal.tunnels.verify.errand import Canary, Control, Errand
from linkseal.tunnels.verify.frames import Sieve, Tunnel
from linkseal.tunnels.verify.judge import Way, enough
from linkseal.tunnels.verify.packet import (
    SEED_BYTES,
    SESSION_BYTES,
    Answer,
    Arm,
    Armed,
    Ask,
    End,
    Message,
    Report,
    Tokens,
    canary_payload,
    control_payload,
    encode,
    parse,
    tokens,
)
from linkseal.tunnels.verify.session import Action, Begin, Look, Order, Source, Stop, Target, Volley

_BATCH: Final = 64
"""Messages read before the loop serves others."""

_FAMILIES: Final[tuple[Family, ...]] = (4, 6)
_PARITIES: Final = ((0, 0), (0, 1), (1, 0), (1, 1))
_NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})  # a kernel without IPv6
_SO_MARK: Final = 36  # asm-generic/socket.h


@dataclass(frozen=True, slots=True)
class VerifySettings:
    """This node: its name, its index in the grant, addresses and port of the messages, the tunnels' mark."""

    node: str
    index: int
    ranges: ProbeRange
    port: int
    mark: int


@dataclass(frozen=True, slots=True)
class Acquaintance:
    """What must be known of a peer to watch for it."""

    index: int
    tunnel: Tunnel
    hosts: tuple[str, ...]
    """Its addresses on the underlay."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a session came to. `answer` None: the peer said nothing; `own` None: no capture here, `trouble` says why."""

    ways: tuple[Way, ...]
    own: End | None
    far: End | None
    answer: Armed | None
    trouble: str = ""


class VerifyEngine:
    """`acquaintance` is asked for each peer that wants something (None: a stranger), `nics` for what carries tunnels.

    Everything runs in the event loop of `start`.
    """

    def __init__(
        self,
        settings: VerifySettings,
        acquaintance: Callable[[str], Acquaintance | None],
        nics: Callable[[], Collection[str]],
    ) -> None:
        self._settings = settings
        self._acquaintance = acquaintance
        self._nics = nics
        self._target = Target(settings.node)
        self._captures: dict[bytes, Capture] = {}
        self._udp: dict[Family, UdpSocket] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._source: _Session | None = None

    def start(self) -> None:
        """Open the sockets in the running loop. HostError: the port is taken."""
        self._loop = asyncio.get_running_loop()
        try:
            for family in _FAMILIES:
                try:
                    udp = UdpSocket(family, self._settings.port)
                except HostError as error:
                    if error.errno in _NO_SUCH_FAMILY:
                        continue
                    raise
                self._udp[family] = udp
                self._loop.add_reader(udp, self._read, udp)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop; captures end. Closing twice does nothing."""
        if self._timer is not None:
            self._timer.cancel()
        for session in list(self._captures):
            self._stop(session)
        for udp in self._udp.values():
            if self._loop is not None:
                self._loop.remove_reader(udp)
            udp.close()
        self._udp.clear()
        self._loop = None

    # --- this node's own sessions ---------------------------------------------------------------------------------

    async def prove(self, errand: Errand) -> Proof:
        """Send canaries to a peer; one at a time. Takes DEADLINE seconds at most."""
        assert self._source is None
        ways = tuple(canary.way for canary in errand.canaries)
        session = _Session(self._settings, errand)
        try:
            capture = self._capture(session.wanted, errand.tunnel, session.hosts(), arriving=False)
        except HostError as error:
            return Proof(ways, None, None, None, str(error))
        source = session.begin(lambda far: enough(ways, capture.look(), far), self._udp)
        self._source = session
        try:
            session.open()
            await session.run(source)
        finally:
            self._source = None
            session.close()
            self._end_capture(capture)
        return Proof(ways, capture.look(), source.report, source.answer, session.trouble)

    # --- others' --------------------------------------------------------------------------------------------------

    def _read(self, udp: UdpSocket) -> None:
        for _ in range(_BATCH):
            datagram = udp.receive()
            if datagram is None:
                return
            said = parse(datagram.payload)
            if said is not None:
                self._take(said, datagram)

    def _take(self, said: Message, datagram: UdpMessage) -> None:
        known = self._acquaintance(said.node)
        if known is None or self._loop is None or not self._is_from(datagram, known.index):
            return
        now = self._loop.time()
        if isinstance(said, Armed | Report):
            if self._source is not None and self._source.errand.peer == said.node:
                self._source.take(said, now)
            return
        family = family_of(datagram.source)
        for order in (*self._target.tick(now), *self._target.receive(said, now)):
            answer = self._carry_out(order, known)
            if answer is not None and family in self._udp:
                # Back the way it came: our own probe address that was written to, the peer's that wrote.
                self._udp[family].send(encode(answer), datagram.destination, datagram.source, self._settings.port)
        self._arm_timer()

    def _is_from(self, datagram: UdpMessage, index: int) -> bool:
        """Whether it went between probe addresses of that node and of this one (WireGuard has checked the source)."""
        local, family = self._settings.ranges.local, family_of(datagram.source)
        theirs = (local(family, index, *parities) for parities in _PARITIES)
        ours = (local(family, self._settings.index, *parities) for parities in _PARITIES)
        return datagram.source in theirs and datagram.destination in ours

    def _carry_out(self, order: Order, known: Acquaintance) -> Message | None:
        match order:
            case Begin(arm):
                return self._begin(arm, known)
            case Look(ask):
                return self._look(ask)
            case Stop(session):
                self._stop(session)
                return None
            case _:
                return order

    def _begin(self, arm: Arm, known: Acquaintance) -> Armed:
        try:
            wanted = tokens(arm.seed, arm.canaries)
            self._captures[arm.session] = self._capture(wanted, known.tunnel, known.hosts, arriving=True)
        except HostError as error:
            self._target.failed(arm.session)
            return Armed(arm.session, self._settings.node, Answer.UNABLE, str(error))
        return Armed(arm.session, self._settings.node, Answer.READY)

    def _look(self, ask: Ask) -> Report | None:
        capture = self._captures.get(ask.session)
        return None if capture is None else Report(ask.session, self._settings.node, ask.number, capture.look())

    def _stop(self, session: bytes) -> None:
        capture = self._captures.pop(session, None)
        if capture is not None:
            self._end_capture(capture)

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._loop is not None and self._target.due is not None:
            self._timer = self._loop.call_at(self._target.due, self._expire)

    def _expire(self) -> None:
        if self._loop is not None:
            for order in self._target.tick(self._loop.time()):
                if isinstance(order, Stop):
                    self._stop(order.session)
        self._arm_timer()

    # --- captures -------------------------------------------------------------------------------------------------

    def _capture(self, wanted: Tokens, tunnel: Tunnel, hosts: Collection[str], *, arriving: bool) -> Capture:
        """A capture that is read as packets come. HostError."""
        routes = (route_interface(host, self._settings.mark) for host in hosts)
        named = (*self._nics(), *(name for name in routes if name is not None))
        capture = Capture(Sieve(wanted, tunnel), named, other_hardware(named), arriving=arriving)
        for fileno in capture.filenos():
            asyncio.get_running_loop().add_reader(fileno, capture.read)
        return capture

    def _end_capture(self, capture: Capture) -> None:
        for fileno in capture.filenos():
            asyncio.get_running_loop().remove_reader(fileno)
        capture.close()


class _Session:
    """A session of ours while it runs."""

    def __init__(self, settings: VerifySettings, errand: Errand) -> None:
        self._settings = settings
        self.errand = errand
        self._arm = Arm(os.urandom(SESSION_BYTES), settings.node, os.urandom(SEED_BYTES), max(1, len(errand.canaries)))
        self.wanted = tokens(self._arm.seed, self._arm.canaries)
        self.trouble = ""
        self._source: Source | None = None
        self._udp: Mapping[Family, UdpSocket] = {}
        self._said: list[Action] = []
        self._packets: PacketSocket | None = None
        self._raw: dict[Control, tuple[socket.socket, str]] = {}
        self._awake = asyncio.Event()

    def hosts(self) -> list[str]:
        """Where the tunnel's packets go on the underlay."""
        return [control.destination for control in (self.errand.control, self.errand.narrow) if control is not None]

    def open(self) -> None:
        """Open what canaries and control are sent by; what cannot be had is told by `trouble`."""
        try:
            self._packets = PacketSocket(PROBE_PEER, PROBE, self._settings.port)
        except (DeviceGone, HostError) as error:
            self.trouble = f"no canary can be sent as a pod's packet: {error}"
        for control in (self.errand.control, self.errand.narrow):
            if control is not None:
                try:
                    self._raw[control] = _raw_socket(control.destination, self._settings.mark)
                except OSError as error:
                    self.trouble = f"no control can be sent to {control.destination}: {error.strerror}"

    def close(self) -> None:
        """Close it all."""
        if self._packets is not None:
            self._packets.close()
        for raw, _ in self._raw.values():
            raw.close()

    def begin(self, enough_: Callable[[End], bool], udp: Mapping[Family, UdpSocket]) -> Source:
        """Make the state machine; `udp`: the sockets of the messages."""
        self._udp = udp
        reachable = self.errand.channel is not None and self.errand.channel.family in udp
        now = asyncio.get_running_loop().time()
        self._source = Source(self._arm, now, enough_, reachable=reachable)
        return self._source

    async def run(self, source: Source) -> None:
        """Until the source says that it is over."""
        clock = asyncio.get_running_loop().time
        while True:
            said, self._said = self._said, []
            for action in (*said, *source.tick(clock())):
                self._do(action)
            if source.over and not self._said:
                return
            self._awake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, source.due - clock())):
                    await self._awake.wait()

    def take(self, said: Message, now: float) -> None:
        """Take in a message of the peer."""
        if self._source is not None:
            self._said += self._source.receive(said, now)
            self._awake.set()

    def _do(self, action: Action) -> None:
        if isinstance(action, Volley):
            for canary, token in zip(self.errand.canaries, self.wanted.canaries, strict=False):
                self._send_canary(canary, token)
            self._send_control()
        elif self.errand.channel is not None:
            channel = self.errand.channel
            self._udp[channel.family].send(encode(action), channel.here, channel.there, self._settings.port)

    def _send_canary(self, canary: Canary, token: bytes) -> None:
        port, payload = self._settings.port, canary_payload(token, canary.family)
        if canary.source is None:
            if canary.family in self._udp:
                self._udp[canary.family].send_any(payload, canary.destination, port)
        elif self._packets is not None:
            packet = encode_udp(payload, canary.source, canary.destination, port, port)
            with contextlib.suppress(DeviceGone):  # then it does not arrive, and the judgement says so
                self._packets.send(packet, canary.family)

    def _send_control(self) -> None:
        for control, (raw, source) in self._raw.items():
            family = family_of(control.destination)
            payload = control_payload(self.wanted.control, family)
            packet = encode_udp(payload, source, control.destination, control.source_port, control.port)
            with contextlib.suppress(OSError):
                raw.sendto(packet, (control.destination, 0))


def _raw_socket(host: str, mark: int) -> tuple[socket.socket, str]:
    """A socket for whole IP packets under the tunnels' mark, and the address they leave from. OSError."""
    family = socket.AF_INET6 if family_of(host) == 6 else socket.AF_INET  # noqa: PLR2004 - IP version
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
        asking.connect((host, 9))  # any port: nothing is sent
        source = str(asking.getsockname()[0])
    raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
    try:
        raw.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
    except OSError:
        raw.close()
        raise
    return raw, source
