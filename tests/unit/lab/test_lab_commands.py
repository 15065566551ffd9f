"""What the lab's command lines mean, and what is refused before anything is made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.lab import lifecycle, state
from linkseal.tunnels.lab.backend import Backend
from linkseal.tunnels.lab.execute import command_in
from linkseal.tunnels.lab.faults import FAULTS
from linkseal.tunnels.lab.state import LabRecord, LabSpec
from linkseal.tunnels.lab.transfer import MARKER, hexdump, lines_of_text


@pytest.fixture(autouse=True)
def nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "ROOT", tmp_path / "labs")
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.parametrize(
    "words",
    [
        ("n1", "--", "ping", "-c1", "--", "x"),
        ("--name", "other", "n1", "--", "ping", "-c1", "--", "x"),
        ("n1", "ping", "-c1", "--", "x"),
    ],
)
def test_what_follows_the_place_is_the_programs(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(lifecycle, "execute", lambda *arguments: seen.extend(arguments) or 7)
    assert main(["lab", "exec", *words]) == 7
    assert seen == ["other" if "other" in words else "lab", "n1", ("ping", "-c1", "--", "x")]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("up", "--stage", "all"), 2, "'all' is not one of"),
        (("up", "--families", "5"), 2, "'5' is not one of"),
        (("up", "--nodes", "1"), 2, "not in the range"),
        (("up", "--backend", "magic"), 2, "'magic' is not one of"),
        (("up", "--name", "../x"), 2, "no name for a lab"),
        (("exec", "n1", "--"), 2, "name a program"),
        (("break",), 2, "lab break --list"),
        (("status",), 1, "no lab lab is up"),
        (("down",), 1, "start one with `linkseal lab up`"),
        (("exec", "n1", "--", "true"), 1, "no lab lab is up"),
    ],
)
def test_a_wrong_line_ends_with_its_code_and_advice(
    words: tuple[str, ...], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", *words]) == code
    assert says in capsys.readouterr().err
    assert state.names() == []


def test_every_fault_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "break", "--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert listed == list(FAULTS)


def test_a_program_on_a_node_finds_agent_and_directory_and_one_in_a_pod_only_the_network() -> None:
    record = LabRecord(LabSpec(), Backend.KERNEL)
    node = command_in(record, "n2", ["wg", "show"], Path("/tmp"))
    pod = command_in(record, "n2.p1", ["ping", "-c1", "a b"], Path("/tmp"))
    assert "--net=/run/netns/ls-lab-n2 " in node[2]
    assert "nodes/n2/mounts.pid" in node[2]
    assert any(word.startswith("LINKSEAL_CONFIG=") and word.endswith("/nodes/n2/agent.yaml") for word in node)
    assert "--net=/run/netns/ls-lab-n2p1 " in pod[2]
    assert "--mount" not in pod[2]
    assert pod[-3:] == ["ping", "-c1", "a b"]


@pytest.mark.parametrize("place", ["n4", "n1.p3", "n1.", "", "wires", "n1.p1.p1"])
def test_a_place_that_is_not_there_is_refused_with_those_that_are(place: str) -> None:
    with pytest.raises(ValueError, match=r"n1|has no pod"):
        command_in(LabRecord(LabSpec(), Backend.KERNEL), place, ["true"], Path("/"))


def test_the_file_of_the_demo_is_recognisable_in_every_packet() -> None:
    data = lines_of_text(100_000)
    assert len(data) == 100_000
    assert all(MARKER in data[at : at + 200] for at in range(0, len(data) - 200, 50))


def test_a_hexdump_shows_the_part_asked_for() -> None:
    data = bytes(20) + b"secret sentence" + bytes(20)
    assert list(hexdump(data, b"secret sentence")) == [
        "0010  00 00 00 00 73 65 63 72 65 74 20 73 65 6e 74 65  ....secret sente",
        "0020  6e 63 65 00 00 00 00 00 00 00 00 00 00 00 00 00  nce.............",
    ]
    assert list(hexdump(data, b"other")) == []
