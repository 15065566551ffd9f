"""Law 9: where `untrue` has no objection, a packet walked through the kernel by other means ends in the right slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from linkseal.keys.values import Prefix
from linkseal.tunnels import codes
from linkseal.tunnels.addressing import DOOR, SLOTS, slot_name
from linkseal.tunnels.diff import diff
from linkseal.tunnels.model import ForeignRule, MoveSlot, Observed, Rule, Scope, Stage, family_of
from linkseal.tunnels.nftchains import door_chain
from linkseal.tunnels.plan import families_of, plan, protected
from linkseal.tunnels.planrules import own_rules
from linkseal.tunnels.truth import Untrue, tables_before, untrue
from linkseal.tunnels.world import Layout, PeerLinks, Underlay, World
from linkseal.wireguard.model import Endpoint
from property.fake_host import NIC, FakeHost
from property.worlds import Cluster, as_me, clusters, damage, make_peer, worlds

LOCAL, MAIN = 255, 254
SENDING = (Stage.PREFER, Stage.ENFORCE)
WITHOUT_RULES = [Rule(family, priority, table) for family in (4, 6) for priority, table in ((0, LOCAL), (32766, MAIN))]


# --- the oracle: one packet, through everything, by the kernel's own rules -------------------------------------------


def ways(seen: Observed, address: str, table: int) -> set[tuple[str, str] | None]:
    """Every way a packet to this address may take, by what it is else: (slot, key of the peer); None: not encrypted."""
    rules = [rule for rule in (*seen.foreign_rules, *seen.rules, *WITHOUT_RULES) if rule.family == family_of(address)]
    return set(_ways(seen, address, sorted(rules, key=lambda rule: rule.priority)))


def _ways(seen: Observed, address: str, rules: list[Rule | ForeignRule]) -> Iterator[tuple[str, str] | None]:
    for rule in rules:
        limited = isinstance(rule, ForeignRule) and rule.limited
        mark, mask = rule.fwmark or (0, 0)
        inverted = isinstance(rule, Rule) and rule.inverted
        if mark & mask and not limited and not inverted:
            continue
        found = None if rule.table is None else lookup(seen, rule, address)
        if rule.table is None:
            yield None
        elif found is not None:
            yield carried(seen, found, address)
        if not limited and (rule.table is None or found is not None):
            return
    yield None


def lookup(seen: Observed, rule: Rule | ForeignRule, address: str) -> str | None:
    """The interface of the longest match; of two as long, the other's."""
    least = rule.longer_than if isinstance(rule, ForeignRule) else -1
    routes = [(route.prefix, route.interface) for (table, _), route in seen.routes.items() if table == rule.table]
    routes += [(prefix, NIC) for table, prefix in seen.foreign_routes if table == rule.table]
    hits = [(length, name == NIC, name) for prefix, name in routes if (length := hit(prefix, address)) > least]
    return max(hits)[2] if hits else None


def hit(prefix: str, address: str) -> int:
    """Length of the prefix if the address is in it, else -1."""
    if "-" in prefix:
        low, _, high = prefix.partition("-")
        return 0 if int(ip_address(low)) <= int(ip_address(address)) <= int(ip_address(high)) else -1
    network = ip_network(prefix, strict=False)
    return network.prefixlen if ip_address(address) in network else -1


def carried(seen: Observed, interface: str, address: str) -> tuple[str, str] | None:
    if interface == DOOR:
        chain = None if seen.nft is None else seen.nft.chains.get(("netdev", "door"))
        if chain != door_chain() or not seen.interfaces[DOOR].up or seen.nft is None:
            return None
        interface = next((slot for prefix, slot in seen.nft.slots.items() if hit(prefix, address) >= 0), "")
    if interface not in SLOTS or interface not in seen.interfaces or not seen.interfaces[interface].up:
        return None
    device = seen.devices[interface]
    hits = [
        (length, key)
        for key, peer in device.peers.items()
        for prefix in peer.allowed_ips
        if (length := hit(prefix, address)) >= 0
    ]
    key = max(hits)[1] if hits else None
    ready = key is not None and device.peers[key].endpoint is not None and device.peers[key].last_handshake
    return (interface, f"{device.public_key} {key}") if ready else None


# --- random kernels --------------------------------------------------------------------------------------------------


def settle(world: World, host: FakeHost) -> None:
    """Apply the plan, and give every peer an endpoint and a session."""
    for _ in range(2):
        host.apply(diff(plan(world), host.observe()))
    for device in host.devices.values():
        for key, peer in device.peers.items():
            device.peers[key] = peer._replace(
                last_handshake=1000.0, endpoint=peer.endpoint or Endpoint("192.0.2.77", 51820)
            )


@st.composite
def sessions_lost(draw: st.DrawFn, host: FakeHost) -> None:
    for device in host.devices.values():
        for key, peer in sorted(device.peers.items()):
            if draw(st.integers(0, 9)) == 0:
                gone = draw(st.sampled_from([{"last_handshake": 0.0}, {"endpoint": None}]))
                device.peers[key] = peer._replace(**gone)


@st.composite
def parts(draw: st.DrawFn, world: World) -> Prefix:
    """Something that may be in a prefix's way: itself, a part, what contains it, or all there is."""
    claims = sorted({p for peer in world.peers.values() for p in (*peer.prefixes, *map(one, peer.addresses))})
    claim = draw(st.sampled_from(claims or [Prefix("10.0.0.0/8")]))
    network = ip_network(claim)
    longest = network.max_prefixlen
    length = draw(
        st.sampled_from([0, network.prefixlen - 1, network.prefixlen, min(longest, network.prefixlen + 1), longest])
    )
    inside = network[draw(st.integers(0, min(network.num_addresses, 300) - 1))]
    return Prefix(str(ip_network((inside, length), strict=False)))


def one(address: str) -> Prefix:
    return Prefix(f"{address}/{128 if ':' in address else 32}")


@st.composite
def others(draw: st.DrawFn, world: World, seen: Observed) -> Observed:
    """What programs besides us may have put there: rules before and after ours, routes in any table."""
    layout = world.layout
    rules = st.builds(
        ForeignRule,
        st.sampled_from((4, 6)),
        st.sampled_from((5, layout.rule_priority, layout.rule_priority + 1, 20000)),
        st.sampled_from((None, MAIN, LOCAL, 77, layout.table)),
        st.sampled_from((None, (0x200, 0xF00), (0, 0xFF), (5, 0))),
        st.booleans(),
        st.sampled_from((-1, 0)),
    )
    tables = st.sampled_from((MAIN, LOCAL, 77, layout.table))
    routes = st.sets(st.tuples(tables, parts(world)), max_size=3)
    foreign = draw(st.frozensets(rules, max_size=2))
    wanted = {*tables_before(seen.rules, foreign, layout.table), layout.table, LOCAL}
    there = frozenset(entry for entry in draw(routes) if entry[0] in wanted)
    zero = ForeignRule(4, 0, LOCAL), ForeignRule(6, 0, LOCAL)
    return replace(seen, foreign_rules=foreign | set(zero), foreign_routes=there)


@st.composite
def kernels(draw: st.DrawFn) -> tuple[World, Observed]:
    cluster: Cluster = draw(clusters(SENDING))
    world, host = draw(worlds(cluster)), cluster.host()
    settle(world, host)
    if draw(st.booleans()):
        draw(damage(host))
    draw(sessions_lost(host))
    seen = host.observe()
    return world, draw(others(world, seen)) if draw(st.booleans()) else seen


# --- laws ----------------------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_what_is_called_sealed_is_delivered(data: st.DataObject) -> None:
    world, seen = data.draw(kernels())
    against = untrue(world, plan(world), seen)
    for name, links in world.links.items():
        if links.current is None or name in against:
            event("no link, or an objection")
            continue
        event("sealed")
        peer = world.peers[name]
        own = {key.number: key.public_key for key in world.me.generations}[links.current[0]]
        remote = {key.number: key.public_key for key in peer.generations}[links.current[1]]
        right = (slot_name(*links.current), f"{own} {remote}")
        for prefix in protected(world.layout.scope, peer.addresses, peer.prefixes):
            if family_of(prefix) in families_of(world):
                network = ip_network(prefix)
                number = data.draw(st.integers(0, network.num_addresses - 1))
                for address in (network[0], network[number], network[-1]):
                    assert ways(seen, str(address), world.layout.table) == {right}, (name, address)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_whole_kernel_gets_no_objection(data: st.DataObject) -> None:
    cluster = data.draw(clusters(SENDING))
    world, host = data.draw(worlds(cluster)), cluster.host()
    settle(world, host)
    later = frozenset({ForeignRule(4, 0, LOCAL), ForeignRule(4, 32766, MAIN), ForeignRule(4, 9, 2004, (0x200, 0xF00))})
    near = frozenset({(LOCAL, Prefix("127.0.0.0/8")), (LOCAL, Prefix("192.0.2.1/32"))})
    seen = replace(host.observe(), foreign_rules=later, foreign_routes=near)
    assert untrue(world, plan(world), seen) == {}


WORLD = World(
    as_me(make_peer(1, 1)),
    Layout(scope=Scope.TRANSPARENT),
    Underlay(NIC, 1500, frozenset({4})),
    {"n2": make_peer(2, 1), "n3": make_peer(3, 1)},
    {"n2": PeerLinks(current=(1, 1)), "n3": PeerLinks(current=(1, 1))},
)
KEY2 = WORLD.peers["n2"].generations[0].public_key
BOTH = {"n2", "n3"}


def whole() -> FakeHost:
    host = FakeHost(WORLD.me.addresses)
    settle(WORLD, host)
    return host


def change(name: str, **fields: object) -> Callable[[FakeHost], None]:
    def do(host: FakeHost) -> None:
        host.interfaces[name] = host.interfaces[name]._replace(**fields)  # type: ignore[arg-type]

    return do


def peer(**fields: object) -> Callable[[FakeHost], None]:
    def do(host: FakeHost) -> None:
        peers = host.devices["lsl11"].peers
        peers[KEY2] = peers[KEY2]._replace(**fields)  # type: ignore[arg-type]

    return do


def element(move: MoveSlot) -> Callable[[FakeHost], None]:
    def do(host: FakeHost) -> None:
        host.slots.pop(move.prefix)
        if move.new:
            host.slots[move.prefix] = move.new

    return do


POD, NODE = Prefix("10.244.2.0/24"), Prefix("192.0.2.2/32")


@pytest.mark.parametrize(
    ("spoil", "concerned"),
    [
        (change("lsl0", up=False), BOTH),
        (change("lsl11", up=False), BOTH),
        (change("lsl0", kind=None), BOTH),
        (lambda host: host.chains.pop(("netdev", "door")), BOTH),
        (lambda host: host.chains.pop(("inet", "probe_out")), BOTH),
        (lambda host: host.rules.discard(own_rules(4, WORLD.layout)[1]), BOTH),
        (lambda host: host.rules.discard(Rule(4, 100, MAIN, (0x4C530C00, 0xFFFFFFFF))), BOTH),
        (lambda host: host.rules.add(Rule(4, 50, MAIN)), set()),
        (lambda host: setattr(host.devices["lsl11"], "public_key", None), BOTH),
        (lambda host: setattr(host.devices["lsl11"], "fwmark", 0), BOTH),
        (element(MoveSlot(POD, "lsl11", None)), {"n2"}),
        (element(MoveSlot(NODE, "lsl11", "lsl00")), {"n2"}),
        (lambda host: host.routes.pop((51820, POD)), {"n2"}),
        (lambda host: host.devices["lsl11"].peers.pop(KEY2), {"n2"}),
        (peer(endpoint=None), {"n2"}),
        (peer(last_handshake=0.0), {"n2"}),
        (peer(allowed_ips=frozenset({POD})), {"n2"}),
        (change("lsl10", up=False), set()),
        (change("lslp", up=False), set()),
    ],
)
def test_each_piece_concerns_those_who_need_it(spoil: Callable[[FakeHost], None], concerned: set[str]) -> None:
    host = whole()
    spoil(host)
    assert untrue(WORLD, plan(WORLD), host.observe()).keys() == concerned


@pytest.mark.parametrize(
    ("rule", "routes", "code"),
    [
        (ForeignRule(4, 50, MAIN), {(MAIN, Prefix("0.0.0.0/0"))}, codes.FOREIGN_RULE),
        (ForeignRule(4, 50, MAIN, longer_than=0), {(MAIN, Prefix("0.0.0.0/0"))}, None),
        (ForeignRule(4, 50, MAIN, longer_than=0), {(MAIN, Prefix("10.244.0.0/16"))}, codes.FOREIGN_RULE),
        (ForeignRule(4, 50, MAIN, limited=True), {(MAIN, Prefix("10.244.2.9/32"))}, codes.FOREIGN_RULE),
        (ForeignRule(4, 50, MAIN), {(MAIN, Prefix("10.7.0.0/16"))}, None),
        (ForeignRule(4, 50, MAIN, (1, 1)), {(MAIN, POD)}, None),
        (ForeignRule(4, 101, MAIN), {(MAIN, POD)}, codes.FOREIGN_RULE),
        (ForeignRule(4, 102, MAIN), {(MAIN, POD)}, None),
        (ForeignRule(6, 50, MAIN), {(MAIN, Prefix("::/0"))}, None),
        (ForeignRule(4, 50, None), set(), codes.FOREIGN_RULE),
        (ForeignRule(4, 0, LOCAL), {(LOCAL, Prefix("10.244.2.5/32"))}, codes.FOREIGN_RULE),
        (ForeignRule(4, 0, LOCAL), {(51820, POD)}, codes.ROUTING_COLLISION),
        (ForeignRule(4, 0, LOCAL), {(51820, Prefix("10.244.2.128/25"))}, codes.ROUTING_COLLISION),
        (ForeignRule(4, 0, LOCAL), {(51820, Prefix("10.244.0.0/16"))}, None),
    ],
)
def test_rules_and_routes_of_others(rule: ForeignRule, routes: set[tuple[int, Prefix]], code: str | None) -> None:
    seen = replace(whole().observe(), foreign_rules=frozenset({rule}), foreign_routes=frozenset(routes))
    found = untrue(WORLD, plan(WORLD), seen).get("n2")
    assert (None if found is None else found.code) == code


def test_a_guard_that_is_not_whole_concerns_every_peer() -> None:
    broken = Untrue(codes.GUARD_NOT_WHOLE, "the chain x is missing")
    assert untrue(WORLD, plan(WORLD), whole().observe(), broken) == dict.fromkeys(BOTH, broken)
