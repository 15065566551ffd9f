"""Labs that the product's own command makes, looked at from outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ground.namespaces import NETNS_FOLDER
from linkseal.tunnels.lab import state
from linkseal.tunnels.lab.namespaces import processes_in

KUBERNETES = ("kube-", "/etcd ", "agent run", "controller run", "sleep infinity")
"""In the command lines of a control plane, of Linkseal's pods and of those that hold namespaces."""


def namespaces_of(lab: str) -> list[str]:
    """Names of the network namespaces of a lab, and of labs whose names begin like its."""
    return [path.name for path in NETNS_FOLDER.glob(f"ls-{lab}*")] if NETNS_FOLDER.is_dir() else []


def left_over(lab: str) -> list[str]:
    """Namespaces and folders of these labs."""
    return namespaces_of(lab) + [name for name in state.names() if name.startswith(lab)]


def run_on(lab: str, place: str, *words: str) -> tuple[int, str]:
    """Exit status of `linkseal lab exec PLACE -- WORD …`, and what it prints."""
    command = [str(Path(sys.executable).parent / "linkseal"), "lab", "exec", "--name", lab, place, "--", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


def processes_of(lab: str) -> dict[int, str]:
    """Number and command line of what a lab with Kubernetes has, in its network namespaces or told of its folder."""
    folder = str(state.load(lab).folder)
    inside = set(processes_in(namespaces_of(lab)))
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            line = command_line(int(entry.name))
            if any(word in line for word in KUBERNETES) and (int(entry.name) in inside or folder in line):
                found[int(entry.name)] = line
    return found


def command_line(pid: int) -> str:
    """A process's command line; empty: it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
