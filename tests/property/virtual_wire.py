"""Nodes in virtual time and what is between them: WireGuard's handshakes and sessions, and packets that arrive or not.

A handshake succeeds if both ends hold each other's key and one that knows where the other is initiates, fails if both
initiate within a round trip, and is repeated after 5 s. A packet is lost unless the sender's map, slot, peer and
session and, when it arrives, the receiver's slot, peer, session and AllowedIPs all fit.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from linkseal.keys.values import Prefix, PublicKey
from linkseal.tunnels.addressing import DOOR
from linkseal.tunnels.links import LinkBook
from linkseal.tunnels.model import KeyOfGeneration, LinkKey, RemoveInterface, Step
from linkseal.tunnels.world import Peer
from linkseal.wireguard.model import ConfigureDevice, Endpoint, PeerState, RemovePeer, ReprovokePeer, SetPeer
from property.fake_host import FakeHost
from property.worlds import make_peer

KEY_LIFE, KEY_LIFE_OF_ANSWERER, RETRY = 120.0, 165.0, 5.0
"""REKEY_AFTER_TIME, REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT, REKEY_TIMEOUT of the WireGuard paper."""


@dataclass
class Node:
    """One node: its host, its agent's memory, what it has heard."""

    number: int
    reachable: bool
    generations: tuple[KeyOfGeneration, ...]
    host: FakeHost
    book: LinkBook = field(default_factory=LinkBook)
    heard: dict[str, tuple[int, Peer | None]] = field(default_factory=dict)
    announced: tuple[KeyOfGeneration, ...] = ()
    serial: int = 0
    agent: bool = True
    alive: bool = True
    adopted: bool = False
    asleep: float = 0.0
    outcomes: list[tuple[LinkKey, tuple[int, int] | None, bool]] = field(default_factory=list)
    failed: dict[LinkKey, int] = field(default_factory=dict)
    probe_at: dict[LinkKey, float] = field(default_factory=dict)
    tried: dict[tuple[str, PublicKey], float] = field(default_factory=dict)
    sessions: dict[tuple[str, PublicKey], float] = field(default_factory=dict)
    writes: int = 0
    provoked: list[float] = field(default_factory=list)
    rotations: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"n{self.number}"

    def as_seen(self) -> Peer:
        base = make_peer(self.number, reachable=self.reachable)
        return replace(base, generations=self.announced)

    def forget(self, step: Step) -> None:
        """Drop the sessions of a peer that goes or is made anew, and of all when their device or key goes."""
        match step:
            case RemovePeer(slot, key) | SetPeer(slot, key, True):
                gone = {(slot, key)}
            case ReprovokePeer(slot, spec):
                gone = {(slot, spec.public_key)}
            case RemoveInterface(slot, _):
                gone = {k for k in (*self.tried, *self.sessions) if k[0] == slot}
            case ConfigureDevice(slot, str()):
                gone = {k for k in (*self.tried, *self.sessions) if k[0] == slot}
            case _:
                return
        for key in gone:
            self.tried.pop(key, None)
            self.sessions.pop(key, None)


class Wire:
    """A clock, nodes, and the network between them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1_000_000.0
        self.nodes: dict[str, Node] = {}
        self.lost: list[str] = []
        self.sent = 0
        """Packets between settled nodes."""
        self.settled: set[tuple[str, str]] = set()
        """(sender, receiver) between whom a packet has arrived: from then on none may be lost."""
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self.every(0.1, self.traffic)
        self.every(0.5, lambda: [self.handshakes(node) for node in list(self.nodes.values())])

    # --- time -------------------------------------------------------------------------------------------------------

    def at(self, delay: float, run: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, run))

    def every(self, period: float, run: Callable[[], object]) -> None:
        def again() -> None:
            run()
            self.at(period, again)

        self.at(period, again)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = end

    def delay(self) -> float:
        return self.random.uniform(0.001, 0.03)

    # --- WireGuard --------------------------------------------------------------------------------------------------

    def session(self, node: Node, slot: str, remote: PublicKey) -> bool:
        return self.now - node.sessions.get((slot, remote), -1e9) <= 180

    def takes(self, node: Node, slot: str, own: PublicKey, remote: PublicKey, source: str) -> bool:
        device = node.host.devices.get(slot)
        peer = None if device is None or device.public_key != own else device.peers.get(remote)
        return node.alive and peer is not None and source in peer.allowed_ips and self.session(node, slot, remote)

    def handshakes(self, node: Node) -> None:
        if not node.alive:
            return
        carrying = {(node.host.slots.get(p), node.host.way(p)) for n in self.nodes.values() for p in self.prefixes(n)}
        used = {way for _, way in carrying}
        for slot, device in node.host.devices.items():
            for key, peer in device.peers.items() if slot != DOOR else ():
                wants = peer.keepalive > 0 or (slot, key) in used
                old = self.now - peer.last_handshake > (KEY_LIFE if peer.keepalive else KEY_LIFE_OF_ANSWERER)
                if wants and old and peer.endpoint and self.now - node.tried.get((slot, key), -1e9) >= RETRY:
                    jitter = self.random.uniform(0, 0.333) if old and peer.last_handshake else 0.0
                    node.tried[slot, key] = self.now + jitter
                    self.at(jitter + self.delay(), lambda s=slot, k=key, p=peer: self._initiation(node, s, k, p))

    def _initiation(self, one: Node, slot: str, remote: PublicKey, peer: PeerState) -> None:
        own = one.host.devices[slot].public_key if slot in one.host.devices else None
        other = next((n for n in self.nodes.values() if peer.endpoint.host in n.host.nic_addresses), None)
        if own is None or other is None or not other.alive or self.random.random() < 0.05:
            return
        for mirror, device in other.host.devices.items():
            if device.listen_port == peer.endpoint.port and device.public_key == remote and own in device.peers:
                crossing = abs(self.now - other.tried.get((mirror, own), -1e9)) < 0.03
                if not crossing:
                    other.sessions[mirror, own] = self.now
                    self.at(self.delay(), lambda m=mirror: self._response(one, slot, remote, other, m, own))

    def _response(self, one: Node, slot: str, remote: PublicKey, other: Node, mirror: str, own: PublicKey) -> None:
        device = one.host.devices.get(slot)
        if device is None or device.public_key != own or remote not in device.peers or (slot, remote) not in one.tried:
            return
        one.sessions[slot, remote] = self.now
        device.peers[remote] = device.peers[remote]._replace(last_handshake=self.now)
        source = Endpoint(next(iter(one.host.nic_addresses)), device.listen_port)

        def confirm() -> None:
            back = other.host.devices.get(mirror)
            if back is not None and own in back.peers and (mirror, own) in other.sessions:
                back.peers[own] = back.peers[own]._replace(last_handshake=self.now, endpoint=source)

        self.at(self.delay(), confirm)

    # --- traffic ----------------------------------------------------------------------------------------------------

    def prefixes(self, node: Node) -> tuple[Prefix, ...]:
        return (Prefix(f"10.244.{node.number}.0/24"),)

    def traffic(self, about: Node | None = None) -> None:
        """One packet between every two nodes, or between one and every other."""
        alive = [node for node in self.nodes.values() if node.alive]
        for one in alive:
            for other in alive:
                if one is not other and about in (None, one, other):
                    self._send(one, other)

    def _send(self, one: Node, other: Node) -> None:
        settled = (one.name, other.name) in self.settled
        self.sent += settled
        [source], [target] = self.prefixes(one), self.prefixes(other)
        way = one.host.way(target)
        device = None if way is None else one.host.devices[way[0]]
        peer = None if way is None or device is None else device.peers[way[1]]
        if way is None or peer is None or peer.endpoint is None or not self.session(one, *way):
            if settled:
                self.lost.append(f"{self.now - 1e6:.2f} {one.name}→{other.name} not sent: {way}")
            return
        own, remote, port = device.public_key, way[1], peer.endpoint.port

        hosts = (one.host, other.host)

        def arrive() -> None:
            if not one.alive or not other.alive or hosts != (one.host, other.host):
                return  # an end is no more what it was
            slots = [name for name, d in other.host.devices.items() if d.listen_port == port]
            if any(self.takes(other, name, remote, own, source) for name in slots):
                self.settled.add((one.name, other.name))
            elif settled:
                self.lost.append(f"{self.now - 1e6:.2f} {one.name}→{other.name} by {way[0]} refused at {slots}")

        self.at(self.delay(), arrive)
