"""The guard's nftables: chains as text, what is built is what is read back, and foreign tables are left alone."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from linkseal.keys.values import Prefix
from linkseal.tunnels.guard.commands import commands, parse
from linkseal.tunnels.guard.diff import diff_guard, is_whole
from linkseal.tunnels.guard.exemption import Exemption
from linkseal.tunnels.guard.model import Guard, GuardTransaction
from linkseal.tunnels.guard.plan import guard_of
from linkseal.tunnels.guard.render import render
from linkseal.tunnels.model import Rule, Scope, Stage
from linkseal.tunnels.plan import plan
from linkseal.tunnels.world import Layout, Underlay, World
from property.worlds import as_me, make_peer

GOLDEN = Path(__file__).parents[1] / "golden" / "nft"
DUAL = (4, 6)
ONE, TWO = make_peer(1, 1, families=DUAL), make_peer(2, 2, families=DUAL)
SILENT = replace(make_peer(3, 3, families=DUAL), generations=())
LATER = datetime(2100, 1, 1, tzinfo=UTC)
EXEMPTIONS = (
    Exemption("ssh", "tcp", 22, "192.0.2.0/24", "ops", "rescue", LATER),
    Exemption("ping6", "icmpv6", None, "2001:db8::9/128", "ops", "rescue", LATER),
)
WORLD = World(
    as_me(ONE),
    Layout(scope=Scope.TRANSPARENT, stage=Stage.ENFORCE, pass_through=("vxlan.calico",)),
    Underlay("eth0", 1500, frozenset(DUAL), addresses=("192.0.2.1", "2001:db8::1")),
    {"n2": TWO, "n3": SILENT},
    exemptions=EXEMPTIONS,
)
NICS = ["eth0"]


def golden(name: str, lines: list[str]) -> None:
    path, text = GOLDEN / name, "\n".join(lines) + "\n"
    if os.environ.get("LINKSEAL_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"differs from {path}"


def first(transactions: tuple[GuardTransaction | None, GuardTransaction | None]) -> GuardTransaction:
    assert transactions[0] is not None
    return transactions[0]


def test_a_new_guard_with_exemptions_renders_as_the_golden() -> None:
    golden("guard.txt", render(first(diff_guard(guard_of(WORLD), None, NICS))))


def test_a_change_of_stage_moves_elements_and_nothing_else() -> None:
    prefer = replace(WORLD, layout=replace(WORLD.layout, stage=Stage.PREFER))
    there = guard_of(prefer)
    early, late = diff_guard(guard_of(WORLD), there, NICS)
    assert late is None
    assert early is not None
    assert early == GuardTransaction(early.table, take=early.take, put=early.put)
    assert len(early.take) == 16, "netdev alone counts: two prefixes and two addresses of two peers, two directions"
    golden("guard-stage.txt", render(early))


def listing(wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What nft would list after these commands."""
    found: list[dict[str, Any]] = []
    sets: dict[tuple[str, str], dict[str, Any]] = {}
    for command in wanted:
        for verb, body in command.items():
            [(kind, content)] = body.items()
            if verb != "add":
                continue
            if kind == "element":
                place = sets[content["family"], content["name"]]
                place.setdefault("elem", []).extend(content["elem"])
                continue
            item = {**content, "handle": len(found)}
            if kind == "set":
                sets[content["family"], content["name"]] = item
            found.append({kind: item})
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def test_what_is_loaded_is_read_back_and_needs_nothing_more() -> None:
    desired = guard_of(WORLD)
    assert desired is not None
    devices = {"in_eth0": "eth0", "out_eth0": "eth0"}
    seen = parse(desired.table, listing(commands(first(diff_guard(desired, None, NICS)))), devices)
    assert seen == desired
    assert diff_guard(desired, seen, NICS) == (None, None)
    lost = parse(desired.table, listing(commands(first(diff_guard(desired, None, NICS)))), {})
    assert not is_whole(desired, lost, NICS)
    assert [chain.name for chain in first(diff_guard(desired, lost, NICS)).chains] == ["in_eth0", "out_eth0"]


def test_a_chain_of_an_absent_nic_waits_and_the_rest_is_loaded() -> None:
    early = first(diff_guard(guard_of(WORLD), None, []))
    assert {chain.device for chain in early.chains} == {None}
    assert {chain.name for chain in early.chains} >= {"post", "pre"}


def test_a_foreign_table_of_our_name_is_left_alone() -> None:
    theirs = [{"chain": {"family": "inet", "name": "input", "hook": "input", "prio": 0, "type": "filter"}}]
    seen = parse("linkseal_guard", theirs, {})
    assert seen.foreign
    for desired in (guard_of(WORLD), None):
        assert diff_guard(desired, seen, NICS) == (None, None)
    assert not is_whole(guard_of(WORLD), seen, NICS)
    assert not parse("linkseal_guard", [{"table": {"family": "inet"}}], {}).foreign, "an empty one was ours"


def test_a_set_of_another_kind_is_mended_in_one_transaction() -> None:
    desired = guard_of(WORLD)
    assert desired is not None
    place = ("inet", "drop_out4")
    spoiled = replace(desired, sets={**desired.sets, place: desired.sets[place]._replace(counted=False)})  # type: ignore[index,dict-item]
    early = first(diff_guard(desired, spoiled, NICS))
    assert early.renew
    assert set(early.put) == desired.elements


def test_who_has_opted_out_is_counted_at_every_stage_and_gets_no_route() -> None:
    world = replace(WORLD, peers={"n2": TWO}, opted_out={"n3": SILENT})
    desired = plan(world)
    assert desired.guard is not None
    found = {(element.set.partition("_")[0], element.prefix) for element in desired.guard.elements}
    assert {verdict for verdict, prefix in found if prefix in {"192.0.2.3/32", *SILENT.prefixes}} == {"count"}
    assert {verdict for verdict, prefix in found if prefix in {"192.0.2.2/32", *TWO.prefixes}} == {"drop"}
    assert {route.prefix for route in desired.routes.values()}.isdisjoint({"192.0.2.3/32", *SILENT.prefixes})


def test_broken_glass_counts_what_was_dropped_and_takes_the_floors_away() -> None:
    broken = replace(WORLD, broken_glass=True)
    guard = guard_of(broken)
    assert guard is not None
    assert {element.set.partition("_")[0] for element in guard.elements} == {"count", "own4", "own6"}
    assert any(not route.interface for route in plan(WORLD).routes.values())
    assert all(route.interface for route in plan(broken).routes.values())


def test_floors_stand_under_what_the_door_carries_and_not_under_who_has_no_agent() -> None:
    desired = plan(WORLD)
    floors = {route.prefix for route in desired.routes.values() if not route.interface}
    assert floors == {Prefix("192.0.2.2/32"), Prefix("2001:db8::2/128"), *TWO.prefixes}
    assert Rule(4, 102, 51821) in desired.rules
    assert {rule.priority for rule in plan(replace(WORLD, layout=replace(WORLD.layout, stage=Stage.PREFER))).rules} == {
        100,
        101,
    }


def test_exempt_connections_have_rules_before_ours_and_replies_only_where_the_service_is() -> None:
    rules = plan(WORLD).rules
    assert Rule(4, 100, 254, None, Prefix("192.0.2.0/24"), None, 6, 22, None) in rules
    assert Rule(4, 100, 254, None, None, Prefix("192.0.2.0/24"), 6, None, 22) in rules
    assert [rule for rule in rules if rule.source == "2001:db8::9/128"] == []


def test_without_an_egress_hook_the_inet_chains_count() -> None:
    guard = guard_of(replace(WORLD, door=False))
    assert guard is not None
    assert {family for family, _ in guard.chains} == {"inet"}
    assert ("inet", "count_out4") in guard.sets


def test_an_empty_guard_is_no_guard() -> None:
    assert not is_whole(guard_of(WORLD), Guard("linkseal_guard"), NICS)
    assert guard_of(replace(WORLD, layout=replace(WORLD.layout, stage=Stage.OFF))) is None
