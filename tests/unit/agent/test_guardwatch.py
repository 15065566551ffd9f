"""What the guard counted becomes totals by reason, findings and flows; and the file of break-glass."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from linkseal.tunnels import codes
from linkseal.tunnels.agent.breakglass import FILE, BreakGlass
from linkseal.tunnels.agent.guardwatch import SETTLED, GuardWatch
from linkseal.tunnels.findings import HOST_SUBJECT, ActiveFindings
from linkseal.tunnels.guard.exemption import Exemption
from linkseal.tunnels.guard.model import Guard
from linkseal.tunnels.guard.plan import guard_of
from linkseal.tunnels.guard.readings import Count, Flow, Readings, Spot
from linkseal.tunnels.model import Desired, Observed, Scope, Stage
from linkseal.tunnels.world import Layout, Underlay, World
from property.worlds import as_me, make_peer

ONE, TWO = make_peer(1, 1), make_peer(2, 2)
SILENT = replace(make_peer(3, 3), generations=())
WORLD = World(
    as_me(ONE),
    Layout(scope=Scope.TRANSPARENT, stage=Stage.ENFORCE),
    Underlay("eth0", 1500, frozenset({4})),
    {"n2": TWO, "n3": SILENT},
)
SEALED = frozenset({"n2"})


class Kernel:
    """Counters that tests set."""

    def __init__(self) -> None:
        self.now = Readings()

    def read(self, _guard: Guard | None) -> Readings:
        return self.now

    def spot(self, name: str, address: str, packets: int, family: str = "netdev") -> None:
        spots = {**self.now.spots, Spot(family, name, address): Count(packets, 100 * packets)}  # type: ignore[arg-type]
        self.now = replace(self.now, spots=spots)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def findings() -> ActiveFindings:
    return ActiveFindings()


@pytest.fixture
def watch(kernel: Kernel, findings: ActiveFindings) -> GuardWatch:
    return GuardWatch(kernel.read, findings)


def counts(watch: GuardWatch) -> dict[tuple[str, str, str], tuple[int, int]]:
    return {
        (c.direction, c.reason, c.verdict): (c.packets, c.bytes) for c in watch.status(Desired(), Observed()).counts
    }


def shown(findings: ActiveFindings, now: float = 1.0) -> set[tuple[str, str]]:
    return {(found.code, found.subject) for found in findings.shown(now)}


def test_totals_begin_with_the_agent_and_grow_while_elements_come_and_go(kernel: Kernel, watch: GuardWatch) -> None:
    kernel.spot("drop_out4", "192.0.2.3", 7)
    watch.count(WORLD, None, SEALED, 1.0)
    assert counts(watch) == {}
    kernel.spot("drop_out4", "192.0.2.3", 10)
    watch.count(WORLD, None, SEALED, 2.0)
    kernel.spot("drop_out4", "192.0.2.3", 2)  # taken out and put in again
    watch.count(WORLD, None, SEALED, 3.0)
    assert counts(watch) == {("out", "unknown", "dropped"): (5, 500)}


def test_each_reason_is_told_apart(kernel: Kernel, watch: GuardWatch, findings: ActiveFindings) -> None:
    watch.count(WORLD, None, frozenset(), 0.0)
    kernel.spot("count_out4", "192.0.2.2", 1)
    watch.count(WORLD, None, SEALED, 1.0)
    assert counts(watch) == {("out", "unproven", "counted"): (1, 100)}, "sealed only since this look"
    assert shown(findings) == set()
    kernel.spot("count_out4", "192.0.2.2", 3)
    kernel.spot("drop_in4", "192.0.2.3", 4, "inet")
    watch.count(WORLD, None, SEALED, 1.0)
    assert counts(watch) == {
        ("out", "unproven", "counted"): (1, 100),
        ("out", "bypass", "counted"): (2, 200),
        ("in", "unknown", "dropped"): (4, 400),
    }
    assert shown(findings) == {(codes.BYPASSED, "n2"), (codes.GUARD_DROPS, "n3")}
    assert shown(findings, 2000.0) == set(), "what happened once is over some time"


def test_what_a_peer_sends_before_it_has_had_time_to_move_is_no_bypass(
    kernel: Kernel, watch: GuardWatch, findings: ActiveFindings
) -> None:
    watch.count(WORLD, None, frozenset(), 0.0)
    watch.count(WORLD, None, SEALED, 1.0)
    kernel.spot("count_in4", "192.0.2.2", 5)
    watch.count(WORLD, None, SEALED, 1.0 + SETTLED / 2)
    assert (counts(watch), shown(findings)) == ({("in", "unproven", "counted"): (5, 500)}, set())
    kernel.spot("count_in4", "192.0.2.2", 7)
    watch.count(WORLD, None, SEALED, 1.0 + SETTLED)
    assert counts(watch)["in", "bypass", "counted"] == (2, 200)
    assert shown(findings, 1.0 + SETTLED) == {(codes.BYPASSED, "n2")}
    watch.count(WORLD, None, frozenset(), 100.0)
    watch.count(WORLD, None, SEALED, 101.0)
    kernel.spot("count_in4", "192.0.2.2", 8)
    watch.count(WORLD, None, SEALED, 102.0)
    assert counts(watch)["in", "unproven", "counted"] == (6, 600), "who leaves the tunnels and comes back moves again"


def test_an_exempt_packet_counts_once_though_it_passes_both_tables(kernel: Kernel, watch: GuardWatch) -> None:
    watch.count(WORLD, None, SEALED, 0.0)
    kernel.now = Readings(
        counters={
            ("inet", "exempt_out_ssh"): Count(3, 300),
            ("netdev", "exempt_out_ssh"): Count(3, 300),
            ("netdev", "control"): Count(9, 900),
        }
    )
    watch.count(WORLD, None, SEALED, 1.0)
    assert counts(watch) == {("out", "exempt", "counted"): (3, 300)}
    assert watch.status(Desired(), Observed()).last_plaintext is None


def test_who_has_opted_out_is_counted_and_no_alarm(kernel: Kernel, watch: GuardWatch, findings: ActiveFindings) -> None:
    world = replace(WORLD, peers={"n2": TWO}, opted_out={"n3": SILENT})
    watch.count(world, None, SEALED, 0.0)
    kernel.spot("count_out4", "192.0.2.3", 5)
    kernel.now = replace(kernel.now, flows={Flow("out", "192.0.2.3", 6, 22): Count(5, 500)})
    watch.count(world, None, SEALED, 1.0)
    status = watch.status(Desired(), Observed())
    assert counts(watch) == {("out", "optedOut", "counted"): (5, 500)}
    assert (status.last_plaintext, status.flows, shown(findings)) == (None, (), set())


def test_flows_bear_the_names_of_peers(kernel: Kernel, watch: GuardWatch) -> None:
    watch.count(WORLD, None, SEALED, 0.0)
    flows = {
        Flow("out", "192.0.2.3", 6, 22): Count(2, 120),
        Flow("out", "10.244.3.9", 6, 22): Count(3, 180),
        Flow("in", "203.0.113.1", 17, 53): Count(9, 900),
    }
    kernel.now = Readings(flows=flows)
    watch.count(WORLD, None, SEALED, 1.0)
    [flow] = watch.status(Desired(), Observed()).flows
    assert (flow.peer, flow.direction, flow.protocol, flow.port, flow.packets) == ("n3", "out", "tcp", 22, 5)


def test_what_is_wrong_with_the_guard_is_told_and_over(watch: GuardWatch, findings: ActiveFindings) -> None:
    over = Exemption("ssh", "tcp", 22, "192.0.2.0/24", "ops", "rescue", datetime(2001, 1, 1, tzinfo=UTC))
    guard = guard_of(WORLD)
    assert guard is not None
    watch.broken = "no quorum (root)"
    watch.tell(replace(WORLD, door=False), Observed(guard=guard), (), (over,), 1e9)
    assert shown(findings, 1e9) == {
        (codes.GUARD_NOT_WHOLE, HOST_SUBJECT),
        (codes.ENFORCE_REFUSED, HOST_SUBJECT),
        (codes.EXEMPTION_EXPIRED, "ssh"),
        (codes.BREAK_GLASS, HOST_SUBJECT),
    }
    watch.broken = None
    watch.tell(WORLD, Observed(guard=replace(guard, foreign=True)), (), (), 1e9)
    assert {code for code, _ in shown(findings, 1e9)} == {codes.GUARD_COLLISION, codes.ENFORCE_REFUSED}
    watch.tell(WORLD, Observed(guard=guard), (), (), 1e9)
    assert shown(findings, 1e9) == set()


def test_break_glass_is_its_file_and_ends_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    glass = BreakGlass(tmp_path)
    assert glass.in_force(0.0) is None
    with caplog.at_level(logging.WARNING, "linkseal.agent"):
        BreakGlass(tmp_path).begin("no quorum", 100.0, 60.0)
        broken = glass.in_force(110.0)
        assert broken is not None
        assert (broken.reason, broken.until) == ("no quorum", 160.0)
        assert glass.in_force(160.0) is None
    assert glass.end()
    assert not glass.end()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"reason": "", "since": 0}', '{"reason": "x", "since": 0, "x": 1}'])
def test_a_file_that_cannot_be_read_lifts_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    (tmp_path / FILE).chmod(0o600)
    assert BreakGlass(tmp_path).in_force(0.0) is None
