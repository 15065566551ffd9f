"""What should be dropped, the steps that lead there and their order, and how they are shown."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from linkseal.keys.values import Prefix
from linkseal.tunnels.guard.exemption import Exemption as Open
from linkseal.tunnels.model import Scope, Stage
from linkseal.tunnels.plan import plan
from linkseal.tunnels.redirect.diff import diff_redirect
from linkseal.tunnels.redirect.maps import entry_of, key_bytes, value_bytes
from linkseal.tunnels.redirect.model import (
    AttachRedirect,
    DetachRedirect,
    Entry,
    Exemption,
    ForgetRedirect,
    Hook,
    Mark,
    Ports,
    RedirectSpec,
    SetRedirect,
)
from linkseal.tunnels.redirect.render import render_redirect
from linkseal.tunnels.world import Layout, PeerLinks, Underlay, World
from property.fake_redirect import FakeRedirect
from property.worlds import as_me, make_peer

ME = as_me(make_peer(1, 1))
N2, N3, BARE = make_peer(2, 1), make_peer(3, 1), make_peer(4)
WORLD = World(
    ME,
    Layout(stage=Stage.ENFORCE),
    Underlay("eth0", 1500, frozenset({4})),
    {"n2": N2, "n3": N3, "n4": BARE},
    {"n2": PeerLinks(current=(1, 1)), "n3": PeerLinks()},
    redirect=True,
    own_addresses=frozenset({"192.0.2.1", "192.0.2.101"}),
)


def spec(world: World = WORLD) -> RedirectSpec:
    found = plan(world).redirect
    assert found is not None
    return found


# --- what is wanted ---------------------------------------------------------------------------------------------------


def test_every_peer_in_enforce_is_dropped_under_its_reason() -> None:
    found = spec()
    assert found.verdicts == {"10.244.2.0/24": 3, "10.244.3.0/24": 2, "10.244.4.0/24": 1}
    assert found.devices == {"eth0"}
    assert found.own == {"192.0.2.1", "192.0.2.101"}
    assert (found.mark, found.ports) == (Mark(0x4C530C00), Ports(51820, 51823))


def test_transparent_drops_node_addresses_too() -> None:
    world = replace(WORLD, layout=replace(WORLD.layout, scope=Scope.TRANSPARENT))
    assert spec(world).verdicts["192.0.2.2/32"] == 3  # type: ignore[index]


@pytest.mark.parametrize("stage", [Stage.OFF, Stage.PREPARE, Stage.PREFER])
def test_no_program_before_enforce(stage: Stage) -> None:
    assert plan(replace(WORLD, layout=replace(WORLD.layout, stage=stage))).redirect is None


def test_none_where_the_kernel_cannot_or_the_glass_is_broken_or_nobody_is_in_enforce() -> None:
    assert plan(replace(WORLD, redirect=False)).redirect is None
    assert plan(replace(WORLD, broken_glass=True)).redirect is None
    assert plan(replace(WORLD, peers={"n2": replace(N2, stage=Stage.PREFER)})).redirect is None


def test_a_peer_that_is_not_so_far_is_let_through_and_its_prefix_within_anothers_is_a_hole() -> None:
    wide = replace(N2, prefixes=(Prefix("10.244.0.0/16"),))
    apart = replace(N3, stage=Stage.PREFER)
    outside = replace(BARE, stage=Stage.PREFER, prefixes=(Prefix("10.99.0.0/16"),))
    found = spec(replace(WORLD, peers={"n2": wide, "n3": apart, "n4": outside}))
    assert found.verdicts == {"10.244.0.0/16": 3, "10.244.3.0/24": 0, "10.244.1.0/24": 0}


def test_further_nics_have_programs_too() -> None:
    assert spec(replace(WORLD, nics=("eth1",))).hooks() == {
        Hook(nic, way) for nic in ("eth0", "eth1") for way in ("out", "in")
    }


def test_an_exemption_is_one_for_the_other_end_and_one_for_what_of_it_is_here() -> None:
    until = datetime(2027, 1, 1, tzinfo=UTC)
    wide = Open("api", "tcp", 6443, "192.0.2.0/24", "ops", "bootstrap", until)
    ping = Open("ping", "icmp", None, "203.0.113.9/32", "ops", "monitoring", until)
    assert spec(replace(WORLD, exemptions=(wide, ping))).exemptions == {
        Exemption(Prefix("192.0.2.0/24"), 6, 6443),
        Exemption(Prefix("192.0.2.1/32"), 6, 6443, served=True),
        Exemption(Prefix("203.0.113.9/32"), 1),
    }


# --- steps ------------------------------------------------------------------------------------------------------------


def reconcile(kernel: FakeRedirect, want: RedirectSpec | None, devices: tuple[str, ...] = ("eth0",)) -> list[object]:
    steps = diff_redirect(want, kernel.observe(), devices)
    for step in (*steps.early, *steps.late):
        kernel.apply(step)
    return [*steps.early, *steps.late]


def test_entries_come_before_programs_and_what_lets_through_before_what_drops() -> None:
    kernel = FakeRedirect()
    wide = replace(N2, prefixes=(Prefix("10.244.0.0/16"),))
    first, *others = reconcile(kernel, spec(replace(WORLD, peers={"n2": wide})))
    assert isinstance(first, SetRedirect)
    tables = [(entry.table, value > 0) for entry, value in first.entries]
    assert tables == [("number", True)] * 3 + [("own", True)] * 2 + [("in", False), ("out", False)] + [
        ("in", True), ("out", True)
    ]  # fmt: skip
    assert others == [AttachRedirect(Hook("eth0", "in")), AttachRedirect(Hook("eth0", "out"))]


def test_a_second_pass_finds_nothing_to_do() -> None:
    kernel = FakeRedirect()
    reconcile(kernel, spec())
    assert reconcile(kernel, spec()) == []


def test_a_peer_that_comes_and_one_that_goes_is_added_before_the_other_is_removed() -> None:
    kernel = FakeRedirect()
    reconcile(kernel, spec(replace(WORLD, peers={"n2": N2})))
    added, removed = reconcile(kernel, spec(replace(WORLD, peers={"n3": N3})))
    assert added == SetRedirect(((Entry("in", "10.244.3.0/24"), 2), (Entry("out", "10.244.3.0/24"), 2)))
    assert removed == ForgetRedirect((Entry("out", "10.244.2.0/24"), Entry("in", "10.244.2.0/24")))


def test_a_changed_reason_is_one_change_of_a_value() -> None:
    kernel = FakeRedirect()
    reconcile(kernel, spec())
    lost = spec(replace(WORLD, links={}))
    assert reconcile(kernel, lost) == [
        SetRedirect(((Entry("in", "10.244.2.0/24"), 2), (Entry("out", "10.244.2.0/24"), 2)))
    ]


def test_leaving_enforce_takes_programs_out_after_everything() -> None:
    kernel = FakeRedirect()
    reconcile(kernel, spec())
    steps = diff_redirect(None, kernel.observe(), ("eth0",))
    assert steps.early == ()
    assert steps.late == (DetachRedirect(Hook("eth0", "in")), DetachRedirect(Hook("eth0", "out")))


def test_a_nic_that_is_gone_waits_and_another_that_is_not_wanted_is_cleaned() -> None:
    kernel = FakeRedirect()
    assert [type(step) for step in reconcile(kernel, spec(), devices=())] == [SetRedirect]
    kernel.strays.add(Hook("eth9", "out"))
    assert reconcile(kernel, spec())[-1] == DetachRedirect(Hook("eth9", "out"))
    assert kernel.standing == {Hook("eth0", "in"), Hook("eth0", "out")}


def test_what_could_not_be_looked_at_is_left_alone() -> None:
    assert diff_redirect(spec(), None, ("eth0",)) == ((), ())
    assert diff_redirect(None, None, ("eth0",)) == ((), ())


PREFIXES = st.sampled_from([Prefix("10.0.0.0/8"), Prefix("10.1.0.0/16"), Prefix("10.1.1.1/32"), Prefix("fd00::/16")])


@st.composite
def specs(draw: st.DrawFn) -> RedirectSpec:
    return RedirectSpec(
        draw(st.frozensets(st.sampled_from(["eth0", "eth1"]), min_size=1)),
        draw(st.dictionaries(PREFIXES, st.integers(0, 3))),
        draw(st.frozensets(st.sampled_from(["192.0.2.1", "2001:db8::1"]))),
        Mark(0x4C530C00),
        Ports(51820, 51823),
        draw(st.frozensets(st.builds(Exemption, PREFIXES, st.sampled_from([6, 17]), st.just(443), st.booleans()))),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(before=specs(), after=specs(), vandal=st.data())
def test_from_any_state_one_pass_leads_there_and_never_drops_an_entry_that_both_have(
    before: RedirectSpec, after: RedirectSpec, vandal: st.DataObject
) -> None:
    kernel, devices = FakeRedirect(), ("eth0", "eth1")
    reconcile(kernel, before, devices)
    for entry in vandal.draw(st.lists(st.sampled_from(sorted(kernel.entries)), max_size=3, unique=True)):
        del kernel.entries[entry]
    kept = {entry: value for entry, value in before.entries().items() if after.entries().get(entry) == value}
    there = {entry for entry in kept if entry in kernel.entries}
    steps = diff_redirect(after, kernel.observe(), devices)
    for step in (*steps.early, *steps.late):
        kernel.apply(step)
        assert there <= kernel.entries.keys()
        if isinstance(step, AttachRedirect | DetachRedirect):
            assert after.entries().items() <= kernel.entries.items()
    assert kernel.entries == after.entries()
    assert kernel.standing == after.hooks()
    assert reconcile(kernel, after, devices) == []


# --- entries as bytes, and as text ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_entries_are_read_as_they_were_written(want: RedirectSpec) -> None:
    for entry, value in want.entries().items():
        assert entry_of(entry.table, key_bytes(entry), value_bytes(entry, value)) == (entry.key, value)


def test_a_key_is_what_the_program_builds() -> None:
    assert key_bytes(Entry("out", "10.1.0.0/16")).hex() == "3000000004000000" + "0a010000" + 12 * "00"
    assert key_bytes(Entry("own", "2001:db8::1")).hex() == "0600000020010db8000000000000000000000001"
    assert key_bytes(Entry("exempt", "served 6 443 10.1.2.3/32")).hex() == "40000000240601bb" + "0a010203" + 12 * "00"
    assert key_bytes(Entry("exempt", "17 later fd00::/16")).hex() == "3000000046110000" + "fd" + 15 * "00"
    assert key_bytes(Entry("number", "ports")).hex() == "01000000"


def test_steps_as_lines() -> None:
    want = replace(spec(), exemptions=frozenset({Exemption(Prefix("192.0.2.9/32"), 6, 6443)}))
    lines = [line for step in reconcile(FakeRedirect(), want) for line in render_redirect(step)]  # type: ignore[arg-type]
    assert lines[:4] == [
        "bpftool map update name lsl_number key control value 51829-51830",
        "bpftool map update name lsl_number key mark value 0x4c530c00/0xffffffff",
        "bpftool map update name lsl_number key ports value 51820-51823",
        "bpftool map update name lsl_own key 192.0.2.1 value 1",
    ]
    assert "bpftool map update name lsl_exempt key 6 6443 192.0.2.9/32 value 1" in lines
    assert "bpftool map update name lsl_out key 10.244.3.0/24 value drop  # unproven" in lines
    assert lines[-1].startswith("tc filter add dev eth0 egress pref 1 bpf direct-action name lsl_out_")
    assert list(render_redirect(ForgetRedirect((Entry("in", "10.1.0.0/16"),)))) == [
        "bpftool map delete name lsl_in key 10.1.0.0/16"
    ]
    assert list(render_redirect(DetachRedirect(Hook("eth0", "in")))) == ["tc filter del dev eth0 ingress pref 1"]
