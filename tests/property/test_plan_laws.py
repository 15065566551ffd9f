"""The laws of plan and diff, over random worlds and random states of the host."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from linkseal.tunnels.addressing import DOOR, SLOTS
from linkseal.tunnels.diff import diff
from linkseal.tunnels.guard.model import GuardTransaction
from linkseal.tunnels.guard.plan import is_closed
from linkseal.tunnels.model import (
    AddAddress,
    AddInterface,
    AddRule,
    Desired,
    LookAgain,
    NftTransaction,
    Observed,
    RemoveAddress,
    RemoveInterface,
    RemoveRoute,
    RemoveRule,
    Scope,
    SetInterface,
    SetRoute,
    SetRpFilter,
    Stage,
    Step,
)
from linkseal.tunnels.plan import initiates, plan, protected
from linkseal.tunnels.redirect.model import AttachRedirect, DetachRedirect, ForgetRedirect, SetRedirect
from linkseal.tunnels.world import Peer, PeerLinks, World, endpoint_of
from linkseal.wireguard.model import ConfigureDevice, RemovePeer, SetPeer
from property.fake_host import FakeHost, overlap
from property.worlds import FAMILIES, Cluster, addresses_of, as_me, clusters, damage, make_peer, nodes, worlds

LAWS = settings(max_examples=150, deadline=None)
K, V = TypeVar("K"), TypeVar("V")


def converged(cluster: Cluster, world: World) -> FakeHost:
    host = cluster.host()
    host.apply(diff(plan(world), host.observe()))
    return host


def assert_is(desired: Desired, observed: Observed) -> None:
    """The host is as desired, by a comparison that does not go through diff."""
    ours = {name: state for name, state in observed.interfaces.items() if state.kind is not None}
    for name, want in desired.interfaces.items():
        have = ours[name]
        assert (have.kind, have.mtu, have.rp_filter, have.accept_local) == want[1:]
        assert have.up
    assert set(ours) - {"lslq"} == set(desired.interfaces)
    assert observed.addresses == desired.addresses
    assert observed.routes == desired.routes
    assert observed.rules == desired.rules
    assert observed.nft == desired.nft
    assert observed.guard == desired.guard
    assert set(observed.devices) - {DOOR} == set(desired.devices)
    for name, spec in desired.devices.items():
        state = observed.devices[name]
        assert (state.public_key, state.listen_port, state.fwmark) == (spec.public_key, spec.listen_port, spec.fwmark)
        peers = {key: (peer.allowed_ips, peer.keepalive) for key, peer in state.peers.items()}
        assert peers == {key: (peer.allowed_ips, peer.keepalive) for key, peer in spec.peers.items()}
        for key, peer in spec.peers.items():
            assert peer.endpoint in (None, state.peers[key].endpoint)
    for name, value in desired.underlay_rp_filter.items():
        assert observed.interfaces[name].rp_filter == value


@LAWS
@given(st.data())
def test_a_damaged_host_becomes_what_is_planned_and_stays_so(data: st.DataObject) -> None:
    cluster = data.draw(clusters())
    host = converged(cluster, data.draw(worlds(cluster)))
    data.draw(damage(host))
    desired = plan(data.draw(worlds(cluster)))
    steps = diff(desired, host.observe())
    host.apply(steps)
    if any(isinstance(step, RemoveAddress) for step in steps):
        host.apply(diff(desired, host.observe()))  # an address of the wrong scope took its routes along
    assert_is(desired, host.observe())
    assert diff(desired, host.observe()) == ()


@LAWS
@given(st.data())
def test_nothing_is_lost_between_two_valid_states(data: st.DataObject) -> None:
    """No element or route points where no peer takes it, and what is carried before and after is carried throughout."""
    cluster = data.draw(clusters())
    before, after = data.draw(worlds(cluster)), data.draw(worlds(cluster))
    host = converged(cluster, before)
    assert host.pointing_nowhere() == []
    steps = diff(plan(after), host.observe())
    trial = converged(cluster, before)
    trial.apply(steps)
    kept = [prefix for _, prefix in host.routes if host.way(prefix) and trial.way(prefix)]

    def check(step: Step) -> None:
        assert host.pointing_nowhere() == [], step
        assert [prefix for prefix in kept if host.way(prefix) is None] == [], step

    host.watch = check
    host.apply(steps)


def removes(step: Step) -> bool | None:
    """Whether a step takes away (True) or brings (False); None: a map's move can be both."""
    if isinstance(step, NftTransaction):
        brings = step.create or step.set_chains or any(move.new is not None for move in step.moves)
        return not brings
    if isinstance(step, GuardTransaction):
        return step.drop_tables or not (step.families or step.put or step.chains or step.sets)
    if isinstance(step, SetPeer):
        return not step.add and not step.keep and step.allowed_ips is not None
    gone = RemoveRule | RemoveRoute | RemovePeer | RemoveAddress | RemoveInterface | ForgetRedirect | DetachRedirect
    if isinstance(step, gone):
        return True
    known = (
        SetRedirect
        | AttachRedirect
        | AddInterface
        | SetInterface
        | AddAddress
        | SetRoute
        | AddRule
        | LookAgain
        | SetRpFilter
        | ConfigureDevice
    )
    assert isinstance(step, known), step
    return False


@LAWS
@given(st.data())
def test_adds_come_before_removes(data: st.DataObject) -> None:
    cluster = data.draw(clusters())
    host = converged(cluster, data.draw(worlds(cluster)))
    steps = diff(plan(data.draw(worlds(cluster))), host.observe())
    order = [removes(step) for step in steps]
    assert order == sorted(order), steps


def shuffled(mapping: Mapping[K, V], randomness: random.Random) -> dict[K, V]:
    items = list(mapping.items())
    randomness.shuffle(items)
    return dict(items)


@LAWS
@given(st.data(), st.randoms(use_true_random=False))
def test_the_order_of_what_is_given_changes_nothing(data: st.DataObject, randomness: random.Random) -> None:
    cluster = data.draw(clusters())
    world = data.draw(worlds(cluster))
    other = dataclasses.replace(
        world,
        peers=shuffled(world.peers, randomness),
        links=shuffled(world.links, randomness),
        endpoint_overrides=shuffled(world.endpoint_overrides, randomness),
    )
    observed = converged(cluster, data.draw(worlds(cluster))).observe()
    mixed = dataclasses.replace(
        observed,
        interfaces=shuffled(observed.interfaces, randomness),
        devices=shuffled(observed.devices, randomness),
        routes=shuffled(observed.routes, randomness),
    )
    assert plan(world) == plan(other)
    assert diff(plan(world), observed) == diff(plan(other), mixed)


@LAWS
@given(st.data())
def test_prefixes_of_a_slot_do_not_overlap_and_none_is_our_own(data: st.DataObject) -> None:
    cluster = data.draw(clusters())
    world = data.draw(worlds(cluster))
    probe, me = world.layout.probe, world.me
    own = [*protected(Scope.TRANSPARENT, me.addresses, me.prefixes), probe.node(4, me.index), probe.node(6, me.index)]
    for device in plan(world).devices.values():
        taken = [prefix for spec in device.peers.values() for prefix in spec.allowed_ips]
        assert [(a, b) for n, a in enumerate(taken) for b in (*taken[n + 1 :], *own) if overlap(a, b)] == []


@LAWS
@given(st.data())
def test_the_stage_decides_what_is_routed(data: st.DataObject) -> None:
    cluster = data.draw(clusters())
    world = data.draw(worlds(cluster))
    desired = plan(world)
    layout = world.layout
    if layout.stage is Stage.OFF:
        assert desired == Desired()
        return
    for name, peer in world.peers.items():
        current = world.links[name].current
        carried = layout.stage is not Stage.PREPARE and bool(peer.generations)
        closed = is_closed(world, peer)
        carried = carried and (closed or current is not None)
        for prefix in protected(layout.scope, peer.addresses, peer.prefixes):
            assert ((layout.table, prefix) in desired.routes) == carried
            assert ((layout.table + 1, prefix) in desired.routes) == (carried and closed)
            slot = desired.nft.slots.get(prefix) if desired.nft else None
            assert slot == (f"lsl{current[0] % 2}{current[1] % 2}" if carried and current and world.door else None)


# --- two ends -------------------------------------------------------------------------------------------------------


def seen_by(cluster: Cluster, one: Peer, all_nodes: tuple[Peer, ...]) -> World:
    peers = {peer.name: peer for peer in all_nodes if peer is not one}
    pairs = {
        name: frozenset((own.number, remote.number) for own in one.generations for remote in peer.generations)
        for name, peer in peers.items()
    }
    links = {name: PeerLinks(None, every) for name, every in pairs.items()}
    return World(as_me(one), cluster.layout, cluster.underlay, peers, links)


@LAWS
@given(st.data())
def test_both_ends_plan_the_same_link(data: st.DataObject) -> None:
    """Slot, port, key, probe addresses and AllowedIPs at one end are what the other end expects; one end initiates."""
    cluster = data.draw(clusters(stages=(Stage.PREFER,)))
    families = data.draw(st.sampled_from(FAMILIES))
    everyone = tuple(dataclasses.replace(n, **_facts(n, families)) for n in data.draw(nodes()))
    cluster = dataclasses.replace(cluster, underlay=dataclasses.replace(cluster.underlay, families=frozenset(families)))
    one, other = everyone[0], everyone[1]
    here, there = seen_by(cluster, one, everyone), seen_by(cluster, other, everyone)
    mine, theirs = plan(here), plan(there)
    layout = cluster.layout
    for own in one.generations:
        for remote in other.generations:
            slot, mirror = f"lsl{own.number % 2}{remote.number % 2}", f"lsl{remote.number % 2}{own.number % 2}"
            device, opposite = mine.devices[slot], theirs.devices[mirror]
            spec, back = device.peers[opposite.public_key], opposite.peers[device.public_key]
            if spec.endpoint is not None:
                assert spec.endpoint == (endpoint_of(here, other).host, opposite.listen_port)
            probes = {layout.probe.pair(f, other.index, remote.number, own.number) for f in families}
            assert spec.allowed_ips == probes | set(protected(layout.scope, other.addresses, other.prefixes))
            assert {mine.nft.slots[pair] for pair in probes} == {slot}
            starts = [
                initiates(here.me, other, own, remote, endpoint_of(here, other)),
                initiates(there.me, one, remote, own, endpoint_of(there, one)),
            ]
            assert sum(starts) == (1 if one.endpoints or other.endpoints else 0)
            assert [spec.keepalive > 0, back.keepalive > 0] == starts
    assert all(device.listen_port == 51820 + SLOTS.index(name) for name, device in mine.devices.items())


def _facts(node: Peer, families: tuple[int, ...]) -> dict[str, object]:
    number = int(node.name[1:])
    model = make_peer(number, families=families)
    endpoints = model.endpoints if node.endpoints else ()
    return {"addresses": addresses_of(number, families), "prefixes": model.prefixes, "endpoints": endpoints}
