"""Bad input, and hosts that cannot serve: an error that says what and what to do, its exit code, nothing half done.

Each command runs in a child with a network namespace of its own.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from linkseal.keys.errors import HostError
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.directory.files import cluster_json
from linkseal.tunnels.lab.forked import ForkedProcess
from linkseal.wireguard import choose
from unit.keys.cluster import authority, policy

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace of its own needs root")

CLONE_NEWNET = 0x40000000
CAP_NET_ADMIN = 12

LOOK = (
    "ip -o link; ip -o addr; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list ruleset"
)


class Done(NamedTuple):
    code: int
    said: str
    changed: bool
    """Anything of the network."""


def look() -> str:
    return subprocess.run(LOOK, shell=True, capture_output=True, text=True, check=True).stdout


def run(*arguments: str | Path, prepare: Callable[[], Any] = lambda: None) -> Done:
    """Run a command line in a child; `prepare` is called there just before."""

    def inside() -> tuple[int, bool]:
        assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
        before, path = look(), os.environ["PATH"]
        prepare()
        code = main([str(argument) for argument in arguments])
        os.environ["PATH"] = path
        return int(code), look() != before

    child = ForkedProcess(inside)
    try:
        code, changed = child.result()
        return Done(code, child.text(), changed)
    finally:
        child.forget()


def config(folder: Path, **more: Any) -> Path:
    """An agent's file that is fine but for `more`."""
    fine = {
        "apiVersion": "linkseal.io/v1alpha1",
        "kind": "AgentConfig",
        "node": "n1",
        "directory": {"path": str(folder / "directory")},
        "stateDirectory": str(folder / "state"),
        "runDirectory": str(folder / "run"),
    }
    file = folder / "agent.yaml"
    file.write_text(yaml.safe_dump(fine | more))
    return file


def only(folder: Path, *tools: str) -> Callable[[], None]:
    """Leave nothing but these tools on PATH."""
    bare = folder / "bin"
    bare.mkdir()
    for tool in tools:
        found = subprocess.run(["which", tool], capture_output=True, text=True, check=True).stdout.strip()
        (bare / tool).symlink_to(found)
    return lambda: os.environ.update(PATH=str(bare))


def without_net_admin() -> None:
    """Give up CAP_NET_ADMIN, as root in a container has it not (capset(2), version 3)."""
    libc, header = ctypes.CDLL(None), struct.pack("=Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    assert libc.capget(header, data) == 0
    sets = list(struct.unpack("=6I", data.raw))
    assert (
        libc.capset(header, struct.pack("=6I", *(number & ~(1 << CAP_NET_ADMIN) for number in sets[:3]), *sets[3:]))
        == 0
    )


# --- files ---------------------------------------------------------------------------------------------------------


def test_an_unknown_key_of_the_agents_file_is_named(tmp_path: Path) -> None:
    done = run("agent", "run", "--config", config(tmp_path, pol=3))
    assert (done.code, done.changed) == (ExitCode.USAGE, False)
    assert str(tmp_path / "agent.yaml") in done.said
    assert "pol" in done.said
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prefixes": ["10.244.1.0/33"]}, "10.244.1.0/33"),
        ({"prefixes": ["10.244.1.5/24"]}, "10.244.1.0/24"),
        ({"addresses": ["192.0.2.300"]}, "192.0.2.300"),
        ({"addresses": ["198.18.0.9"]}, "probe range"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_wrong_in_the_inventory_is_named_and_nothing_is_signed(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    node = {"name": "n1", "uid": "u1", "index": 1, "addresses": ["192.0.2.1"], "prefixes": ["10.244.1.0/24"]} | change
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(yaml.safe_dump({"apiVersion": "linkseal.io/v1alpha1", "kind": "Inventory", "nodes": [node]}))
    options = ("--directory", tmp_path / "directory", "--inventory", inventory, "--ca", tmp_path / "ca", "--once")
    done = run("controller", "run", *options)
    assert done.code == ExitCode.USAGE
    assert named in done.said
    assert "inventory.yaml" in done.said
    assert not (tmp_path / "directory").exists()
    assert not (tmp_path / "ca").exists()


def test_a_policy_that_cannot_be_used_is_named_at_the_first_start(tmp_path: Path) -> None:
    (tmp_path / "directory" / "nodes").mkdir(parents=True)
    (tmp_path / "directory" / "ca.crt").write_text(authority().certificate_pem())
    (tmp_path / "directory" / "cluster.json").write_text(cluster_json("c1", policy(stage="perfer")))
    done = run("agent", "run", "--config", config(tmp_path))
    assert (done.code, done.changed) == (ExitCode.USAGE, False)
    assert "stage: must be" in done.said


def test_a_policy_that_nobody_signed_is_named_at_the_first_start(tmp_path: Path) -> None:
    (tmp_path / "directory" / "nodes").mkdir(parents=True)
    (tmp_path / "directory" / "cluster.json").write_text('{"uid": "c1", "spec": {"stage": "prefer"}}')
    done = run("agent", "run", "--config", config(tmp_path))
    assert (done.code, done.changed) == (ExitCode.USAGE, False)
    assert "no signed policy" in done.said


# --- hosts ---------------------------------------------------------------------------------------------------------


def test_without_the_right_to_change_the_network_nothing_is_tried(tmp_path: Path) -> None:
    done = run("agent", "run", "--config", config(tmp_path), prepare=without_net_admin)
    assert done.code == ExitCode.FOUND
    assert "run it as root, or with CAP_NET_ADMIN" in done.said
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("command", ["run", "restore"])
def test_without_nft_nothing_is_begun(tmp_path: Path, command: str) -> None:
    done = run("agent", command, "--config", config(tmp_path), prepare=only(tmp_path, "wireguard-go", "wg", "ip"))
    assert (done.code, done.changed) == (ExitCode.FOUND, False)
    assert "nft is not installed" in done.said
    assert "install the package nftables" in done.said
    assert not (tmp_path / "state").exists()


def test_without_any_wireguard_nothing_is_begun(tmp_path: Path) -> None:
    file = config(tmp_path, wireguard={"driver": "userspace"})
    done = run("agent", "run", "--config", file, prepare=only(tmp_path, "nft", "ip"))
    assert (done.code, done.changed) == (ExitCode.FOUND, False)
    assert "no WireGuard on this host" in done.said
    assert "install" in done.said
    assert not (tmp_path / "state").exists()


def test_a_kernel_without_wireguard_and_no_wireguard_go_are_both_named(tmp_path: Path) -> None:
    def prepare() -> None:
        def none() -> Any:
            raise HostError("this kernel has no WireGuard: load it (`modprobe wireguard`), or install wireguard-go")

        choose._try_kernel = none  # whatever kernel the tests run on
        hide()

    hide = only(tmp_path, "nft", "ip")
    done = run("agent", "run", "--config", config(tmp_path), prepare=prepare)
    assert (done.code, done.changed) == (ExitCode.FOUND, False)
    assert "modprobe wireguard" in done.said
    assert "wireguard-go" in done.said.partition("modprobe")[2]


@pytest.mark.parametrize(("mode", "named"), [(0o755, "chmod"), (0o777, "chmod")])
def test_a_state_directory_that_others_can_read_is_not_used(tmp_path: Path, mode: int, named: str) -> None:
    (tmp_path / "directory" / "nodes").mkdir(parents=True)
    (tmp_path / "directory" / "cluster.json").write_text('{"uid": "c", "spec": {}}')
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "of others").touch()  # an empty one is made private
    (tmp_path / "state").chmod(mode)
    done = run("agent", "run", "--config", config(tmp_path))
    assert (done.code, done.changed) == (ExitCode.FOUND, False)
    assert str(tmp_path / "state") in done.said
    assert named in done.said
    assert [entry.name for entry in (tmp_path / "state").iterdir()] == ["of others"]


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "directory" / "nodes").mkdir(parents=True)
    (tmp_path / "directory" / "cluster.json").write_text('{"uid": "c", "spec": {}}')
    done = run("agent", "run", "--config", config(tmp_path, stateDirectory="/proc/linkseal"))
    assert (done.code, done.changed) == (ExitCode.FOUND, False)
    assert "/proc/linkseal" in done.said


@pytest.mark.parametrize("command", [("run",), ("cleanup", "--yes")])
def test_a_second_agent_on_a_host_leaves_the_first_alone(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "agent.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("agent", *command, "--config", config(tmp_path))
    assert (done.code, done.changed) == (ExitCode.FOUND, False)
    assert "another agent runs on this host" in done.said
    assert "stop it first" in done.said


def test_restore_leaves_an_agent_that_runs_alone_and_ends_well(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "agent.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("agent", "restore", "--config", config(tmp_path))
    assert (done.code, done.changed) == (ExitCode.FINE, False)
    assert "the agent runs on this host" in done.said


def test_an_agent_waits_for_a_directory_that_is_not_there_yet_and_says_so_once(tmp_path: Path) -> None:
    file = config(tmp_path)

    def inside() -> tuple[int, bool]:
        assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
        before = look()
        code = main(["agent", "run", "--config", str(file)])
        return int(code), look() != before

    child = ForkedProcess(inside)
    try:
        deadline = time.monotonic() + 20
        while "waiting for the directory" not in child.text():
            assert time.monotonic() < deadline, child.text()
            time.sleep(0.05)
        time.sleep(2.5)  # two more looks
        assert child.poll() is None
        child.kill(signal.SIGTERM)
        assert child.result() == (ExitCode.FINE, False)
        assert child.text().count("waiting for the directory") == 1
    finally:
        child.forget()
    assert not (tmp_path / "state").exists()
