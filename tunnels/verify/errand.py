"""What a session sends and where to, from the world as the last pass left it. No I/O; randomness is an argument.

A canary goes by the way of real packets to a real protected address, so that a route, rule or program of somebody else
that takes real packets past the door takes the canary too:

    as a pod's     injected at the probe pair, from a protected address of this node: rules, routes, FORWARD, door
    by the host    from an ordinary socket, the kernel's choice of source: rules, routes, OUTPUT, door
    to the probe   address of the peer, as a pod's: that one the peer forwards too, so that its FORWARD is seen to let
                   it pass; the others end at whatever owns the address there
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from linkseal.tunnels.addressing import slot_port
from linkseal.tunnels.agent.targets import sources_of
from linkseal.tunnels.model import Family, Scope, family_of
from linkseal.tunnels.plan import families_of, protected
from linkseal.tunnels.policyspec import SLOT_PORTS
from linkseal.tunnels.verify.chance import Chance
from linkseal.tunnels.verify.frames import Place, Tunnel
from linkseal.tunnels.verify.judge import Way
from linkseal.tunnels.world import Peer, World, endpoint_of
from linkseal.wireguard.model import Endpoint

MAX_DESTINATIONS: Final = 3
"""Protected prefixes of a peer that are tried in each family; of more, a random choice each time."""


class Canary(NamedTuple):
    """One canary; `source` None: by the host, from where the kernel chooses."""

    family: Family
    source: str | None
    destination: str
    arrives: Place

    @property
    def way(self) -> Way:
        """As the judgement names it."""
        return Way(self.arrives, f"{self.source or 'this host'} to {self.destination}")


class Control(NamedTuple):
    """A datagram in clear under the tunnels' mark, to the peer's address on the underlay."""

    destination: str
    source_port: int
    port: int


class Channel(NamedTuple):
    """Our local probe address and the peer's, on the link that carries the traffic."""

    family: Family
    here: str
    there: str


@dataclass(frozen=True, slots=True)
class Errand:
    """What is sent to one peer. `channel` None: no link carries our traffic, so nothing can be asked of it."""

    peer: str
    channel: Channel | None
    canaries: tuple[Canary, ...]
    control: Control | None
    """Between the ports of the probes, which the peer's guard knows; None: the peer's address is not known."""
    narrow: Control | None
    """By the tunnel's own ports, for paths that let nothing else through (NAT, firewalls); WireGuard drops it."""
    tunnel: Tunnel


def errand(world: World, peer: Peer, pair: tuple[int, int] | None, roamed: Endpoint | None, chance: Chance) -> Errand:
    """Return what to send. `pair`: the generations that carry our traffic; `roamed`: where the kernel sends it."""
    endpoint = roamed or endpoint_of(world, peer)
    announced = bool(peer.endpoints) or peer.name in world.endpoint_overrides
    probe_port = world.layout.probe_port
    direct = Control(endpoint.host, probe_port, probe_port) if endpoint is not None and announced else None
    narrow = None
    if roamed is not None and pair is not None:
        narrow = Control(roamed.host, slot_port(world.layout.port, *pair), roamed.port)
    channel = None if pair is None else _channel(world, peer, pair)
    canaries = tuple(_canaries(world, peer, pair if channel else None, chance))
    return Errand(peer.name, channel, canaries, direct, narrow, tunnel_to(world, peer, roamed))


def tunnel_to(world: World, peer: Peer, roamed: Endpoint | None = None) -> Tunnel:
    """Return by what the tunnel's packets between this node and a peer are known here."""
    ports = range(world.layout.port, world.layout.port + SLOT_PORTS)
    if not peer.endpoints and roamed is None:
        return Tunnel(ports)
    override = world.endpoint_overrides.get(peer.name)
    hosts = {endpoint.host for endpoint in (*peer.endpoints, override, roamed) if endpoint is not None}
    return Tunnel(ports, frozenset((*hosts, *peer.addresses)))


def verify_port(probe_port: int) -> int:
    """UDP port of the control messages and of the canaries: next to that of the probes."""
    return probe_port + 1


def _channel(world: World, peer: Peer, pair: tuple[int, int]) -> Channel | None:
    probe = world.layout.probe
    for family in families_of(world):
        if _sources(world, peer, family):
            here = probe.local(family, world.me.index, *pair)
            return Channel(family, here, probe.local(family, peer.index, pair[1], pair[0]))
    return None


def _sources(world: World, peer: Peer, family: Family) -> tuple[list[str], list[str]] | None:
    """Addresses of this node and of the peer by which a family is tried; None: one of them has nothing there."""
    scope = world.layout.scope
    mine = sources_of(protected(scope, world.me.addresses, world.me.prefixes))[family]
    theirs = sources_of(protected(scope, peer.addresses, peer.prefixes))[family]
    if not mine or not theirs:
        return None
    return [source.address for source in mine], [source.address for source in theirs]


def _canaries(world: World, peer: Peer, pair: tuple[int, int] | None, chance: Chance) -> Iterator[Canary]:
    for family in families_of(world):
        found = _sources(world, peer, family)
        if found is None:
            continue
        mine, theirs = found
        chosen = chance.sample(theirs, min(MAX_DESTINATIONS, len(theirs)))
        for destination in chosen:
            yield Canary(family, chance.choice(mine), destination, Place.SLOT)
        for destination in dict.fromkeys((chosen[0], *_node_address(world, peer, family))):
            yield Canary(family, None, destination, Place.SLOT)
        if pair is not None:
            probe = world.layout.probe.forwarded(family, peer.index, pair[1], pair[0])
            yield Canary(family, chance.choice(mine), probe, Place.PROBE)


def _node_address(world: World, peer: Peer, family: Family) -> list[str]:
    """The peer's own address, where the tunnels carry it."""
    if world.layout.scope is not Scope.TRANSPARENT:
        return []
    return [address for address in peer.addresses if family_of(address) == family][:1]
