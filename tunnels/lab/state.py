"""What a lab is, on disk: so that any later command finds it again.

    /run/linkseal-lab/NAME/        a tmpfs: no key of a lab survives a reboot
      lab.json                     this file's LabRecord
      inventory.yaml ca/           the operator's: nodes and what they own; the CA
      directory/                   where the nodes find each other
      nodes/n1/                    agent.yaml, log, state/, run/ of one agent

With Kubernetes, kubeconfig and plane/ (the control plane's) are there in place of inventory, CA and directory, and
nodes/n1/ has kubelet/log and pods/, with what containers print.

For backend `lab` this is inside the lab kernel; here there is only lab.json, which says where that kernel is.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from linkseal.keys.errors import ConfigError, HostError
from linkseal.keys.files import atomic_write
from linkseal.tunnels.lab.backend import Backend

ROOT: Final = Path("/run/linkseal-lab")

DEFAULT_NAME: Final = "lab"

_RECORD: Final = "lab.json"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,19}")

_END_SECONDS: Final = 10.0
"""How long a process may take to end after SIGTERM before it is killed."""


@dataclass(frozen=True, slots=True)
class LabSpec:
    """What `lab up` was asked for. `driver`: of the agents. `families`: "4", "6"."""

    name: str = DEFAULT_NAME
    nodes: int = 3
    scope: str = "overlay"
    stage: str = "prefer"
    families: tuple[str, ...] = ("4",)
    cni: str = "none"
    driver: str = "kernel"
    kubernetes: bool = False
    """With a Kubernetes control plane, and the chart's pods on the nodes."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that cannot be taken for another: its number, and when it started (clock ticks since boot)."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Return the running process's identity. HostError if there is none."""
        started = _started(pid)
        if started is None:
            raise HostError(f"process {pid} has ended already")
        return cls(pid, started)

    def alive(self) -> bool:
        """Whether it still runs."""
        return _started(self.pid) == self.started

    def end(self, number: int = signal.SIGTERM, seconds: float = _END_SECONDS) -> bool:
        """Send a signal and wait for the end, with SIGKILL after `seconds`; False if it had ended before."""
        if not self.alive():
            return False
        deadline = time.monotonic() + seconds
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        while self.alive():
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        return True


@dataclass(frozen=True, slots=True)
class LabRecord:
    """lab.json. `kernel`: folder of the lab kernel (backend lab); then `processes` is empty."""

    spec: LabSpec
    backend: Backend
    kernel: str | None = None
    processes: Mapping[str, ProcessId] = field(default_factory=dict)
    """controller, n1 … (agents), n1.mounts … (holders of mount namespaces); control-plane, n1.kubelet … (kubelets)."""

    @property
    def folder(self) -> Path:
        """Where it is."""
        return folder_of(self.spec.name)

    def with_process(self, name: str, pid: int | None) -> LabRecord:
        """Return the record with a process that was started, or (None) has ended."""
        others = {key: value for key, value in self.processes.items() if key != name}
        return replace(self, processes=others if pid is None else others | {name: ProcessId.of(pid)})

    def save(self) -> None:
        """Write it. HostError."""
        atomic_write(self.folder / _RECORD, json.dumps(asdict(self), indent=2).encode() + b"\n", 0o600)


def folder_of(name: str) -> Path:
    """Return a lab's folder. ConfigError for a name that none can have."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a lab: 1 to 20 of a-z, 0-9 and -, a letter first")
    return ROOT / name


def claim(name: str) -> Path:
    """Make the folder of a new lab. HostError if there is one of that name."""
    folder = folder_of(name)
    try:
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700)
    except FileExistsError:
        suffix = "" if name == DEFAULT_NAME else f" --name {name}"
        raise HostError(
            f"the lab {name} is up already: see `linkseal lab status{suffix}`, end it with "
            f"`linkseal lab down{suffix}`, or give the new one another --name"
        ) from None
    except OSError as error:
        raise HostError(f"cannot make {folder}: {error.strerror}", errno=error.errno) from None
    return folder


def load(name: str) -> LabRecord:
    """Read what there is of a lab. HostError if there is none of that name."""
    folder = folder_of(name)
    try:
        data = json.loads((folder / _RECORD).read_bytes())
        return _record(data)
    except FileNotFoundError:
        if folder.is_dir():
            raise HostError(f"the lab {name} was never finished: `linkseal lab down --name {name}` clears it") from None
        there = ", ".join(names()) or "none"
        raise HostError(f"no lab {name} is up (there is: {there}): start one with `linkseal lab up`") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HostError(f"{folder / _RECORD} cannot be read ({error}): is this another version's lab?") from None


def names() -> list[str]:
    """Return the names of all labs on this machine."""
    return sorted(entry.name for entry in ROOT.iterdir() if entry.is_dir()) if ROOT.is_dir() else []


def forget(name: str) -> None:
    """Remove a lab's folder, and the one around it if it was the last."""
    shutil.rmtree(folder_of(name), ignore_errors=True)
    with contextlib.suppress(OSError):
        ROOT.rmdir()


def _record(data: dict[str, Any]) -> LabRecord:
    spec = LabSpec(**{**data["spec"], "families": tuple(data["spec"]["families"])})
    processes = {name: ProcessId(**entry) for name, entry in data["processes"].items()}
    return LabRecord(spec, Backend(data["backend"]), data["kernel"], processes)


def _started(pid: int) -> int | None:
    """Return field 22 of /proc/PID/stat (proc(5)); None for a process that has ended, zombies included."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in (b"Z", b"X") else int(after_name[19])
