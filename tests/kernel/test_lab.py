"""`linkseal lab`: up, look, break, down; and the demo, in the kernel and with wireguard-go."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground.labs import left_over, run_on
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.cli.output import Paint
from linkseal.tunnels.lab import state
from linkseal.tunnels.lab.backend import Backend
from linkseal.tunnels.lab.demo import Demo
from linkseal.tunnels.lab.demostage import Stage
from linkseal.tunnels.lab.lab import Lab
from linkseal.tunnels.lab.state import LabSpec

NAME = f"t{os.getpid()}"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@pytest.fixture
def cleared() -> Iterator[None]:
    yield
    if left_over(NAME):
        main(["lab", "down", "--name", NAME])


@pytest.mark.kernel
def test_a_lab_is_up_is_broken_and_heals_and_leaves_nothing(cleared: None, capfd: pytest.CaptureFixture[str]) -> None:
    up = ["lab", "up", "--backend", "kernel", "--name", NAME, "--nodes", "2"]
    assert main(up) == 0
    assert main(up) == 1
    assert "is up already" in capfd.readouterr().err
    code, output = run_on(NAME, "n1.p1", "ping", "-c1", "-W2", "10.244.2.2")
    assert code == 0, output
    assert run_on(NAME, "n1", "wg", "show", "lsl11", "peers")[1].strip()
    assert run_on(NAME, "n1", "sh", "-c", "exit 7")[0] == 7

    before = run_on(NAME, "n1", "linkseal", "status")
    assert before[0] == 0, before
    assert main(["lab", "break", "--name", NAME, "peer", "n1"]) == 0
    assert "remove" in capfd.readouterr().out
    deadline = time.monotonic() + 10
    while not run_on(NAME, "n1", "wg", "show", "lsl11", "peers")[1].strip():
        assert time.monotonic() < deadline, "the peer was not put back"

    assert main(["lab", "break", "--name", NAME, "agent-kill", "n2"]) == 0
    capfd.readouterr()
    assert main(["lab", "status", "--name", NAME, "-o", "json"]) == 1, "an agent is down"
    nodes = json.loads(capfd.readouterr().out)["nodes"]
    assert [node["agent"]["running"] for node in nodes] == [True, False]
    assert run_on(NAME, "n1.p1", "ping", "-c1", "-W2", "10.244.2.2")[0] == 0, "tunnels outlive the agent"

    record = state.load(NAME)
    assert main(["lab", "down", "--name", NAME]) == 0
    assert left_over(NAME) == []
    assert not [name for name, process in record.processes.items() if process.alive()]


@pytest.mark.kernel
@pytest.mark.parametrize("scope", ["overlay", "transparent"])
def test_the_demo_holds_in_the_kernel(scope: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "demo", "--backend", "kernel", "--scope", scope, "--out", str(tmp_path)]) == 0
    check_demo(capfd.readouterr().out, tmp_path)


@needs_root
@pytest.mark.userspace
def test_the_demo_holds_with_wireguard_go(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "demo", "--backend", "userspace", "--out", str(tmp_path)]) == 0
    check_demo(capfd.readouterr().out, tmp_path)


def check_demo(output: str, out: Path) -> None:
    assert "unch code is 000" in output, "the sentence is shown as it was read off the wire"
    assert "✓ its text was found on the wire 0 times" in output
    assert "packets were lost" in output
    assert "everything in scope is encrypted: 3 of 3 links sealed at both ends" in output
    assert "All 12 claims held" in output
    assert (out / "mesh.svg").read_text().startswith("<svg")
    assert "\x1b" not in output, "no colour without a terminal"


@needs_root
@pytest.mark.userspace
def test_the_demo_fails_where_nothing_is_encrypted(
    cleared: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The negative control: the claims about the wire, made without any agent."""
    state.claim(NAME)
    lab = Lab.build(LabSpec(NAME, cni="host-gw"), Backend.USERSPACE)
    stage = Stage(Paint())
    try:
        Demo(lab, stage, tmp_path)._file()
    finally:
        assert lab.down() == []
    held = [claim.held for claim in stage.claims]
    assert held == [True, False, False, False], "the file arrives, and everything said of the wire is untrue"
    assert not stage.verdict(0)
    assert "its text was found on the wire 0 times (" in capfd.readouterr().out
