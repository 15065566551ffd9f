"""`linkseal lab demo --kubernetes`: every claim of the demo, on a cluster that Helm installs Linkseal on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.lab import state
from linkseal.tunnels.lab.lifecycle import DEMO

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]


def test_the_demo_holds_on_kubernetes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["lab", "demo", "--kubernetes", "--backend", "userspace", "--out", str(tmp_path)])
    shown = capfd.readouterr()
    assert code == 0, f"{shown.out}\n{shown.err}"
    assert "unch code is 000" in shown.out, "the sentence is shown as it was read off the wire"
    assert "✓ its text was found on the wire 0 times" in shown.out
    assert "All 12 claims held" in shown.out
    for words in ("helm install linkseal", "control-plane", "linkseal-agent-", "linkseal-daemons-", "drop"):
        assert words in shown.out, f"what kubectl shows: {words}"
    assert (tmp_path / "mesh.svg").read_text().startswith("<svg")
    assert f"{DEMO}-{os.getpid()}" not in state.names()
