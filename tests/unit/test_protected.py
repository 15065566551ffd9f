"""Protected networks: what a policy may name, what the guard makes of them, and how what is nobody's is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from linkseal.keys.errors import ConfigError
from linkseal.keys.values import Prefix
from linkseal.tunnels import codes
from linkseal.tunnels.agent.facts import layout_of
from linkseal.tunnels.agent.guardwatch import GuardWatch
from linkseal.tunnels.findings import HOST_SUBJECT, ActiveFindings
from linkseal.tunnels.guard.commands import commands, parse
from linkseal.tunnels.guard.diff import diff_guard
from linkseal.tunnels.guard.exemption import Exemption
from linkseal.tunnels.guard.model import Guard, GuardTransaction
from linkseal.tunnels.guard.plan import guard_of, judged
from linkseal.tunnels.guard.policy import MAX_PROTECTED
from linkseal.tunnels.guard.readings import Count, Flow, Readings, Spot
from linkseal.tunnels.guard.remainder import remainder
from linkseal.tunnels.guard.render import render
from linkseal.tunnels.model import Desired, Observed, Scope, Stage
from linkseal.tunnels.plan import plan
from linkseal.tunnels.policy import Policy, Pool, parse_policy, read_signed, standing
from linkseal.tunnels.redirect.judge import redirects
from linkseal.tunnels.redirect.model import Hook, RedirectState
from linkseal.tunnels.rehearsal import rehearse
from linkseal.tunnels.stages import Evidence, Position, judge
from linkseal.tunnels.statusparts import NO_NODE, PlaintextFlow
from linkseal.tunnels.world import Layout, Underlay, World
from property.worlds import as_me, make_peer
from unit.test_guard import golden, listing
from unit.test_stages import COUNTING, NOW, evidence, reasons, report, walk

DUAL = (4, 6)
NETWORKS = (Prefix("10.244.0.0/21"), Prefix("192.0.2.0/29"), Prefix("fd00:244::/62"))
ONE, TWO = make_peer(1, 1, families=DUAL), make_peer(2, 2, families=DUAL)
BEHIND = replace(make_peer(3, 3), stage=Stage.PREFER)
OUT = make_peer(4)
WORLD = World(
    as_me(ONE),
    Layout(stage=Stage.ENFORCE, protected_cidrs=NETWORKS),
    Underlay("eth0", 1500, frozenset(DUAL), addresses=("192.0.2.1", "192.0.2.6", "2001:db8::1")),
    {"n2": TWO, "n3": BEHIND},
    redirect=True,
    opted_out={"n4": OUT},
)
REST = (
    "10.244.0.0/24",
    "10.244.5.0-10.244.7.255",
    "192.0.2.0/32",
    "192.0.2.5/32",
    "192.0.2.7/32",
    "fd00:244::/64",
    "fd00:244:0:3::/64",
)
"""The node addresses 1 (own), 2, 3 and 4 (others') and 6 (on the NIC) are none of it."""


def at(stage: Stage, world: World = WORLD) -> World:
    return replace(world, layout=replace(world.layout, stage=stage))


# --- what a policy says -----------------------------------------------------------------------------------------------


def test_networks_are_sorted_and_there_once_and_reach_the_layout() -> None:
    policy = parse_policy({"protectedCIDRs": ["fd00:244::/48", "10.244.0.0/16", "10.0.0.0/8", "10.244.0.0/16"]})
    assert policy.protected_cidrs == ("10.0.0.0/8", "10.244.0.0/16", "fd00:244::/48")
    assert layout_of(policy, opted_out=False).protected_cidrs == policy.protected_cidrs
    assert parse_policy({}).protected_cidrs == ()
    assert read_signed({"protectedCIDRs": ["10.0.0.0/8"], "fresh": 1})[1] == ("fresh",)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("0.0.0.0/0", "is too wide: at least /8"),
        ("10.0.0.0/7", "is too wide: at least /8"),
        ("::/0", "is too wide: at least /16"),
        ("fd00::/15", "is too wide: at least /16"),
        ("10.244.0.1/16", "has host bits set; did you mean 10.244.0.0/16?"),
        ("169.0.0.0/8", "has addresses of 169.254.0.0/16 (link-local)"),
        ("127.1.0.0/16", "(loopback)"),
        ("239.0.0.0/8", "(multicast)"),
        ("255.0.0.0/8", "(broadcast)"),
        ("0.0.0.0/8", "(this network)"),
        ("::1/128", "has addresses of ::/8"),
        ("fe80::/16", "(link-local)"),
        ("ff02::/16", "(multicast)"),
        ("pods", "must be a network such as"),
    ],
)
def test_what_is_no_network_of_pods_is_refused(network: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy({"protectedCIDRs": ["10.244.0.0/16", network]}, "x")
    assert str(caught.value).startswith("x: protectedCIDRs[1]: ")
    assert words in str(caught.value)


def test_there_is_an_end_of_them_and_nodes_do_not_stand_on_them() -> None:
    some = [f"10.{n}.0.0/16" for n in range(MAX_PROTECTED + 1)]
    with pytest.raises(ConfigError, match="protectedCIDRs: List should have at most 32"):
        parse_policy({"protectedCIDRs": some})
    assert standing(parse_policy({"protectedCIDRs": some[1:]})) == standing(Policy())


# --- the guard --------------------------------------------------------------------------------------------------------


def test_the_remainder_is_what_no_node_has() -> None:
    assert remainder(WORLD) == REST
    assert remainder(at(Stage.PREFER)) == REST
    assert remainder(replace(WORLD, layout=Layout())) == ()
    transparent = replace(WORLD, layout=replace(WORLD.layout, scope=Scope.TRANSPARENT))
    assert remainder(transparent) == REST, "there the nodes' addresses have verdicts of their own"


@pytest.mark.parametrize(
    ("world", "verdict"),
    [
        (WORLD, "drop"),
        (at(Stage.PREPARE), "count"),
        (at(Stage.PREFER), "count"),
        (replace(WORLD, broken_glass=True), "count"),
        (replace(WORLD, peers={"n3": BEHIND}), "drop"),
        (replace(WORLD, peers={}, opted_out={}), "drop"),
    ],
)
def test_it_goes_by_the_stage_of_this_node_alone(world: World, verdict: str) -> None:
    found = judged(world)
    assert found[verdict][-len(remainder(world)) :] == remainder(world)
    assert set(remainder(world)).isdisjoint(found["drop" if verdict == "count" else "count"])


def first(world: World, there: Guard | None) -> GuardTransaction:
    early, _ = diff_guard(guard_of(world), there, ["eth0"])
    assert early is not None
    return early


def test_it_is_loaded_and_changed_as_the_golden_and_read_back_as_it_was_loaded() -> None:
    fresh = [line for line in render(first(WORLD, None)) if " element " in line]
    with_n5 = replace(WORLD, peers={**WORLD.peers, "n5": make_peer(5, 1, families=DUAL)})
    early, late = diff_guard(guard_of(with_n5), guard_of(WORLD), ["eth0"])
    assert early is not None
    assert late is not None
    changes = [*render(early), "", "# and at the end", *render(late)]
    golden("guard-protected.txt", [*fresh, "", "# node n5 is granted its prefixes", *changes])
    desired = guard_of(WORLD)
    assert desired is not None
    devices = {"in_eth0": "eth0", "out_eth0": "eth0"}
    seen = parse(desired.table, listing(commands(first(WORLD, None))), devices)
    assert seen == desired
    assert diff_guard(desired, seen, ["eth0"]) == (None, None)


def test_it_has_no_route_and_no_floor() -> None:
    without = replace(WORLD, layout=replace(WORLD.layout, protected_cidrs=()))
    assert plan(WORLD).routes == plan(without).routes
    assert plan(WORLD).rules == plan(without).rules


# --- the programs on the NICs -----------------------------------------------------------------------------------------


def test_programs_have_each_network_once_and_holes_in_it() -> None:
    found = plan(WORLD).redirect
    assert found is not None
    assert found.verdicts == {
        "10.244.0.0/21": 1, "192.0.2.0/29": 1, "fd00:244::/62": 1,
        "10.244.1.0/24": 0, "fd00:244:0:1::/64": 0,
        "10.244.2.0/24": 2, "fd00:244:0:2::/64": 2,
        "10.244.3.0/24": 0, "10.244.4.0/24": 0,
        "192.0.2.1/32": 0, "192.0.2.2/32": 0, "192.0.2.3/32": 0, "192.0.2.4/32": 0, "192.0.2.6/32": 0,
    }  # fmt: skip


def test_a_network_inside_of_what_a_node_has_is_judged_as_that() -> None:
    inside = (Prefix("10.244.2.0/25"), Prefix("10.244.3.0/24"), Prefix("10.244.4.128/25"))
    found = plan(replace(WORLD, layout=replace(WORLD.layout, protected_cidrs=inside))).redirect
    assert found is not None
    assert found.verdicts == {"10.244.2.0/24": 2, "fd00:244:0:2::/64": 2}


def test_there_are_programs_though_no_peer_is_in_enforce() -> None:
    alone = replace(WORLD, peers={}, opted_out={})
    assert plan(alone).redirect is not None
    assert plan(at(Stage.PREFER, alone)).redirect is None
    assert plan(replace(alone, broken_glass=True)).redirect is None
    standing_ = RedirectState(standing=frozenset({Hook("eth0", "out"), Hook("eth0", "in")}))
    assert redirects(alone, standing_).redirects == "covered"
    assert redirects(replace(alone, layout=Layout(stage=Stage.ENFORCE)), standing_).redirects == "none"


# --- what is told -----------------------------------------------------------------------------------------------------


def test_packets_of_nobody_are_counted_found_and_shown_by_their_address() -> None:
    now, findings = [Readings()], ActiveFindings()
    watch = GuardWatch(lambda _guard: now[0], findings)
    watch.count(WORLD, None, frozenset(), 0.0)
    now[0] = Readings(
        spots={
            Spot("netdev", "count_out4", "10.244.5.0"): Count(3, 300),
            Spot("inet", "drop_in6", "fd00:244::"): Count(4, 400),
        },
        flows={
            Flow("out", "10.244.6.9", 6, 80): Count(3, 300),
            Flow("in", "fd00:244::9", 58, 0): Count(4, 400),
            Flow("out", "10.244.2.9", 6, 80): Count(1, 100),
            Flow("out", "203.0.113.9", 6, 80): Count(9, 900),
        },
    )
    watch.count(WORLD, None, frozenset(), 1.0)
    status = watch.status(Desired(), Observed())
    assert {(one.direction, one.reason, one.verdict, one.packets) for one in status.counts} == {
        ("out", "unknown", "counted", 3),
        ("in", "unknown", "dropped", 4),
    }
    assert status.last_plaintext == 1.0
    assert status.flows == (
        PlaintextFlow(NO_NODE, "in", "icmpv6", 0, 4, 400, address="fd00:244::9"),
        PlaintextFlow(NO_NODE, "out", "tcp", 80, 3, 300, address="10.244.6.9"),
        PlaintextFlow("n2", "out", "tcp", 80, 1, 100),
    )
    [found] = findings.shown(1.0)
    assert (found.code, found.subject) == (codes.GUARD_DROPS, HOST_SUBJECT)
    assert found.message == "4 packets from addresses that no node is known to have outside the tunnels"


def strangers() -> Evidence:
    flow = PlaintextFlow(NO_NODE, "out", "tcp", 80, 3, 300, address="10.244.6.9")
    found = report("n2")
    assert found.status is not None
    return evidence(n2=replace(found, status=replace(found.status, guard=replace(COUNTING, flows=(flow,)))))


def test_a_rehearsal_names_the_address() -> None:
    rehearsal = rehearse(strangers(), NOW)
    line = "would be dropped: n2 → 10.244.6.9 (no node known) tcp port 80 (3 packets in the last ten minutes)"
    assert next(rehearsal.lines()) == line
    assert rehearsal.as_object()["drops"][0]["address"] == "10.244.6.9"


def test_a_pool_waits_until_it_sends_nothing_to_nobody() -> None:
    pool = Pool(Stage.PREFER, frozenset({"n1", "n2"}))
    going = walk(nodes=pool.nodes)
    assert "plaintext was seen lately on n2" in reasons(judge(Position(Stage.PREFER, pool), going, strangers(), NOW))
    assert "no plaintext is seen" in reasons(judge(Position(Stage.PREFER, pool), going, evidence(), NOW))


def test_an_exemption_lets_pass_what_goes_to_nobody() -> None:
    until = datetime(2100, 1, 1, tzinfo=UTC)
    rescue = Exemption("rescue", "tcp", 22, "10.244.5.0/24", "ops", "rescue", until)
    guard = guard_of(replace(WORLD, exemptions=(rescue,)))
    assert guard is not None
    rules = guard.chains["inet", "post"].rules
    accepts = next(n for n, rule in enumerate(rules) if "exempt_out_rescue" in rule)
    drops = next(n for n, rule in enumerate(rules) if "@drop_out4" in rule)
    assert accepts < drops
