"""Random worlds, and random damage to a host, for the laws of plan and diff."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TypeVar

from hypothesis import strategies as st
from linkseal.keys.values import Prefix, PublicKey
from linkseal.tunnels.addressing import DOOR, OURS, PROBE, PROBE_PEER
from linkseal.tunnels.model import Address, Chain, Family, KeyOfGeneration, Route, Rule, Scope, Stage
from linkseal.tunnels.world import Layout, Me, Peer, PeerLinks, Underlay, World
from linkseal.wireguard.model import Endpoint, PeerState
from property.fake_host import NIC, FakeHost, overlap

T = TypeVar("T")

INDEXES = (1, 2, 3, 63, 64, 4096, 8191, 8192, 16383)
"""Where probe addresses change their length, their third octet, their last IPv6 groups."""

FAMILIES: tuple[tuple[Family, ...], ...] = ((4,), (6,), (4, 6))


PROTECTED: tuple[tuple[Prefix, ...], ...] = (
    (),
    (Prefix("10.244.0.0/16"), Prefix("fd00:244::/48")),
    (Prefix("10.200.0.0/16"), Prefix("10.244.3.0/24"), Prefix("10.244.4.0/22"), Prefix("192.0.2.0/29")),
)
"""Networks around what nodes have, equal to it, and around some addresses of nodes."""


def public_key(name: str, number: int, salt: int = 0) -> PublicKey:
    digest = hashlib.sha256(f"{name} {number} {salt}".encode()).digest()
    return PublicKey(base64.b64encode(digest).decode())


def keys(name: str, *numbers: int) -> tuple[KeyOfGeneration, ...]:
    return tuple(KeyOfGeneration(number, public_key(name, number)) for number in numbers)


def addresses_of(number: int, families: tuple[Family, ...]) -> tuple[str, ...]:
    return tuple(f"192.0.2.{number}" if family == 4 else f"2001:db8::{number:x}" for family in families)


def prefixes_of(number: int, families: tuple[Family, ...]) -> tuple[Prefix, ...]:
    return tuple(Prefix(f"10.244.{number}.0/24" if f == 4 else f"fd00:244:0:{number:x}::/64") for f in families)


def make_peer(
    number: int, *generations: int, families: tuple[Family, ...] = (4,), index: int = 0, reachable: bool = True
) -> Peer:
    """Node n{number} as others see it."""
    name = f"n{number}"
    addresses = addresses_of(number, families)
    endpoints = tuple(Endpoint(address, 51820) for address in addresses) if reachable else ()
    return Peer(name, index or number, addresses, prefixes_of(number, families), keys(name, *generations), endpoints)


def as_me(peer: Peer) -> Me:
    return Me(peer.name, peer.index, peer.addresses, peer.prefixes, peer.generations, bool(peer.endpoints))


@dataclass(frozen=True)
class Cluster:
    """What the worlds of one example share: who there is and what is set for all."""

    nodes: tuple[Peer, ...]
    layout: Layout
    underlay: Underlay

    def host(self) -> FakeHost:
        """A host that has nothing of ours yet."""
        return FakeHost(self.nodes[0].addresses, self.underlay.rp_filter)


@st.composite
def generations(draw: st.DrawFn) -> tuple[int, ...]:
    first = draw(st.integers(1, 9))
    return draw(st.sampled_from([(first,), (first, first + 1), (first, first + 3)]))


@st.composite
def nodes(draw: st.DrawFn, at_least: int = 2) -> tuple[Peer, ...]:
    count = draw(st.integers(at_least, 9))
    indexes = draw(st.permutations(INDEXES))
    return tuple(
        make_peer(
            number,
            *draw(generations()),
            families=draw(st.sampled_from(FAMILIES)),
            index=indexes[number - 1],
            reachable=draw(st.integers(0, 4)) > 0,
        )
        for number in range(1, count + 1)
    )


@st.composite
def clusters(draw: st.DrawFn, stages: tuple[Stage, ...] = tuple(Stage)) -> Cluster:
    layout = Layout(
        scope=draw(st.sampled_from(Scope)),
        stage=draw(st.sampled_from(stages)),
        mtu=draw(st.sampled_from((None, None, 1280, 8000))),
        rule_priority=draw(st.sampled_from((99, 100, 999))),
        protected_cidrs=draw(st.sampled_from(PROTECTED)),
    )
    underlay = Underlay(
        NIC,
        draw(st.sampled_from((1400, 1500, 9000))),
        frozenset(draw(st.sampled_from(FAMILIES))),
        draw(st.integers(0, 2)),
        draw(st.integers(0, 2)),
    )
    return Cluster(draw(nodes()), layout, underlay)


@st.composite
def worlds(draw: st.DrawFn, cluster: Cluster) -> World:
    """A world of the first node: some of the others, each with some choice of links."""
    me = as_me(cluster.nodes[0])
    there = draw(st.sets(st.sampled_from(cluster.nodes[1:])))
    peers = {peer.name: draw(variations(peer)) for peer in sorted(there, key=lambda peer: peer.name)}
    if len(peers) > 1 and draw(st.booleans()):  # one's prefixes are another's now
        giver, taker = draw(st.permutations(sorted(peers)))[:2]
        prefixes = peers[giver].prefixes
        peers[giver] = dataclasses.replace(peers[giver], prefixes=())
        peers[taker] = dataclasses.replace(peers[taker], prefixes=(*peers[taker].prefixes, *prefixes))
    me = draw(st.sampled_from([me, _replace(me, me.generations[:1]), _replace(me, keys(me.name, 20, 21))]))
    links = {name: draw(choices(me, peer)) for name, peer in peers.items()}
    overrides = {name: Endpoint("203.0.113.9", 4000) for name in peers if draw(st.integers(0, 7)) == 0}
    return World(me, cluster.layout, cluster.underlay, peers, links, draw(st.booleans()), overrides, redirect=True)


@st.composite
def variations(draw: st.DrawFn, peer: Peer) -> Peer:
    """The peer as it is, or changed: no agent, a lost store, another address, a prefix more or fewer."""
    changes: list[Callable[[Peer], Peer]] = [
        lambda p: p,
        lambda p: p,
        lambda p: dataclasses.replace(p, generations=()),
        lambda p: dataclasses.replace(p, generations=p.generations[:1]),
        lambda p: dataclasses.replace(p, generations=(KeyOfGeneration(30, public_key(p.name, 30)),)),
        lambda p: dataclasses.replace(p, endpoints=tuple(Endpoint(e.host, 9000) for e in p.endpoints)),
        lambda p: dataclasses.replace(p, prefixes=(*p.prefixes, Prefix(f"10.200.{p.name[1:]}.0/24"))),
        lambda p: dataclasses.replace(p, prefixes=p.prefixes[:1]),
        lambda p: dataclasses.replace(p, addresses=p.addresses[:1]),
    ]
    return draw(st.sampled_from(changes))(peer)


@st.composite
def choices(draw: st.DrawFn, me: Me, peer: Peer) -> PeerLinks:
    pairs = [(own.number, remote.number) for own in me.generations for remote in peer.generations]
    some = st.sets(st.sampled_from(pairs)).map(frozenset) if pairs else st.just(frozenset[tuple[int, int]]())
    return PeerLinks(
        draw(st.sampled_from([None, *pairs])),
        draw(some),
        draw(st.sampled_from((None, None, 1300, 1500))),
        draw(some),
    )


def _replace(me: Me, generations: tuple[KeyOfGeneration, ...]) -> Me:
    return dataclasses.replace(me, generations=generations)


# --- damage -----------------------------------------------------------------------------------------------------------


@st.composite
def damage(draw: st.DrawFn, host: FakeHost) -> None:
    """Spoil the host in up to six ways, each as the kernel would have it afterwards."""
    for vandal in draw(st.lists(st.sampled_from(VANDALS), max_size=6)):
        vandal(host, draw)


def _pick(draw: st.DrawFn, things: Iterable[T]) -> T | None:
    found = sorted(things, key=repr)
    return draw(st.sampled_from(found)) if found else None


def _interface(host: FakeHost, draw: st.DrawFn) -> None:
    name = _pick(draw, [name for name in host.interfaces if name in OURS and name != PROBE_PEER])
    if name is None:
        return
    what = draw(st.sampled_from(("gone", "down", "mtu", "filter", "accept")))
    if what == "gone":
        host.drop_interface(name)
    elif what == "down":
        host.down(name)
    else:
        change = {"mtu": {"mtu": 1279}, "filter": {"rp_filter": 1}, "accept": {"accept_local": name != PROBE}}[what]
        host.interfaces[name] = host.interfaces[name]._replace(**change)


def _address(host: FakeHost, draw: st.DrawFn) -> None:
    address = _pick(draw, host.addresses)
    if address is None:
        return
    what = draw(st.sampled_from(("gone", "scope", "extra")))
    if what == "extra":
        host.addresses.add(Address(address.interface, "192.0.2.200/32"))
    else:
        host.drop_address(address)
    if what == "scope":
        host.addresses.add(address._replace(scope="global" if address.scope == "host" else "host"))


def _device(host: FakeHost, draw: st.DrawFn) -> None:
    name = _pick(draw, [name for name in host.devices if name != DOOR])
    if name is None:
        return
    device = host.devices[name]
    what = draw(st.sampled_from(("key", "port", "mark")))
    if what == "key":
        device.public_key = draw(st.sampled_from((None, public_key("stranger", 1))))
    elif what == "port":
        device.listen_port = 1
    else:
        device.fwmark = 0


def _peer(host: FakeHost, draw: st.DrawFn) -> None:
    name = _pick(draw, [name for name in host.devices if name != DOOR])
    if name is None:
        return
    peers = host.devices[name].peers
    key = _pick(draw, peers)
    what = draw(st.sampled_from(("stranger", "gone", "endpoint", "keepalive", "more", "fewer", "swap")))
    if what == "stranger":
        stranger = public_key("stranger", 2)
        peers[stranger] = PeerState(stranger, frozenset({Prefix("10.99.0.0/24")}), None, 7)
    elif key is None:
        return
    elif what == "gone":
        del peers[key]
    elif what == "endpoint":
        peers[key] = peers[key]._replace(endpoint=Endpoint("198.51.100.1", 1), last_handshake=5.0)
    elif what == "keepalive":
        peers[key] = peers[key]._replace(keepalive=13)
    elif what == "more":
        peers[key] = peers[key]._replace(allowed_ips=peers[key].allowed_ips | {Prefix("10.98.0.0/24")})
    else:
        taken = frozenset(sorted(peers[key].allowed_ips)[:1])
        peers[key] = peers[key]._replace(allowed_ips=peers[key].allowed_ips - taken)
        other = _pick(draw, set(peers) - {key}) if what == "swap" else None
        if other is not None:
            peers[other] = peers[other]._replace(allowed_ips=peers[other].allowed_ips | taken)


def _route(host: FakeHost, draw: st.DrawFn) -> None:
    key = _pick(draw, host.routes)
    what = draw(st.sampled_from(("gone", "extra", "mtu", "source", "elsewhere")))
    if what == "extra":
        route = Route(host.table, Prefix("10.97.0.0/24"), NIC)
        host.routes[route.table, route.prefix] = route
    elif key is None:
        return
    elif what == "gone":
        del host.routes[key]
    elif what == "elsewhere":
        host.routes[key] = host.routes[key]._replace(interface=NIC)
    else:
        host.routes[key] = host.routes[key]._replace(**{"mtu": {"mtu": 999}, "source": {"source": None}}[what])


def _rule(host: FakeHost, draw: st.DrawFn) -> None:
    rule = _pick(draw, host.rules)
    if rule is not None and draw(st.booleans()):
        host.rules.remove(rule)
    else:
        host.rules.add(Rule(4, draw(st.sampled_from((50, 101, 5000))), host.table, (7, 255)))


def _nft(host: FakeHost, draw: st.DrawFn) -> None:
    prefix, chain = _pick(draw, host.slots), _pick(draw, host.chains)
    what = draw(st.sampled_from(("tables", "element", "stranger", "wrong", "wide", "chain", "rule", "foreign chain")))
    if not host.tables:
        return
    if what == "tables":
        host.tables, host.chains, host.slots = False, {}, {}
    elif what == "stranger":
        host.slots[Prefix("10.96.0.0/24")] = DOOR
    elif what == "foreign chain":
        host.chains["inet", "x"] = Chain("inet", "x", "forward", 0, None, ())
    elif what in ("element", "wide", "wrong") and prefix is not None:
        del host.slots[prefix]
        if what == "wrong":
            host.slots[prefix] = "77"
        elif what == "wide":  # in the way of the one that is wanted
            host.slots[Prefix(str(ip_network(prefix).supernet(1)))] = "77"
            host.slots = {p: s for p, s in host.slots.items() if s == "77" or not overlap(p, prefix)}
    elif what == "chain" and chain is not None:
        del host.chains[chain]
    elif chain is not None:
        host.chains[chain] = host.chains[chain]._replace(rules=("[]",))


VANDALS = (_interface, _address, _device, _peer, _route, _rule, _nft)
