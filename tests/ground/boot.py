"""Plays what systemd does with the boot units on a node's disk: from the very files, in the node's namespaces.

    host = BootHost(folder)                          # what the host has: a folder of units, signs of systemd
    settings["boot"] = host.settings                 # the agent installs there
    host.boot(node, "sysinit.target")                # runs what is enabled there, as the unit says
    host.boot(node, "multi-user.target")
    run_on(node, script, "agent", "cleanup", "--yes")    # the script beside the root, which asks systemd-run

Every setting of a unit is either played or known to change nothing here; one that is neither fails the test.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ground.namespaces import ForkedProcess, Namespace
from linkseal.tunnels.boot import install
from linkseal.tunnels.lab import namespaces
from linkseal.tunnels.lab.cluster import Cluster, Node
from linkseal.tunnels.lab.reset import empty_kernel

TARGETS = ("sysinit.target", "multi-user.target")
"""In the order in which a boot reaches them."""

ORDER = {"After", "Before", "Wants", "Conflicts", "RequiresMountsFor", "DefaultDependencies"}
PLAYED = {"RootDirectory", "MountAPIVFS", "BindPaths", "Environment", "ExecStart", "CapabilityBoundingSet",
          "NoNewPrivileges", "UMask"}  # fmt: skip
KEPT = {"Type": "oneshot", "RemainAfterExit": "yes", "KillMode": "process"}
"""How they are played: waited for; what they leave running is left alone."""

OTHERS = {"Description", "TimeoutStartSec", "WantedBy"}

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}
"""capabilities(7)."""

SYSTEMD_RUN = """#!/bin/sh
for word; do printf '%s\\0' "$word"; done
"""
"""Says what it was asked for."""

ASKED = ("--quiet", "--collect", "--pipe", "--wait")
"""Its options that are played: it is waited for, and speaks with who asks."""

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
"""<linux/prctl.h>"""

_BIND = 0x1000 | 0x4000
"""MS_BIND and MS_REC of <linux/mount.h>."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Unit:
    """A unit as its file has it: setting → values, in order."""

    name: str
    settings: dict[str, list[str]]

    @classmethod
    def read(cls, file: Path) -> Unit:
        settings: dict[str, list[str]] = {}
        for line in file.read_text().splitlines():
            if line and not line.startswith(("#", "[")):
                name, _, value = line.partition("=")
                settings.setdefault(name, []).append(value)
        unknown = set(settings) - ORDER - PLAYED - set(KEPT) - OTHERS
        assert not unknown, f"{file}: nobody plays {unknown}"
        assert {name: settings[name] for name in KEPT} == {name: [value] for name, value in KEPT.items()}
        return cls(file.name, settings)

    def one(self, name: str) -> str:
        (value,) = self.settings[name]
        return value

    def words(self, name: str) -> list[str]:
        return [word for value in self.settings.get(name, ()) for word in value.split()]


class BootHost:
    """The part of a host that outlasts a reboot."""

    def __init__(self, folder: Path) -> None:
        install.PASSING = frozenset()  # a reboot that is played empties no tmpfs, and temporary folders may be on one
        self.units = folder / "etc/systemd/system"
        self.systemd = folder / "run/systemd"
        self.units.mkdir(parents=True, exist_ok=True)
        (self.systemd / "system").mkdir(parents=True, exist_ok=True)

    @property
    def settings(self) -> dict[str, str]:
        """`boot` of the agent's file."""
        return {"units": str(self.units), "systemd": str(self.systemd)}

    def enabled(self, target: str) -> list[Unit]:
        """What a target pulls in, in the order that the units ask for."""
        links = sorted((self.units / f"{target}.wants").glob("*"))
        assert all(link.is_symlink() for link in links)
        return [Unit.read(link.resolve()) for link in links]

    def boot(self, node: Namespace, target: str, *, ends_with: int = 0) -> str:
        """Run what a target pulls in; returns what it said. AssertionError unless it ends with that status."""
        said = ""
        for unit in self.enabled(target):
            process = start(node, unit)
            status = process.wait(180)
            said += process.text()
            assert status == ends_with, f"{node.ns}: {unit.name} ended with {status}:\n{process.text()}"
        return said


def lose_power(cluster: Cluster, node: Node) -> None:
    """All of ours in a node's kernel goes, and its addresses; the cable is dead. Agents are the caller's to kill."""
    empty_kernel(cluster, node)
    node.ip("addr flush dev eth0", "link set eth0 down")


def boot_inside(node: Namespace, target: str) -> ForkedProcess:
    """Boot a node that has its units where systemd looks for them, below its own mounts."""

    def all_of_it() -> None:
        for link in sorted(Path(f"/etc/systemd/system/{target}.wants").glob("*")):
            if (pid := os.fork()) == 0:
                _play(Unit.read(link.resolve()))
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert status == 0, f"{link.name} ended with {status}"

    return node.fork(all_of_it)


def run_on(node: Namespace, script: Path, *words: str) -> ForkedProcess:
    """Run the script of a host, as its administrator does, in a node's network namespace."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "systemd-run").write_text(SYSTEMD_RUN)
        (Path(folder) / "systemd-run").chmod(0o755)
        path = f"{folder}:{os.environ['PATH']}"
        told = subprocess.run([script, *words], env={"PATH": path}, capture_output=True, text=True, check=True).stdout
    options, _, command = told.removesuffix("\0").partition("\0--\0")
    said = options.split("\0")
    assert tuple(said[: len(ASKED)]) == ASKED
    assert set(said[len(ASKED) :: 2]) == {"-p"}
    settings: dict[str, list[str]] = {"ExecStart": [shlex.join(command.split("\0"))]}
    for one in said[len(ASKED) + 1 :: 2]:
        name, _, value = one.partition("=")
        settings.setdefault(name, []).append(value)
    assert not set(settings) - PLAYED
    return start(node, Unit("linkseal", settings))


def start(node: Namespace, unit: Unit) -> ForkedProcess:
    """Start a unit's command as systemd would, in a node's network namespace and below its mounts."""
    return node.fork(_play, unit)


def _play(unit: Unit) -> None:
    root = unit.one("RootDirectory")
    namespaces.private_mounts(())
    _mount(root, root, "", _BIND)
    if unit.one("MountAPIVFS") == "yes":
        _mount("proc", f"{root}/proc", "proc")
        _mount("sysfs", f"{root}/sys", "sysfs")
        _mount("/dev", f"{root}/dev", "", _BIND)
    for pair in unit.words("BindPaths"):
        source, _, target = pair.partition(":")
        _mount(source, root + (target or source), "", _BIND)
    os.chroot(root)
    os.chdir("/")
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    keep = {CAPABILITIES[name] for name in unit.words("CapabilityBoundingSet")} or set(range(last + 1))
    for number in range(last + 1):
        if number not in keep:
            assert _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0
    if unit.settings.get("NoNewPrivileges") == ["yes"]:
        assert _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    os.umask(int(unit.one("UMask"), 8))
    environment = dict(entry.split("=", 1) for value in unit.settings["Environment"] for entry in shlex.split(value))
    command = shlex.split(unit.one("ExecStart"))
    os.execve(command[0], command, environment)  # noqa: S606 - no shell is meant


def _mount(source: str, target: str, kind: str, flags: int = 0) -> None:
    done = _libc.mount(os.fsencode(source), os.fsencode(target), os.fsencode(kind) or None, flags, None)
    assert done == 0, f"mount {source} on {target}: {os.strerror(ctypes.get_errno())}"
