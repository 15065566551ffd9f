"""A lab inside a lab kernel: booted for it, and its commands run there by the same program."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.lab.state import LabRecord, forget
from linkseal.tunnels.lab.uml import LabKernel

PROGRAM: Final = "from linkseal.tunnels.cli.main import run; run()"
"""What the command `linkseal` is, wherever it is installed."""

INSIDE: Final = "LINKSEAL_LAB_INSIDE"
COLOUR: Final = "LINKSEAL_LAB_COLOUR"
"""Environment of what is forwarded: it runs in a lab kernel that is there for it; colour is wanted."""

MEMORY: Final = "1G"
"""A demo takes half of it; pages are given back to nobody, so not more."""

KUBERNETES_MEMORY: Final = "3G"
"""With a control plane, and a boot unit's root file system on each node."""


def boot(memory: str = MEMORY) -> LabKernel:
    """Boot a lab kernel that stays up. Its folder is no part of /run, which is another inside. HostError."""
    lab_kernel = LabKernel(Path(tempfile.mkdtemp(prefix="linkseal-lab-")), memory=memory)
    try:
        lab_kernel.start()
    except BaseException:
        shutil.rmtree(lab_kernel.folder, ignore_errors=True)
        raise
    return lab_kernel


def kernel_of(record: LabRecord) -> LabKernel:
    """Return the running lab kernel of a lab. HostError if it has ended."""
    lab_kernel = LabKernel(Path(record.kernel or ""))
    if not lab_kernel.running():
        name = record.spec.name
        raise HostError(f"the lab kernel of {name} has ended: clear it with `linkseal lab down --name {name}`")
    return lab_kernel


def forward(lab_kernel: LabKernel, arguments: Sequence[str], *, colour: bool = False) -> int:
    """Run `linkseal lab …` inside; returns its exit code. `colour`: its output goes to a terminal in the end."""
    env = {"PYTHONDONTWRITEBYTECODE": "1", INSIDE: "1"} | ({COLOUR: "1"} if colour else {})
    return run(lab_kernel, [sys.executable, "-P", "-c", PROGRAM, "lab", *arguments], env)


def run(lab_kernel: LabKernel, command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Run a command inside; what it prints is printed here. It has no terminal and no stdin."""
    return lab_kernel.exec(command, env=env, on_output=_pass_on)


def end(lab_kernel: LabKernel) -> None:
    """Power off and remove its folder."""
    lab_kernel.stop()
    shutil.rmtree(lab_kernel.folder, ignore_errors=True)


def clear(record: LabRecord) -> None:
    """End the lab kernel of a lab, if it still runs, with everything in it; forget the lab."""
    if record.kernel is not None:
        end(LabKernel(Path(record.kernel)))
    forget(record.spec.name)


def _pass_on(piece: bytes) -> None:
    sys.stdout.buffer.write(piece)
    sys.stdout.flush()
