"""The catalogue of faults: what mends what, and that the matrix walks all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ground import cases
from ground.matrix import Case
from linkseal.keys.errors import HostError
from linkseal.tunnels.lab import faults_clock
from linkseal.tunnels.lab.cluster import Cluster
from linkseal.tunnels.lab.fault import Fault
from linkseal.tunnels.lab.faults import FAULTS
from linkseal.tunnels.lab.faults_redirect import _program

NAMES = {"node": "n1", "pod": "n1.p1", "wire": "wire", "other": "10.244.2.2"}

COMPOSED = {"reboot", "reboot-all", "rotate"}
"""Of others that are walked one by one, or of which the like is."""


def test_what_mends_a_fault_is_a_fault() -> None:
    assert {name: fault.undo for name, fault in FAULTS.items() if fault.undo and fault.undo not in FAULTS} == {}


@pytest.mark.parametrize("name", FAULTS)
def test_what_to_watch_can_be_filled_in(name: str) -> None:
    assert "{" not in FAULTS[name].watch.format(**NAMES)


def test_the_matrix_walks_every_fault() -> None:
    walked = {name for case in (*cases.WHOLE, *cases.LONG) for name, _ in case.steps()[0]}
    assert set(FAULTS) - walked - COMPOSED == set()


def test_make_test_walks_a_part_of_what_the_matrix_walks() -> None:
    faults = {case.fault for case in cases.WHOLE}
    assert {case.fault for case in (*cases.FIXED, *cases.LEAKS)} <= faults


def test_cells_are_all_drivers_scopes_and_families() -> None:
    assert len(set(cases.CELLS)) == 8
    assert {cell.stage for cell in cases.CELLS} == {"enforce"}
    assert {cell.stage for cell in cases.CONTROLS} == {"prefer"}


@pytest.mark.parametrize(
    ("case", "steps", "end"),
    [
        (Case("device"), ["device"], 0),
        (Case("agent-kill", 4), ["agent-kill", "agent-start"], 1),
        (Case("device", 4, dead=True), ["agent-kill", "device", "agent-start"], 2),
        (Case("power-off", 1, 5), ["power-off", "power-on", "agent-start"], 1),
        (Case("clock-back", 1, 2), ["clock-back", "clock-forward"], 1),
    ],
)
def test_a_case_ends_where_its_fault_does(case: Case, steps: list[str], end: int) -> None:
    """A node that booted has its data path from its disk: the fault has ended, though no agent runs yet."""
    found, ends = case.steps()
    assert [name for name, _ in found] == steps
    assert ends == end


def test_the_clock_is_set_in_a_lab_kernel_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = tmp_path / "cpuinfo"
    cpu.write_text("vendor_id\t: GenuineIntel\n")
    monkeypatch.setattr(faults_clock, "_CPU", cpu)
    with pytest.raises(HostError, match="--backend lab"):
        faults_clock._jump(3600)
    cpu.write_text("vendor_id\t: User Mode Linux\n")
    told: list[float] = []
    monkeypatch.setattr(faults_clock.time, "clock_settime", lambda _, at: told.append(at))
    assert "back by 1 h" in faults_clock._jump(-3600)
    assert told


def test_a_nic_that_carries_more_than_is_known_is_not_made_anew() -> None:
    cluster = Cluster(2, prefix="none-", cni="vxlan")
    with pytest.raises(HostError, match="VXLAN"):
        cluster.new_nic(cluster[0])


def test_the_redirecting_program_has_whole_instructions() -> None:
    program = _program(7)
    assert len(program) == 8 * 8
    assert program[4 * 8 + 4] == 7, "the interface is in it"
    assert program[-8] == 0x95, "it ends with exit"


def test_a_fault_needs_no_mender() -> None:
    assert Fault(lambda _, __: "", "", "").undo == ""
