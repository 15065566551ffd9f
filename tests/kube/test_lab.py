"""`linkseal lab up --kubernetes`: a cluster that Helm installs Linkseal on, used, broken and taken down.

In the kernel's own tunnels pods of such a cluster are in tests/kube/test_pods.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from ground.labs import command_line, left_over, processes_of, run_on
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.lab import state

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]

NAME = f"t{os.getpid()}"


@pytest.fixture
def cleared() -> Iterator[None]:
    yield
    if left_over(NAME):
        main(["lab", "down", "--name", NAME])


def test_a_lab_with_kubernetes_is_up_and_leaves_nothing(cleared: None, capfd: pytest.CaptureFixture[str]) -> None:
    up = ["lab", "up", "--backend", "userspace", "--name", NAME, "--nodes", "2", "--kubernetes", "--cni", "host-gw"]
    assert main(up) == 0, capfd.readouterr()
    record = state.load(NAME)
    assert (record.folder / "kubeconfig").stat().st_mode & 0o777 == 0o600
    for place in ("n1", "n2.p1", "wire"):
        code, output = run_on(NAME, place, "kubectl", "get", "nodes", "-o", "name")
        assert (code, output.split()) == (0, ["node/n1", "node/n2"])
    assert "deployed" in run_on(NAME, "n1", "helm", "list", "-n", "linkseal")[1]
    code, output = run_on(NAME, "n1", "linkseal", "status")
    assert code == 0, output
    assert "everything in scope is encrypted" in output
    assert run_on(NAME, "n1.p1", "ping", "-c1", "-W2", "10.244.2.2")[0] == 0
    assert main(["lab", "status", "--name", NAME]) == 0
    assert main(["lab", "break", "--name", NAME, "key", "n1"]) == 2, "that is of labs without"
    assert main(["lab", "break", "--name", NAME, "peer", "n1"]) == 0
    deadline = time.monotonic() + 30
    while not run_on(NAME, "n1", "wg", "show", "lsl11", "peers")[1].strip():
        assert time.monotonic() < deadline, "the peer was not put back"

    seen = processes_of(NAME)
    assert len(seen) >= 4 + 2 + 2 + 4, (
        "control plane, agents, controllers, and a holder for each network and each mount"
    )
    assert main(["lab", "down", "--name", NAME]) == 0
    assert left_over(NAME) == []
    assert not [name for name, process in record.processes.items() if process.alive()]
    assert [line for pid, line in seen.items() if command_line(pid) == line] == []
