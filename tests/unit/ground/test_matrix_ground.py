"""The matrix's own instruments: packets counted in shared memory, rows judged, the table, the fast kernel's header."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from ground import kernel, matrix, matrixrun
from ground.flows import RATE, UNDER_WAY, Flows, Way
from ground.matrix import Case, Cell, Row, Walk
from ground.namespaces import Namespace

SPACE = Namespace("none")


def flows(packets: list[tuple[float, float]], ways: int = 1) -> Flows:
    """Flows whose every way has sent and received these: (sent, arrived or 0.0)."""
    made = Flows([Way(f"way {number}", SPACE, SPACE, "192.0.2.1") for number in range(ways)])
    for way, (number, (sent, arrived)) in itertools.product(range(ways), enumerate(packets)):
        made._sent[way][number], made._arrived[way][number] = sent, arrived
        made._counts[way][0] = number + 1
    return made


def test_what_did_not_arrive_is_lost_when_it_was_sent() -> None:
    made = flows([(1.0, 1.1), (2.0, 0.0), (3.0, 3.1), (4.0, 0.0)])
    assert made.lost(0, 9) == {"way 0": [4.0, 2.0]}
    assert made.lost(1.5, 3.5) == {"way 0": [2.0]}
    assert made.sent(1.5, 9) == 3


def test_traffic_flows_when_every_packet_of_the_last_while_has_arrived() -> None:
    now = time.monotonic() - UNDER_WAY
    assert flows([(now - 5, 0.0), (now - 0.5, now), (now - 0.1, now)]).quiet(1)
    assert not flows([(now - 0.5, 0.0), (now - 0.1, now)]).quiet(1)
    assert not flows([(now - 5, now)]).quiet(1), "nothing was sent lately"
    assert flows([(now - 0.5, now), (now + UNDER_WAY, 0.0)]).quiet(1), "the last may be under way"


def walk(stage: str = "enforce") -> Walk:
    made = Walk(Cell("kernel", "overlay", "4", stage))
    made.flows = flows([])
    return made


def row(**fields: object) -> Row:
    usual = {
        "cell": "c", "fault": "device", "sent": 10 * RATE, "lost": 3, "plaintext": 0, "examples": (), "recovery": 1.0,
        "sealed": 2.0, "resets": 0, "keys": "kept", "took": 10.0,
    }  # fmt: skip
    return Row(**{**usual, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "case", "problem"),
    [
        ({}, Case("device"), ""),
        ({"plaintext": 2, "examples": ("a > b",)}, Case("device"), "2 packets in clear: a > b"),
        ({"recovery": 6.5}, Case("device"), "recovered after 6.5 s, not 6"),
        ({"recovery": 6.5, "sent": 5 * RATE}, Case("device"), ""),
        ({"resets": 1}, Case("device"), "1 connections reset"),
        ({"keys": "lost: n1 gen-1.key"}, Case("device"), "keys lost: n1 gen-1.key"),
        ({"keys": "changed"}, Case("key", keys=True), ""),
        ({"problem": "never", "recovery": None}, Case("device"), "never"),
    ],
)
def test_a_row_is_judged(fields: dict[str, object], case: Case, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also: a machine that could send only half of the packets may take twice as long."""
    monkeypatch.setattr(matrix, "in_lab_kernel", lambda: False)
    assert walk()._judged(row(**fields), case).problem == problem


def test_in_the_control_plaintext_is_wanted_and_in_a_lab_kernel_all_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "in_lab_kernel", lambda: True)
    assert walk("prefer")._judged(row(plaintext=99, recovery=17.0), Case("device")).problem == ""


def test_keys_that_are_gone_are_named_and_new_ones_are_a_change() -> None:
    before = {"n1": {"gen-1.key": "aa", "lsl11": "x"}}
    assert matrix._compare(before, {"n1": {"gen-1.key": "aa", "lsl11": "x"}}) == "kept"
    assert matrix._compare(before, {"n1": {"gen-1.key": "aa", "gen-2.key": "bb", "lsl11": "x"}}) == "changed"
    assert matrix._compare(before, {"n1": {"gen-2.key": "bb"}}) == "lost: n1 gen-1.key"
    assert matrix._compare(before, {"n1": {"gen-1.key": "cc"}}) == "lost: n1 gen-1.key"


def test_the_table_has_a_line_for_each_row_by_fault_and_rows_outlive_their_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(fault="nic"), row(fault="agent-stop", recovery=None, sealed=None, problem="never"), row(cell="b")]
    assert [line.split()[0] for line in matrix.table(rows).splitlines()] == ["FAULT", "agent-stop", "device", "nic"]
    assert "never" in matrix.table(rows)
    monkeypatch.setenv(matrix.ROWS, str(tmp_path))
    for one in rows:
        matrix._leave(one)
    assert matrix.rows_in(tmp_path) == rows


def test_cases_are_chosen_by_the_names_of_their_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [Case("device"), Case("key"), Case("device", dead=True)]
    assert matrix.chosen(cases) == cases
    monkeypatch.setenv(matrix.CASES, "device")
    assert matrix.chosen(cases) == [cases[0], cases[2]]


def test_a_part_of_the_matrix_is_of_its_scope() -> None:
    assert matrixrun._scoped(["-x"], "overlay") == ["-k", "overlay"]
    assert matrixrun._scoped(["-k", "v4 or v6"], "overlay") == ["-k", "overlay and (v4 or v6)"]


def test_the_fast_kernel_lies_beside_the_other_and_its_header_says_a_tenth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "source_version", lambda: "6.1")
    assert kernel.lab_kernel(fast=True) != kernel.lab_kernel()
    header = tmp_path / "messages.h"
    header.write_text("\n".join(f"\t{old}" for old in kernel.FAST))
    kernel._edit(header, kernel.FAST)
    assert "REJECT_AFTER_TIME = 18," in header.read_text()
    with pytest.raises(kernel.BuildError, match="another one"):
        kernel._edit(header, kernel.FAST)
