"""The boot units' text: what systemd takes, in which order, and nothing that would mean something else."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from linkseal.keys.errors import HostError
from linkseal.tunnels.boot.unit import (
    EARLY,
    HEAD,
    LATE,
    PROGRAM,
    UNITS,
    WAIT,
    WAITING_FOR_US,
    Place,
    host_command,
    unit_texts,
)

PLACE = Place("/var/lib/linkseal/boot/root-1", "/usr/bin/python3.11", "/var/lib/linkseal", "/run/linkseal")


def settings(name: str) -> dict[str, str]:
    lines = [line for line in unit_texts(PLACE)[name].splitlines() if "=" in line and not line.startswith("#")]
    found = dict(line.split("=", 1) for line in lines)
    assert len(found) == len(lines), "a setting that stands twice"
    return found


def test_both_run_in_the_copied_root_and_leave_what_they_started() -> None:
    for name in (EARLY, LATE):
        unit = settings(name)
        assert unit_texts(PLACE)[name].startswith(HEAD)
        assert unit["RootDirectory"] == PLACE.root
        assert (unit["Type"], unit["RemainAfterExit"], unit["KillMode"]) == ("oneshot", "yes", "process")
        assert unit["BindPaths"].split() == ["/run", "/var/lib/linkseal"]
        assert unit["ExecStart"].startswith("/usr/bin/python3.11 -IB /usr/bin/linkseal agent restore")
        assert int(unit["TimeoutStartSec"].removesuffix("s")) > WAIT, "a wait for addresses is no hang"


def test_the_first_comes_before_the_network_and_after_what_would_flush_the_guard() -> None:
    unit = settings(EARLY)
    assert unit["DefaultDependencies"] == "no"
    assert {"network-pre.target", "shutdown.target"} <= set(unit["Before"].split())
    assert "network-pre.target" in unit["Wants"], "else nobody would reach it"
    assert {"local-fs.target", "nftables.service"} <= set(unit["After"].split())
    assert not unit["ExecStart"].endswith("s"), "it waits for nothing"


def test_the_second_comes_before_whatever_starts_pods() -> None:
    unit = settings(LATE)
    assert unit["After"].split() == [EARLY, "network.target"]
    assert set(unit["Before"].split()) == set(WAITING_FOR_US)
    assert unit["ExecStart"].endswith(f"--wait {WAIT}s")
    assert "network-online.target" not in unit_texts(PLACE)[LATE], "what starts containers may be before that"


@pytest.mark.parametrize("unit", UNITS)
def test_it_is_enabled_where_it_says(unit: tuple[str, str]) -> None:
    name, target = unit
    assert settings(name)["WantedBy"] == target


def test_a_folder_of_sockets_elsewhere_is_seen_too() -> None:
    elsewhere = unit_texts(Place("/r", "/p", "/s", "/srv/run"))
    assert all("BindPaths=/run /s /srv/run\n" in text for text in elsewhere.values())


@pytest.mark.parametrize("path", ["/var lib", "/var%lib", "/var:lib", "var", '/"', "/a\nb", "/ä"])
def test_a_path_that_would_mean_something_else_in_a_unit_is_refused(path: str) -> None:
    with pytest.raises(HostError, match=re.escape(path.splitlines()[0])):
        unit_texts(Place("/root", "/python", path, "/run/linkseal"))


def test_a_host_has_the_command_by_a_script_that_sh_and_systemd_run_take(tmp_path: Path) -> None:
    text = host_command(PLACE, "/usr/lib/systemd/units")
    (tmp_path / "systemd-run").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "systemd-run").chmod(0o755)
    said = subprocess.run(
        ["/bin/sh", "-c", text, "linkseal", "agent", "break-glass", "--reason", "no quorum; $HOME"],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert said[-8:] == ["--", PLACE.python, "-IB", PROGRAM, "agent", "break-glass", "--reason", "no quorum; $HOME"]
    assert "BindPaths=/run /var/lib/linkseal /usr/lib/systemd/units:/etc/systemd/system" in said
    with pytest.raises(HostError, match="/a b"):
        host_command(PLACE, "/a b")


def verified(folder: Path) -> str:
    command = ["systemd-analyze", "verify", "--man=no", "--generators=no", *map(str, sorted(folder.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_systemd_itself_takes_them(tmp_path: Path) -> None:
    for name, text in unit_texts(PLACE).items():
        (tmp_path / name).write_text(text)
    assert verified(tmp_path) == ""
    wrong = unit_texts(PLACE)[LATE].replace("KillMode=process", "KillMode=proces")
    (tmp_path / LATE).write_text(wrong)
    assert "Failed to parse kill mode" in verified(tmp_path)
