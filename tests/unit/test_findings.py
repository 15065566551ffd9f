"""The catalogue is whole, and what shows of it is bounded, explained once and logged once."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys import codes as key_codes
from linkseal.tunnels import codes
from linkseal.tunnels.catalogue import DOCUMENTS, PROBES
from linkseal.tunnels.catalogue_guard import GUARD, STAGES, VERIFY
from linkseal.tunnels.catalogue_host import AGENT, HOST
from linkseal.tunnels.cli.main import cli
from linkseal.tunnels.findings import (
    CATALOGUE,
    HOST_SUBJECT,
    MAX_MESSAGE,
    MAX_SUBJECTS,
    ActiveFindings,
    explain,
    markdown,
    printable,
)

DOCS = Path(__file__).parents[2] / "docs" / "findings.md"


def shown(findings: ActiveFindings, now: float) -> list[tuple[str, str]]:
    return [(f.code, f.subject) for f in findings.shown(now)]


def named(module: object) -> set[str]:
    values = (getattr(module, name) for name in dir(module) if name.isupper())
    return {value for value in values if isinstance(value, str)}


# --- the catalogue


def test_every_named_code_is_in_the_catalogue_and_the_other_way_round() -> None:
    assert named(key_codes) | named(codes) == set(CATALOGUE)
    assert not named(key_codes) & named(codes)


def test_codes_are_unique_and_in_order() -> None:
    assert [e.code for e in (*DOCUMENTS, *PROBES, *HOST, *AGENT, *GUARD, *STAGES, *VERIFY)] == list(CATALOGUE)
    assert list(CATALOGUE) == sorted(CATALOGUE)


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_entry_is_complete(code: str) -> None:
    entry = CATALOGUE[code]
    assert re.fullmatch(r"LS[0-9]{4}", code)
    assert entry.title
    assert not entry.title.endswith(".")
    assert entry.cause.endswith(".")
    assert entry.fix.endswith(".")
    assert entry.title in explain(entry)


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_command_that_an_entry_names_is_one(code: str) -> None:
    for words in re.findall(r"`linkseal ([a-z -]+)", f"{CATALOGUE[code].cause} {CATALOGUE[code].fix}"):
        command: click.Command = cli
        for word in words.split():
            if isinstance(command, click.Group):
                found = command.get_command(click.Context(command), word)
                assert found is not None, f"linkseal {words}"
                command = found


@pytest.mark.parametrize("code", CATALOGUE)
def test_a_cause_is_in_the_catalogue_and_nothing_explains_itself(code: str) -> None:
    seen: set[str] = set()
    stack = list(CATALOGUE[code].depends_on)
    while stack:
        cause = stack.pop()
        assert cause != code
        if cause not in seen:
            seen.add(cause)
            stack.extend(CATALOGUE[cause].depends_on)


@pytest.mark.parametrize("code", CATALOGUE)
def test_an_effect_never_shows_before_its_cause(code: str) -> None:
    later = {c for c in CATALOGUE[code].depends_on if CATALOGUE[c].hold > CATALOGUE[code].hold}
    assert later <= {codes.NO_AGENT}  # told by the absence of something for 30 s; the links fail at once


def test_the_documentation_is_the_catalogue() -> None:
    assert DOCS.read_text(encoding="utf-8") == markdown(), "run: python docs/findings.py"


# --- what shows


def test_a_finding_shows_when_it_has_lasted_its_hold_and_since_it_began() -> None:
    findings = ActiveFindings()
    hold = CATALOGUE[codes.NO_HANDSHAKE].hold
    findings.raise_(codes.NO_HANDSHAKE, "n2", "first", 100.0)
    findings.raise_(codes.NO_HANDSHAKE, "n2", "second", 101.0)
    assert shown(findings, 100.0 + hold - 0.1) == []
    (finding,) = findings.shown(100.0 + hold)
    assert (finding.since, finding.message) == (100.0, "second")


def test_a_cleared_finding_begins_anew() -> None:
    findings = ActiveFindings()
    hold = CATALOGUE[codes.NO_HANDSHAKE].hold
    findings.raise_(codes.NO_HANDSHAKE, "n2", "", 0.0)
    findings.clear(codes.NO_HANDSHAKE, "n2")
    findings.raise_(codes.NO_HANDSHAKE, "n2", "", 5.0)
    assert shown(findings, hold) == []
    assert shown(findings, 5.0 + hold) == [(codes.NO_HANDSHAKE, "n2")]


def test_one_cause_shows_one_finding_for_its_own_subject_only() -> None:
    findings = ActiveFindings()
    for peer in ("n2", "n3"):
        findings.raise_(codes.NO_HANDSHAKE, peer, "", 0.0)
    findings.raise_(codes.AGENT_SILENT, "n2", "", 0.0)
    assert shown(findings, 60.0) == [(codes.NO_HANDSHAKE, "n3"), (codes.AGENT_SILENT, "n2")]


def test_a_cause_on_the_host_explains_every_subject() -> None:
    findings = ActiveFindings()
    findings.raise_(codes.NO_HANDSHAKE, "n2", "", 0.0)
    findings.raise_(codes.NO_WIREGUARD, HOST_SUBJECT, "", 0.0)
    assert shown(findings, 60.0) == [(codes.NO_WIREGUARD, HOST_SUBJECT)]


def test_a_chain_of_causes_shows_the_first_alone() -> None:
    findings = ActiveFindings()
    for code in (codes.NO_HANDSHAKE, codes.NOTHING_CROSSES, codes.MTU_HOLE):
        findings.raise_(code, "n2", "", 0.0)
    assert shown(findings, 60.0) == [(codes.NO_HANDSHAKE, "n2")]


def test_a_cause_that_has_not_lasted_its_hold_explains_nothing() -> None:
    findings = ActiveFindings()
    findings.raise_(codes.NO_HANDSHAKE, "n2", "", 0.0)
    findings.raise_(codes.NO_AGENT, "n2", "", 10.0)
    assert shown(findings, 20.0) == [(codes.NO_HANDSHAKE, "n2")]
    assert shown(findings, 40.0) == [(codes.NO_AGENT, "n2")]


def test_errors_come_first() -> None:
    findings = ActiveFindings()
    for code in (codes.DRIFT_HEALED, codes.NO_DOOR, codes.PORT_IN_USE):
        findings.raise_(code, HOST_SUBJECT, "", 0.0)
    assert [code for code, _ in shown(findings, 0.0)] == [codes.PORT_IN_USE, codes.NO_DOOR, codes.DRIFT_HEALED]


def test_an_event_clears_by_itself() -> None:
    findings = ActiveFindings()
    findings.raise_(codes.DRIFT_HEALED, "lsl0", "route put back", 0.0, lasts=600.0)
    assert shown(findings, 599.0) == [(codes.DRIFT_HEALED, "lsl0")]
    assert shown(findings, 600.0) == []


def test_replace_clears_what_is_no_longer_said_and_leaves_other_codes_alone() -> None:
    findings = ActiveFindings()
    findings.raise_(codes.PORT_IN_USE, HOST_SUBJECT, "", 0.0)
    findings.replace([codes.CNI_MTU, codes.PATH_MTU], {(codes.CNI_MTU, "a"): "", (codes.PATH_MTU, "b"): ""}, 0.0)
    findings.replace([codes.CNI_MTU, codes.PATH_MTU], {(codes.CNI_MTU, "a"): ""}, 1.0)
    assert shown(findings, 1.0) == [(codes.PORT_IN_USE, ""), (codes.CNI_MTU, "a")]
    with pytest.raises(ValueError, match=codes.NO_DOOR):
        findings.replace([codes.CNI_MTU], {(codes.NO_DOOR, ""): ""}, 1.0)


def test_an_unknown_code_is_our_bug() -> None:
    with pytest.raises(KeyError):
        ActiveFindings().raise_("LS9999", "", "", 0.0)


def test_subjects_are_bounded_and_the_rest_is_said_not_dropped() -> None:
    findings = ActiveFindings()
    for number in range(10_000):
        findings.raise_(codes.PATH_MTU, f"n{number}", "", 0.0)
    assert len(findings.shown(0.0)) == MAX_SUBJECTS + 1
    assert ("more than 100" in f.message for f in findings.shown(0.0))
    findings.clear(codes.PATH_MTU, "n0")
    assert len(findings.shown(0.0)) == MAX_SUBJECTS - 1


def test_others_text_can_neither_forge_a_log_line_nor_grow() -> None:
    findings = ActiveFindings()
    findings.raise_(codes.PATH_MTU, "n2\x1b[2J", "a\nERROR forged\r" + "x" * 10_000, 0.0)
    (line,) = findings.log_lines(0.0)
    assert line.text.isprintable()
    assert len(line.text) < MAX_MESSAGE + 100


@given(st.text(), st.integers(min_value=1, max_value=20))
def test_printable_text_is_printable_and_no_longer_than_asked(text: str, limit: int) -> None:
    result = printable(text, limit)
    assert len(result) <= limit
    assert result.isprintable()
    if text.isprintable() and len(text) <= limit:
        assert result == text


# --- what is logged


def test_a_finding_that_stays_is_logged_once_and_its_end_once() -> None:
    findings = ActiveFindings()
    lines: list[str] = []
    for second in range(0, 3600, 10):
        findings.raise_(codes.PATH_MTU, "n2", f"path carries {1400 + second % 7}", float(second))
        lines += [line.text for line in findings.log_lines(float(second))]
    findings.clear(codes.PATH_MTU, "n2")
    lines += [line.text for line in findings.log_lines(3600.0)]
    assert lines == [
        "LS3008 n2: path is narrower than the NIC: path carries 1400",
        "LS3008 n2: over: path is narrower than the NIC",
    ]


def test_a_flapping_finding_is_logged_less_and_less() -> None:
    findings = ActiveFindings()
    times: list[float] = []
    for step in range(24 * 3600 // 5):
        now = 5.0 * step
        if step % 2:
            findings.clear(codes.PATH_MTU, "n2")
        else:
            findings.raise_(codes.PATH_MTU, "n2", "", now)
        times += [now] * len(findings.log_lines(now))
    assert times[:2] == [0.0, 5.0]
    assert len(times) < 80  # a day of it: two lines an hour, and some at the start
    assert all(later - earlier >= 3600 for earlier, later in zip(times[-4:], times[-3:], strict=False))


def test_after_an_hour_of_quiet_a_finding_is_new_again() -> None:
    findings = ActiveFindings()
    for now in (0.0, 100.0, 400.0):
        findings.raise_(codes.PATH_MTU, "n2", "", now)
        findings.log_lines(now)
        findings.clear(codes.PATH_MTU, "n2")
        findings.log_lines(now + 1)
    findings.log_lines(5000.0)
    findings.log_lines(9000.0)
    findings.raise_(codes.PATH_MTU, "n2", "", 9000.0)
    assert len(findings.log_lines(9000.0)) == 1
    findings.clear(codes.PATH_MTU, "n2")
    assert len(findings.log_lines(9001.0)) == 1


def test_what_is_remembered_for_the_log_is_bounded() -> None:
    findings = ActiveFindings()
    for number in range(3000):
        now = float(number)
        current = {(codes.PATH_MTU, f"n{number}-{index}"): "" for index in range(20)}
        findings.replace([codes.PATH_MTU], current, now)
        findings.log_lines(now)
    assert len(findings._logged) <= 2 * MAX_SUBJECTS * len(CATALOGUE)
