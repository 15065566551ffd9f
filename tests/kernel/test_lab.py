"""`linkseal lab`: up, look, break, down; and the demo, in the kernel and with wireguard-go."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground import controlbuild
from ground.namespaces import NETNS_FOLDER
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


def left_over() -> list[str]:
    """Namespaces, folders and processes of this test's labs."""
    found = [path.name for path in NETNS_FOLDER.glob(f"ls-{NAME}*")] if NETNS_FOLDER.is_dir() else []
    return found + [name for name in state.names() if name.startswith(NAME)]


@pytest.fixture
def cleared() -> Iterator[None]:
    yield
    if left_over():
        main(["lab", "down", "--name", NAME])


def run_on(place: str, *words: str) -> tuple[int, str]:
    command = [str(Path(sys.executable).parent / "linkseal"), "lab", "exec", "--name", NAME, place, "--", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.kernel
def test_a_lab_is_up_is_broken_and_heals_and_leaves_nothing(cleared: None, capfd: pytest.CaptureFixture[str]) -> None:
    up = ["lab", "up", "--backend", "kernel", "--name", NAME, "--nodes", "2"]
    assert main(up) == 0
    assert main(up) == 1
    assert "is up already" in capfd.readouterr().err
    code, output = run_on("n1.p1", "ping", "-c1", "-W2", "10.244.2.2")
    assert code == 0, output
    assert run_on("n1", "wg", "show", "lsl11", "peers")[1].strip()
    assert run_on("n1", "sh", "-c", "exit 7")[0] == 7

    before = run_on("n1", "linkseal", "status")
    assert before[0] == 0, before
    assert main(["lab", "break", "--name", NAME, "peer", "n1"]) == 0
    assert "remove" in capfd.readouterr().out
    deadline = time.monotonic() + 10
    while not run_on("n1", "wg", "show", "lsl11", "peers")[1].strip():
        assert time.monotonic() < deadline, "the peer was not put back"

    assert main(["lab", "break", "--name", NAME, "agent-kill", "n2"]) == 0
    capfd.readouterr()
    assert main(["lab", "status", "--name", NAME, "-o", "json"]) == 1, "an agent is down"
    nodes = json.loads(capfd.readouterr().out)["nodes"]
    assert [node["agent"]["running"] for node in nodes] == [True, False]
    assert run_on("n1.p1", "ping", "-c1", "-W2", "10.244.2.2")[0] == 0, "tunnels outlive the agent"

    record = state.load(NAME)
    assert main(["lab", "down", "--name", NAME]) == 0
    assert left_over() == []
    assert not [name for name, process in record.processes.items() if process.alive()]


@pytest.mark.kernel
@pytest.mark.timeout(600)
def test_a_lab_with_kubernetes_is_up_and_leaves_nothing(cleared: None, capfd: pytest.CaptureFixture[str]) -> None:
    controlbuild.build()
    before = programs().keys()
    up = ["lab", "up", "--backend", "kernel", "--name", NAME, "--nodes", "2", "--kubernetes", "--cni", "host-gw"]
    assert main(up) == 0, capfd.readouterr()
    record = state.load(NAME)
    assert (record.folder / "kubeconfig").stat().st_mode & 0o777 == 0o600
    for place in ("n1", "n2.p1", "wire"):
        code, output = run_on(place, "kubectl", "get", "nodes", "-o", "name")
        assert (code, output.split()) == (0, ["node/n1", "node/n2"])
    assert "deployed" in run_on("n1", "helm", "list", "-n", "linkseal")[1]
    code, output = run_on("n1", "linkseal", "status")
    assert code == 0, output
    assert "everything in scope is encrypted" in output
    assert run_on("n1.p1", "ping", "-c1", "-W2", "10.244.2.2")[0] == 0
    assert main(["lab", "status", "--name", NAME]) == 0
    assert main(["lab", "break", "--name", NAME, "key", "n1"]) == 2, "that is of labs without"
    assert main(["lab", "break", "--name", NAME, "peer", "n1"]) == 0
    deadline = time.monotonic() + 30
    while not run_on("n1", "wg", "show", "lsl11", "peers")[1].strip():
        assert time.monotonic() < deadline, "the peer was not put back"

    seen = programs().keys() - before
    assert len(seen) >= 4 + 2 + 2 + 4, (
        "control plane, agents, controllers, and a holder for each network and each mount"
    )
    assert main(["lab", "down", "--name", NAME]) == 0
    assert left_over() == []
    assert not [name for name, process in record.processes.items() if process.alive()]
    assert [line for pid, line in programs().items() if pid in seen] == []


def programs() -> dict[str, str]:
    """Number and command line of processes that a lab with Kubernetes has, and others may have."""
    wanted = ("kube-", "/etcd ", "agent run", "controller run", "sleep infinity")
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                found[entry.name] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return {pid: line for pid, line in found.items() if any(word in line for word in wanted)}


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
